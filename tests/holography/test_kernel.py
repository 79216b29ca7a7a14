"""Bulk-to-boundary propagator: normalisation, limits, field equation, Fourier form, semigroup."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from physnet import holography
from physnet.holography import _bessel

# One program each: op by op they are dozens. Delta is known to Python, or traced with the rest.
kernel = jax.jit(holography.bulk_to_boundary, static_argnames=("delta", "dim"))
fourier = jax.jit(holography.bulk_to_boundary_fourier, static_argnames="delta")
traced = jax.jit(holography.bulk_to_boundary)


def scalar(z, x, delta, dim):
    """K by its definition, with Python's Gamma function."""
    constant = math.gamma(delta) / (math.pi ** (dim / 2) * math.gamma(delta - dim / 2))
    return constant * (z / (z * z + np.sum(np.square(x)))) ** delta


def matern(x, nu):
    with np.errstate(invalid="ignore"):  # 0 times infinity at small x of high orders
        return 2 ** (1 - nu) / special.gamma(nu) * x**nu * special.kv(nu, x)


def test_against_the_definition_in_one_and_three_dimensions():
    rng = np.random.default_rng(0)
    z, x, deltas = rng.uniform(0.1, 3, 5), rng.normal(size=(5, 3)), [0.6, 1.0, 1.7, 2.0, 9.0]
    ours = traced(z, x[:, 0], delta=np.array(deltas))
    expected = [scalar(a, b, c, 1) for a, b, c in zip(z, x[:, :1], deltas, strict=True)]
    np.testing.assert_allclose(ours, expected, rtol=1e-13)
    ours = kernel(z, x, delta=2.3, dim=3)
    np.testing.assert_allclose(
        ours, [scalar(a, b, 2.3, 3) for a, b in zip(z, x, strict=True)], rtol=1e-13
    )


@pytest.mark.parametrize(("delta", "dim"), [(0.8, 1), (1.0, 1), (2.5, 1), (1.4, 2), (2.2, 3)])
def test_integral_is_a_power_of_z(delta, dim):
    z = 0.7
    shell = {1: 2, 2: 2 * math.pi, 3: 4 * math.pi}[dim]
    direction = np.zeros(dim)
    direction[0] = 1.0

    def integrand(s):  # x = z e^s
        x = z * np.exp(s)
        place = x if dim == 1 else x[:, None] * direction
        return shell * x**dim * np.asarray(kernel(np.float64(z), place, delta=delta, dim=dim))

    grid = np.linspace(-18, 24 / (2 * delta - dim), 400)
    total = np.sum(integrand(grid)) * (grid[1] - grid[0])
    np.testing.assert_allclose(total, z ** (dim - delta), rtol=1e-6)


def test_limits_towards_the_boundary():
    z = np.float64(1e-4)
    far = kernel(z, np.array([0.5, 2.0]), delta=1.3)
    constant = math.gamma(1.3) / (math.pi**0.5 * math.gamma(0.8))
    np.testing.assert_allclose(far, constant * 1e-4**1.3 / np.array([0.5, 2.0]) ** 2.6, rtol=1e-6)
    # z^{Delta - d} K tends to a delta function: it reproduces a smooth function
    x = 1e-4 * np.sinh(np.linspace(-16, 16, 4001))
    weights = np.gradient(x)
    mean = np.sum(weights * np.asarray(kernel(z, x, delta=1.5)) * np.cos(x + 0.3)) * z**0.5
    np.testing.assert_allclose(mean, np.cos(0.3), rtol=2e-4)


def test_it_solves_the_field_equation():
    """z^{d+1} d_z (z^{1-d} d_z K) + z^2 Laplacian K = m^2 K."""

    def residual(z, x, delta):
        value = lambda z, x: holography.bulk_to_boundary(z, x, delta=delta, dim=2)  # noqa: E731
        inner = lambda z, x: z ** (1 - 2) * jax.grad(value)(z, x)  # noqa: E731
        bulk = z**3 * jax.grad(inner)(z, x)
        laplacian = jnp.trace(jax.hessian(value, 1)(z, x))
        mass = holography.mass_squared(delta, dim=2)
        return bulk + z**2 * laplacian, mass * value(z, x)

    z, x = np.array([0.4, 1.3]), np.array([[0.3, -0.8], [1.1, 0.4]])
    both = jax.jit(jax.vmap(residual, (0, 0, None)))
    for delta in (1.2, 3.1):
        left, right = both(z, x, np.float64(delta))
        np.testing.assert_allclose(left, right, rtol=1e-9)


def test_mass_and_dimension():
    assert float(holography.conformal_dimension(0.0, dim=4)) == 4.0  # a massless field
    assert float(holography.conformal_dimension(-4.0, dim=4)) == 2.0  # at the bound
    deltas = jnp.asarray([1.5, 2.0, 7.3])
    masses = holography.mass_squared(deltas, dim=3)
    np.testing.assert_allclose(holography.conformal_dimension(masses, dim=3), deltas, rtol=1e-14)
    assert np.isnan(jax.jit(holography.conformal_dimension)(jnp.float64(-0.3)))
    slope = jax.grad(lambda m: holography.conformal_dimension(m))(jnp.float64(2.0))
    np.testing.assert_allclose(slope, 1 / 3, rtol=1e-14)


@pytest.mark.parametrize("delta", [0.7, 1.0, 1.35, 2.0, 4.0])
def test_fourier_form_against_a_cosine_transform(delta):
    z = 0.6
    for k in (0.0, 0.4, 2.5):
        if k:  # QUADPACK's rule for Fourier integrals
            half, _ = integrate.quad(
                lambda x: scalar(z, x, delta, 1), 0, np.inf, weight="cos", wvar=k, limit=400
            )
        else:
            half = z ** (1 - delta) / 2
        np.testing.assert_allclose(fourier(jnp.float64(k), z, delta=delta), 2 * half, rtol=1e-7)


def test_semigroup_of_the_poisson_kernel():
    """P_z * P_w = P_{z+w}, in space, by a quadrature over the circle x = tan(theta / 2)."""
    z, w, x = 0.5, 1.2, 0.9
    theta = np.linspace(-np.pi, np.pi, 801)[:-1] + np.pi / 800
    y = np.tan(theta / 2)
    measure = (1 + y**2) / 2 * (2 * np.pi / 800)
    one, other = (kernel(np.float64(a), b, delta=1.0) for a, b in ((z, x - y), (w, y)))
    found = np.sum(measure * np.asarray(one) * np.asarray(other))
    np.testing.assert_allclose(found, kernel(np.float64(z + w), np.float64(x), delta=1.0), 1e-10)
    k = np.linspace(-3.0, 3.0, 7)
    product = np.asarray(fourier(k, z, delta=1.0)) * np.asarray(fourier(k, w, delta=1.0))
    np.testing.assert_allclose(product, fourier(k, z + w, delta=1.0), rtol=1e-13)


@pytest.mark.parametrize("nu", [0.05, 0.3, 0.5, 0.95, 1.0, 1.5, 2.3, 7.2, 20.0, 50.0])
def test_matern_function_against_scipy(nu):
    x = np.geomspace(1e-9, 50, 60)
    expected = matern(x, nu)
    kept = np.isfinite(expected)
    ours = np.asarray(whole(x, np.float64(nu)))
    np.testing.assert_allclose(ours[kept], expected[kept], rtol=1e-10)
    narrow = np.asarray(whole(x.astype(np.float32), np.float32(nu)))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow[kept], expected[kept], atol=5e-6 * max(1, nu / 10))
    assert np.asarray(whole(np.zeros(60), np.float64(nu)))[0] == 1.0


def test_narrow_wave_vectors_compute_in_float32():
    found = fourier(jnp.bfloat16(1.5), 2.0, delta=1.7)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 2**-0.7 * matern(3.0, 1.2), rtol=1e-5)


whole = jax.jit(_bessel.matern)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, 3.5])
def test_closed_forms_of_half_integer_orders(nu):
    x = np.geomspace(1e-6, 60, 60)
    ours = jax.jit(lambda x: _bessel.matern(x, nu))(x)  # a number known to Python
    np.testing.assert_allclose(ours, matern(x, nu), rtol=1e-12)


def test_derivatives_of_the_fourier_form():
    def value(k, z, delta):
        return holography.bulk_to_boundary_fourier(k, z, delta=delta)

    run = jax.jit(jax.value_and_grad(value, (0, 1, 2)))
    for k, z, delta in ((0.7, 0.8, 1.2), (1e-3, 0.5, 0.8), (3.0, 2.0, 3.7)):
        plain = lambda k, z, d: z ** (1 - d) * matern(k * z, d - 0.5)  # noqa: E731
        _, slopes = run(np.float64(k), np.float64(z), np.float64(delta))
        for index, slope in enumerate(slopes):
            step = 1e-6 * (k, z, delta)[index]
            ahead, behind = ([k, z, delta] for _ in range(2))
            ahead[index] += step
            behind[index] -= step
            found = (plain(*ahead) - plain(*behind)) / (2 * step)
            np.testing.assert_allclose(slope, found, rtol=2e-6, atol=1e-9)
    _, slopes = run(np.float64(0.0), np.float64(0.5), np.float64(0.8))
    np.testing.assert_allclose(slopes[1], 0.2 * 0.5**-0.8, rtol=1e-12)  # of z^{1 - Delta} alone
    assert np.all(np.isfinite(slopes))


def test_derivatives_of_the_kernel():
    def value(z, x, delta):
        return holography.bulk_to_boundary(z, x, delta=delta)

    point = np.float64(0.4), np.float64(0.7), np.float64(1.6)
    slopes = jax.jit(jax.grad(value, (0, 1, 2)))(*point)
    along = jax.jit(lambda *p: jax.jvp(value, p, (jnp.float64(1), jnp.float64(0), jnp.float64(0))))
    tangents = along(*point)[1]
    np.testing.assert_allclose(tangents, slopes[0], rtol=1e-12)
    for index, slope in enumerate(slopes):
        ahead, behind = (
            scalar(*[p + sign * 1e-6 * (i == index) for i, p in enumerate(map(float, point))], 1)
            for sign in (1, -1)
        )
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-7)
    assert float(jax.jit(jax.grad(value, 1))(np.float64(0.4), np.float64(0), np.float64(1))) == 0
    plane = jax.grad(lambda x: kernel(jnp.float64(0.4), x, delta=1.5, dim=2))(jnp.zeros(2))
    np.testing.assert_array_equal(plane, np.zeros(2))


def test_float32_at_scales_whose_squares_overflow():
    z = np.array([1e-25, 1e25, 1.0], np.float32)
    ours = np.asarray(kernel(z, np.array([0.0, 1e20, 1e25], np.float32), delta=1.0))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[:2], [1e25 / np.pi, 1e-25 / np.pi], rtol=2e-5)
    assert float(ours[2]) == 0.0
    far = kernel(np.float32(1), np.array([[np.inf, 1.0], [0.0, 0.0]]), delta=1.5, dim=2)
    np.testing.assert_allclose(far, [0.0, 1 / (2 * np.pi)], rtol=1e-6)
    slopes = jax.grad(lambda z: jnp.sum(kernel(z, jnp.zeros(3, jnp.float32), delta=1.0)))(z[1:2])
    assert np.all(np.isfinite(slopes))
    nested = jax.vmap(jax.vmap(lambda z, x: kernel(z, x, delta=1.0), (None, 0)), (0, None))
    assert jax.jit(nested)(z, np.ones(2, np.float32)).shape == (3, 2)


def test_condition_numbers_of_one_deep_level_and_of_all():
    """One deep level is ill-posed; all dyadic levels with rows of length 1 together are not."""
    rows = jax.jit(lambda z, gap: kernel(z[:, None], gap, delta=1.0))
    gap = np.arange(256.0)[:, None] - np.arange(256.0)
    found = [np.linalg.cond(np.asarray(rows(np.full(256, z), gap))) for z in (0.5, 1.0, 2.0, 4.0)]
    np.testing.assert_allclose(found, [2.5, 11.5, 263, 1.38e5], rtol=0.01)
    for delta, n, condition in ((1.0, 64, 6.0), (1.0, 256, 7.1), (2.0, 64, 3.1), (2.0, 256, 3.6)):
        sizes = holography.level_sizes(n, holography.all_levels(n))
        step = np.concatenate([np.full(size, 2.0**level) for level, size in enumerate(sizes)])
        slot = step * (np.concatenate([np.arange(size) for size in sizes]) + 0.5) - 0.5
        gap = slot[:, None] - np.arange(n)
        stack = np.asarray(rows(step / 2, gap)) ** delta
        stack /= np.linalg.norm(stack, axis=1, keepdims=True)
        np.testing.assert_allclose(np.linalg.cond(stack), condition, atol=0.06)


def test_errors_name_the_argument(bare_errors):
    one, kernel = jnp.float32(1), holography.bulk_to_boundary
    fourier = holography.bulk_to_boundary_fourier
    with pytest.raises(ValueError, match="mass_squared must not be below"):
        holography.conformal_dimension(-0.3)
    with pytest.raises(ValueError, match=r"delta must be >= dim / 2 = 1\.0"):
        holography.mass_squared(0.9, dim=2)
    with pytest.raises(ValueError, match=r"delta must be > dim / 2 = 0\.5, got 0\.5"):
        kernel(one, one, delta=0.5)
    with pytest.raises(ValueError, match="z must be positive"):
        kernel(0 * one, one, delta=1.0)
    with pytest.raises(ValueError, match=r"x must have shape \(..., 2\) for dim = 2"):
        kernel(one, one, delta=2.0, dim=2)
    with pytest.raises(TypeError, match="x must be a real floating-point array"):
        kernel(one, jnp.int32(1), delta=1.0)
    with pytest.raises(ValueError, match="delta must be one number"):
        fourier(one, 1.0, delta=jnp.ones(2))
    assert np.isnan(jax.jit(lambda d: kernel(one, one, delta=d))(0.4))
    assert np.isnan(jax.jit(lambda d: fourier(one, 1.0, delta=d))(0.4))
