"""All ways to hold a cache, each with the bytes of one head that it needs, everything counted."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kv import boundary, dense, eviction, levels, lowrank, parallel, quantised
from kv.model import Config, caches
from physnet.holography import memory


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to attend, at one size.

    Args:
        name: Of the family.
        ratio: How much less than the full cache was asked for.
        nbytes: Of one head of one layer, for one sequence of the whole length.
        attend: (parameters, query, key, value, score) of one head -> (T, d).
        loop: Trained with it; otherwise the model of the full cache runs with it.
        start: Its own parameters from samples of one head's keys and values (n, d), if any.
        config: Of physnet's memory.
        train: What to train with where that is faster; the same numbers as `attend`.
        teach: `train` also gives a loss of the score.
    """

    name: str
    ratio: float
    nbytes: int
    attend: Callable[..., jax.Array]
    loop: bool = True
    start: Callable[[jax.Array, jax.Array], Any] | None = None
    config: memory.Config | None = None
    train: Callable[..., Any] | None = None
    teach: bool = False


def full_bytes(length: int, head_dim: int) -> int:
    """Keys and values in bfloat16."""
    return 4 * head_dim * length


def parameters(method: Method, config: Config, params: Any, tokens: jax.Array | None) -> list[Any]:
    """A method's own parameters: a list over layers, leading axes seeds and heads."""
    seeds = len(params["loud"])
    if method.start is None:
        return [jnp.zeros((seeds, config.heads, 0), jnp.float32)] * config.layers

    def of_seed(params):
        found = jax.vmap(lambda t: caches(config, params, t, dense.full))(tokens)
        flat = lambda x: x.swapaxes(0, 1).reshape(config.heads, -1, x.shape[-1])  # noqa: E731
        return [jax.vmap(method.start)(flat(key), flat(value)) for key, value in found]

    return jax.jit(jax.vmap(of_seed))(params)


def window(ratio: float, budget: int, length: int, d: int) -> Method:
    tokens = budget // (4 * d)
    return Method("window + sinks", ratio, 4 * d * tokens, eviction.window(tokens))


def few_bits(bits: int, ratio: float | None, budget: int, length: int, d: int) -> Method:
    """All tokens where ratio is None, otherwise as many as fit."""
    if ratio is None:
        nbytes = quantised.quantised_bytes(length // quantised.GROUP - 1, bits, d)
        attend = quantised.quantised(bits)
        return Method(f"{bits} bits", full_bytes(length, d) / nbytes, nbytes, attend)
    one = quantised.quantised_bytes(1, bits, d) - quantised.quantised_bytes(0, bits, d)
    groups = (budget - quantised.quantised_bytes(0, bits, d)) // one
    nbytes = quantised.quantised_bytes(groups, bits, d)
    attend = quantised.quantised(bits, groups)
    return Method(f"window + sinks, {bits} bits", ratio, nbytes, attend)


def h2o(ratio: float, budget: int, length: int, d: int) -> Method:
    tokens = budget // (4 * d + 4)  # with what attention they got
    return Method("H2O", ratio, (4 * d + 4) * tokens, eviction.h2o(tokens))


def snapkv(ratio: float, budget: int, length: int, d: int, *, shown: bool = False) -> Method:
    tokens = budget // (4 * d)
    name = "SnapKV, shown the questions" if shown else "SnapKV"
    return Method(name, ratio, 4 * d * tokens, eviction.snapkv(tokens, shown=shown))


def svd(ratio: float, budget: int, length: int, d: int) -> Method:
    rank = 1
    while lowrank.svd_bytes(rank + 1, length, d) <= budget:
        rank += 1
    return Method("SVD", ratio, lowrank.svd_bytes(rank, length, d), lowrank.svd(rank), loop=False)


def latent(ratio: float, budget: int, length: int, d: int) -> Method:
    rank = budget // (4 * length)
    start = lambda key, value: lowrank.latent_start(key, value, rank)  # noqa: E731
    return Method("low rank", ratio, 4 * length * rank, lowrank.latent, start=start)


def log_linear(ratio: float, budget: int, length: int, d: int) -> Method:
    per_level = 4 if budget >= 128 * 4 * d else 2
    spare = budget // (4 * d) - levels.BLOCK - levels.most_slots(length, per_level)
    near = spare // levels.BLOCK * levels.BLOCK
    start = lambda key, value: levels.levels_start(length, d)  # noqa: E731
    nbytes = levels.levels_bytes(per_level, near, length, d)
    return Method("log-linear levels", ratio, nbytes, levels.levels(per_level, near), start=start)


def boundary_of(
    kind: str, ratio: float, budget: int, length: int, d: int, *, power: float = 1.0
) -> Method:
    """Physnet's memory.

    Args:
        kind: Words: "scored" (masses are learned) or "recent" (all tokens weigh 1), the bits of
            landmarks and slots ("bf16", "8", "4", "2"), "means" (no landmarks), "alone" (no
            levels: what is no landmark is forgotten), "biased" (a learned bias of each level),
            "aged" (as a landmark a score counts e times less for each 256 tokens of age; "slowly
            aged": 2,048).
    """
    words = kind.split()
    config = boundary.size(
        budget,
        d,
        length=length,
        landmarks="means" not in words,
        levels="alone" not in words,
        bits=next((int(w) for w in words if w in ("2", "4", "8")), None),  # type: ignore[arg-type]
    )
    if "aged" in words:
        age = 2048 if "slowly" in words else 256
        config = dataclasses.replace(config, recency=age / power)  # masses are powers of scores
    scored = "recent" not in words and words[0] != "means"
    nbytes = boundary.nbytes(config, d)
    options = {"scored": scored, "power": power, "biased": "biased" in words}
    attend = boundary.boundary(config, **options)
    train = parallel.boundary(config, teach=scored, **options)
    start = (lambda key, value: boundary.bias_start(config)) if options["biased"] else None
    own = {"config": config, "train": train, "teach": scored, "start": start}
    return Method(f"boundary, {kind}", ratio, nbytes, attend, **own)
