"""Whole models, on one small configuration each."""

import functools

import fuzz_arguments as fa
import jax
import jax.numpy as jnp
import numpy as np
from fuzz_greens import in_unit
from fuzz_layers import cached
from fuzz_rules import Entry

from physnet import models
from physnet.models import bk_core, transformer

BK = bk_core.BKCoreConfig(vocab_size=7, layers=1, heads=2, width=16, chains=4, local_window=2)
PLAIN = transformer.TransformerConfig(vocab_size=7, layers=1, heads=2, width=16, context=8)
TOKENS = fa.ints("b T", 0, 7)
DTYPE = {"dtype": fa.fixed("float32")}


@functools.cache
def started(make, config):
    return jax.jit(make, static_argnums=0)(config, jax.random.key(0))


def model(make, config):
    return {
        "config": fa.fixed(config),
        "params": fa.tree(lambda rng, dims: started(make, config), wrong="raise"),
        "tokens": TOKENS,
    }


BK_MODEL = model(bk_core.init, BK)
PLAIN_MODEL = model(transformer.init, PLAIN)


@functools.cache
def table():
    return jnp.broadcast_to(jnp.linspace(1.0, 0.0, 5), (1, 2, 5)).astype(jnp.float32)


def total(share, /, mean, **_):
    if np.ndim(mean) == 0 and 0 < float(mean) < 1:
        in_unit(share)


def refined(key, params, tokens, **options):
    def objective(params, key):
        info = bk_core.apply(BK, params, tokens, return_info=True)[1]
        return jnp.abs(info["kept_pairs"] - 0.5)

    found = bk_core.refine(BK, params, tokens, objective, key=key, **options)
    return found.shares, found.before, found.after


ENTRIES = {
    f"models.{name}": entry
    for name, entry in {
        "bk_core.init": Entry(bk_core.init, {"config": fa.fixed(BK), "key": fa.key()}),
        "bk_core.apply": Entry(bk_core.apply, BK_MODEL | DTYPE, ("b T 7 real",), dear=True),
        "bk_core.calibrate": Entry(
            bk_core.calibrate, BK_MODEL | {"key": fa.key(optional=True)}, dear=True
        ),
        "bk_core.pairs": Entry(bk_core.pairs, BK_MODEL, ("1 b 2 T T bool",), dear=True),
        "bk_core.generate": Entry(
            bk_core.generate,
            {
                "config": fa.fixed(BK),
                "params": BK_MODEL["params"],
                "prompt": TOKENS,
                "count": fa.size(2, 1),
                "key": fa.key(),
                "temperature": fa.number(1.0, 0.0, bad=(-1.0,), nan="raise", traced=False),
            },
            raises=(FloatingPointError,),
            dear=True,
        ),
        "bk_core.extend": Entry(
            bk_core.extend,
            BK_MODEL
            | {
                "cache": fa.made(
                    lambda rng, dims: bk_core.init_cache(BK, dims["b"], 8), traced=True
                )
            },
            dear=True,
        ),
        "bk_core.init_cache": Entry(
            bk_core.init_cache,
            {"config": fa.fixed(BK), "batch": fa.size(2), "capacity": fa.size(8, 0, least=0)},
        ),
        "bk_core.fit_cache": Entry(
            bk_core.fit_cache,
            {
                "cache": fa.tree(lambda rng, dims: bk_core.init_cache(BK, dims["b"], 8)),
                "capacity": fa.size(9, 8, least=0),
            },
        ),
        "bk_core.isometry_penalty": Entry(
            bk_core.isometry_penalty,
            BK_MODEL | {"key": fa.key(), "probes": fa.size(1)},
            ("real",),
            dear=True,
        ),
        "bk_core.probe_layers": Entry(
            bk_core.probe_layers,
            BK_MODEL | {"key": fa.key(), "probes": fa.size(2, least=2)},
            dear=True,
        ),
        "bk_core.allot": Entry(
            bk_core.allot,
            {"odds": fa.real("n m"), "mean": fa.number(0.25, 0.5, bad=(-1.0, 1.5))},
            ("n m real",),
            total,
        ),
        "bk_core.beyond": Entry(
            bk_core.beyond,
            {"config": fa.fixed(BK), "density": fa.number(0.5, 0.7), "time": fa.size(6, 1)},
            ("real",),
            in_unit,
        ),
        "bk_core.gate_quantiles": Entry(
            bk_core.gate_quantiles, BK_MODEL | {"points": fa.size(5, 2, least=2)}, dear=True
        ),
        "bk_core.shares_of": Entry(
            bk_core.shares_of,
            {
                "params": BK_MODEL["params"],
                "quantiles": fa.ArrayKind(cached(table), True, nan="open", zero="open"),
            },
            ("1 2 real",),
            dear=True,
        ),
        "bk_core.with_shares": Entry(
            bk_core.with_shares,
            {
                "params": BK_MODEL["params"],
                "quantiles": fa.ArrayKind(cached(table), True, nan="open", zero="open"),
                "shares": fa.number(0.5, 0.3, nan="open"),
            },
            dear=True,
        ),
        "bk_core.refine": Entry(
            refined,
            {
                "key": fa.key(),
                "params": BK_MODEL["params"],
                "tokens": TOKENS,
                "density": fa.number(0.5, optional=True, bad=(-1.0, 1.5), nan="open"),
                "generations": fa.size(1, 0, least=0),
                "particles": fa.size(4, least=4),
                "sigma": fa.number(1.0, bad=(0.0, -1.0), nan="raise", traced=False),
            },
            dims={"T": (6, 4)},
            dear=True,
        ),
        "transformer.init": Entry(transformer.init, {"config": fa.fixed(PLAIN), "key": fa.key()}),
        "transformer.apply": Entry(
            transformer.apply, PLAIN_MODEL | DTYPE, ("b T 7 real",), dear=True
        ),
        "transformer.init_cache": Entry(
            transformer.init_cache,
            {"config": fa.fixed(PLAIN), "batch": fa.size(2), "capacity": fa.size(8, 4)},
        ),
        "transformer.extend": Entry(
            transformer.extend,
            PLAIN_MODEL
            | {
                "cache": fa.made(
                    lambda rng, dims: transformer.init_cache(PLAIN, dims["b"], 8), traced=True
                )
            },
            dear=True,
        ),
        "bk_core.partition": Entry(
            lambda params: bk_core.partition(BK, params, models.Axes(tensor="t", expert="e")),
            {"params": fa.made(lambda rng, dims: started(bk_core.init, BK))},
            host=True,
        ),
        "transformer.partition": Entry(
            lambda params: transformer.partition(PLAIN, params, models.Axes(tensor="t")),
            {"params": fa.made(lambda rng, dims: started(transformer.init, PLAIN))},
            host=True,
        ),
        "bk_core.BKCoreConfig": Entry(
            bk_core.BKCoreConfig,
            {
                "vocab_size": fa.size(7),
                "layers": fa.size(2, 1),
                "heads": fa.size(2),
                "width": fa.size(16),
                "hidden": fa.size(8, optional=True),
                "chains": fa.size(4),
                "density": fa.number(0.4, bad=(-1.0, 1.5), nan="raise", traced=False),
                "local_window": fa.size(8, 1, least=0),
                "dropout": fa.number(0.1, bad=(-1.0, 1.5), nan="raise", traced=False),
                "token_dropout": fa.number(0.1, bad=(-1.0, 1.5), nan="raise", traced=False),
                "experts": fa.size(0, 2, least=0),
                "teleport_mode": fa.choice("dyson", "chain", "gated"),
            },
            host=True,
        ),
        "transformer.TransformerConfig": Entry(
            transformer.TransformerConfig,
            {
                "vocab_size": fa.size(7),
                "layers": fa.size(2, 1),
                "heads": fa.size(2),
                "width": fa.size(16),
                "hidden": fa.size(8, optional=True),
                "context": fa.size(8),
                "dropout": fa.number(0.1, bad=(-1.0, 1.5), nan="raise", traced=False),
                "token_dropout": fa.number(0.1, bad=(-1.0, 1.5), nan="raise", traced=False),
            },
            host=True,
        ),
    }.items()
}
STATES = """models.bk_core.Cache models.bk_core.LayerCache models.bk_core.Refined
    models.bk_core.Search models.transformer.Cache"""
REASONS = dict.fromkeys(STATES.split(), "holds what functions of its package return")
REASONS |= {
    "models.Axes": "names of mesh axes; tests/models has its errors",
    "models.bk_core.BKCore": "the functions of the package, each with an entry, in one object",
}
