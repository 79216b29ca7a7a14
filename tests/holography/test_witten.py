"""Contact diagrams: the bulk integral against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from physnet import holography

contact = jax.jit(holography.contact)
three_point = jax.jit(holography.three_point, static_argnames="dim")  # not op by op
four_point = jax.jit(holography.four_point, static_argnames="dim")
POINTS = (0.3, -1.0, 2.7)


@pytest.mark.parametrize(
    "deltas", [(1.0, 1.0, 1.0), (1.0, 1.5, 2.0), (2.0, 3.0, 4.0), (0.7, 0.9, 1.1)]
)
def test_the_bulk_integral_of_three_points_is_the_closed_form(deltas):
    points = np.array(POINTS)
    closed = three_point(points, deltas=deltas)
    np.testing.assert_allclose(contact(points, deltas=deltas), closed, rtol=1e-9)
    narrow = np.float32(POINTS)
    for found in (contact(narrow, deltas=deltas), three_point(narrow, deltas=deltas)):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, closed, rtol=2e-5)


def test_near_points_and_many_points():
    points = np.array([[0.0, 1.0, 1.001], [5.0, -2.0, 300.0]])
    closed = three_point(points, deltas=(1.0, 1.2, 0.9))
    np.testing.assert_allclose(contact(points, deltas=(1.0, 1.2, 0.9)), closed, rtol=1e-8)


def test_far_and_narrow_points_in_float32():
    points = np.array([0.0, 1.0, 3.0, 4.2], np.float32)
    for found in (four_point, contact):
        value = found(points, deltas=(1.0,) * 4)
        for scale in np.float32([1e-8, 1e8]):
            moved = np.asarray(found(scale * points, deltas=(1.0,) * 4))
            np.testing.assert_allclose(moved * scale**4, value, rtol=1e-4)
        narrow = found(points.astype(jnp.bfloat16).astype(np.float32), deltas=(1.0,) * 4)
        np.testing.assert_array_equal(found(points.astype(jnp.bfloat16), deltas=(1.0,) * 4), narrow)


@pytest.mark.parametrize("dim", [1, 2])
def test_three_points_whose_squares_leave_float32(dim):
    points = np.array([[0.0, 0.0], [1.0, -2.0], [3.0, 0.5]])[:, :dim]
    points = points[:, 0] if dim == 1 else points
    deltas = (1.1, 1.1, 1.1)
    exact = three_point(points, deltas=deltas, dim=dim)
    for scale in (1e-10, 1e-22):
        near = np.array([scale, scale, 1.0]).reshape(3, *(1,) * (dim - 1)) * points
        found, wide = (
            three_point(near.astype(dtype), deltas=deltas, dim=dim)
            for dtype in (np.float32, np.float64)
        )
        np.testing.assert_allclose(found, wide, rtol=2e-5)
    assert np.isfinite(exact)
    gap = jax.jit(jax.grad(lambda p: jnp.log(three_point(p, deltas=deltas, dim=dim))))(near)
    np.testing.assert_allclose(np.vdot(gap, near), -3.3, rtol=1e-10)  # of a power of the scale


def test_deltas_for_which_the_integral_diverges_are_nan_where_traced():
    for function, deltas in (
        (holography.three_point, [1.0, 1.0, 2.5]),
        (holography.contact, [0.4, 1.0, 1.1]),
        (holography.four_point, [1.0, 1.0, 1.0, 3.5]),
    ):
        points = jnp.arange(float(len(deltas)))
        assert np.isnan(
            jax.jit(lambda d, f=function, p=points: f(p, deltas=d))(jnp.asarray(deltas))
        )


@pytest.mark.parametrize("spare", [0.5, 0.2, 0.1])
def test_a_delta_just_below_the_sum_of_the_others(spare):
    """Then the integrand falls slowly: towards a point, and along the Schwinger parameters."""
    deltas = (1.0, 1.0, 2.0 - spare)
    exact = three_point(np.array(POINTS), deltas=deltas)
    np.testing.assert_allclose(contact(np.array(POINTS), deltas=deltas), exact, rtol=1e-9)
    narrow = contact(np.float32(POINTS), deltas=deltas)
    np.testing.assert_allclose(narrow, exact, rtol=5e-5 if spare >= 0.2 else 1e-3)
    points, deltas = np.array([0.3, -1.0, 2.7, 5.0]), np.array([1.0, 1.2, 0.9, 3.1 - spare])
    expected = contact(points, deltas=tuple(deltas))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        found = four_point(points[np.array(order)], deltas=tuple(deltas[order]))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def cross_ratios(x):
    square = lambda i, j: np.sum((x[i] - x[j]) ** 2)  # noqa: E731
    pairs = square(0, 2) * square(1, 3)
    return square(0, 1) * square(2, 3) / pairs, square(0, 3) * square(1, 2) / pairs, pairs


def test_four_points_on_a_line_with_all_dimensions_one():
    """D_1111 from Dbar(z, z) = -2 log(1 - z) / z - 2 log(z) / (1 - z)."""
    x = np.array([[0.0], [1.0], [3.0], [4.2]])
    u, v, pairs = cross_ratios(x)
    z = (1 + u - v) / 2
    np.testing.assert_allclose(z * z, u, rtol=1e-12)
    dbar = -2 * math.log(1 - z) / z - 2 * math.log(z) / (1 - z)
    value = dbar * math.pi**0.5 * math.gamma(1.5) / (2 * pairs) / math.pi**4
    points = jnp.asarray(x[:, 0])
    np.testing.assert_allclose(four_point(points, deltas=(1.0,) * 4), value, rtol=1e-10)
    np.testing.assert_allclose(contact(points, deltas=(1.0,) * 4), value, rtol=1e-10)


def test_four_points_in_three_dimensions():
    """No closed form: it must be covariant under scalings, rotations and an inversion."""
    x = np.random.default_rng(0).normal(size=(4, 3))
    deltas = (1.6, 1.8, 2.0, 1.7)
    whole = four_point(jnp.asarray(x), deltas=deltas, dim=3)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    moved = four_point(jnp.asarray(2 * x @ turn + 1.0), deltas=deltas, dim=3)
    np.testing.assert_allclose(moved, whole * 2.0 ** -sum(deltas), rtol=1e-9)
    # an inversion x / x^2 multiplies each point by |x|^{2 Delta}
    square = np.sum(x**2, 1, keepdims=True)
    inverted = four_point(jnp.asarray(x / square), deltas=deltas, dim=3)
    factor = np.prod(square[:, 0] ** np.asarray(deltas))
    np.testing.assert_allclose(inverted, whole * factor, rtol=1e-9)


def test_four_points_in_a_plane_by_dilogarithms():
    """Dbar_1111(z, zbar) from Li_2. K with delta = 1 has no norm in a plane, D itself is finite."""
    x = np.random.default_rng(3).normal(size=(4, 2))
    u, v, pairs = cross_ratios(x)
    half = (1 + u - v) / 2
    z = half + 1j * math.sqrt(u - half**2)
    zbar = z.conjugate()
    dilog = lambda w: special.spence(1 - w)  # noqa: E731
    dbar = 2 * dilog(z) - 2 * dilog(zbar) + np.log(z * zbar) * np.log((1 - z) / (1 - zbar))
    dbar = (dbar / (z - zbar)).real
    # d enters D by pi^{d/2} Gamma(2 - d/2) alone: distances of a plane, constants of a line
    found = four_point_of_distances(x)
    value = dbar * math.pi**0.5 * math.gamma(1.5) / (2 * pairs) / math.pi**4
    np.testing.assert_allclose(found, value, rtol=1e-10)


def four_point_of_distances(x):
    """The four-point function with the constants of a line at points of a plane."""
    from physnet.holography import _witten

    return _witten._four_point(jnp.asarray(x), jnp.ones(4), 1)


@pytest.mark.parametrize("deltas", [(1.0, 1.5, 2.0, 0.8), (0.7, 0.7, 1.2, 2.0)])
def test_the_bulk_integral_of_four_points_is_that_of_schwinger_parameters(deltas):
    points = jnp.asarray([[0.3, -1.0, 2.7, 100.0], [0.0, 1.0, 1.01, 5.0]])
    found = four_point(points, deltas=deltas)
    np.testing.assert_allclose(contact(points, deltas=deltas), found, rtol=1e-7)
    order = np.array([2, 0, 3, 1])
    other = four_point(points[:, order], deltas=tuple(np.asarray(deltas)[order]))
    np.testing.assert_allclose(other, found, rtol=1e-8)
    narrow = four_point(points.astype(jnp.float32), deltas=deltas)
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, found, rtol=1e-4)


@pytest.mark.parametrize("function", [holography.three_point, holography.contact])
def test_gradients_of_three_points(function):
    run = jax.jit(jax.grad(lambda p, d: function(p, deltas=d), (0, 1)))
    slopes = run(jnp.asarray(POINTS), jnp.asarray([1.0, 1.2, 1.4]))
    exact = jax.grad(lambda p, d: closed_form(p, d), (0, 1))
    expected = exact(jnp.asarray(POINTS), jnp.asarray([1.0, 1.2, 1.4]))
    for ours, other in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-7)


def closed_form(p, d):
    gamma = lambda a: jnp.exp(jax.scipy.special.gammaln(a))  # noqa: E731
    total, value = d[0] + d[1] + d[2], jnp.float64(1)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (0, 2, 1)):
        power = d[i] + d[j] - d[k]
        value *= gamma(power / 2) * jnp.abs(p[i] - p[j]) ** -power
    constants = gamma(d[0] - 0.5) * gamma(d[1] - 0.5) * gamma(d[2] - 0.5)
    return value * gamma((total - 1) / 2) / (2 * math.pi * constants)


def test_gradients_of_four_points():
    points, deltas = jnp.asarray([0.0, 1.0, 3.0, 4.0]), jnp.asarray([1.0, 1.2, 1.3, 1.0])
    run = jax.jit(jax.grad(lambda p, d: holography.four_point(p, deltas=d), (0, 1)))
    slopes = run(points, deltas)
    np.testing.assert_allclose(jnp.sum(slopes[0]), 0, atol=1e-12)  # no place is special
    value = four_point(points, deltas=deltas)
    np.testing.assert_allclose(jnp.vdot(slopes[0], points), -4.5 * value, rtol=1e-8)  # nor a scale
    move = 1e-5 * jnp.asarray([0.0, 1.0, 0.0, 0.0])
    found = four_point(points, deltas=deltas + move) - four_point(points, deltas=deltas - move)
    np.testing.assert_allclose(slopes[1][1], found / 2e-5, rtol=1e-6)


def test_errors_name_the_argument(bare_errors):
    with pytest.raises(ValueError, match=r"points must have shape \(..., 3\)"):
        holography.three_point(jnp.ones(4), deltas=(1.0,) * 3)
    with pytest.raises(ValueError, match=r"points must have shape \(..., 4, 2\)"):
        holography.four_point(jnp.ones(4), deltas=(1.5,) * 4, dim=2)
    with pytest.raises(ValueError, match=r"deltas must have shape \(3,\)"):
        holography.three_point(jnp.ones(3), deltas=1.0)
    with pytest.raises(ValueError, match=r"deltas must each be > dim / 2 = 0\.5 and below"):
        holography.contact(jnp.ones(3), deltas=(1.0, 1.0, 2.0))
    with pytest.raises(ValueError, match=r"points must have shape \(..., p >= 3\)"):
        holography.contact(jnp.ones(2), deltas=(1.0, 1.0))
    with pytest.raises(TypeError, match="points must be a real floating-point array"):
        holography.contact(jnp.arange(3), deltas=(1.0,) * 3)
