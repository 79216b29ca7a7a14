"""Teachers, objective and steps: against plain sums, and on students that can be perfect."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet.superposition import distill

K, N, D, V, T = 5, 12, 3, 4, 2
f32 = jnp.float32


@pytest.fixture(autouse=True)
def as_users_run_it():
    """optax promotes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def apply(params, x, key=None):
    y = x @ params
    return y if key is None else y + jax.random.normal(key, y.shape, y.dtype)


def normal(*shape, seed=0):
    return jax.device_put(np.float32(np.random.default_rng(seed).standard_normal(shape)))


def mixture(teachers, x, weights=None):
    """Probabilities, one teacher after another."""
    weights = np.ones(len(teachers)) if weights is None else np.asarray(weights, float)
    parts = []
    for params in np.asarray(teachers, float):
        e = np.exp(np.asarray(x, float) @ params)
        parts.append(e / e.sum(-1, keepdims=True))
    return np.tensordot(weights / weights.sum(), np.stack(parts), 1)


@pytest.mark.parametrize(("shape", "chunk"), [((N, D), None), ((N, T, D), 2), ((N, T, D), 1)])
def test_ensemble_in_chunks_is_the_ensemble(shape, chunk):
    teachers, x = normal(K, D, V), normal(*shape, seed=1)
    weights = jnp.array([1.0, 0.0, 2.0, 0.5, 0.0], f32)
    broken = teachers.at[1].set(jnp.nan)  # one of weight 0
    run = functools.partial(distill.ensemble_log_probs, apply=apply, chunk=chunk)
    got = jax.jit(lambda *a: run(*a[:2], weights=a[2]))(broken, x, weights)
    np.testing.assert_allclose(np.exp(got), mixture(teachers, x, weights), rtol=1e-5, atol=1e-7)


def test_an_infinite_loss_without_weight_does_not_count():
    """A label of a class that is masked, followed but not trained on."""
    targets = jax.nn.log_softmax(normal(1, V).at[0, 0].set(-jnp.inf))
    student = normal(1, V, seed=1).at[0, 0].set(-jnp.inf)

    def loss(s, h):
        losses = distill.objective(s, targets, labels=jnp.zeros(1, jnp.int32), hard_weight=h)
        return losses.total, losses

    slope, losses = jax.jit(jax.grad(loss, has_aux=True))(student, jnp.float32(0))
    assert losses.cross_entropy == np.inf
    assert losses.total == losses.divergence
    assert np.all(np.isfinite(slope))


def test_targets_are_constants():
    teachers, x = normal(K, D, V), normal(N, D, seed=1)
    run = jax.jit(jax.grad(lambda t: distill.ensemble_log_probs(t, x, apply=apply)[0, 0]))
    slope = run(teachers)
    assert np.all(slope == 0)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_objective_is_its_formula(direction):
    student, targets = normal(2, N, V), jax.nn.log_softmax(normal(2, N, V, seed=1))
    labels = jnp.asarray(np.random.default_rng(2).integers(-1, V, (2, N)), jnp.int32)
    mask = jnp.asarray(np.random.default_rng(3).random((2, N)) < 0.7)
    run = functools.partial(distill.objective, direction=direction, hard_weight=0.3)
    got = jax.jit(lambda s, t: run(s, t, labels=labels, mask=mask, temperature=2.0))(
        student, targets
    )
    kl = soft = hard = count = known = 0.0
    log_t = np.asarray(targets, float)
    for i, j in zip(*np.nonzero(mask), strict=True):
        s = np.asarray(student[i, j], float)
        soft = s / 2 - np.log(np.exp(s / 2).sum())
        pair = (log_t[i, j], soft) if direction == "forward" else (soft, log_t[i, j])
        kl += (np.exp(pair[0]) * (pair[0] - pair[1])).sum()
        count += 1
        if labels[i, j] >= 0:
            hard -= s[labels[i, j]] - np.log(np.exp(s).sum())
            known += 1
    assert 0 < known < count < 2 * N
    np.testing.assert_allclose(got.divergence, kl / count, rtol=1e-5)
    np.testing.assert_allclose(got.cross_entropy, hard / known, rtol=1e-5)
    np.testing.assert_allclose(got.total, 0.7 * 4 * kl / count + 0.3 * hard / known, rtol=1e-5)


def test_objective_without_labels_or_entries_is_zero_and_finite():
    student, targets = normal(N, V), jax.nn.log_softmax(normal(N, V, seed=1))
    options = {"labels": jnp.full(N, -1), "hard_weight": 0.5}

    def loss(s, mask):  # padding's logits and targets may be anything
        losses = distill.objective(
            s, jnp.where(mask[:, None], targets, jnp.nan), mask=mask, **options
        )
        return losses.total, losses

    run = jax.jit(jax.grad(loss, has_aux=True))
    slope, none = run(jnp.full_like(student, jnp.nan), jnp.zeros(N, bool))
    assert (none.total, none.divergence, none.cross_entropy) == (0, 0, 0)
    assert np.all(slope == 0)
    slope, losses = run(student.at[:, 0].set(-jnp.inf), jnp.ones(N, bool))  # of no label's class
    assert np.all(np.isfinite(slope))
    assert losses.cross_entropy == 0


def test_a_step_is_one_of_the_optimiser_on_targets_or_teachers():
    teachers, x = normal(K, D, V), normal(N, D, seed=1)
    optimiser = optax.sgd(0.5, momentum=0.9)
    state = distill.init(normal(D, V, seed=2), optimiser=optimiser)
    step = functools.partial(distill.step, apply=apply, optimiser=optimiser)
    targets = jnp.log(mixture(teachers, x)).astype(f32)
    once, losses = jax.jit(lambda s, t: step(s, x, targets=t))(state, targets)
    s = np.exp(np.asarray(x @ state.params, float))
    s /= s.sum(-1, keepdims=True)
    slope = np.asarray(x, float).T @ (s - mixture(teachers, x)) / N
    np.testing.assert_allclose(once.params, state.params - 0.5 * slope, rtol=1e-5, atol=1e-6)
    assert losses.total == losses.divergence
    same, _ = jax.jit(lambda s, t: step(s, x, teachers=t, chunk=2))(state, teachers)
    np.testing.assert_allclose(same.params, once.params, atol=1e-6)
    # Teachers of another kind, and a student that draws: its noise is added to its own logits.
    other = functools.partial(step, teacher_apply=lambda params, x: x @ params / 2)
    same, _ = jax.jit(lambda s, t: other(s, x, teachers=t))(state, 2 * teachers)
    np.testing.assert_allclose(same.params, once.params, atol=1e-6)
    drawn, _ = jax.jit(lambda s, t, k: step(s, x, targets=t, key=k))(
        state, targets, jax.random.key(0)
    )
    assert np.max(np.abs(drawn.params - once.params)) > 1e-3


def test_teachers_and_students_are_trained_by_one_loop():
    """Linear teachers by labels alone, vmapped; a student with labels on some inputs only."""
    x = np.asarray(normal(64, D, seed=1))  # as data sets come
    labels = jnp.argmax(x @ normal(D, V, seed=2), -1).astype(jnp.int32)
    options = {"apply": apply, "optimiser": optax.adam(0.1), "steps": 60, "batch_size": 16}

    def teacher(key):
        start = 0.1 * jax.random.normal(key, (D, V), f32)
        return distill.fit(key, start, x, labels=labels, hard_weight=1.0, **options)

    teachers, losses = jax.jit(jax.vmap(teacher))(jax.random.split(jax.random.key(0), 2))
    assert teachers.shape == (2, D, V)
    assert losses.total.shape == (2, 60)
    assert np.all(losses.total[:, -1] < 0.5 * losses.total[:, 0])
    assert not np.allclose(teachers[0], teachers[1])

    half = jax.device_put(np.where(np.arange(64) < 32, labels, -1))
    ensemble = jax.jit(functools.partial(distill.ensemble_log_probs, apply=apply))
    targets = ensemble(teachers, x)
    start = jnp.zeros((D, V), f32)
    fit = functools.partial(distill.fit, hard_weight=0.1, **options)
    run = jax.jit(lambda key: fit(key, start, x, targets=targets, labels=half))
    student, losses = run(jax.random.key(1))
    assert np.all(np.asarray(losses.divergence[-10:]) < 0.1 * float(losses.divergence[0]))
    assert not np.allclose(student, run(jax.random.key(2))[0], atol=1e-4)  # the key draws


def test_parameters_keep_their_dtypes():
    params = {"a": normal(D, V), "b": normal(V, seed=1).astype(jnp.bfloat16)}

    def both(params, x):
        return x @ params["a"] + params["b"].astype(f32)[None]

    step = functools.partial(distill.step, apply=both, optimiser=optax.sgd(0.1))
    state = distill.init(params, optimiser=optax.sgd(0.1))
    state, _ = jax.eval_shape(lambda s: step(s, normal(N, D), targets=normal(N, V)), state)
    assert {k: v.dtype for k, v in state.params.items()} == {k: v.dtype for k, v in params.items()}


@pytest.mark.usefixtures("bare_errors")
def test_errors_name_the_argument():
    x, targets, labels = normal(N, D), normal(N, V), jnp.zeros(N, jnp.int32)
    optimiser = optax.sgd(0.1)
    state = distill.init(normal(D, V), optimiser=optimiser)
    options = {"apply": apply, "optimiser": optimiser}
    with pytest.raises(ValueError, match="targets and teachers must not both be given"):
        distill.step(state, x, targets=targets, teachers=normal(K, D, V), **options)
    for without in ({}, {"labels": labels}, {"hard_weight": 1.0}):
        with pytest.raises(ValueError, match="targets must be given, or labels with hard_weight=1"):
            distill.step(state, x, **without, **options)
    for bad in (1.5, np.nan, jnp.zeros(N)):
        with pytest.raises(ValueError, match=r"hard_weight must be one number in \[0, 1\]"):
            distill.objective(targets, targets, labels=labels, hard_weight=bad)
    with pytest.raises(ValueError, match=r"targets must have the shape \(12, 4\)"):
        distill.objective(targets, targets[:, 1:])
    with pytest.raises(TypeError, match="targets must be a real"):
        distill.objective(targets, jnp.zeros((N, V), jnp.int32))
    with pytest.raises(TypeError, match="mask must be boolean, got dtype int32"):
        distill.objective(targets, targets, mask=labels)
    beyond = np.full(N, V, np.int32)
    of_labels = jax.jit(lambda t, l: distill.objective(t, t, labels=l, hard_weight=0.5))
    assert np.isnan(of_labels(targets, beyond).total)  # of no class
    with pytest.raises(ValueError, match=r"labels must have the shape \(12,\)"):
        distill.objective(targets, targets, labels=labels[1:], hard_weight=0.5)
    with pytest.raises(TypeError, match="labels must be integers"):
        distill.objective(targets, targets, labels=targets[:, 0], hard_weight=0.5)
    with pytest.raises(ValueError, match="direction must be one of"):
        distill.objective(targets, targets, direction="both")
    fit = functools.partial(distill.fit, steps=1, batch_size=2, **options)
    with pytest.raises(ValueError, match="targets must have 12 rows, as inputs"):
        fit(jax.random.key(0), state.params, x, targets=targets[1:])
    with pytest.raises(ValueError, match="chunk must be >= 1"):
        distill.ensemble_log_probs(normal(K, D, V), x, apply=apply, chunk=0)
    with pytest.raises(TypeError, match="apply must return real floating-point logits"):
        distill.ensemble_log_probs(normal(K, D, V), x, apply=lambda p, x: labels)
    with pytest.raises(TypeError, match="apply must return real floating-point logits"):
        distill.ensemble_log_probs(normal(K, D, V), x, apply=lambda p, x: (x @ p, x))
