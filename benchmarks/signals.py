"""Signals to compress, for mera.py: 1/f noise, and keys and values of a small transformer.

`settings` are those of mera.py: a window of so many sites, a model of so many steps.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from physnet.models import transformer


def pink(key: jax.Array, count: int, window: int, features: int) -> jax.Array:
    """Signals whose power falls as 1/f, of independent features: (count, N, D)."""
    keys = jax.random.split(key, 2)
    white = jax.random.normal(keys[0], (count, 4 * window, features), jnp.float32)
    fall = jnp.maximum(jnp.fft.rfftfreq(4 * window), 1 / (4 * window)) ** -0.5
    long = jnp.fft.irfft(jnp.fft.rfft(white, axis=1) * fall[None, :, None], axis=1)
    return long[:, :window].astype(jnp.float32)


def model(text, seed: int, settings, folder: Path):
    """A transformer of two layers, trained on the text or read from the folder."""
    config = transformer.TransformerConfig(
        len(text.characters), layers=2, heads=4, width=64, context=2 * settings.window
    )
    params = transformer.init(config, jax.random.key(seed))
    file = folder / f"model-{seed}-{settings.model_steps}-{text.fingerprint()[:12]}.npz"
    leaves, structure = jax.tree.flatten(params)
    if file.exists():
        stored = np.load(file)
        return config, structure.unflatten(
            [jnp.asarray(stored[str(i)]) for i in range(len(leaves))]
        )
    warm = settings.model_steps // 15
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warm, settings.model_steps, 1e-4)
    optimiser = optax.adamw(rate, b2=0.99, weight_decay=0.1)
    tokens = jnp.asarray(text.train)

    @jax.jit
    def some(params, state, keys):
        def one(carry, key):
            params, state = carry
            places = jax.random.randint(key, (16, 1), 0, len(tokens) - 2 * settings.window - 1)
            rows = tokens[places + jnp.arange(2 * settings.window + 1)[None]]
            slope = jax.grad(lambda p: jnp.mean(nats(config, p, rows)))(params)
            updates, state = optimiser.update(slope, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(one, (params, state), keys)[0]

    keys = jax.random.split(jax.random.key(100 + seed), settings.model_steps)
    params, _ = some(params, optimiser.init(params), keys)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(params))})
    return config, params


def nats(config, params, rows):
    logits = transformer.apply(config, params, rows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:])


def windows(tokens: np.ndarray, count: int, length: int, seed: int) -> jax.Array:
    places = np.random.default_rng(seed).integers(0, len(tokens) - length, (count, 1))
    return jnp.asarray(tokens[places + np.arange(length)[None]])


def cached(config, params, rows, settings) -> jax.Array:
    """Keys and values of the first window of rows: (layers, 2, heads, B, N, D)."""
    empty = transformer.init_cache(config, len(rows), config.context)
    _, cache = transformer.extend(config, params, rows[:, : settings.window], empty)
    stacked = jnp.stack([jnp.stack(pair) for pair in cache.layers])
    return jnp.moveaxis(stacked, 2, 3)[..., : settings.window, :]


def continued(config, params, rows, slots, settings) -> jax.Array:
    """Mean nats of the second window, with these keys and values of the first."""
    room = jnp.moveaxis(slots, 3, 2)
    pad = [(0, 0)] * 4 + [(0, config.context - settings.window), (0, 0)]
    room = jnp.pad(room, pad)
    cache = transformer.Cache(
        tuple((layer[0], layer[1]) for layer in room), jnp.int32(settings.window)
    )
    logits, _ = transformer.extend(config, params, rows[:, settings.window : -1], cache)
    targets = rows[:, settings.window + 1 :]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))
