"""Boundary memories."""

import fuzz_arguments as fa
import jax.numpy as jnp
import numpy as np
from fuzz_greens import ordinary
from fuzz_rules import Entry

from physnet.holography import memory

SMALL = memory.Config(window=2, block=2, sinks=1, landmarks=2, per_level=2, levels=2)


def held(tokens):
    def make(rng, dims):
        empty = memory.init(None, dims["d"], config=SMALL)
        x = jnp.asarray(rng.normal(size=(tokens, dims["d"])), jnp.float32)
        return memory.extend(empty, x, x) if tokens else empty

    return make


def in_hull(y, /, value=None, values=None, **_):
    value = value if values is None else values
    if ordinary(value):
        assert (
            np.abs(np.asarray(y)).max(initial=0) <= np.abs(np.asarray(value)).max(initial=0) + 1e-2
        )


def counts(found, /, memory, keys=None, **_):
    assert int(found.count) == int(memory.count) + (1 if keys is None else len(keys))


THRESHOLD = {"threshold": fa.number(0.2, optional=True, nan="open")}
MASSES = fa.real("T", 0.1, 1.0, optional=True, nan="open")
SCALE = {"scale": fa.number(0.5, optional=True, traced=False, nan="open")}
BIAS = {"slot_bias": fa.number(-0.5, optional=True, nan="open")}
LONG = {"T": (6, 3, 1)}
TOKENS = {"keys": fa.real("T d", nan="open"), "values": fa.real("T d", nan="open")}
ENTRIES = {
    "Config": Entry(
        memory.Config,
        {
            "window": fa.size(4, 2, least=0),
            "block": fa.size(2),
            "sinks": fa.size(1, 0, least=0),
            "landmarks": fa.size(2, 0, least=0),
            "per_level": fa.size(2, 4, least=2),
            "levels": fa.size(2, 0, least=0),
            "bits": fa.choice(8, 4, optional=True),
            "merge": fa.choice("mean", "kernel"),
            "recency": fa.number(9.0, bad=(0.0, -1.0), optional=True, nan="raise", traced=False),
        },
        host=True,
    ),
    "configure": Entry(
        memory.configure,
        {
            "budget_bytes": fa.size(9000, 30_000),
            "head_dim": fa.size(4, 8),
            "value_dim": fa.size(4, optional=True),
            "bits": fa.choice(8, 4, optional=True),
            "block": fa.size(4, optional=True),
            "sinks": fa.size(2, 0, least=0),
            "per_level": fa.size(2, least=2, optional=True),
            "levels": fa.size(2, least=0, optional=True),
            "longest": fa.size(512),
            "window_share": fa.number(0.5, bad=(-1.0,), nan="raise", traced=False),
        },
        host=True,
        names=("landmarks", "window"),
    ),
    "init": Entry(
        memory.init,
        {
            "budget_bytes": fa.size(9000, 30_000),
            "head_dim": fa.size(4, 8),
            "value_dim": fa.size(4, optional=True),
            "bits": fa.choice(8, 4, optional=True),
        },
    ),
    "append": Entry(
        memory.append,
        {
            "memory": fa.tree(held(5)),
            "key": fa.real("d", nan="open"),
            "value": fa.real("d", nan="open"),
            "score": fa.number(0.5, 1.0, optional=True, nan="open"),
        }
        | THRESHOLD,
        None,
        counts,
        dear=True,
    ),
    "extend": Entry(
        memory.extend,
        {"memory": fa.tree(held(5)), "scores": MASSES} | TOKENS | THRESHOLD,
        None,
        counts,
        dims=LONG,
        dear=True,
    ),
    "attend": Entry(
        memory.attend,
        {"query": fa.real("T d"), "memory": fa.tree(held(9))} | SCALE | BIAS,
        ("T d real",),
        dear=True,
    ),
    "slots": Entry(memory.slots, {"memory": fa.tree(held(9))}, dear=True),
    "decode": Entry(
        memory.decode,
        {"query": fa.real("T d"), "memory": fa.tree(held(3)), "scores": MASSES}
        | TOKENS
        | SCALE
        | THRESHOLD
        | BIAS,
        None,
        dims=LONG,
        dear=True,
    ),
    "attention": Entry(
        memory.attention,
        {
            "query": fa.real("T d"),
            "key": fa.real("T d"),
            "value": fa.real("T d"),
            "score": MASSES,
            "config": fa.fixed(SMALL),
            "tokens_at_once": fa.size(4, 512),
        }
        | SCALE
        | THRESHOLD
        | BIAS,
        ("T d real",),
        in_hull,
        dims=LONG,
        dear=True,
    ),
}
ENTRIES = {f"holography.memory.{name}": entry for name, entry in ENTRIES.items()}
REASONS = {
    "holography.memory.Memory": "holds what `init` returns",
    "holography.memory.Slots": "holds what `slots` returns",
}
