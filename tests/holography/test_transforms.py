"""Boundary to bulk and back: sums over sites and images, adjoints, the O(N) form."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import holography


def dense(n, levels, delta, edge):
    """Each level as a matrix, by the definition; enough images for delta >= 1.5."""
    constant = math.gamma(delta) / (math.pi**0.5 * math.gamma(delta - 0.5))
    found = []
    for level, size in enumerate(holography.level_sizes(n, levels)):
        z, slot = 2.0**level / 2, 2.0**level * (np.arange(size) + 0.5) - 0.5
        periods = [0] if edge == "zero" else range(-600, 601)
        total = np.zeros((size, n))
        for period in periods:
            places = [np.arange(n)] if edge == "zero" else [np.arange(n), -1 - np.arange(n)]
            for place in places:
                gap = slot[:, None] - (place + 2 * n * period)
                total += constant * (z / (z * z + gap**2)) ** delta
        found.append(total)
    return found


forward = jax.jit(holography.to_bulk, static_argnames=("levels", "edge", "method"))
back = jax.jit(holography.to_boundary, static_argnames=("n", "edge", "method"))


@pytest.mark.parametrize(("n", "levels"), [(16, 5), (13, 4)])
@pytest.mark.parametrize(("edge", "delta"), [("zero", 0.8), ("zero", 1.0), ("reflect", 2.3)])
def test_both_directions_against_matrices(n, levels, edge, delta):
    rng = np.random.default_rng(0)
    field, matrices = rng.normal(size=(2, n, 3)), dense(n, levels, delta, edge)
    found = forward(jnp.asarray(field), levels, delta=delta, edge=edge)
    bulk = [rng.normal(size=(2, len(a), 3)) for a in matrices]
    for ours, matrix in zip(found, matrices, strict=True):
        np.testing.assert_allclose(ours, matrix @ field, atol=1e-10)
    ours = back([jnp.asarray(b) for b in bulk], n, delta=delta, edge=edge)
    expected = sum(a.T @ b for a, b in zip(matrices, bulk, strict=True))
    np.testing.assert_allclose(ours, 2 * np.log(2) * expected, atol=1e-10)


@pytest.mark.parametrize(
    ("edge", "method", "levels"),
    [("zero", "fft", 5), ("reflect", "fft", 5), ("reflect", "semigroup", 6)],
)
def test_the_two_directions_are_adjoint(edge, method, levels):
    n, rng = 32, np.random.default_rng(1)
    field = jnp.asarray(rng.normal(size=(n, 2)))
    options = {"edge": edge, "method": method}
    bulk = forward(field, levels, **options)
    other = [jnp.asarray(rng.normal(size=b.shape)) for b in bulk]
    volume = 2 * np.log(2)
    left = sum(volume * jnp.vdot(a, b) for a, b in zip(bulk, other, strict=True))
    right = jnp.vdot(field, back(other, n, **options))
    np.testing.assert_allclose(left, right, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "levels"), [(512, 10), (24, 4), (5, 1)])
def test_the_semigroup_form_is_the_transform(n, levels, dtype):
    rng = np.random.default_rng(2)
    field = jnp.asarray(rng.normal(size=(n, 2)) + 1.0)
    expected = forward(field, levels, edge="reflect")
    found = forward(field.astype(dtype), levels, edge="reflect", method="semigroup")
    near = 3e-7 if dtype == np.float64 else 3e-6
    for level, (ours, other) in enumerate(zip(found, expected, strict=True)):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, other, atol=near if level < 4 else 2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_narrow_kernels_have_all_their_aliases(dtype):
    """Delta = 20 at depth 1/2: a fifth of a site wide, against the form that takes no aliases."""
    field = jnp.zeros((32, 1), dtype).at[16].set(1.0)
    inner = slice(4, 28)
    for delta, most in ((20.0, {np.float32: 1e-5, np.float64: 1e-12}[dtype]), (5.0, 3e-6)):
        ours, other = (
            holography.to_bulk(field, 1, delta=delta, edge=edge)[0][inner]
            for edge in ("reflect", "zero")
        )
        np.testing.assert_allclose(ours, other, atol=most * float(jnp.max(other)))
    traced = forward(field, 1, delta=jnp.asarray(5.0, dtype), edge="reflect")[0][inner]
    np.testing.assert_allclose(traced, ours, atol=1e-5)


def work(program):
    """Numbers that a program computes: sizes of all results, times the trips of loops."""
    total = 0
    for equation in program.eqns:
        inner = [v for v in equation.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
        trips = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if inner:
            total += trips * sum(work(getattr(v, "jaxpr", v)) for v in inner)
        else:
            sizes = [np.prod(v.aval.shape) for v in equation.outvars]
            taps = equation.params.get("window_strides")  # of a convolution
            total += sum(sizes) * (np.prod(equation.invars[1].aval.shape) if taps else 1)
    return total


def test_the_semigroup_form_costs_a_number_of_operations_a_site():
    def cost(n):
        options = {"levels": holography.all_levels(n), "edge": "reflect", "method": "semigroup"}
        field = jax.ShapeDtypeStruct((n, 1), jnp.float32)
        return work(jax.make_jaxpr(lambda f: holography.to_bulk(f, **options))(field).jaxpr)

    ratio = cost(4096) / cost(1024)  # 4 of O(N), 4.8 of O(N log N)
    assert 3.7 < ratio < 4.05


def test_cells_measure_the_hyperbolic_integral():
    """The sum over slots is integral K phi z^{-2} dz dx, of a phi that the slots resolve."""
    n, levels = 256, 9
    centre, size, length = 127.5, 6.0, 60.0  # a blob around depth 6, resolved by the slots there

    def blob(z, x):
        return np.exp(-2.0 * np.log(z / size) ** 2 - ((x - centre) / length) ** 2)

    bulk = []
    for level, count in enumerate(holography.level_sizes(n, levels)):
        slot = 2.0**level * (np.arange(count) + 0.5) - 0.5
        bulk.append(jnp.asarray(blob(2.0**level / 2, slot)[:, None]))
    ours = np.asarray(back(bulk, n, delta=1.5))[:, 0]
    u, x = np.linspace(-2, 6, 61), np.arange(256.0)
    z = np.exp(u)[:, None]
    weight = blob(z, x) / z * (u[1] - u[0])  # z^{-2} dz = du / z
    gap = jnp.asarray(np.arange(-255.0, 256.0)[None])
    kernel = np.asarray(holography.bulk_to_boundary(jnp.asarray(z), gap, delta=1.5))
    exact = sum(np.convolve(w, k)[255:511] for w, k in zip(weight, kernel, strict=True))
    # A single site sees the slots of one level a fifth stronger or weaker: 64 of them do not.
    np.testing.assert_allclose(ours.reshape(4, 64).sum(1), exact.reshape(4, 64).sum(1), rtol=0.02)


def test_transforms_and_gradients():
    field = jax.random.normal(jax.random.key(0), (3, 8, 2), jnp.float32)

    def loss(field, delta):
        bulk = holography.to_bulk(field, 3, delta=delta)
        return jnp.sum(holography.to_boundary([b**2 for b in bulk], 8, delta=delta) ** 2)

    delta = jnp.float32(1.2)
    value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(field, delta)
    assert value.dtype == slopes[0].dtype == slopes[1].dtype == jnp.float32
    each = jax.jit(jax.vmap(loss, (0, None)))(field, delta)
    np.testing.assert_allclose(jnp.sum(each), value, rtol=1e-5)
    wide = field.astype(jnp.float64)
    run = jax.jit(loss)
    ahead, behind = (run(wide, jnp.float64(1.2 + s)) for s in (1e-5, -1e-5))
    np.testing.assert_allclose(slopes[1], (ahead - behind) / 2e-5, rtol=2e-4)
    options = {"edge": "reflect", "method": "semigroup"}
    total = lambda f: sum(jnp.sum(b**2) for b in holography.to_bulk(f, 3, **options))  # noqa: E731
    slope = jax.jit(jax.grad(total))(field)
    tangent = jax.jvp(jax.jit(total), (field,), (jnp.ones_like(field),))[1]
    np.testing.assert_allclose(jnp.sum(slope), tangent, rtol=1e-4)
    low = holography.to_bulk(field.astype(jnp.bfloat16), 2)
    assert low[1].dtype == jnp.float32


def test_errors_name_the_argument(bare_errors):
    field = jnp.ones((12, 1), jnp.float32)
    with pytest.raises(ValueError, match=r"edge must be one of \(\'zero\', \'reflect\'\)"):
        holography.to_bulk(field, 2, edge="periodic")
    with pytest.raises(ValueError, match="method must be one of"):
        holography.to_bulk(field, 2, method="direct")
    wrong = ({"delta": 1.5}, {"edge": "zero"}, {"levels": 4})
    for change in wrong:
        options = {"levels": 3, "edge": "reflect", "method": "semigroup"} | change
        with pytest.raises(ValueError, match='method "semigroup" needs'):
            holography.to_bulk(field, **options)
    with pytest.raises(ValueError, match=r"delta must be > dim / 2 = 0.5"):
        holography.to_bulk(field, 2, delta=jnp.float32(0.4))
    bulk = holography.to_bulk(field, 3)
    with pytest.raises(ValueError, match=r"levels must have \(12, 6\) slots"):
        holography.to_boundary(bulk[:1] + bulk[2:], 12)
    with pytest.raises(ValueError, match=r"levels must be <= 5 for n = 12, got 9"):
        holography.to_bulk(field, 9)
    with pytest.raises(ValueError, match=r"field must have shape"):
        holography.to_bulk(field[0], 1)


def test_sizes():
    for n, levels in itertools.product((1, 5, 64, 65), (1, 2)):
        if levels <= holography.all_levels(n):
            sizes = holography.level_sizes(n, levels)
            assert sizes == tuple(math.ceil(n / 2**l) for l in range(levels))
    assert holography.level_sizes(65, 8)[-1] == 1
