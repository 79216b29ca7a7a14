"""Layers and whole models, on one small configuration each."""

import functools

import fuzz_arguments as fa
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from fuzz_greens import in_unit
from fuzz_rules import Entry

from physnet import models, nn
from physnet.models import bk_core, transformer
from physnet.nn import attention, hamiltonian, mixer, witten
from physnet.nn.mera import MERA

WIDTH = 8
X = fa.real(f"b T {WIDTH}")


def params(make, *args, **options):
    run = jax.jit(lambda key: make(key, *args, **options))
    return fa.tree(cached(lambda: run(jax.random.key(0))))


def cached(make):
    """The same tree at each call: made once."""
    once = functools.cache(make)
    return lambda rng, dims: once()


def module(kind, x, width, **options):
    layer = kind(width, rngs=nnx.Rngs(0), **options)
    y = layer(x)
    return y.top if kind is MERA else y


def attended(x, openness, width, heads, density):
    layer = nn.ScatteringAttention(width, heads=heads, rngs=nnx.Rngs(0))
    layer.calibrate(openness, density=density)
    return layer(x, openness)


def layer_entry(kind, **arguments):
    return Entry(
        functools.partial(module, kind),
        {"x": X, "width": fa.size(WIDTH)} | arguments,
        names=("signal", "dim"),
        dear=True,
    )


ENTRIES = {
    "nn.ResolventMixer": layer_entry(nn.ResolventMixer, heads=fa.size(2), groups=fa.size(2, 4)),
    "nn.WittenLayer": layer_entry(
        nn.WittenLayer, features=fa.size(2), levels=fa.size(2), delta=fa.fixed(1.0)
    ),
    "nn.mera.MERA": layer_entry(MERA, levels=fa.size(1), layers=fa.size(1, 0, least=0)),
    "nn.ScatteringAttention": Entry(
        attended,
        {
            "x": X,
            "openness": fa.real("b T 2", 0, 1, nan="open"),
            "width": fa.size(WIDTH),
            "heads": fa.size(2, 1),
            "density": fa.number(0.5, bad=(-1.0, 1.5), nan="raise", traced=False),
        },
        names=("query", "score"),
        dear=True,
    ),
    "nn.attention.init": Entry(
        attention.init, {"key": fa.key(), "width": fa.size(WIDTH), "heads": fa.size(2, 1)}
    ),
    "nn.attention.calibrate": Entry(
        attention.calibrate,
        {
            "params": params(attention.init, WIDTH, heads=2),
            "openness": fa.real("b T 2", 0, 1, nan="open"),
            "density": fa.number(0.5, 1.0, bad=(-1.0, 1.5), nan="raise", traced=False),
            "local_window": fa.size(2, 0, least=0),
        },
        dear=True,
    ),
    "nn.attention.apply": Entry(
        attention.apply,
        {
            "params": params(attention.init, WIDTH, heads=2),
            "x": X,
            "score": fa.real("b T 2", 0, 1, nan="open"),
            "local_window": fa.size(2, 1, least=0),
        },
        (f"b T {WIDTH} real",),
        names=("query",),
        dear=True,
    ),
    "nn.mixer.init": Entry(
        mixer.init, {"key": fa.key(), "width": fa.size(WIDTH), "heads": fa.size(2, 1)}
    ),
    "nn.mixer.apply": Entry(
        mixer.apply,
        {"params": params(mixer.init, WIDTH, heads=2), "x": X, "groups": fa.size(2, 1)},
        None,
        lambda found, **_: in_unit(found.openness),
        dear=True,
    ),
    "nn.witten.init": Entry(
        witten.init,
        {
            "key": fa.key(),
            "width": fa.size(WIDTH),
            "features": fa.size(2),
            "points": fa.size(3, 4, least=3),
            "levels": fa.size(2, 1),
        },
    ),
    "nn.witten.apply": Entry(
        witten.apply,
        {
            "params": params(witten.init, WIDTH, features=2, levels=2),
            "x": X,
            "delta": fa.number(1.0, bad=(0.5, -1.0), nan="raise", traced=False),
            "causal": fa.fixed(True),
            "terms": fa.size(8, 16, least=4),
        },
        (f"b T {WIDTH} real",),
        dear=True,
    ),
    "nn.witten.extend": Entry(
        witten.extend,
        {
            "params": params(witten.init, WIDTH, features=2, levels=2),
            "x": X,
            "state": fa.fixed(None),
            "delta": fa.number(1.0, bad=(0.5, -1.0), nan="raise", traced=False),
            "terms": fa.size(8, 16, least=4),
        },
        dear=True,
    ),
    "nn.hamiltonian.init": Entry(
        hamiltonian.init,
        {
            "key": fa.key(),
            "width": fa.size(WIDTH),
            "oscillators": fa.size(4, 2),
            "units": fa.size(0, 2, least=0),
            "cycles": fa.number(12.0, bad=(0.0, -1.0), nan="raise", traced=False),
        },
    ),
    "nn.hamiltonian.apply": Entry(
        hamiltonian.apply,
        {
            "params": params(hamiltonian.init, WIDTH, oscillators=2),
            "x": X,
            "form": fa.choice("step", "parallel"),
            "gradient": fa.choice("backpropagation", "echo", "finite"),
        },
        (f"b T {WIDTH} real",),
        dear=True,
    ),
    "nn.hamiltonian.positions": Entry(
        hamiltonian.positions,
        {
            "params": params(hamiltonian.init, WIDTH, oscillators=2, units=2),
            "x": X,
            "form": fa.choice("step"),
            "gradient": fa.choice("backpropagation"),
        },
        ("b T 2 real",),
        dear=True,
    ),
}
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


ENTRIES |= {
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
PIECE = "a piece of a layer: takes what the layer's entry, which is above, has checked"
HELD = "holds what functions of its package return"
PIECES = """attention.score attention.project attention.softened layers.accurate layers.linear
    layers.rms_norm layers.rotary layers.dropout memory.init memory.over_heads memory.apply
    memory.extend memory.share memory.rotation mixer.hamiltonian"""
STATES = """nn.attention.Projected nn.mixer.Mixed nn.witten.State models.bk_core.Cache
    models.bk_core.LayerCache models.bk_core.Refined models.bk_core.Search
    models.transformer.Cache"""
REASONS = {f"nn.{name}": PIECE for name in PIECES.split()}
REASONS |= dict.fromkeys(STATES.split(), HELD)
REASONS |= {
    "nn.Calibrated": "a Flax variable",
    "nn.ParamsModule": "holds a tree of parameters as Flax variables",
    "nn.witten.WittenLayer": "nn.WittenLayer by another path",
    "models.Axes": "names of mesh axes; tests/models has its errors",
    "models.bk_core.BKCore": "the functions of the package, each with an entry, in one object",
}
