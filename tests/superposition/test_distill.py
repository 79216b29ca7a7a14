"""Divergences from a mixture against dense float64 sums, and their derivatives at the extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet.superposition import distill

K, B, V = 3, 2, 5
# Compiled whole: one operation at a time takes longer.
BOTH = {"forward": jax.jit(distill.mixture_kl), "reverse": jax.jit(distill.reverse_mixture_kl)}
mixture = jax.jit(distill.mixture_log_probs)
both = pytest.mark.parametrize("name", BOTH)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dense(name, student, teachers, weights):
    """The divergence and its gradients by the chain rule through probabilities, in NumPy."""
    student, teachers, weights = (np.asarray(x, np.float64) for x in (student, teachers, weights))
    shares = (weights / weights.sum(0))[..., None]
    s, p = softmax(student), softmax(teachers)
    m = (shares * p).sum(0)
    if name == "forward":
        value, to_s, to_m = (m * np.log(m / s)).sum(-1), -m / s, np.log(m / s) + 1
    else:
        value, to_s, to_m = (s * np.log(s / m)).sum(-1), np.log(s / m) + 1, -s / m
    student = s * (to_s - (s * to_s).sum(-1, keepdims=True))
    teachers = shares * p * (to_m - (p * to_m).sum(-1, keepdims=True))
    to_share = (p * to_m).sum(-1)
    weights = (to_share - (shares[..., 0] * to_share).sum(0)) / weights.sum(0)
    return value, (student, teachers, weights)


@functools.cache
def compiled(name):
    """Value, gradients of its sum, and the derivative of the gradients along a direction."""

    def total(student, teachers, weights):
        value = BOTH[name](student, teachers, weights)
        return jnp.sum(value), value

    slopes = jax.grad(total, (0, 1, 2), has_aux=True)

    @jax.jit
    def run(arguments, along):
        (slope, value), (bend, moved) = jax.jvp(lambda x: slopes(*x), (arguments,), (along,))
        return value, slope, bend, moved

    return run


def normal(*shapes, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


def arguments(seed=0, dtype=np.float64):
    student, teachers, weights = normal((B, V), (K, B, V), (K, B), seed=seed, dtype=dtype)
    return tuple(map(jnp.asarray, (student, 2 * teachers, np.exp(weights))))


@both
def test_value_and_derivatives_are_those_of_the_dense_sums(name):
    x, along = arguments(), tuple(0.1 * a for a in arguments(1))
    value, slope, bend, moved = compiled(name)(x, along)
    want, gradients = dense(name, *x)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    for got, expected in zip(slope, gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-13)
    # Forward mode agrees with reverse mode, and second order with differences of the first.
    product = sum(float(jnp.sum(g * a)) for g, a in zip(slope, along, strict=True))
    np.testing.assert_allclose(jnp.sum(moved), product, rtol=1e-10)
    step = 1e-5
    ends = [
        dense(name, *(a + sign * step * b for a, b in zip(x, along, strict=True)))[1]
        for sign in (1, -1)
    ]
    for got, plus, minus in zip(bend, *ends, strict=True):
        np.testing.assert_allclose(got, (plus - minus) / (2 * step), rtol=1e-5, atol=1e-9)


@both
@pytest.mark.parametrize("scale", [1e4, 1e37])
def test_huge_logits_have_finite_gradients(name, scale):
    x = arguments(dtype=np.float32)
    value, slope, _, _ = compiled(name)((scale * x[0], scale * x[1], x[2]), x)
    assert value.dtype == jnp.float32
    assert np.all(np.isfinite(value))
    assert all(np.all(np.isfinite(leaf)) for leaf in slope)
    if scale == 1e4:  # float64 has room for the probabilities' logarithms
        s, t = (np.asarray(scale * a, np.float64) for a in x[:2])
        log_s, log_t = (a - a.max(-1, keepdims=True) for a in (s, t))  # one class has it all
        share = np.asarray(x[2] / x[2].sum(0, keepdims=True), np.float64)[..., None]
        log_m = np.logaddexp.reduce(np.log(share) + log_t, 0)
        pair = (log_m, log_s) if name == "forward" else (log_s, log_m)
        want = (np.exp(pair[0]) * (pair[0] - pair[1])).sum(-1)
        np.testing.assert_allclose(value, want, rtol=1e-5)


@both
def test_masked_classes_take_no_part(name):
    mask = np.array([0, 0, -np.inf, 0, -np.inf], np.float32)
    x = arguments(dtype=np.float32)
    masked = (x[0] + mask[None], x[1] + mask[None, None], x[2])
    value, slope, bend, _ = compiled(name)(masked, x)
    open_ = np.isfinite(mask)
    want, gradients = dense(name, *(np.asarray(a)[..., open_] for a in x[:2]), x[2])
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for got, expected in zip(slope[:2], gradients[:2], strict=True):
        np.testing.assert_allclose(got[..., open_], expected, rtol=1e-4, atol=1e-6)
        assert np.all(np.asarray(got)[..., ~open_] == 0)
    np.testing.assert_allclose(slope[2], gradients[2], rtol=1e-4, atol=1e-6)
    assert all(np.all(np.isfinite(leaf)) for leaf in bend)


@both
def test_a_teacher_of_weight_zero_takes_no_part(name):
    student, teachers, weights = arguments(dtype=np.float32)
    weights = weights.at[1].set(0)
    want = BOTH[name](student, teachers[::2], weights[::2])
    for bad in (jnp.nan, jnp.inf, 3.0):
        broken = teachers.at[1, :, 0].set(bad)
        value, slope, _, _ = compiled(name)(
            (student, broken, weights), (student, teachers, weights)
        )
        np.testing.assert_allclose(value, want, rtol=1e-6)
        assert all(np.all(np.isfinite(leaf)) for leaf in slope)
        assert np.all(slope[1][1] == 0)
    assert np.all(np.abs(slope[2][1]) > 1e-3)  # what giving it weight would do is not lost


def test_classes_ruled_out_by_one_side_alone():
    student, teachers, weights = arguments(dtype=np.float32)
    closed = student.at[:, 0].set(-jnp.inf)
    value, slope, _, _ = compiled("forward")((closed, teachers, weights), arguments(1, np.float32))
    assert np.all(value == np.inf)
    slope = slope[0]
    mixed = np.exp(mixture(teachers, weights))
    np.testing.assert_allclose(slope, softmax(np.asarray(closed)) - mixed, atol=1e-6)
    _, moved = jax.jvp(lambda s: BOTH["forward"](s, teachers, weights), (closed,), (student,))
    assert np.all(np.isfinite(moved))  # of a constant teacher: not NaN * 0
    reverse = BOTH["reverse"]
    assert np.all(reverse(student, teachers.at[..., 0].set(-jnp.inf), weights) == np.inf)
    assert np.all(np.isfinite(reverse(closed, teachers, weights)))


@both
def test_zero_where_student_and_mixture_are_equal(name):
    student, teachers, weights = arguments(dtype=np.float32)
    assert np.all(BOTH[name](student, student[None], jnp.array([0.3])) == 0)
    mixed = mixture(teachers, weights)
    assert np.all(np.abs(BOTH[name](mixed, teachers, weights)) < 1e-13)
    # Close to it the digits stay: both are sum m x^2 / 2 to leading order.
    shift = 1e-4 * student
    close = BOTH[name](mixed + shift, teachers, weights)
    p = np.exp(np.asarray(mixed, float))
    x = np.asarray(shift, float)
    want = ((p * x**2).sum(-1) - (p * x).sum(-1) ** 2) / 2
    np.testing.assert_allclose(close, want, rtol=5e-3)


def test_directions_are_those_of_their_names_and_optax_has_the_other_order():
    student, teachers, _ = arguments()
    log_s, log_m = jax.nn.log_softmax(student), mixture(teachers)
    forward, reverse = (f(student, teachers) for f in BOTH.values())
    kl = optax.losses.kl_divergence  # (log_predictions, targets): KL(targets || predictions)
    np.testing.assert_allclose(forward, kl(log_s, jnp.exp(log_m)), rtol=1e-10)
    np.testing.assert_allclose(reverse, kl(log_m, jnp.exp(log_s)), rtol=1e-10)
    assert np.all(np.abs(forward - reverse) > 1e-2)


def test_mixture_is_the_mean_of_probabilities():
    _, teachers, weights = arguments()
    p = softmax(np.asarray(teachers))
    w = np.asarray(weights)
    for given, shares in (
        (None, np.full((K, 1), 1 / K)),
        (weights, w / w.sum(0)),
        (weights[:, 0], (w / w.sum(0))[:, :1]),
        (3 * weights[:, :1], (w / w.sum(0))[:, :1]),
    ):
        got = mixture(teachers, given)
        np.testing.assert_allclose(np.exp(got), (shares[..., None] * p).sum(0), rtol=1e-12)
    many = jnp.tile(teachers[:1], (400, 1, 1)).astype(jnp.float32)
    np.testing.assert_allclose(mixture(many), np.log(p[0]), rtol=1e-5, atol=1e-6)


@both
def test_temperature_softens_both_sides(name):
    student, teachers, weights = arguments()
    got = BOTH[name](student, teachers, weights, temperature=jnp.float32(2.5))
    np.testing.assert_allclose(got, BOTH[name](student / 2.5, teachers / 2.5, weights), rtol=1e-12)
    mask = jnp.array([0.0, 0.0, -jnp.inf, 0.0, 0.0])
    masked = (student + mask[None], teachers + mask[None, None], weights)
    slope = jax.jit(jax.grad(lambda t: jnp.sum(BOTH[name](*masked, temperature=t))))(2.0)
    assert np.isfinite(slope)
    assert slope < 0  # hot distributions are all alike


@pytest.mark.parametrize(("name", "dtype"), [("forward", jnp.bfloat16), ("reverse", jnp.float16)])
def test_narrow_inputs_are_summed_in_float32(name, dtype):
    student, teachers, weights = arguments(dtype=np.float32)
    narrow = (student.astype(dtype), teachers.astype(dtype))
    run = jax.jit(jax.value_and_grad(lambda s: jnp.sum(BOTH[name](s, narrow[1], weights))))
    got, slope = run(narrow[0])
    assert (got.dtype, slope.dtype) == (jnp.float32, dtype)
    wide = (x.astype(jnp.float32) for x in narrow)
    np.testing.assert_allclose(got, dense(name, *wide, weights)[0].sum(), rtol=1e-5)
    plain = jax.eval_shape(BOTH[name], student, teachers, np.ones(K))  # float64 weights
    assert plain.dtype == jnp.float32


@pytest.mark.parametrize("bad", [0.0, -1.0, 3e38, np.inf, np.nan])
def test_weights_that_make_no_mixture_make_nan(bad):
    """Under jit, where they cannot be refused: not some finite divergence."""
    student, teachers, weights = arguments(dtype=np.float32)
    weights = jnp.full_like(weights, bad)
    for f in BOTH.values():
        assert np.all(np.isnan(f(student, teachers, weights)))


def test_vmap_over_examples():
    student, teachers, weights = arguments()
    for f in BOTH.values():
        want = f(student, teachers, weights)
        each = jax.jit(jax.vmap(f, (0, 1, 1)))(student, teachers, weights)
        np.testing.assert_allclose(each, want, rtol=1e-12)


@pytest.mark.usefixtures("bare_errors")
def test_errors_name_the_argument():
    student, teachers, weights = arguments()
    f = distill.mixture_kl
    with pytest.raises(ValueError, match=r"student_logits .* do not fit: got \(5,\)"):
        f(student[0], teachers)
    with pytest.raises(ValueError, match=r"teacher_logits must have shape \(K, ..., V\)"):
        f(student[0], student[0])
    with pytest.raises(TypeError, match="student_logits must be a real"):
        f(jnp.ones((B, V), jnp.int32), teachers)
    with pytest.raises(ValueError, match=r"weights must have shape \(3,\).*got \(2,\)"):
        f(student, teachers, weights[:2, 0])
    for bad in (-weights, jnp.zeros(K), jnp.full(K, jnp.inf), jnp.full(K, jnp.nan)):
        with pytest.raises(ValueError, match="weights must be >= 0 with a positive, finite sum"):
            f(student, teachers, bad)
    with pytest.raises(TypeError, match="weights must be real, got dtype complex"):
        f(student, teachers, weights.astype(complex))
    with pytest.raises(ValueError, match="temperature must be positive"):
        f(student, teachers, temperature=0.0)
