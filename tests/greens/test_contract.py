"""What every implementation must meet, in float32: values, derivatives, transforms, bad numbers.

References are dense inverses in float64; `test_contract_sizes.py` has extreme sizes and numbers.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from physnet import greens

SHAPES = [  # n, and the batch axes of onsite, hopping, energy and source
    (1, (), (), (), ()),
    (2, (3,), (4, 1), (), (4, 1)),
    (60, (2,), (), (3, 1), (3, 1)),
    (37, (2, 1, 1, 1), (1, 3, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)),  # no two axes go together
]
OPTIONS = {"center": 0.2, "radius": 0.9, "order": 4}


@pytest.fixture(params=["xla", pytest.param("triton", marks=pytest.mark.gpu)])
def implementation(request):
    return request.param


@pytest.fixture
def functions(implementation):
    """Name -> function of (onsite, hopping, energy, source) that gives a complex array."""

    def named(function, **options):
        return functools.partial(function, implementation=implementation, **options)

    def window(onsite, hopping, energy, source, causal):
        share = named(greens.window, causal=causal, **OPTIONS)(onsite, hopping)
        return share.astype(jnp.complex64)

    return {
        "diagonal": lambda a, b, z, x: named(greens.diagonal)(a, b, z),
        "left": lambda a, b, z, x: named(greens.left)(a, b, z),
        "window": functools.partial(window, causal=False),
        "causal window": functools.partial(window, causal=True),
        "propagate": named(greens.propagate),
        "propagate real": lambda a, b, z, x: named(greens.propagate)(a, b, z, x.real),
    }


@pytest.fixture
def references(inverse, half_line):
    """The same by dense inverses."""

    def window(onsite, hopping, energy, source, matrix):
        share = 0
        for k in range(OPTIONS["order"] // 2):
            phase = np.exp(1j * np.pi * (2 * k + 1) / OPTIONS["order"])
            z = OPTIONS["center"] + OPTIONS["radius"] * phase
            g = diagonal(onsite, hopping, z, None, matrix)
            share = share + (OPTIONS["radius"] * phase * g).real * (2 / OPTIONS["order"])
        return share.astype(complex)

    def diagonal(a, b, z, x, matrix):
        return matrix(a, b, z).diagonal(axis1=-2, axis2=-1)

    def propagate(a, b, z, x):
        with jax.numpy_rank_promotion("allow"):
            return half_line(a, b, z) @ x.astype(complex)

    return {
        "diagonal": functools.partial(diagonal, matrix=inverse),
        "left": functools.partial(diagonal, matrix=half_line),
        "window": functools.partial(window, matrix=inverse),
        "causal window": functools.partial(window, matrix=half_line),
        "propagate": propagate,
        "propagate real": lambda a, b, z, x: propagate(a, b, z, x.real),
    }


NAMES = ["diagonal", "left", "window", "causal window", "propagate", "propagate real"]
every = pytest.mark.parametrize("name", NAMES)
# The other files hold "xla" to the same on CPUs; here it runs beside the kernels, on a GPU.
on_a_gpu = pytest.mark.gpu


def arguments(random_chain, n, a=(), b=(), z=(), x=(), *, d=3, seed=0):
    """Onsite, hopping, energy and source, in float32 and complex64."""
    chain = random_chain(n, a, b, z, seed=seed, eta=(0.1, 1.0))
    rng = np.random.default_rng(seed + 1)
    source = rng.normal(size=(*x, n, d)) + 1j * rng.normal(size=(*x, n, d))
    return tuple(
        jnp.asarray(v, jnp.complex64 if jnp.iscomplexobj(v) else jnp.float32)
        for v in (*chain, source)
    )


def wide(values):
    """In float64 and complex128."""
    return tuple(v.astype(jnp.complex128 if jnp.iscomplexobj(v) else jnp.float64) for v in values)


def loss(function, *values):
    """A real number that weighs every entry differently and is not linear in them."""
    y = function(*values)
    weight = jnp.asarray(np.random.default_rng(3).normal(size=(2, *y.shape)), y.real.dtype)
    return jnp.sum(weight[0] * y.real * y.real) + jnp.sum(weight[1] * y.imag)


def assert_near(value, other, tolerance):
    """Of the same shape, and equal as far as the largest entry tells, or nearly zero."""
    value, other = np.asarray(value), np.asarray(other)
    assert value.shape == other.shape
    assert np.isfinite(value).all()
    assert np.all(np.abs(value - other) <= tolerance * np.abs(other).max(initial=0) + 1e-6)


def assert_close(ours, expected, tolerance=2e-5):
    for value, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert_near(value, other, tolerance)


@every
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_dense_inverses(name, shape, functions, references, random_chain):
    values = arguments(random_chain, *shape)
    y = jax.jit(functions[name])(*values)
    assert y.dtype == jnp.complex64
    assert_close(y, references[name](*wide(values)))


@every
@pytest.mark.parametrize("shape", [SHAPES[0], (9, (2, 1), (), (3,), (2, 1))])
def test_gradients_are_those_of_dense_inverses(name, shape, functions, references, random_chain):
    values = arguments(random_chain, *shape)
    every = tuple(range(4))
    ours = jax.jit(jax.grad(functools.partial(loss, functions[name]), every))(*values)
    expected = jax.jit(jax.grad(functools.partial(loss, references[name]), every))(*wide(values))
    for value, argument, other in zip(ours, values, expected, strict=True):
        assert value.dtype == argument.dtype
        assert_near(value, other, 1e-4)


@on_a_gpu
@every
def test_forward_mode_and_second_order(name, functions, references, random_chain):
    values, tangents = (arguments(random_chain, 7, (2,), (), (), (2,), seed=s) for s in (0, 5))

    def second(function):
        gradient = jax.grad(functools.partial(loss, function), (0, 1, 2, 3))
        return lambda v, t: (jax.jvp(function, v, t), jax.jvp(gradient, v, t)[1])

    ours = jax.jit(second(functions[name]))(values, tangents)
    expected = second(references[name])(wide(values), wide(tangents))
    for value, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert_near(value, other, 2e-4)


@on_a_gpu
@every
def test_nested_vmap_and_its_gradient(name, functions, random_chain):
    values = arguments(random_chain, 40, (3, 1), (2,), (2,), (3, 2))

    def mapped(function):
        inner = jax.vmap(function, in_axes=(None, 0, 0, 0))
        return jax.vmap(inner, in_axes=(0, None, None, 0))

    def alone(a, b, z, x):
        return functions[name](a, b, z, x)

    flat = (values[0][:, 0], *values[1:])
    ours = jax.jit(mapped(alone))(*flat)
    assert_close(ours, jnp.broadcast_to(functions[name](*values), ours.shape), 1e-6)
    gradient = jax.jit(jax.grad(functools.partial(loss, mapped(alone)), (0, 1, 2, 3)))(*flat)
    whole = jax.grad(
        functools.partial(loss, lambda *v: jnp.broadcast_to(functions[name](*v), ours.shape)),
        (0, 1, 2, 3),
    )(*values)
    assert_close(gradient[0], whole[0][:, 0], 1e-5)
    for value, other in zip(gradient[1:], whole[1:], strict=True):
        assert_near(value, other, 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["diagonal", "causal window", "propagate"])
def test_kernels_run_and_vmap_makes_lanes_of_them(name, random_chain):
    """A name never falls back in silence, and a batch is no loop."""
    options = {"implementation": "triton"}

    def loss(a, b, z, x):
        y = {
            "diagonal": lambda: greens.diagonal(a, b, z, **options),
            "causal window": lambda: greens.window(a, b, causal=True, **OPTIONS, **options),
            "propagate": lambda: greens.propagate(a, b, z, x, **options),
        }[name]()
        return jnp.sum(jnp.abs(y) ** 2)

    gradient = jax.grad(loss, (0, 1))

    values = arguments(random_chain, 40, (3,), (3,), (3,), (3,))
    alone = jax.jit(gradient).lower(*(v[0] for v in values)).as_text()
    mapped = jax.jit(jax.vmap(gradient)).lower(*values).as_text()
    assert alone.count("triton_kernel_call") == mapped.count("triton_kernel_call") > 0
    assert "stablehlo.while" not in mapped


@on_a_gpu
@pytest.mark.parametrize("name", ["diagonal", "left", "window", "causal window"])
def test_gradients_of_long_chains(name, functions, random_chain):
    """Many chunks: against the plain recursions in float64, judged by dense inverses elsewhere."""
    values = arguments(random_chain, 2100, (2,), (), (2,))
    plain = {
        "diagonal": lambda a, b, z: greens.diagonal(a, b, z, implementation="xla"),
        "left": lambda a, b, z: greens.left(a, b, z, implementation="xla"),
    }
    for causal, key in ((False, "window"), (True, "causal window")):
        window = functools.partial(greens.window, causal=causal, **OPTIONS, implementation="xla")
        plain[key] = lambda a, b, z, window=window: window(a, b).astype(complex)

    def gradient(function, values):
        return jax.jit(jax.grad(functools.partial(loss, function), (0, 1)))(*values[:3])

    ours = gradient(lambda a, b, z: functions[name](a, b, z, None), values)
    assert_close(ours, gradient(plain[name], wide(values)), 1e-4)


@on_a_gpu
@pytest.mark.parametrize("n", [9, 700])
def test_a_chain_continues_from_its_state(n, implementation, random_chain):
    onsite, hopping, energy, source = arguments(random_chain, n, (2,), (), (2,), (2,))
    cut = (0, n // 3, n // 3 + 1, n)
    options = {"implementation": implementation, "return_state": True}
    wholes = (
        greens.left(onsite, hopping, energy, **options)[0],
        greens.window(onsite, hopping, causal=True, **OPTIONS, **options)[0],
        greens.propagate(onsite, hopping, energy, source, **options)[0],
    )
    parts, states = ([], [], []), [None, None, None]
    for start, stop in itertools.pairwise(cut):
        a, b, x = (
            onsite[:, start:stop],
            hopping[max(start - 1, 0) : stop - 1],
            source[:, start:stop],
        )
        results = (
            greens.left(a, b, energy, initial=states[0], **options),
            greens.window(a, b, causal=True, **OPTIONS, initial=states[1], **options),
            greens.propagate(a, b, energy, x, initial=states[2], **options),
        )
        states = [state for _, state in results]
        for part, (value, _) in zip(parts, results, strict=True):
            part.append(value)
    for part, whole, axis in zip(parts, wholes, (-1, -1, -2), strict=True):
        assert_close(jnp.concatenate(part, axis), whole, 1e-5)


@on_a_gpu
def test_a_gradient_flows_through_the_state(implementation, random_chain):
    onsite, hopping, energy, x = arguments(random_chain, 20)
    propagate = functools.partial(greens.propagate, implementation=implementation)

    def whole(onsite, hopping, x):
        return jnp.abs(propagate(onsite, hopping, energy, x)[-1]).sum()

    def halves(onsite, hopping, x):
        _, state = propagate(onsite[:9], hopping[:8], energy, x[:9], return_state=True)
        return jnp.abs(propagate(onsite[9:], hopping[8:], energy, x[9:], initial=state)[-1]).sum()

    ours, expected = (jax.jit(jax.grad(f, (0, 1, 2)))(onsite, hopping, x) for f in (halves, whole))
    for value, other in zip(ours, expected, strict=True):
        assert_near(value, other, 1e-5)


@on_a_gpu
@pytest.mark.parametrize("n", [40, 3000])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_number_reaches_the_sites_that_see_it_and_no_other(
    n, bad, implementation, random_chain
):
    onsite, hopping, energy, source = arguments(random_chain, n, (2,), (), (), (2,))
    j = 2 * n // 3
    broken = onsite.at[0, j].set(bad)
    options = {"implementation": implementation}
    causal = {
        "left": lambda a, x: greens.left(a, hopping, energy, **options),
        "window": lambda a, x: greens.window(a, hopping, causal=True, **OPTIONS, **options),
        "propagate": lambda a, x: greens.propagate(a, hopping, energy, x, **options)[..., 0],
    }
    for function in causal.values():
        clean, y = function(onsite, source), function(broken, source)
        np.testing.assert_array_equal(y[0, :j], clean[0, :j])
        assert np.isnan(y[0, j:]).all()
        np.testing.assert_array_equal(y[1], clean[1])
    for function in (
        functools.partial(greens.diagonal, energy=energy),
        functools.partial(greens.window, **OPTIONS),
    ):
        y = function(broken, hopping, **options)
        assert np.isnan(y[0]).all()
        assert np.isfinite(y[1]).all()
    y = causal["propagate"](onsite, source.at[0, j].set(np.nan))
    assert np.isfinite(y[0, :j]).all()
    assert np.isnan(y[0, j:]).all()


@on_a_gpu
@pytest.mark.parametrize("n", [9, 2500])
def test_later_sites_change_no_bit_of_what_is_causal(n, implementation, random_chain):
    onsite, hopping, energy, source = arguments(random_chain, n, (2,), (), (2,), (2,))

    @jax.jit
    def causal(onsite, hopping, source):
        options = {"implementation": implementation}
        return (
            greens.left(onsite, hopping, energy, **options),
            greens.window(onsite, hopping, causal=True, **OPTIONS, **options),
            greens.propagate(onsite, hopping, energy, source, **options)[..., 0],
        )

    before = causal(onsite, hopping, source)
    for j in (n - 1, n // 2, 3):
        later = (
            onsite.at[:, j:].multiply(-3.0),
            hopping.at[j - 1 :].add(0.7),
            source.at[:, j:].add(2.0),
        )
        for changed, old in zip(causal(*later), before, strict=True):
            np.testing.assert_array_equal(changed[:, :j], old[:, :j])
            assert not np.array_equal(changed[:, j], old[:, j])


def test_a_traced_energy_below_the_axis_gives_the_conjugate(implementation, random_chain):
    onsite, hopping, energy, _ = arguments(random_chain, 2000, (2,))
    function = functools.partial(greens.diagonal, implementation=implementation)
    below = jax.jit(function)(onsite, hopping, energy.conj())
    assert_close(below, function(onsite, hopping, energy).conj(), 1e-5)


@on_a_gpu
def test_within_shard_map(functions, random_chain):
    values = arguments(random_chain, 150, (2,), (), (), (2,))
    devices = jax.devices()[:2]  # two share the chains where there are two
    mesh = jax.sharding.Mesh(np.array(devices), ("chains",))
    specs = (P("chains"), P(), P(), P("chains"))

    def total(*values):
        return sum(jnp.sum(jnp.abs(f(*values)) ** 2) for f in functions.values())[None]

    sharded = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=P("chains"))

    def gradients(f):
        return jax.jit(jax.value_and_grad(lambda *v: f(*v).sum(), (0, 1, 2, 3)))(*values)

    for ours, expected in zip(
        jax.tree.leaves(gradients(sharded)), jax.tree.leaves(gradients(total)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
