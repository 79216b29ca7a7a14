"""Every option of BK-Core with every other: rows that cover all pairs of their values.

Each configuration is one compiled program: gates from a sample, two steps of training, then another
row by `apply`, and again through the cache.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bk_models import tokens

from physnet.holography import memory
from physnet.models import bk_core

SMALL = memory.Config(window=4, block=2, sinks=1, landmarks=2, per_level=2, levels=2)
OPTIONS = {
    "mixer": (True, False),
    "attention": (True, False),
    "density": (0.4, 0.0, 1.0),
    "local_window": (3, 0),
    "soft_gate": (False, True),
    "learn_hopping": (False, True),
    "chains": (4, 8),
    "dropout": (0.0, 0.2),
    "experts": ((0, 1), (4, 1), (4, 2)),  # with expert_top_k
    "teleport": ((0.0, "dyson"), (0.1, "dyson"), (0.1, "chain"), (0.1, "gated")),  # with its mode
    "reversible": (False, True),
    "memory": (None, SMALL),
    "dtype": (jnp.float32, jnp.bfloat16),
    "layers": (1, 2),
    "penalty": (False, True),  # whether that on blocks that keep no lengths is looked at
    "piece": (1, 4),  # tokens that decoding takes at once
}
ILLEGAL = [  # what a config refuses, and its words
    ({"mixer": False, "attention": False}, "mixer or attention must be True"),
    ({"attention": False, "memory": SMALL}, "memory is for attention"),
    ({"soft_gate": True, "memory": SMALL}, "soft_gate must be False with memory"),
    (
        {"mixer": False, "density": 0.0, "local_window": 0, "memory": None},
        "density or local_window must be above 0",
    ),
]
TIME, CHANGED = 16, 9
STEP = 1e-2


def legal(row):
    return not any(row.items() >= refused.items() for refused, _ in ILLEGAL)


def label(value):
    if isinstance(value, tuple):
        return "+".join(map(label, value))
    name = getattr(value, "__name__", None) or str(value)
    return "memory" if isinstance(value, memory.Config) else name


# Rows in which every legal pair occurs, as the number of each option's value; annealed for the size
# of all programs: what compiles long (memory, experts, bfloat16, the penalty) meets where it must.
ROWS = [
    "1020000013010001",
    "0110100123100111",
    "1010001002011110",
    "0000001020010000",
    "0101101012100101",
    "1001011101110000",
    "0120000011000010",
    "1020010122000000",
    "0111000021001000",
    "0110011110001001",
    "0101111003001000",
    "0121101000101101",
    "0121110001000101",
    "1021101000000001",
    "0101010000000010",
    "0121001000000000",
]


def row_of(digits):
    return {
        name: values[int(digit)]
        for (name, values), digit in zip(OPTIONS.items(), digits, strict=True)
    }


def config_of(row):
    row = {name: value for name, value in row.items() if name not in ("dtype", "penalty", "piece")}
    row["experts"], row["expert_top_k"] = row["experts"]
    row["teleport"], row["teleport_mode"] = row["teleport"]
    return bk_core.BKCoreConfig(vocab_size=11, heads=2, width=16, hidden=24, route_dim=3, **row)


def start(config):
    """Parameters all in use: those of `init` have slopes of 0 and small outputs."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        scale = path[-1].key.startswith("norm") or path[-1].key == "ceiling"
        return np.float32(scale) + rng.normal(scale=0.15, size=leaf.shape).astype(leaf.dtype)

    shapes = jax.eval_shape(lambda: bk_core.init(config, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(draw, shapes)


QUICK = {"xla_backend_optimization_level": 0}  # compiling is all that these small sizes cost


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), compiler_options=QUICK)
def run(config, dtype, penalty, piece, params, text, row, key):
    """What two steps on a text give, and then the row."""
    options = {"dtype": dtype}
    params = bk_core.calibrate(config, params, text, **options)

    def loss(params, key):
        logits = bk_core.apply(config, params, text[:, :-1], key=key, **options)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), text[:, 1:, None], -1).mean()

    def step(params, key):
        value, gradient = jax.value_and_grad(loss)(params, key)
        return jax.tree.map(lambda p, g: p - STEP * g, params, gradient), (value, gradient)

    trained, (losses, gradients) = jax.lax.scan(step, params, jax.random.split(key, 2))
    whole = bk_core.apply(config, trained, row, **options)
    cache = bk_core.init_cache(config, len(row), TIME, **options)

    def decode(cache, tokens):
        logits, cache = bk_core.extend(config, trained, tokens, cache, **options)
        return cache, logits

    excess = jnp.zeros((), jnp.float32)
    if penalty:
        excess = bk_core.isometry_penalty(config, trained, text[:1], key=key, **options)
    pieces = jnp.swapaxes(row.reshape(len(row), -1, piece), 0, 1)
    _, logits = jax.lax.scan(decode, cache, pieces)
    decoded = jnp.swapaxes(logits, 0, 1).reshape(whole.shape)
    return (params, trained), losses, gradients, excess, whole, decoded


def in_use(row, path):
    """Whether a gradient reaches a leaf: not the gates' constants, nor what has no effect."""
    part, name = path[-2].key if len(path) > 1 else "", path[-1].key
    attends = row["memory"] is not None or row["density"] > 0 or row["local_window"] > 0
    if part == "attention":  # where no query has a pair, it returns zeros
        return attends and name not in {"ceiling", "threshold"}
    if part == "mixer" and not row["mixer"]:  # a chain that makes scores alone
        return row["soft_gate"] or row["memory"] is not None
    return True


def test_every_legal_pair_of_values_is_in_a_row():
    def pairs(row):
        return itertools.combinations([(name, label(value)) for name, value in row.items()], 2)

    found = {pair for row in map(row_of, ROWS) for pair in pairs(row)}
    missing = []
    for one, other in itertools.combinations(OPTIONS, 2):
        for values in itertools.product(OPTIONS[one], OPTIONS[other]):
            row = dict(zip((one, other), values, strict=True))
            missing += [pair for pair in pairs(row) if legal(row) and pair not in found]
    assert not missing


@pytest.fixture(autouse=True)
def one_program_at_a_time():
    """No other test runs it, and all of them would take a gigabyte."""
    yield
    run.clear_cache()


def rows():
    """Three by every run of the tests, all by those of the slow ones."""
    for number, row in enumerate(map(row_of, ROWS)):
        marks = pytest.mark.slow if number >= 3 else ()
        yield pytest.param(row, id="-".join(map(label, row.values())), marks=marks)


@pytest.mark.parametrize("row", list(rows()))
def test_a_configuration_trains_is_causal_and_decodes_as_it_computes(row):
    config = config_of(row)
    static = config, row["dtype"], row["penalty"], row["piece"]
    text, given, key = tokens(2, TIME), tokens(2, TIME, seed=1), jax.random.key(0)
    params = start(config)
    (before, after), losses, gradients, excess, whole, decoded = run(
        *static, params, text, given, key
    )
    assert np.isfinite(losses).all()
    assert np.isfinite(excess)
    assert (excess > 0) == row["penalty"]
    assert np.isfinite(whole).all()
    for (path, gradient), old, new in zip(
        jax.tree_util.tree_leaves_with_path(gradients),
        jax.tree.leaves(before),
        jax.tree.leaves(after),
        strict=True,
    ):
        assert np.isfinite(gradient).all(), path
        assert gradient.any() == in_use(row, path), path
        assert (new != old).any() == in_use(row, path), path
    changed = given.at[:, CHANGED:].set((given[:, CHANGED:] + 1) % 11)
    other = run(*static, params, text, changed, key)[4]
    scale = float(jnp.abs(whole).max())
    np.testing.assert_allclose(other[:, :CHANGED], whole[:, :CHANGED], rtol=0, atol=1e-6 * scale)
    assert (other[:, CHANGED] != whole[:, CHANGED]).any(-1).all()
    apart = np.abs(decoded - whole)
    if row["dtype"] == jnp.float32:
        assert apart.max() < (1e-3 if row["reversible"] else 2e-5) * scale
    else:  # near a border a gate or a route may choose otherwise
        assert np.median(apart) < 0.02 * scale


@pytest.mark.slow
def test_the_penalty_has_a_gradient_through_what_replaces_the_gate_and_the_feed_forward():
    first = {name: values[0] for name, values in OPTIONS.items()}
    config = config_of(first | {"memory": SMALL, "experts": (4, 1), "reversible": True})

    @jax.jit
    def gradient(params, text):
        penalty = functools.partial(bk_core.isometry_penalty, config, key=jax.random.key(0))
        return jax.grad(lambda params: penalty(params, text))(params)

    found = gradient(start(config), tokens(1, 8))["layers"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert np.isfinite(leaf).all(), path
        assert leaf.any() == (path[-1].key not in {"ceiling", "threshold"}), path


@pytest.mark.parametrize(("refused", "words"), ILLEGAL, ids=lambda value: str(value)[:40])
def test_options_that_exclude_each_other_are_named(refused, words):
    row = {name: values[0] for name, values in OPTIONS.items()} | refused
    with pytest.raises(ValueError, match=words):
        config_of(row)
