"""teleported_lookahead against optax's SGD and Nesterov, and with the rest of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet import optim


@pytest.fixture(autouse=True)
def promotion_as_optax_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


RNG = np.random.default_rng(0)
HESSIAN = jnp.asarray((lambda a: a @ a.T / 6)(RNG.normal(size=(6, 6))))
START = {"a": jnp.asarray(RNG.normal(size=6))}
ETA, MU, STEPS = 0.1, 0.9, 25


def loss(theta):
    return 0.5 * theta["a"] @ HESSIAN @ theta["a"] + jnp.sum(jnp.cos(theta["a"]))


slope = jax.jit(jax.grad(loss))


def nesterov():
    """Parameters of optax's Nesterov after each step."""
    optimiser = optax.sgd(ETA, momentum=MU, nesterov=True)
    theta, state, path = START, optimiser.init(START), []
    for _ in range(STEPS):
        updates, state = optimiser.update(slope(theta), state)
        theta = optax.apply_updates(theta, updates)
        path.append(theta["a"])
    return path


def test_teleporting_from_the_look_ahead_is_nesterovs_method():
    optimiser = optim.teleported_lookahead(ETA, momentum=MU)
    theta, state = START, optimiser.init(START)
    update = jax.jit(optimiser.update)

    def ahead():
        return {"a": theta["a"] - ETA * MU * state.trace["a"]}

    for expected in nesterov():
        local = slope(theta)
        teleported = jax.tree.map(jnp.subtract, slope(ahead()), local)
        updates, state = update(local, state, theta, teleported=teleported)
        theta = optax.apply_updates(theta, updates)
        np.testing.assert_allclose(ahead()["a"], expected, rtol=0, atol=1e-12)
    assert int(state.count) == STEPS


def test_on_a_quadratic_the_look_ahead_is_the_curvature_times_the_momentum():
    theta, v = RNG.normal(size=(2, 6))
    linear = HESSIAN @ (theta - ETA * MU * v) - HESSIAN @ theta
    np.testing.assert_allclose(linear, -ETA * MU * HESSIAN @ v, atol=1e-13)


def test_teleporting_the_momentum_is_nesterovs_method():
    optimiser = optim.teleported_lookahead(ETA)
    theta, state, v = START, optimiser.init(START), jnp.zeros(6)
    assert state.trace is None
    update = jax.jit(optimiser.update)
    for expected in nesterov():
        local = slope(theta)
        v = MU * v + local["a"]
        updates, state = update(local, state, teleported={"a": MU * v})
        theta = optax.apply_updates(theta, updates)
        np.testing.assert_allclose(theta["a"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("momentum", [None, MU])
def test_the_sum_is_what_sgd_steps_along(momentum):
    schedule = optax.linear_schedule(0.2, 0.0, 8)
    ours, sgd = (
        optim.teleported_lookahead(schedule, momentum=momentum),
        optax.sgd(schedule, momentum),
    )

    @jax.jit
    def both(theta):
        def one(carry, jump):
            (a, sa), (b, sb) = carry
            up, sa = ours.update(jax.grad(loss)(a), sa, teleported={"a": jump})
            a = optax.apply_updates(a, up)
            up, sb = sgd.update(jax.tree.map(lambda g: g + jump, jax.grad(loss)(b)), sb)
            return ((a, sa), (optax.apply_updates(b, up), sb)), None

        carry = (theta, ours.init(theta)), (theta, sgd.init(theta))
        jumps = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6)))
        return jax.lax.scan(one, carry, jumps)[0]

    (found, _), (expected, _) = both(START)
    np.testing.assert_allclose(found["a"], expected["a"], rtol=1e-12)


def test_chain_masks_partition_and_injected_hyperparameters():
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    grads = {"a": jnp.full(3, 4.0), "b": jnp.full(2, 0.0)}
    jump = {"a": jnp.full(3, 0.5), "b": jnp.full(2, 0.25)}
    make = optax.inject_hyperparams(optim.teleported_lookahead)
    chained = optax.chain(optax.clip(1.0), make(0.1, momentum=0.5), optax.scale(2.0))

    @jax.jit
    def twice(params, grads, jump):
        state = chained.init(params)
        _, state = chained.update(grads, state, params, teleported=jump)
        return chained.update(grads, state, params, teleported=jump)

    updates, state = twice(params, grads, jump)
    np.testing.assert_allclose(updates["a"], -2 * 0.1 * 1.5 * np.full(3, 1.5), rtol=1e-6)
    np.testing.assert_allclose(state[1].hyperparams["momentum"], 0.5)

    parts = {"teleported": make(0.1), "plain": optax.sgd(0.1)}
    split = optax.partition(parts, {"a": "teleported", "b": "plain"})
    updates, _ = jax.jit(lambda p, g, j: split.update(g, split.init(p), p, teleported=j))(
        params, grads, jump
    )
    np.testing.assert_allclose(updates["a"], np.full(3, -0.45), rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], np.zeros(2))  # sgd heeds no jump
    masked = optax.masked(optim.teleported_lookahead(0.1, momentum=0.5), {"a": True, "b": False})
    updates, _ = masked.update(grads, masked.init(params), params, teleported=jump)
    np.testing.assert_allclose(updates["a"], np.full(3, -0.45), rtol=1e-6)


def test_half_precision_absent_gradients_and_ensembles():
    params = {"a": jnp.ones(3, jnp.bfloat16), "b": None}
    optimiser = optim.teleported_lookahead(optax.constant_schedule(0.1), momentum=0.5)
    state = optimiser.init(params)
    assert state.trace["a"].dtype == jnp.float32
    updates, state = optimiser.update(params, state, params, teleported=params)
    assert updates["a"].dtype == jnp.bfloat16
    assert updates["b"] is None
    assert state.trace["a"].dtype == jnp.float32
    many = jnp.asarray(RNG.normal(size=(4, 3)))
    states = jax.vmap(optimiser.init)(many)
    found, states = jax.vmap(lambda g, s: optimiser.update(g, s, teleported=g))(many, states)
    np.testing.assert_allclose(found, -0.2 * many, rtol=1e-6)
    assert states.count.shape == (4,)


def test_errors_name_what_is_wrong(bare_errors):
    optimiser, x = optim.teleported_lookahead(0.1), {"a": jnp.ones(3)}
    state = optimiser.init(x)
    with pytest.raises(ValueError, match=r"needs update.*got teleported=None"):
        optimiser.update(x, state, x)
    with pytest.raises(ValueError, match="teleported must be a tree like grads"):
        optimiser.update(x, state, x, teleported={"b": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"shapes of grads, got \(2,\) for a leaf \(3,\)"):
        optimiser.update(x, state, x, teleported={"a": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        optim.teleported_lookahead(0.1, momentum=1.0)
