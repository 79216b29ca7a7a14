"""Leapfrog against loops, closed forms and the invariants of symplectic, symmetric methods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import symplectic

SCHEMES = ("drift-kick-drift", "kick-drift-kick")
schemes = pytest.mark.parametrize("scheme", SCHEMES)
orders = pytest.mark.parametrize("order", [2, 4])
frictions = pytest.mark.parametrize("friction", [0.0, 0.4])


def pendulum(k, q, u):
    """The gradient of k (cos q_0 + cos(q_1 - q_0) + ...), pushed by u."""
    u = jnp.zeros_like(q) if u is None else u
    return u - jax.grad(potential, argnums=1)(k, q, u)


def potential(k, q, _=None):
    links = jnp.concatenate([q[:1], q[1:] - q[:-1]])
    return -k * jnp.sum(jnp.cos(links))


def start(d=3, dtype=np.float64):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=d), dtype) for _ in range(2))


def by_hand(q, p, inputs, h, gamma, scheme):
    """Order 2 in NumPy, as the textbook has it."""

    def force(q, u):
        links = np.concatenate([q[:1], q[1:] - q[:-1]])
        pulls = np.sin(links)
        return u - 1.3 * (pulls - np.concatenate([pulls[1:], [0.0]]))

    def kick(p, f, h):
        return np.exp(-gamma * h) * p + np.exp(-gamma * h / 2) * h * f

    for u in inputs:
        if scheme == "drift-kick-drift":
            q = q + h / 2 * p
            p = kick(p, force(q, u), h)
            q = q + h / 2 * p
        else:
            p = kick(p, force(q, u), h / 2)
            q = q + h * p
            p = kick(p, force(q, u), h / 2)
    return q, p


@schemes
@frictions
def test_order_2_is_the_textbook_loop(scheme, friction):
    state, inputs = start(), np.random.default_rng(1).normal(size=(7, 3))
    options = {"steps": 7, "step_size": 0.2, "scheme": scheme, "friction": friction}
    found, path = symplectic.leapfrog(
        pendulum, state, 1.3, jnp.asarray(inputs), **options, return_trajectory=True
    )
    want = by_hand(*map(np.asarray, state), inputs, 0.2, friction, scheme)
    np.testing.assert_allclose(found, want, rtol=1e-13)
    np.testing.assert_array_equal([x[-1] for x in path], found)
    third = by_hand(*map(np.asarray, state), inputs[:3], 0.2, friction, scheme)
    np.testing.assert_allclose([x[2] for x in path], third, rtol=1e-13)


@schemes
@orders
@frictions
def test_error_of_one_step_is_of_the_order(scheme, order, friction):
    options = {"scheme": scheme, "order": order, "friction": friction}

    @jax.jit
    def error(h):
        one = symplectic.leapfrog(pendulum, start(), 1.3, steps=1, step_size=h, **options)
        fine = symplectic.leapfrog(
            pendulum, start(), 1.3, steps=64, step_size=h / 64, order=4, friction=friction
        )
        return jnp.linalg.norm(jnp.stack(one) - jnp.stack(fine))

    large, small = error(0.05), error(0.025)
    assert np.log2(large / small) == pytest.approx(order + 1, abs=0.25)


@schemes
@orders
def test_energy_error_is_of_the_order_and_stays(scheme, order):
    options = {"scheme": scheme, "order": order}

    @jax.jit
    def error(h):
        _, path = symplectic.leapfrog(
            pendulum, start(), 1.3, steps=4000, step_size=h, return_trajectory=True, **options
        )
        energy = jax.vmap(lambda *state: symplectic.energy(potential, state, 1.3))(*path)
        off = jnp.abs(energy - symplectic.energy(potential, start(), 1.3))
        return jnp.max(off[:2000]), jnp.max(off)

    (half, large), (_, small) = error(0.1), error(0.05)
    assert np.log2(large / small) == pytest.approx(order, abs=0.8)
    assert large < 2 * half  # no drift


def test_a_damped_spring_is_the_closed_form():
    gamma, t = 0.4, 6.0
    w = np.sqrt(1 - gamma**2 / 4)
    q = np.exp(-gamma * t / 2) * (np.cos(w * t) + gamma / (2 * w) * np.sin(w * t))
    p = -np.exp(-gamma * t / 2) * np.sin(w * t) / w
    for order, tolerance in ((2, 1e-4), (4, 1e-7)):
        found = symplectic.leapfrog(
            lambda k, q, _: -k * q,
            (jnp.ones(1), jnp.zeros(1)),
            1.0,
            steps=300,
            step_size=t / 300,
            friction=gamma,
            order=order,
        )
        np.testing.assert_allclose(np.ravel(found), [q, p], atol=tolerance)
        assert np.abs(np.ravel(found) - [q, p]).max() > tolerance / 1000


@schemes
@orders
@frictions
def test_it_is_conformally_symplectic(scheme, order, friction):
    d, steps, h = 3, 5, 0.3

    def flow(z):
        state = symplectic.leapfrog(
            pendulum,
            (z[:d], z[d:]),
            1.3,
            steps=steps,
            step_size=h,
            scheme=scheme,
            order=order,
            friction=friction,
        )
        return jnp.concatenate(state)

    m = jax.jit(jax.jacfwd(flow))(jnp.concatenate(start()))
    form = np.block([[np.zeros((d, d)), np.eye(d)], [-np.eye(d), np.zeros((d, d))]])
    shrunk = np.exp(-friction * h * steps) * form
    np.testing.assert_allclose(m.T @ form @ m, shrunk, atol=1e-13)
    assert np.abs(m - np.eye(2 * d)).max() > 0.1


@schemes
@orders
def test_flipping_the_momentum_turns_time(scheme, order):
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(20, 3)))
    run = functools.partial(
        symplectic.leapfrog, pendulum, steps=20, step_size=0.2, scheme=scheme, order=order
    )
    q, p = run(start(), 1.3, inputs)
    q, p = run((q, -p), 1.3, inputs[::-1])
    np.testing.assert_allclose((q, -p), start(), atol=1e-12)


def test_gradients_are_those_of_differences():
    def loss(k, friction):
        q, _ = symplectic.leapfrog(
            pendulum, start(), k, steps=10, step_size=0.2, order=4, friction=friction
        )
        return jnp.sum(q**2)

    found = jax.jit(jax.grad(loss, argnums=(0, 1)))(1.3, 0.4)
    for g, (a, b) in zip(found, [((1.3 + 1e-6, 0.4), (1.3 - 1e-6, 0.4)),
                                 ((1.3, 0.4 + 1e-6), (1.3, 0.4 - 1e-6))], strict=True):  # fmt: skip
        np.testing.assert_allclose(g, (loss(*a) - loss(*b)) / 2e-6, rtol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_trees_and_dtypes_stay(dtype):
    def force(k, q, _):
        return {"a": -q["b"], "b": [k * q["a"]], "c": jnp.sin(q["c"]).astype(jnp.float32)}

    force_of = lambda k, q, u: {**force(k, {**q, "b": q["b"][0]}, u), "a": -q["b"][0]}  # noqa: E731
    q = {"a": jnp.ones(2, dtype), "b": [jnp.ones(2, dtype)], "c": jnp.ones((), jnp.float32)}
    state = (q, q)
    out = symplectic.leapfrog(force_of, state, jnp.ones((), dtype), steps=3, step_size=0.1,
                              friction=0.1)  # fmt: skip
    assert jax.tree.structure(out) == jax.tree.structure(state)
    assert [x.dtype for x in jax.tree.leaves(out)] == [x.dtype for x in jax.tree.leaves(state)]
    assert all(np.any(np.asarray(x) != 1) for x in jax.tree.leaves(out))


def test_energy_is_kinetic_and_potential():
    state = ({"x": jnp.array([3.0]), "y": jnp.array([1.0])},
             {"x": jnp.array([2.0]), "y": jnp.array([-4.0])})  # fmt: skip
    spring = lambda k, q, u: k * jnp.sum(q["x"] ** 2) + u  # noqa: E731
    assert symplectic.energy(spring, state, 0.5, 7.0) == 10 + 4.5 + 7
    with pytest.raises(ValueError, match="scalar, got shape"):
        symplectic.energy(lambda k, q, u: q["x"], state, 0.5)
