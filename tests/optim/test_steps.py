"""Single steps against the hyperboloid, closed forms far out, and invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet import optim


def step(optimiser, params, grads):
    """The new parameters after one step from a fresh state."""

    @jax.jit
    def run(params, grads):
        updates, _ = optimiser.update(grads, optimiser.init(params), params)
        return optax.apply_updates(params, updates)

    return np.asarray(run(params, grads))


def hyperboloid(v, c):
    """(cosh r, sinh r u) of tangent coordinates, NumPy float64."""
    v = np.asarray(v, np.float64)
    size = np.linalg.norm(v, axis=-1, keepdims=True)
    r = 2 * np.sqrt(c) * size
    return np.concatenate([np.cosh(r), np.sinh(r) * v / np.where(size > 0, size, 1)], -1)


def pulled_back(v, c):
    """The metric in tangent coordinates: J' diag(-1, 1, ..., 1) J / c, J by finite differences."""
    h, d = 1e-5, len(v)
    columns = [(hyperboloid(v + e, c) - hyperboloid(v - e, c)) / (2 * h) for e in h * np.eye(d)]
    jacobian = np.stack(columns, -1)
    signs = np.diag([-1.0] + [1.0] * d)
    return jacobian.T @ signs @ jacobian / c


@pytest.mark.parametrize("c", [1.0, 0.3])
def test_tangent_gradient_is_that_of_the_pulled_back_metric(c):
    rng = np.random.default_rng(0)
    v, grad = rng.normal(size=(2, 5, 3))
    v[0] *= 1e-3
    rate = 1e-6
    moved = step(optim.riemannian_sgd(rate, curvature=c, coordinates="tangent"), v, grad)
    for before, after, g in zip(v, moved, grad, strict=True):
        expected = -np.linalg.solve(pulled_back(before, c), g)
        np.testing.assert_allclose((after - before) / rate, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("c", [1.0, 0.3])
def test_tangent_step_is_the_geodesic_of_the_hyperboloid(c):
    rng = np.random.default_rng(1)
    v, grad = rng.normal(size=(2, 64, 3)) * [[[0.6]], [[4.0]]]
    v[:3] = [[0.0, 0.0, 0.0], [1e-9, 0.0, 0.0], [0.3, 0.0, 0.0]]
    grad[2] = [1.0, 0.0, 0.0]  # through the origin
    optimiser = optim.riemannian_adam(0.7, b1=0.0, b2=0.0, curvature=c, coordinates="tangent")
    moved = step(optimiser, v, grad)  # length 0.7, against the Riemannian gradient
    for before, after, g in zip(v[3:], moved[3:], grad[3:], strict=True):
        down = -np.linalg.solve(pulled_back(before, c), g)
        h = 1e-5 / np.linalg.norm(down)
        x = hyperboloid(before, c)
        way = hyperboloid(before + h * down, c) - hyperboloid(before - h * down, c)
        way = way / np.sqrt(way[1:] @ way[1:] - way[0] ** 2)
        length = np.sqrt(c) * 0.7
        expected = np.cosh(length) * x + np.sinh(length) * way
        np.testing.assert_allclose(hyperboloid(after, c), expected, rtol=1e-6, atol=1e-6)
    along = grad[0] / np.linalg.norm(grad[0])
    np.testing.assert_allclose(moved[0], -0.35 * along, rtol=1e-8)
    np.testing.assert_allclose(moved[2], [0.3 - 0.35, 0.0, 0.0], rtol=1e-7, atol=1e-8)


def test_closed_forms_far_out_in_float32():
    r = np.asarray([5.0, 15.0, 30.0, 60.0], np.float32)
    v = np.stack([r / 2, 0 * r], -1)
    inward, across = np.asarray([1, 0], np.float32), np.asarray([0, 1], np.float32)
    optimiser = optim.riemannian_adam(1.0, b1=0.0, b2=0.0, eps=0.0, coordinates="tangent")
    grads = np.stack([np.broadcast_to(g, v.shape) for g in (inward, -inward, across)])
    moved = step(optimiser, np.stack([v, v, v]), grads)
    assert moved.dtype == np.float32
    for found, change in zip(moved, (-1, 1), strict=False):
        np.testing.assert_allclose(2 * found, np.stack([r + change, 0 * r], -1), rtol=3e-7)
    exact, moved = r[:3].astype(float), moved[2, :3]  # beyond, no derivative is left across v
    expected = np.arccosh(np.cosh(exact) * np.cosh(1.0))
    np.testing.assert_allclose(2 * np.linalg.norm(moved, axis=-1), expected, rtol=3e-7)
    turned = np.tanh(1.0) / np.sinh(exact)
    np.testing.assert_allclose(-moved[:, 1] / moved[:, 0], turned, rtol=1e-5)


def test_huge_and_tiny_steps_stay_finite_in_float32():
    v = np.asarray([[1.0, 2.0], [20.0, 0.0], [0.0, 0.0], [1e-30, 0.0]], np.float32)
    grads = np.asarray([[1e6, 1e6], [1e6, -1e6], [1e5, 1.0], [1e-30, 1e-30]], np.float32)
    optimiser = optim.riemannian_sgd(1.0, coordinates="tangent", momentum=0.5)
    both = np.stack([grads, np.float32(1e-35) * grads])
    moved = step(optimiser, np.stack([v, v]), both)
    assert np.isfinite(moved).all()
    # Far out only the derivative along v counts: a step of length |3e6/sqrt(5)|/2, half in v.
    assert np.linalg.norm(moved[0, 0]) == pytest.approx(3e6 / np.sqrt(5) / 4, rel=1e-2)
    np.testing.assert_array_equal(moved[1, :2], v[:2])


@pytest.mark.parametrize("coordinates", ["ball", "tangent"])
def test_the_choice_of_axes_does_not_matter(coordinates):
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    x, grads = 0.3 * rng.normal(size=(4, 3)), rng.normal(size=(10, 4, 3))
    optimiser = optim.riemannian_adam(0.05, coordinates=coordinates)

    @jax.jit
    def run(x, grads):
        def one(carry, grad):
            x, state = carry
            updates, state = optimiser.update(grad, state, x)
            return (optax.apply_updates(x, updates), state), None

        return jax.lax.scan(one, (x, optimiser.init(x)), grads)[0][0]

    turned = run(x @ rotation, grads @ rotation)
    np.testing.assert_allclose(turned, run(x, grads) @ rotation, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("c", "eps"), [(1.0, None), (0.25, 1e-3)])
def test_points_keep_inside_the_bound(c, eps):
    x = jnp.asarray([[0.9, 0.1], [0.0, 0.99999999], [3.0, 0.0]]) / np.sqrt(c)
    grads = jnp.asarray([[-1e9, 0.0], [0.0, -1.0], [0.0, 0.0]])
    optimiser = optim.riemannian_sgd(1.0, curvature=c, project_eps=eps)
    size = np.sqrt(c) * np.linalg.norm(step(optimiser, x, grads), axis=-1)
    assert (size < 1).all()
    if eps:
        np.testing.assert_allclose(size, 1 - eps, rtol=1e-14)
