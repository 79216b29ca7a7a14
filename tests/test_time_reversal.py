"""Reversed trajectories and sequences, and losses of consistency."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import time_reversal
from physnet.hyperbolic import poincare, polar

consistency_loss = jax.jit(time_reversal.consistency_loss, static_argnames=("metric", "squared"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("axis", [0, -2])
def test_a_reversed_trajectory_runs_through_the_same_places(rng, axis):
    q, p = rng.normal(size=(2, 7, 3)), rng.normal(size=(7, 3))
    if axis == 0:
        q = q[0]
    else:
        p = np.stack([p, p])
    back_q, back_p = time_reversal.reverse_trajectory(jnp.asarray(q), jnp.asarray(p), axis=axis)
    np.testing.assert_array_equal(back_q, np.flip(q, axis))
    np.testing.assert_array_equal(back_p, -np.flip(p, axis))


def test_reversing_twice_gives_the_trajectory_of_every_array_of_a_tree(rng):
    tree = {"a": jnp.asarray(rng.normal(size=(5, 2))), "b": (jnp.asarray(rng.normal(size=5)),)}
    twice = time_reversal.reverse_trajectory(*time_reversal.reverse_trajectory(tree, tree))
    for ours in twice:
        jax.tree.map(np.testing.assert_array_equal, ours, tree)


def test_an_oscillator_reversed_obeys_its_own_law_and_a_damped_one_does_not():
    """q' = p, p' = -q - friction p, in closed form; the residual by central differences."""

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def residual(friction, reverse):
        t = jnp.linspace(0.0, 3.0, 301)
        rate = (1 - friction**2 / 4) ** 0.5
        q = jnp.exp(-friction * t / 2) * jnp.cos(rate * t)
        p = jnp.gradient(q, t[1])
        if reverse:
            q, p = time_reversal.reverse_trajectory(q, p)
        law = jnp.gradient(p, t[1]) + q + friction * p
        return jnp.max(jnp.abs(law[3:-3]))

    assert residual(0.0, True) < 1e-4
    assert residual(0.5, False) < 1e-4
    assert residual(0.5, True) > 0.1


def test_sequences_with_lengths_keep_their_padding():
    tokens = jnp.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    run = jax.jit(lambda n: time_reversal.reverse_sequence(tokens, direction=9, lengths=n))
    assert run(jnp.array([4, 2])).tolist() == [[9, 4, 3, 2, 1], [9, 6, 5, 0, 0]]
    assert run(jnp.array([7, -1])).tolist() == [[9, 4, 3, 2, 1], [9, 5, 6, 0, 0]]
    assert time_reversal.reverse_sequence(tokens).tolist() == [[4, 3, 2, 1], [0, 0, 6, 5]]


def test_hyperbolic_loss_is_the_mean_distance_of_points_of_the_ball(rng):
    u, v = (jnp.asarray(rng.normal(size=(6, 3))) for _ in "ab")
    c = 0.7

    @jax.jit
    def wanted(u, v):
        ball = [jnp.tanh(c**0.5 * n) / (c**0.5 * n) * x for x in (u, v) for n in [_norm(x)]]
        squares = polar.distance(u, v, curvature=c) ** 2
        return jnp.mean(poincare.distance(*ball, curvature=c)), jnp.mean(squares)

    expected, squared = wanted(u, v)
    found = consistency_loss(u, v, curvature=c)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    found = consistency_loss(u, v, curvature=c, squared=True)
    np.testing.assert_allclose(found, squared, rtol=1e-12)


def test_the_flat_limit_is_twice_the_euclidean_loss(rng):
    u, v = (jnp.asarray(rng.normal(size=(4, 2))) for _ in "ab")
    flat = consistency_loss(u, v, metric="euclidean")
    np.testing.assert_allclose(flat, np.linalg.norm(u - v, axis=-1).mean(), rtol=1e-12)
    nearly = consistency_loss(u, v, curvature=1e-8)
    np.testing.assert_allclose(nearly, 2 * flat, rtol=1e-6)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("metric", ["hyperbolic", "euclidean"])
def test_gradients_are_finite_where_states_meet_far_out_and_for_16_bits(metric, squared):
    u = jnp.array([[0.0, 0.0], [1.0, 2.0], [15.0, 0.0]], jnp.float32)
    v = u.at[2].set(jnp.array([0.0, -15.0], jnp.float32))

    def loss(u, v):
        return consistency_loss(u, v, metric=metric, squared=squared)

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(u, v)
    assert value > 0
    assert value.dtype == jnp.float32
    assert all(jnp.isfinite(g).all() for g in gradients)
    assert all((g[:2] == 0).all() and (g[2] != 0).any() for g in gradients)
    narrow = loss(u.astype(jnp.bfloat16), v.astype(jnp.bfloat16))
    np.testing.assert_allclose(float(narrow), value, rtol=1e-2)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: time_reversal.reverse_trajectory(jnp.ones(3), jnp.ones(4)),
            ValueError,
            "same number of times",
        ),
        (
            lambda: time_reversal.reverse_trajectory(jnp.ones(3), jnp.ones(()), axis=0),
            ValueError,
            "axis",
        ),
        (lambda: time_reversal.reverse_sequence(jnp.ones(3)), TypeError, "tokens must be integers"),
        (
            lambda: time_reversal.reverse_sequence(jnp.arange(3), lengths=jnp.array([1, 2])),
            ValueError,
            "lengths",
        ),
        (
            lambda: time_reversal.consistency_loss(jnp.ones(2), jnp.ones(2), metric="l1"),
            ValueError,
            "metric must be one of",
        ),
        (
            lambda: time_reversal.consistency_loss(
                jnp.ones((2, 3)), jnp.ones((3, 3)), metric="euclidean"
            ),
            ValueError,
            "broadcast",
        ),
        (
            lambda: time_reversal.consistency_loss(jnp.ones(2), jnp.ones(2), curvature=-1.0),
            ValueError,
            "curvature",
        ),
    ],
)
@pytest.mark.usefixtures("bare_errors")
def test_errors_name_the_argument(call, error, match):
    with pytest.raises(error, match=match):
        call()


def _norm(x):
    return jnp.linalg.norm(x, axis=-1, keepdims=True)
