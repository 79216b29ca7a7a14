"""Layers: functions over parameter dictionaries, and their modules."""

import functools

import fuzz_arguments as fa
import jax
from flax import nnx
from fuzz_greens import in_unit
from fuzz_rules import Entry

from physnet import holography, nn
from physnet.nn import attention, hamiltonian, layers, memory, mixer, witten
from physnet.nn.mera import MERA

WIDTH = 8
X = fa.real(f"b T {WIDTH}")
SCORE = fa.real("b T 2", 0, 1, nan="open")
BASE = fa.number(1000.0, 50.0, bad=(0.0, -1.0, float("inf")), nan="raise", traced=False)
SMALL = holography.memory.Config(window=2, block=2, sinks=1, landmarks=2, per_level=2, levels=2)
CONFIG = fa.TreeKind(lambda rng, dims: SMALL)
HEADS = fa.real(f"b 2 T {WIDTH // 2}")


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


def dropped(rate, key, x):
    return layers.dropout(rate, key)(x, 0)


def softened(params, query, key, value, key_score):
    x = attention.Projected(query, key, value)
    return attention.softened(params, x, key_score)[0]  # beside it, a Python number


def decode(held, query, key, value):
    return holography.memory.decode(query, held, key, value)


def over_heads(one, held, query, key, value):
    return memory.over_heads(one, held, query, key, value)


def held(rng, dims):
    return memory.init(SMALL, batch=dims["b"], heads=2, head_dim=WIDTH // 2)


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
    "nn.layers.linear": Entry(
        layers.linear, {"x": fa.real("b n d"), "weight": fa.real("d m")}, ("b n m real",)
    ),
    "nn.layers.rms_norm": Entry(
        layers.rms_norm,
        {"x": fa.real("b n d"), "scale": fa.real("d", optional=True)},
        ("b n d real",),
    ),
    "nn.layers.rotary": Entry(
        layers.rotary,
        {"x": fa.real("b T n 4"), "position": fa.ints("T", 0, 9), "base": BASE},
        ("b T n 4 real",),
    ),
    "nn.layers.dropout": Entry(
        dropped,
        {
            "rate": fa.number(0.5, 0.1, bad=(-1.0, 1.0, 1.5), nan="raise", traced=False),
            "key": fa.key(optional=True),
            "x": fa.real("b n", nan="open"),
        },
        ("b n real",),
    ),
    "nn.attention.init": Entry(
        attention.init, {"key": fa.key(), "width": fa.size(WIDTH), "heads": fa.size(2, 1)}
    ),
    "nn.attention.score": Entry(
        attention.score,
        {
            "params": params(attention.init, WIDTH, heads=2),
            "openness": fa.real("b T 4", 0, 1),
        },
        ("b T 2 real",),
    ),
    "nn.attention.project": Entry(
        attention.project,
        {
            "params": params(attention.init, WIDTH, heads=2),
            "x": X,
            "position": fa.ints("T", 0, 9),
            "rotary_base": BASE,
        },
        (f"b T 2 {WIDTH // 2} real",) * 3,
        dear=True,
    ),
    "nn.attention.softened": Entry(
        softened,
        {
            "params": params(attention.init, WIDTH, heads=2, soft_gate=True),
            "query": fa.real("b T 2 3"),
            "key": fa.real("b n 2 3"),
            "value": fa.real("b n 2 3"),
            "key_score": fa.real("b n 2", 0, 1),
        },
        ("b T 2 4 real", "b n 2 4 real", "b n 2 4 real"),
        dear=True,
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
            "score": SCORE,
            "local_window": fa.size(2, 1, least=0),
            "rotary_base": BASE,
        },
        (f"b T {WIDTH} real",),
        names=("query",),
        dear=True,
    ),
    "nn.memory.init": Entry(
        memory.init,
        {
            "config": CONFIG,
            "batch": fa.size(2),
            "heads": fa.size(2, 1),
            "head_dim": fa.size(4),
        },
    ),
    "nn.memory.over_heads": Entry(
        over_heads,
        {
            "one": fa.function(decode),
            "held": fa.tree(held),
            "query": HEADS,
            "key": HEADS,
            "value": HEADS,
        },
        names=("args", "keys", "values"),
        dear=True,
    ),
    "nn.memory.apply": Entry(
        memory.apply,
        {
            "params": params(attention.init, WIDTH, heads=2),
            "x": X,
            "score": SCORE,
            "config": CONFIG,
            "rotary_base": BASE,
        },
        (f"b T {WIDTH} real",),
        dear=True,
    ),
    "nn.memory.extend": Entry(
        memory.extend,
        {
            "params": params(attention.init, WIDTH, heads=2),
            "x": X,
            "score": SCORE,
            "held": fa.tree(held),
            "rotary_base": BASE,
        },
        dear=True,
    ),
    "nn.mixer.init": Entry(
        mixer.init, {"key": fa.key(), "width": fa.size(WIDTH), "heads": fa.size(2, 1)}
    ),
    "nn.mixer.hamiltonian": Entry(
        mixer.hamiltonian, {"key": fa.key(), "width": fa.size(WIDTH), "heads": fa.size(2, 1)}
    ),
    "nn.mixer.apply": Entry(
        mixer.apply,
        {"params": params(mixer.init, WIDTH, heads=2), "x": X, "groups": fa.size(2, 1)},
        None,
        lambda found, **_: in_unit(found.openness),
        names=("energy",),  # i exp(log_eta), where that is NaN
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
REASONS = dict.fromkeys(
    ("nn.attention.Projected", "nn.mixer.Mixed", "nn.witten.State"),
    "holds what functions of its module return",
)
REASONS |= {
    "nn.Calibrated": "a Flax variable",
    "nn.ParamsModule": "holds a tree of parameters as Flax variables",
    "nn.witten.WittenLayer": "nn.WittenLayer by another path",
}
