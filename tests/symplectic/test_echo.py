"""Echo gradients against autodiff through the same trajectory, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.symplectic import echo, leapfrog

D, T = 3, 60


def potential(params, position, given):
    """A nonlinear one that couples position, parameters and input."""
    drive = 0.0 if given is None else given
    energy = jnp.sum(jnp.log(jnp.cosh(params["w"] @ position + params["b"] + drive)))
    return energy + 0.5 * jnp.sum(position**2)


def force(params, position, given):
    return -jax.grad(potential, argnums=1)(params, position, given)


def problem(dtype=np.float64, steps=T, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    params = {"w": normal(D, D), "b": normal(D)}
    state, final = (normal(D), normal(D)), (normal(D), normal(D))
    return params, state, normal(steps, D), final, normal(steps, D)


def adjoint(params, state, inputs, final, nudges, **settings):
    """(grad_params, grad_state, grad_inputs) by backpropagation."""
    return _adjoint(tuple(settings.items()))(params, state, inputs, final, nudges)


@functools.cache
def _adjoint(settings):
    settings = dict(settings)

    def loss(params, state, inputs, final, nudges):
        end, (seen, _) = leapfrog(force, state, params, inputs, return_trajectory=True, **settings)
        return sum(jnp.sum(x * g) for x, g in zip(end, final, strict=True)) + jnp.sum(seen * nudges)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))


def echoed(function, params, state, inputs, final, nudges, **settings):
    return _echoed(function, tuple(settings.items()))(params, state, inputs, final, nudges)


@functools.cache
def _echoed(function, settings):
    return jax.jit(
        lambda *given: function(
            potential, given[1], given[0], given[2], final_cotangent=given[3],
            cotangents=given[4], **dict(settings),
        )
    )  # fmt: skip


def distance(found, wanted):
    """Relative, of all arrays as one vector."""

    def vector(tree):
        leaves = (np.asarray(x, np.float64) for x in jax.tree.leaves(tree))
        return np.concatenate([np.ravel(x) for x in leaves])

    one, other = vector(found), vector(wanted)
    return np.linalg.norm(one - other) / np.linalg.norm(other)


SETTINGS = [
    {},
    {"scheme": "kick-drift-kick"},
    {"order": 4, "friction": 0.3},
    {"scheme": "kick-drift-kick", "friction": 0.2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_both_echoes_are_the_adjoint(settings):
    given = problem()
    settings = {"steps": T, "step_size": 0.1} | settings
    wanted = adjoint(*given, **settings)
    for part, other in zip(echoed(echo.gradient, *given, **settings), wanted, strict=True):
        assert distance(part, other) < 1e-12
    for part, other in zip(echoed(echo.finite_gradient, *given, **settings), wanted, strict=True):
        assert distance(part, other) < 1e-8


def test_a_long_echo_is_still_the_adjoint_to_ten_digits():
    given = problem(steps=2000, seed=1)
    settings = {"steps": 2000, "step_size": 0.05}
    assert distance(echoed(echo.gradient, *given, **settings), adjoint(*given, **settings)) < 1e-10


def test_a_spring_has_its_closed_form():
    spring = lambda k, q, _: k * jnp.sum(q * q) / 2  # noqa: E731
    start = (jnp.ones(1), jnp.zeros(1))
    k, h, steps = 2.0, 0.02, 150
    by_k, (by_q, by_p), by_inputs = echo.gradient(
        spring, start, k, final_cotangent=start, steps=steps, step_size=h
    )
    # A step turns by phi, cos phi = 1 - k h^2 / 2: q_t = cos(t phi) exactly.
    phi = np.arccos(1 - k * h * h / 2)
    slope = -steps * np.sin(steps * phi) * h * h / 2 / np.sin(phi)
    np.testing.assert_allclose(by_k, slope, rtol=1e-11)
    np.testing.assert_allclose(by_q, np.cos(steps * phi), rtol=1e-11)
    end = leapfrog(lambda k, q, _: -k * q, (start[1], start[0]), k, steps=steps, step_size=h)[0]
    np.testing.assert_allclose(by_p, end, rtol=1e-11)
    assert by_inputs is None


def test_a_stack_of_three_passes_its_input_gradients_down_as_nudges():
    keys = [problem(seed=s) for s in range(3)]
    params, states = [k[0] for k in keys], [k[1] for k in keys]
    drive, nudges = keys[0][2], keys[1][4]
    settings = {"steps": T, "step_size": 0.1}

    def layers(params, states, drive):
        ends = []
        for p, s in zip(params, states, strict=True):
            end, (drive, _) = leapfrog(force, s, p, drive, return_trajectory=True, **settings)
            ends.append((end, drive))
        return ends

    def loss(params, states, drive):
        return jnp.sum(layers(params, states, drive)[-1][1] * nudges)

    wanted = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, states, drive)

    @jax.jit
    def back(params, states, drive, nudge):
        ends = layers(params, states, drive)
        drives = [drive, *(seen for _, seen in ends[:-1])]
        by_params, by_states = [], []
        for p, s, u, (end, _) in zip(
            reversed(params), reversed(states), reversed(drives), reversed(ends), strict=True
        ):
            one, two, nudge = echo.gradient(
                potential, s, p, u, final_cotangent=None, cotangents=nudge, final_state=end,
                **settings,
            )  # fmt: skip
            by_params.insert(0, one)
            by_states.insert(0, two)
        return by_params, by_states, nudge

    assert distance(back(params, states, drive, nudges), wanted) < 1e-12


def test_memory_does_not_grow_with_steps():
    def temporary(steps):
        params, state, *_ = problem(np.float32, steps=1)
        run = jax.jit(
            lambda params, state: echo.gradient(
                potential, state, params, final_cotangent=state, steps=steps, step_size=0.1
            )
        )
        return run.lower(params, state).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16) == temporary(4096) < 4096


@pytest.mark.parametrize("function", [echo.gradient, echo.finite_gradient])
def test_vmap_gives_each_its_own(function):
    params, (q, p), inputs, final, nudges = problem(steps=5)
    turned = jax.tree.map(lambda x: jnp.stack([x, -0.5 * x]), ((q, p), inputs, final, nudges))

    def one(state, inputs, final, nudges):
        return function(
            potential, state, params, inputs, final_cotangent=final, cotangents=nudges, steps=5,
            step_size=0.2,
        )  # fmt: skip

    one = jax.jit(one)
    both = jax.jit(jax.vmap(one))(*turned)
    for i in range(2):
        alone = one(*jax.tree.map(lambda x, i=i: x[i], turned))
        assert distance(jax.tree.map(lambda x, i=i: x[i], both), alone) < 1e-7


@pytest.mark.parametrize("function", [echo.gradient, echo.finite_gradient])
def test_integers_are_constants_and_float32_stays(function):
    def indexed(params, position, given):
        strength = params["w"][given["which"]] * params["power"].astype(jnp.float32)
        return jnp.sum(strength * jnp.cos(position["x"]) - given["u"] * position["x"])

    params = {"w": jnp.arange(1.0, 4.0, dtype=jnp.float32), "power": jnp.int32(2)}
    state = ({"x": jnp.ones(2, jnp.float32)}, {"x": jnp.zeros(2, jnp.float32)})
    inputs = {"which": jnp.array([0, 2, 0, 2]), "u": jnp.ones((4, 2), jnp.float32)}
    by_params, by_state, by_inputs = function(
        indexed, state, params, inputs, final_cotangent=state, steps=4, step_size=0.3
    )
    assert by_params["power"].dtype == by_inputs["which"].dtype == jax.dtypes.float0
    assert by_inputs["which"].shape == (4,)
    floats = (by_params["w"], by_state, by_inputs["u"])
    assert {x.dtype for x in jax.tree.leaves(floats)} == {np.dtype(np.float32)}
    assert by_params["w"][1] == 0  # never used
    assert np.all(np.asarray(by_params["w"])[[0, 2]] != 0)
    assert by_inputs["u"].shape == (4, 2)


def test_a_potential_may_close_over_traced_arrays():
    params, state, _, final, _ = problem()

    @jax.jit
    def slope(weight, scale):
        def own(b, position, given):
            return scale * potential({"w": weight, "b": b}, position, given)

        return echo.gradient(
            own, state, params["b"], final_cotangent=final, steps=3, step_size=0.1
        )[0]

    once = slope(params["w"], 1.5)
    many = jax.vmap(slope, in_axes=(None, 0))(params["w"], jnp.array([1.5, 2.0]))
    np.testing.assert_allclose(many[0], once, rtol=1e-12)
    # The echo is made of operations that JAX differentiates again.
    h = 1e-6
    second = jax.jvp(lambda s: slope(params["w"], s), (1.5,), (1.0,))[1]
    near = (slope(params["w"], 1.5 + h) - slope(params["w"], 1.5 - h)) / (2 * h)
    np.testing.assert_allclose(second, near, rtol=1e-6)


def test_finite_echo_in_float32_and_its_error_on_both_sides_of_the_automatic_epsilon():
    given, settings = problem(np.float32, steps=200), {"steps": 200, "step_size": 0.1}
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), given)
    wanted = adjoint(*wide, **settings)
    assert distance(echoed(echo.finite_gradient, *given, **settings), wanted) < 5e-4
    for epsilon in (1.0, 1e-6):  # curvature, rounding
        found = echoed(echo.finite_gradient, *given, epsilon=epsilon, **settings)
        assert distance(found, wanted) > 5e-3


def test_automatic_epsilon_follows_the_scale_of_the_loss():
    params, state, inputs, final, nudges = problem()
    settings = {"steps": T, "step_size": 0.1}
    wanted = adjoint(params, state, inputs, final, nudges, **settings)
    for scale in (1e-9, 1e9):
        loud = jax.tree.map(lambda g, scale=scale: scale * g, (final, nudges))
        found = echoed(echo.finite_gradient, params, state, inputs, *loud, **settings)
        assert distance(jax.tree.map(lambda g, scale=scale: g / scale, found), wanted) < 1e-8
    silent = jax.tree.map(jnp.zeros_like, (final, nudges))
    found = echoed(echo.finite_gradient, params, state, inputs, *silent, **settings)
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(found))


def test_a_system_at_rest_has_finite_echoes():
    state = (jnp.zeros(D), jnp.zeros(D))
    ones = (jnp.ones(D), jnp.ones(D))
    still = lambda k, q, _: k * jnp.sum(q * q) / 2  # noqa: E731
    settings = {"final_cotangent": ones, "steps": 9, "step_size": 0.1}
    both = (echo.finite_gradient, echo.gradient)
    found, exact = jax.jit(lambda: [run(still, state, 1.0, **settings) for run in both])()
    assert distance(found[1], exact[1]) < 1e-9
    assert float(found[0]) == float(exact[0]) == 0


def refused(error, match, **changed):
    params, state, inputs, final, nudges = problem(steps=4)
    given = {"state": state, "inputs": inputs, "final_cotangent": final, "cotangents": nudges,
             "steps": 4, "step_size": 0.1, "potential": potential} | changed  # fmt: skip
    with pytest.raises(error, match=match):
        echo.gradient(params=params, **given)


def test_errors_name_the_argument(bare_errors):
    one = jnp.ones(2)
    refused(ValueError, "final_cotangent may be None only", final_cotangent=None, cotangents=None)
    refused(ValueError, "final_cotangent must have the shapes of state", final_cotangent=(one, one))
    refused(TypeError, "final_cotangent must be like state", final_cotangent=one)
    refused(
        ValueError, "cotangents must have the shapes of the positions", cotangents=jnp.ones((3, D))
    )
    refused(ValueError, "final_state must have the shapes of state", final_state=(one, one))
    refused(ValueError, r"must be a scalar, got shape \(3,\)", potential=lambda p, q, u: q)
    refused(ValueError, "steps", inputs=jnp.ones((5, D)))
    refused(ValueError, "scheme must be one of", scheme="euler")


@pytest.mark.parametrize("function", [echo.gradient, echo.finite_gradient])
def test_infinite_parameters_leave_the_others_alone(function):
    def masked(params, position, given):
        return jnp.sum(jnp.where(params["mask"] < 0, 0.0, params["k"] * position**2))

    params = {"k": jnp.ones(2), "mask": jnp.array([-jnp.inf, 1.0])}
    state = (jnp.ones(2), jnp.zeros(2))
    settings = {"final_cotangent": state, "steps": 3, "step_size": 0.1}
    found = jax.jit(lambda p: function(masked, state, p, **settings)[0])(params)
    assert np.asarray(found["k"])[0] == 0
    assert np.isfinite(found["k"]).all()
    np.testing.assert_array_equal(found["mask"], 0)
