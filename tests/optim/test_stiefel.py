"""Stiefel optimisers: steps against dense references, closed forms, optax and JAX transforms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet import optim

OPTIONS = [(m, r) for m in ("euclidean", "canonical") for r in ("polar", "qr")]


@pytest.fixture(autouse=True)
def promotion_as_optax_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def orthonormal(shape, seed=0, dtype=np.float64):
    found = np.linalg.qr(np.random.default_rng(seed).normal(size=shape))[0]
    return jnp.asarray(found, dtype)


def off(x):
    x = np.float64(x)
    x = x if x.shape[-2] >= x.shape[-1] else x.swapaxes(-1, -2)
    return np.abs(x.swapaxes(-1, -2) @ x - np.eye(x.shape[-1])).max()


def descend(optimiser, slope, params, steps):
    @jax.jit
    def run(params):
        def one(carry, _):
            params, state = carry
            updates, state = optimiser.update(slope(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(one, (params, optimiser.init(params)), None, length=steps)[0]

    return run(params)


@functools.partial(jax.jit, static_argnums=0)
def first(optimiser, slopes, points):
    """Updates of the first step and the state after it: one program, not one an operation."""
    return optimiser.update(slopes, optimiser.init(points), points)


class Dense:
    """The same geometry in NumPy: projector by solving for it, polar factor by the SVD."""

    def __init__(self, metric, retraction):
        self.metric, self.retraction = metric, retraction

    def basis(self, x):
        """Of the tangent space: kernel of V -> X^T V + V^T X, as columns."""
        n, m = x.shape
        rows = []
        for index in range(n * m):
            v = np.zeros(n * m)
            v[index] = 1
            v = v.reshape(n, m)
            rows.append((x.T @ v + v.T @ x).ravel())
        _, s, vh = np.linalg.svd(np.array(rows).T)
        rank = int((s > 1e-10).sum())
        return vh[rank:].T

    def inner(self, x):
        """Matrix of the metric on all of R^{n m}."""
        n, m = x.shape
        form = np.eye(n) if self.metric == "euclidean" else np.eye(n) - x @ x.T / 2
        return np.kron(form, np.eye(m))

    def gradient(self, x, grad):
        """g tangent with <g, v> = df(v) for every tangent v."""
        b = self.basis(x)
        return (b @ np.linalg.solve(b.T @ self.inner(x) @ b, b.T @ grad.ravel())).reshape(x.shape)

    def length(self, x, v):
        return np.sqrt(v.ravel() @ self.inner(x) @ v.ravel())

    def carry(self, x, v):
        b = self.basis(x)
        return (b @ (b.T @ v.ravel())).reshape(x.shape)

    def retract(self, x):
        if self.retraction == "polar":
            u, _, vh = np.linalg.svd(x, full_matrices=False)
            return u @ vh
        return x @ np.linalg.inv(np.linalg.cholesky(x.T @ x).T)  # R of QR, by Cholesky


@pytest.mark.parametrize(("metric", "retraction"), OPTIONS)
def test_steps_are_those_of_a_dense_reference(metric, retraction):
    dense, x = Dense(metric, retraction), np.asarray(orthonormal((5, 3)))
    grads = np.random.default_rng(1).normal(size=(3, 5, 3))
    options = {"metric": metric, "retraction": retraction}
    for wide in (False, True):
        turn = (lambda a: a.T) if wide else (lambda a: a)
        adam = optim.stiefel_adam(0.3, b1=0.8, b2=0.9, eps=1e-3, **options)
        step = jax.jit(adam.update)
        found, states = jnp.asarray(turn(x)), adam.init(jnp.asarray(turn(x)))
        want, mean, square = x, np.zeros_like(x), 0.0
        for t, grad in enumerate(grads, 1):
            g = dense.gradient(want, grad)
            mean = 0.8 * mean + 0.2 * g
            square = 0.9 * square + 0.1 * dense.length(want, g) ** 2
            spread = np.sqrt(square / (1 - 0.9**t)) + 1e-3
            want = dense.retract(want - 0.3 * mean / (1 - 0.8**t) / spread)
            mean = dense.carry(want, mean)
            updates, states = step(jnp.asarray(turn(grad)), states, found)
            found = optax.apply_updates(found, updates)
            np.testing.assert_allclose(found, turn(want), atol=1e-12)
            np.testing.assert_allclose(states.mean, turn(mean), atol=1e-12)

    sgd = optim.stiefel_sgd(0.3, momentum=0.7, nesterov=True, **options)
    step = jax.jit(sgd.update)
    found, states, want, trace = jnp.asarray(x), sgd.init(jnp.asarray(x)), x, np.zeros_like(x)
    for grad in grads:
        g = dense.gradient(want, grad)
        trace = 0.7 * trace + g
        want = dense.retract(want - 0.3 * (g + 0.7 * trace))
        trace = dense.carry(want, trace)
        updates, states = step(jnp.asarray(grad), states, found)
        found = optax.apply_updates(found, updates)
        np.testing.assert_allclose(found, want, atol=1e-12)
        np.testing.assert_allclose(states.trace, trace, atol=1e-12)


@pytest.mark.parametrize(("metric", "retraction"), OPTIONS)
def test_a_thousand_float32_steps_stay_and_find_the_principal_subspace(metric, retraction):
    spectrum = np.array([5.0, 4.0, 3.0, 1.0, 0.5, 0.2])
    axes = np.asarray(orthonormal((6, 6), 3))
    c = jnp.asarray((axes * spectrum) @ axes.T, jnp.float32)
    start = jnp.stack([orthonormal((6, 3), seed, np.float32) for seed in range(2)])
    start = {"two": start, "wide": start[0].T}

    def slope(p):
        return jax.grad(
            lambda p: -jnp.sum((c @ p["two"]) * p["two"]) - jnp.sum((p["wide"] @ c) * p["wide"])
        )(p)

    rate = optax.cosine_decay_schedule(0.1, 1000)
    adam = optim.stiefel_adam(rate, metric=metric, retraction=retraction)
    found, state = descend(adam, slope, start, 1000)
    best = axes[:, :3] @ axes[:, :3].T
    for x in (*found["two"], found["wide"].T):
        assert x.dtype == jnp.float32
        assert off(x) < 1e-6
        np.testing.assert_allclose(np.float64(x) @ np.float64(x).T, best, atol=2e-3)
    assert state.square["two"].shape == (2, 1, 1)
    mean = np.float64(state.mean["two"])
    inner = np.float64(found["two"]).swapaxes(-1, -2) @ mean
    scale = max(np.abs(mean).max(), 1e-6)
    assert np.abs(inner + inner.swapaxes(-1, -2)).max() < 1e-5 * scale + 1e-7


@pytest.mark.parametrize("shape", [(4, 4), (6, 3)])
def test_procrustes_has_its_closed_form(shape):
    n, m = shape
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 9, n))[0], rng.normal(size=(9, m))
    if n > m:
        a = np.linalg.qr(a)[0]  # |A X - B|^2 is then linear in X
    u, _, vh = np.linalg.svd(a.T @ b, full_matrices=False)
    best = u @ vh
    start = np.asarray(orthonormal(shape, 6))
    if n == m and np.linalg.det(start) * np.linalg.det(best) < 0:
        start = start * np.array([-1.0] + [1.0] * (m - 1))  # of its determinant
    slope = jax.grad(lambda x: jnp.sum((jnp.asarray(a) @ x - jnp.asarray(b)) ** 2))
    found, _ = descend(optim.stiefel_sgd(0.02, momentum=0.8), slope, jnp.asarray(start), 2000)
    np.testing.assert_allclose(found, best, atol=1e-6)
    assert off(found) < 1e-13


def test_masks_chains_vmap_schedules_and_absent_gradients():
    params = {"w": orthonormal((4, 2)), "b": jnp.ones((3,)), "absent": orthonormal((3, 3), 1)}
    grads = {"w": orthonormal((4, 2), 2), "b": jnp.ones((3,)), "absent": None}
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    labels = {"w": "matrix", "b": "vector", "absent": "matrix"}
    make = optax.inject_hyperparams(optim.stiefel_adam)
    both = optax.partition({"matrix": make(schedule), "vector": optax.sgd(0.5)}, labels)
    chain = optax.chain(optax.clip_by_global_norm(0.1), both)
    state = jax.jit(chain.init)(params)
    step = jax.jit(chain.update)
    updates, state = step(grads, state, params)
    assert updates["absent"] is None
    assert off(params["w"] + updates["w"]) < 1e-13
    norm = optax.tree.norm(grads)
    np.testing.assert_allclose(updates["b"], -0.5 * 0.1 / norm)
    alone = optim.stiefel_adam(schedule)
    want, _ = first(alone, 0.1 / norm * grads["w"], params["w"])
    np.testing.assert_allclose(updates["w"], want, atol=1e-14)

    stack = jnp.stack([orthonormal((4, 2), seed) for seed in range(3)])
    slopes = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 2)))
    for optimiser in (alone, optim.stiefel_sgd(schedule, momentum=0.9)):
        whole, _ = first(optimiser, slopes, stack)
        each, _ = jax.vmap(functools.partial(first, optimiser))(slopes, stack)
        np.testing.assert_allclose(whole, each, atol=1e-13)


def test_zero_gradients_keep_bits_nan_stays_in_its_matrix_and_one_step_leads_there():
    stack = jnp.stack([orthonormal((4, 2), seed, np.float32) for seed in range(3)])
    grads = jnp.ones_like(stack).at[0].set(0).at[1, 0, 0].set(jnp.nan)
    for optimiser in (optim.stiefel_adam(0.1), optim.stiefel_sgd(0.1, momentum=0.5)):
        updates, _ = first(optimiser, grads, stack)
        np.testing.assert_array_equal(updates[0], 0)
        assert np.isnan(updates[1]).all()
        assert off(stack[2] + updates[2]) < 1e-6
    away = 1.5 * stack[2] + 0.1
    updates, _ = first(optim.stiefel_sgd(0.1), grads[2], away)
    assert off(away + updates) < 1e-6
    narrow = stack[2].astype(jnp.bfloat16)
    updates, state = first(optim.stiefel_adam(0.1), grads[2].astype(jnp.bfloat16), narrow)
    assert updates.dtype == jnp.bfloat16
    assert state.mean.dtype == jnp.float32
    assert off((narrow + updates).astype(jnp.float32)) < 3e-2


def test_errors_name_what_is_wrong(bare_errors):
    w = orthonormal((4, 2))
    for make, name in ((optim.stiefel_adam, "stiefel_adam"), (optim.stiefel_sgd, "stiefel_sgd")):
        optimiser = make(0.1)
        with pytest.raises(ValueError, match=rf"{name} needs the current points.*params=None"):
            optimiser.update(w, optimiser.init(w))
        with pytest.raises(ValueError, match=rf"{name}: params\['b'\] must be matrices .*\(3,\)"):
            optimiser.init({"b": jnp.ones(3)})
        with pytest.raises(TypeError, match=rf"{name}: params\['b'\] must be a real floating"):
            optimiser.init({"b": jnp.ones((3, 3), int)})
        with pytest.raises(ValueError, match="metric must be one of"):
            make(0.1, metric="frobenius")
        with pytest.raises(ValueError, match="retraction must be one of"):
            make(0.1, retraction="cayley")
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got 1.0"):
        optim.stiefel_adam(0.1, b1=1.0)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        optim.stiefel_sgd(0.1, momentum=1.0)
    with pytest.raises(ValueError, match="nesterov=True needs a momentum"):
        optim.stiefel_sgd(0.1, nesterov=True)
