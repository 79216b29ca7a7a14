"""Witten layer: against brute force, causality, and what only an interaction can learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from physnet import holography
from physnet.nn import WittenLayer, witten

apply = jax.jit(witten.apply, static_argnames=("delta", "terms", "causal"))
extend = jax.jit(witten.extend)


@functools.cache
def layer(points=3, **options):
    options = {"features": 3, "levels": 3, "output_deviation": 0.5} | options
    init = functools.partial(witten.init, width=4, points=points, **options)
    params = jax.jit(init)(jax.random.key(0))
    coupling = series(*params["coupling"].shape, seed=1)
    return params | {"coupling": coupling}


def series(*shape, seed=2, dtype=jnp.float32):
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def brute_force(params, x, delta):
    """Causal: loops over depth, vertex and output time, with the kernel itself."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = np.asarray(x, np.float64)
    features = params["out"].shape[0]
    sources = (x @ params["source"]).reshape(len(x), -1, features)
    total = np.zeros((len(x), features))
    for level, coupling in enumerate(params["coupling"]):
        z = 2.0**level / 2

        def average(t, z=z):
            return (2 * delta - 1) * z ** (2 * delta - 1) / (z + t) ** (2 * delta)

        for s in range(len(x)):
            legs = sum(average(s - i) * sources[i] for i in range(s + 1))
            vertex = coupling * np.prod(legs, 0)
            for t in range(s, len(x)):
                total[t] += average(t - s) * vertex
    return total @ params["out"]


@pytest.mark.parametrize(("points", "delta"), [(3, 1.0), (4, 1.5)])
def test_the_causal_layer_against_loops(points, delta):
    params, x = layer(points), series(11, 4)
    found = apply(params, x, delta=delta, terms=24)
    expected = brute_force(params, x, delta)
    np.testing.assert_allclose(found, expected, atol=3e-4 * np.abs(expected).max())
    assert found.dtype == jnp.float32


def test_the_lattice_layer_against_matrices():
    params, n, delta = layer(), 12, 1.5
    x = series(n, 4, dtype=jnp.float64)
    wide = {name: np.asarray(value, np.float64) for name, value in params.items()}
    kernel = jax.jit(functools.partial(holography.bulk_to_boundary, delta=delta))
    found = apply(wide, x, delta=delta, causal=False)
    sources = np.asarray(x @ wide["source"]).reshape(n, 2, 3)
    total = 0.0
    for level, size in enumerate(holography.level_sizes(n, 3)):
        z, slot = 2.0**level / 2, 2.0**level * (np.arange(size) + 0.5) - 0.5
        gap = slot[:, None] - np.arange(n)
        average = z ** (delta - 1) * np.asarray(kernel(np.float64(z), gap))
        legs = np.einsum("si,ipf->spf", average, sources)
        vertex = np.asarray(wide["coupling"][level]) * legs.prod(1) * 2**level
        total += average.T @ vertex
    np.testing.assert_allclose(found, total @ np.asarray(wide["out"]), rtol=1e-9)


def test_a_cubic_lattice_layer_is_the_three_point_function():
    """Two sources, one place of output, and couplings z^{-2} dz: a coarse sum of the integral."""
    n, levels = 512, 10
    z = 2.0 ** np.arange(levels) / 2
    params = {
        "source": np.eye(2),
        "coupling": (np.log(2) / z)[:, None],
        "out": np.ones((1, 2)),
    }
    places, x = np.array([200, 240, 312]), np.zeros((n, 2))
    x[places[0], 0] = x[places[1], 1] = 1.0
    found = np.asarray(apply(params, x, causal=False))[places[2], 0]
    three_point = jax.jit(lambda x: holography.three_point(x, deltas=(1.0, 1.0, 1.0)))
    exact = three_point(places.astype(np.float64))
    np.testing.assert_allclose(found, exact, rtol=0.1)


def test_no_later_token_moves_an_earlier_output_to_the_bit():
    params, x = layer(4), series(2, 40, 4)
    before = apply(params, x)
    for time in (7, 32):
        after = apply(params, x.at[:, time].add(100.0))
        np.testing.assert_array_equal(after[:, :time], before[:, :time])
        assert np.all(after[:, time] != before[:, time])


def test_pieces_of_a_sequence_are_the_whole():
    params, x = layer(4), series(2, 12, 4)
    whole, _ = extend(params, x, None)
    state, pieces = None, []
    for piece in (x[:, :1], x[:, 1:2], x[:, 2:]):
        out, state = extend(params, piece, state)
        pieces.append(out)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, rtol=1e-4, atol=1e-4)
    assert state.inward.shape == (3, 2, 3, 16, 3)


def test_transforms():
    params, x = layer(), series(3, 9, 4)
    loss = lambda params, x: jnp.sum(witten.apply(params, x) ** 2)  # noqa: E731
    along = jax.jit(lambda x: jax.jvp(lambda x: loss(params, x), (x,), (x,)))
    slopes = jax.jit(jax.grad(loss))(params, x)
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, x)
    for name, slope in slopes.items():
        np.testing.assert_allclose(each[name].sum(0), slope, rtol=1e-3, atol=1e-4)
        assert np.all(np.abs(slope) > 0)
    value, tangent = along(x)
    np.testing.assert_allclose(tangent, 4 * value, rtol=1e-4)  # bilinear, squared
    low = apply(params, x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    exact = apply(params, x)
    np.testing.assert_allclose(
        low.astype(jnp.float32), exact, atol=0.02 * float(jnp.abs(exact).max())
    )
    lost = apply(params, x.at[0, 5].set(jnp.nan))
    np.testing.assert_array_equal(lost[0, :5], exact[0, :5])
    assert np.all(np.isnan(lost[0, 5:]))


def linear_layer(params, x):
    """As many sources, depths and outputs, and no vertex."""
    phi, _ = holography.causal_to_bulk(x @ params["source"], 2.0 ** jnp.arange(3) / 2, terms=16)
    mixed = jnp.einsum("...ltw,lw->...tw", phi, params["coupling"])
    return mixed @ params["out"]


def trained(model, params, x, y, steps=500):
    rule = optax.adam(2e-2)

    def step(carry, _):
        params, state = carry
        value, slope = jax.value_and_grad(lambda p: jnp.mean((model(p, x) - y) ** 2))(params)
        change, state = rule.update(slope, state, params)
        return (optax.apply_updates(params, change), state), value

    carry = (params, rule.init(params))
    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(carry)
    return params


@pytest.mark.slow
@pytest.mark.parametrize("points", [3, 4])
def test_it_learns_an_interaction_that_a_linear_layer_cannot(points):
    """The target: products of smoothed channels, two or three of them, seen through a delay."""
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by counters
        legs = points - 1

        @jax.jit
        def target(x):
            smooth, _ = holography.causal_to_bulk(x, jnp.ones(1, jnp.float32), terms=16)
            product = jnp.prod(smooth[..., 0, :, :legs], -1, keepdims=True)
            back, _ = holography.causal_to_boundary(product[..., None, :, :], jnp.ones(1), terms=16)
            return back / jnp.std(back)

        x, fresh = series(16, 32, 4, seed=5), series(16, 32, 4, seed=6)
        y, other = target(x), target(fresh)
        options = {"points": points, "features": 4, "levels": 3, "output_deviation": 0.5}
        params = jax.jit(lambda key: witten.init(key, 4, **options))(jax.random.key(3))
        model = lambda p, x: witten.apply(p, x)[..., :1]  # noqa: E731
        found = trained(model, params, x, y)
        error = float(jnp.mean((jax.jit(model)(found, fresh) - other) ** 2))

        size = sum(v.size for v in params.values())
        width = size // (4 + 3 + 1)
        plain = {
            "source": np.float32(0.5) * series(4, width, seed=7),
            "coupling": np.full((3, width), 0.5, np.float32),
            "out": np.float32(0.5) * series(width, 1, seed=8),
        }
        assert abs(sum(v.size for v in plain.values()) - size) <= 8
        plain = trained(linear_layer, plain, x, y)
        least = float(jnp.mean((jax.jit(linear_layer)(plain, fresh) - other) ** 2))
    variance = float(jnp.var(other))
    assert error < 0.15 * variance
    assert least > 0.8 * variance


def test_module():
    module = WittenLayer(4, features=3, points=4, levels=2, delta=1.5, rngs=nnx.Rngs(0))
    x, run = series(2, 6, 4), jax.jit(lambda module, x: module(x))
    np.testing.assert_array_equal(run(module, x), apply(module.tree(), x, delta=1.5))
    wide = WittenLayer(4, features=3, levels=2, causal=False, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(run(wide, x), apply(wide.tree(), x, causal=False))
    assert len(jax.tree.leaves(nnx.state(module, nnx.Param))) == 3


def test_errors_name_the_argument(bare_errors):
    params = layer()
    with pytest.raises(ValueError, match=r"x must have shape \(..., T >= 1, 4\)"):
        witten.apply(params, jnp.ones((3, 5), jnp.float32))
    with pytest.raises(TypeError, match="x must be a real floating-point array"):
        witten.apply(params, jnp.ones((3, 4), jnp.int32))
    with pytest.raises(ValueError, match="points must be >= 3"):
        witten.init(jax.random.key(0), 4, points=2)
    with pytest.raises(ValueError, match="x must have at least 3 places for 3 levels, got 2"):
        witten.apply(params, jnp.ones((2, 4), jnp.float32), causal=False)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from physnet import holography
from physnet.nn import witten

mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
x = jax.random.normal(jax.random.key(1), (4, 8, 2))
params = witten.init(jax.random.key(0), 2, features=2, levels=2, output_deviation=0.5)

def loss(params, x):
    y = witten.apply(params, x) + witten.apply(params, x, causal=False)
    y = y + holography.decode(holography.encode(y, 2), 8)
    y = y + holography.to_bulk(x, 2, edge="reflect", method="semigroup")[0]
    return jnp.sum(y**2, keepdims=True)[:, 0, 0]

split = jax.shard_map(loss, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
whole = jax.jit(jax.grad(lambda p: loss(p, x)[0]))(params)
parts = jax.jit(jax.grad(lambda p: split(p, x).sum()))(params)
for one, other in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
print("same")
"""


@pytest.mark.slow
def test_gradients_over_devices(on_devices):
    """Parameters on all, sequences on each: cotangents of the former are summed."""
    assert on_devices(SHARDED, 2) == "same"
