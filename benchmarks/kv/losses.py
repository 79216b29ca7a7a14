"""A memory is handed over in packets, one an entry, and some get lost: what do questions find?

The prompt is read into the memories of all layers; their entries are packets. Three ways to use
the bytes: twice the entries ("unprotected", trained at that size), each entry twice
("replicated"), or each spread over two by a randomised Hadamard isometry ("coded"). The tail then
attends to what is left and to itself.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kv import model, training
from kv.methods import Method
from kv.model import rotate, rounded
from physnet.holography import memory, protect, recover

SHARES = (0.0, 0.1, 0.25, 0.4, 0.5)
WAYS = ("unprotected", "replicated", "coded")
PATTERNS = 8
PRESENT = 1e-3  # a smaller mass is rounding of an empty entry


def operators(way: str, entries: int, share: float, seed: int = 0) -> np.ndarray:
    """What is left of the entries, as linear maps (patterns, entries, packets) of the packets."""
    packets = entries if way == "unprotected" else 2 * entries
    found = []
    for index in range(PATTERNS):
        random = np.random.default_rng((seed, index))
        lost = np.zeros(packets, bool)
        lost[random.permutation(packets)[: round(share * packets)]] = True
        if way == "coded":
            key = jax.random.key(index)
            every = jnp.eye(packets, dtype=jnp.float32)
            found.append(recover(every, jnp.asarray(lost), slots=entries, key=key, noise=2.0**-9))
        else:
            copies = np.tile(np.eye(entries, dtype=np.float32), packets // entries) * ~lost
            found.append(copies / np.maximum(copies.sum(-1, keepdims=True), 1))
    return np.stack([np.asarray(x) for x in found])


def packets(way: str, x: jax.Array, pattern: jax.Array) -> jax.Array:
    """The packets that are sent for entries x (n, k); as many bytes a packet as an entry has."""
    if way == "replicated":
        return jnp.concatenate([x, x])
    if way == "coded":
        return protect(x, rate=0.5, key=jax.random.key(pattern))
    return x


def damaged(
    config: memory.Config,
    way: str,
    operator: jax.Array,
    pattern: jax.Array,
    told: tuple[Any, ...],
) -> tuple[jax.Array, ...]:
    """Key, value, position and mass of one head's entries behind the losses."""
    key, value, score = told
    empty = memory.init(None, key.shape[-1], config=config)
    found = memory.slots(memory.extend(empty, key, value, score))
    there = (found.mass > 0).astype(key.dtype)[:, None]
    vectors = jnp.concatenate([found.key, found.value], -1) * there
    numbers = jnp.stack([found.position / len(key), found.mass], -1) * there
    left = operator @ rounded(packets(way, vectors, pattern))
    place, mass = (operator @ packets(way, numbers, pattern)).T
    dim = key.shape[-1]
    return left[:, :dim], left[:, dim:], place * len(key), jnp.where(mass > PRESENT, mass, 0.0)


def attend_tail(entries, query, key, value, score, first: int) -> jax.Array:
    """Queries of the tail (n, d) over the entries and, causally, over the tail itself."""
    far, held, place, mass = entries
    now = first + jnp.arange(len(query), dtype=query.dtype)
    keys = jnp.concatenate([rotate(far, place), rotate(key, now)])
    weight = jnp.concatenate([mass, score])
    logits = rotate(query, now) @ keys.T * query.shape[-1] ** -0.5
    seen = jnp.concatenate(
        [jnp.broadcast_to(mass > 0, (len(query), len(mass))), now[:, None] >= now[None]], 1
    )
    logits = logits + jnp.log(jnp.where(weight > 0, weight, 1.0))
    return jax.nn.softmax(jnp.where(seen, logits, -1e30), -1) @ jnp.concatenate([held, value])


def examiner(
    config: model.Config, method: Method, way: str, prompt: int, size: int
) -> Callable[..., dict[str, jax.Array]]:
    """(parameters, maps, tokens, wanted) of all seeds -> loss and right answers (seeds, n).

    maps: (patterns, entries, packets); the sequence i loses by pattern i modulo their number.
    """
    sizes = method.config
    assert sizes is not None

    def sequence(params, operator, pattern, tokens):
        x = model.norm(params["token"][tokens])
        for layer in params["layers"]:
            q, k, v, s = model.projections(config, layer, x)
            before = jax.vmap(method.attend, in_axes=(None, 0, 0, 0, 0))(
                None, *(a[:, :prompt] for a in (q, k, v, s))
            )

            def head(q, k, v, s):
                told = tuple(a[:prompt] for a in (k, v, s))
                entries = damaged(sizes, way, operator, pattern, told)
                return attend_tail(entries, *(a[prompt:] for a in (q, k, v, s)), first=prompt)

            mixed = jnp.concatenate([before, jax.vmap(head)(q, k, v, s)], 1)
            x = model.finish(layer, x, mixed)
        return params["loud"] * config.width**-0.5 * model.norm(x) @ params["token"].T

    def one(params, maps, tokens, wanted):
        def some(piece):
            tokens, wanted, first = piece
            pattern = (first + jnp.arange(size, dtype=jnp.int32)) % len(maps)
            run = jax.vmap(lambda o, p, t: sequence(params, o, p, t))
            return training.nats(run(maps[pattern], pattern, tokens), wanted)

        cut = training.chunks(tokens, wanted, size)
        first = size * jnp.arange(len(cut[0]), dtype=jnp.int32)
        loss, right = jax.lax.map(some, (*cut, first))
        return {"nats": loss.reshape(-1), "right": right.reshape(-1)}

    return jax.jit(jax.vmap(one, in_axes=(0, None, None, None)))


def entries_of(config: memory.Config) -> int:
    return config.sinks + config.landmarks + config.slots + config.ring
