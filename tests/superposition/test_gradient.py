"""The gradient of the free energy, and its mixing with backpropagation in optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet import optim
from physnet.superposition import path_integral

CURVATURE = jnp.asarray([1.0, 3.0, 0.2], jnp.float32)
POINT = jnp.asarray([1.0, -1.0, 2.0], jnp.float32)
SIGMA = 0.3


def quadratic(w):
    return jnp.sum(CURVATURE * w**2) / 2


def gradient(key=0, loss=quadratic, point=POINT, args=(), **options):
    options = {"particles": 32, "sigma": SIGMA} | options
    return jax.jit(lambda key: path_integral.gradient(key, point, loss, *args, **options))(
        jax.random.key(key)
    )


@functools.partial(jax.jit, static_argnames="particles")
def smoothed(keys, inverse, *, particles):
    return jax.vmap(
        lambda key: path_integral.gradient(
            key, POINT, quadratic, particles=particles, sigma=SIGMA, temperature=inverse
        )
    )(keys)


@pytest.mark.parametrize("inverse", [0.0, 1e-7, 2.0])
def test_quadratics_have_the_smoothed_gradient(inverse):
    """A (1 + lambda sigma^2 A)^{-1} x, also where exp(-lambda L) is 1 to rounding."""
    want = np.asarray(CURVATURE * POINT / (1 + inverse * SIGMA**2 * CURVATURE))
    errors = []
    for particles in (200, 20_000):
        keys = jax.random.split(jax.random.key(0), 8)
        found = np.asarray(smoothed(keys, jnp.float32(inverse), particles=particles))
        errors.append(np.sqrt(np.mean((found - want) ** 2)))
    assert errors[1] < 0.04
    assert 4 < errors[0] / errors[1] < 25  # 1 / sqrt(K): 10


def test_a_plane_has_its_slope_at_any_temperature():
    slope = jnp.asarray([0.5, -2.0, 1.0], jnp.float32)
    for options in ({"temperature": 0.5}, {"effective": 0.5}):
        found = gradient(loss=lambda w: jnp.sum(slope * w) + 7, particles=40_000, **options)
        np.testing.assert_allclose(found, slope, atol=0.06)


def test_a_pair_with_one_bad_loss_is_left_out_as_a_whole():
    half = gradient(loss=lambda w: jnp.where(w[0] > POINT[0], jnp.nan, w[0]))  # one of every pair
    np.testing.assert_array_equal(half, 0)


def test_steps_are_those_of_the_path_integral():
    state = path_integral.init(
        POINT, particles=32, sigma=SIGMA, covariance="none", effective=0.3, antithetic=True
    )
    new, _ = jax.jit(lambda key: path_integral.step(key, state, quadratic))(jax.random.key(3))
    found = gradient(3, effective=0.3, units="step")
    rule = optax.sgd(1.0)
    change, _ = rule.update(found, rule.init(POINT))
    np.testing.assert_allclose(optax.apply_updates(POINT, change), new.params, atol=1e-6)


def test_units_differ_by_lambda_sigma_squared():
    loss, step = (gradient(temperature=0.7, units=units) for units in ("loss", "step"))
    np.testing.assert_allclose(step, 0.7 * SIGMA**2 * np.asarray(loss), rtol=1e-5)


def test_bad_losses_have_no_part():
    def run(factor, offset, border, **options):
        def loss(w):
            return jnp.where(w[0] > border, jnp.nan, factor * quadratic(w) + offset)

        return path_integral.gradient(
            jax.random.key(0), POINT, loss, particles=64, sigma=SIGMA, **options
        )

    numbers = lambda *x: tuple(map(jnp.float32, x))  # noqa: E731
    for options in ({}, {"temperature": 0.1}):
        found = jax.jit(lambda *x, options=options: run(*x, **options))
        whole, torn = found(*numbers(1, 0, 9)), found(*numbers(1, 0, 1.3))
        assert np.all(np.isfinite(torn))
        assert np.any(torn != whole)
        for bad in (jnp.nan, jnp.inf, -jnp.inf, 3.0):
            np.testing.assert_array_equal(found(*numbers(0, bad, 9)), 0)
        assert np.all(np.isfinite(found(*numbers(1e37, 0, 9))))


def test_low_rank_and_trees():
    params = {"w": jnp.ones((12, 10), jnp.bfloat16), "b": jnp.zeros(3, jnp.float32)}
    x = jnp.ones((2, 12), jnp.bfloat16)

    def loss(p, x):
        return jnp.sum((x @ p["w"]).astype(jnp.float32)) + jnp.sum(p["b"])

    found, dense = (
        jax.jit(
            lambda key, materialise=materialise: path_integral.gradient(
                key, params, loss, x, particles=64, sigma=0.1, rank=1, materialise=materialise,
                temperature=0.0, chunk=16,
            )
        )(jax.random.key(0))
        for materialise in (False, True)
    )  # fmt: skip
    assert found["w"].dtype == jnp.bfloat16
    # bfloat16 rounds materialised particles; the two factors it rounds less.
    a, b = (np.asarray(v["w"], np.float64).ravel() for v in (found, dense))
    assert np.corrcoef(a, b)[0, 1] > 0.95
    with pytest.raises(ValueError, match="materialise=False needs a rank"):
        path_integral.gradient(
            jax.random.key(0), params, loss, x, particles=8, sigma=0.1, materialise=False
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 5}, "particles must be even"),
        ({"sigma": -1.0}, "sigma must be positive"),
        ({"units": "steps"}, "units must be one of"),
        ({"chunk": 0}, "chunk must be >= 1"),
        ({"effective": 1.5}, "effective must be between"),
    ],
)
def test_options_out_of_range(options, message, bare_errors):
    options = {"particles": 8, "sigma": 0.1} | options
    with pytest.raises(ValueError, match=message):
        path_integral.gradient(jax.random.key(0), POINT, quadratic, **options)


def test_no_parameters(bare_errors):
    with pytest.raises(ValueError, match="params must hold at least one number"):
        path_integral.gradient(jax.random.key(0), {}, quadratic, particles=8, sigma=0.1)


# ------------------------------------------------------------------------------ within optax

PARAMS = {"smooth": POINT, "hard": jnp.asarray([0.3, -0.4], jnp.float32)}


def both(p, offset):
    return quadratic(p["smooth"]) + jnp.sum(jnp.round(4 * (p["hard"] - offset)) ** 2) / 16


@functools.cache
def backpropagated():
    return jax.jit(jax.grad(both))(PARAMS, 1.0)


def updated(grads, weight, **options):
    rule = optim.path_integral_gradients(weight, particles=64, sigma=0.2, **options)
    extra = {"key": jax.random.key(0), "loss_fn": both, "loss_args": (1.0,)}
    return rule.update(grads, rule.init(PARAMS), PARAMS, **extra)


def test_weight_zero_is_backpropagation():
    grads = backpropagated()
    for weight in (0.0, jnp.float32(0), optax.constant_schedule(0.0)):
        found, state = jax.jit(lambda grads, weight=weight: updated(grads, weight))(grads)
        jax.tree.map(np.testing.assert_array_equal, grads, found)
        assert state.count == 1


def test_weights_mix():
    grads, run = backpropagated(), jax.jit(updated)
    (half, _), (whole, _) = (run(grads, jnp.float32(w)) for w in (0.5, 1.0))
    want = gradient(loss=both, point=PARAMS, args=(1.0,), particles=64, sigma=0.2)
    for k in PARAMS:
        np.testing.assert_allclose(whole[k], want[k], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(half[k], (grads[k] + want[k]) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("as_function", [False, True])
def test_masked_leaves_take_the_path_integral_alone(as_function):
    mask = {"smooth": False, "hard": True}
    chosen = (lambda params: mask) if as_function else mask
    run = jax.jit(lambda grads: updated(grads, 0.0, mask=chosen, temperature=0.0)[0])
    grads = backpropagated()
    hard = [None] if as_function else [grads["hard"], grads["hard"] * np.nan]
    for bad in hard:
        found = run(grads | {"hard": bad})
        np.testing.assert_array_equal(found["smooth"], grads["smooth"])
        # Smoothed over sigma, the staircase has the slope of its parabola, 2 (x - 1), nearly.
        np.testing.assert_allclose(found["hard"], 2 * (PARAMS["hard"] - 1), atol=0.8)


def test_training_in_a_chain_with_a_schedule():
    rule = optax.chain(
        optim.path_integral_gradients(
            optax.linear_schedule(0.5, 0.0, 20),
            particles=32,
            sigma=0.2,
            mask={"smooth": False, "hard": True},
        ),
        optax.adam(0.1),
    )  # fmt: skip

    def one(carry, key):
        params, state = carry
        grads = jax.grad(both)(params, 1.0)
        change, state = rule.update(
            grads, state, params, key=key, loss_fn=both, loss_args=(1.0,), unused=None
        )
        return (optax.apply_updates(params, change), state), None

    keys = jax.random.split(jax.random.key(0), 100)
    with jax.numpy_dtype_promotion("standard"):
        (params, _), _ = jax.jit(lambda c: jax.lax.scan(one, c, keys))((PARAMS, rule.init(PARAMS)))
    assert both(params, 1.0) < 0.02


def test_what_update_lacks_is_named():
    rule = optim.path_integral_gradients(0.5, particles=8, sigma=0.1)
    state = rule.init(PARAMS)
    with pytest.raises(ValueError, match="params=None"):
        rule.update(PARAMS, state)
    with pytest.raises(ValueError, match="key=None"):
        rule.update(PARAMS, state, PARAMS, loss_fn=both)
    with pytest.raises(ValueError, match="loss_fn=None"):
        rule.update(PARAMS, state, PARAMS, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"weight must be one number in \[0, 1\]"):
        optim.path_integral_gradients(1.5, particles=8, sigma=0.1)
    bad = optim.path_integral_gradients(0.5, particles=8, sigma=0.1, mask={"smooth": True})
    with pytest.raises(ValueError, match="mask must be a tree of bools"):
        bad.update(PARAMS, state, PARAMS, key=jax.random.key(0), loss_fn=both)
