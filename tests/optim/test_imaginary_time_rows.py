"""Rows of likelihoods and of neural quantum states against loops, and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from physnet import optim

SPINS = 3
STATES = jnp.asarray(((np.arange(8)[:, None] >> np.arange(SPINS)) & 1) * 2.0 - 1)


def dense(jacobian):
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(jacobian)], axis=1)


def from_products(rows, params):
    """The Jacobian, from jvp alone and from vjp alone."""
    flat, back = ravel_pytree(params)
    columns = jax.vmap(lambda t: rows.jacobian.jvp(back(t)))(jnp.eye(flat.size, dtype=flat.dtype))
    (pulled,) = jax.vmap(rows.jacobian.vjp)(jnp.eye(columns.shape[1], dtype=columns.dtype))
    return columns.T, jax.vmap(lambda t: ravel_pytree(t)[0])(pulled)


def network(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    return {"w": draw(2, 3), "b": draw(3)}, draw(4, 2), jnp.array([0, 2, 1, 2])


def logits(params, x):
    return jnp.tanh(x @ params["w"]) + params["b"]


def log_likelihood(params, example):
    x, label = example
    return jax.nn.log_softmax(logits(params, x))[label]


SCORE = jax.jit(jax.grad(log_likelihood))


@pytest.mark.parametrize(("weighted", "chunk"), [(False, None), (True, 3)])
def test_scores_give_the_gradient_and_the_empirical_fisher(weighted, chunk):
    params, inputs, labels = network()
    w = jnp.array([0.1, 0.0, 2.0, 0.5]) if weighted else None
    make = lambda params, products: optim.likelihood_rows(  # noqa: E731
        log_likelihood, params, (inputs, labels), weights=w, products=products, chunk=chunk
    )
    rows, columns = jax.jit(lambda p: (make(p, False), from_products(make(p, True), p)))(params)
    share = np.full(4, 0.25) if w is None else np.asarray(w)
    scores = [SCORE(params, (inputs[i], labels[i])) for i in range(4)]
    scores = np.stack([np.concatenate([np.ravel(s["b"]), np.ravel(s["w"])]) for s in scores])
    found = dense(rows.jacobian)
    np.testing.assert_allclose(found.T @ rows.residual, -share @ scores, rtol=1e-7)
    np.testing.assert_allclose(found.T @ found, (scores.T * share) @ scores, rtol=1e-7, atol=1e-9)
    for products in columns:
        np.testing.assert_allclose(products, found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sequence", [False, True])
def test_categorical_rows_sum_over_the_models_own_labels(sequence):
    params, inputs, labels = network()
    weights = jnp.array([0.5, 0.2, 0.0, 1.0])
    shaped = (lambda x: x.reshape(2, 2, *x.shape[1:])) if sequence else (lambda x: x)
    model = jax.vmap(logits, (None, 0)) if sequence else logits
    make = lambda params, products: optim.categorical_rows(  # noqa: E731
        model, params, shaped(inputs), shaped(labels), weights=shaped(weights), products=products
    )
    rows, columns = jax.jit(lambda p: (make(p, False), from_products(make(p, True), p)))(params)
    fisher, gradient = 0, 0
    for x, label, w in zip(inputs, labels, weights, strict=True):
        p = jax.nn.softmax(logits(params, x))
        for k in range(3):
            score = np.concatenate([np.ravel(s) for s in jax.tree.leaves(SCORE(params, (x, k)))])[
                None
            ]
            fisher = fisher + float(w * p[k]) * np.outer(score, score)
            gradient = gradient - (float(w) * score[0] if k == label else 0)
    found = dense(rows.jacobian)
    assert found.shape == (12, 9)
    np.testing.assert_allclose(found.T @ rows.residual, gradient, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.T @ found, fisher, rtol=1e-9, atol=1e-12)
    for products in columns:
        np.testing.assert_allclose(products, found, rtol=1e-9, atol=1e-12)


def test_the_mean_over_predictions_is_the_default_and_certainty_keeps_the_gradient():
    params, inputs, labels = network()
    fixed, both = jnp.full(4, 0.25), jnp.array([0, 1])
    rows, same, sure = jax.jit(
        lambda p, z: (
            optim.categorical_rows(logits, p, inputs, labels),
            optim.categorical_rows(logits, p, inputs, labels, weights=fixed),
            optim.categorical_rows(lambda z, _: z, z, inputs[:2], both, weights=fixed[:2]),
        )
    )(params, jnp.array([0.0, -3000.0], jnp.float32))
    np.testing.assert_allclose(rows.residual, same.residual, rtol=1e-7)
    jacobian, residual = np.split(sure.jacobian, 2), np.split(sure.residual, 2)
    np.testing.assert_allclose(jacobian[0].T @ residual[0], 0, atol=1e-30)  # right for certain
    np.testing.assert_allclose(jacobian[1].T @ residual[1], [0.25, -0.25], rtol=1e-6)  # wrong
    assert np.abs(sure.jacobian).max() < 1e-15  # no information to speak of


def real_ansatz(params, s):
    return jnp.sum(jnp.log(jnp.cosh(params["w"] @ s))) + params["b"] @ s


def complex_value(params, s):
    return jax.lax.complex(real_ansatz(params, s), jnp.tanh(params["b"] @ s))


def not_holomorphic(params, s):
    bent = jnp.sum(jnp.abs(params["w"] @ s.astype(complex)) ** 2)
    return params["b"] @ s.astype(complex) + 0.1 * bent.astype(complex)


def holomorphic(params, s):
    return real_ansatz(params, s.astype(complex))


ANSATZE = {
    "real": (real_ansatz, float, {}),
    "phase": (complex_value, float, {}),
    "phase, products": (complex_value, float, {"products": True}),
    "holomorphic": (holomorphic, complex, {"holomorphic": True}),
    "holomorphic, products": (holomorphic, complex, {"products": True}),
    "not holomorphic": (not_holomorphic, complex, {"products": True}),
}


def hamiltonian(dtype):
    rng = np.random.default_rng(3)
    h = rng.normal(size=(8, 8)) + (1j * rng.normal(size=(8, 8)) if dtype is complex else 0)
    return jnp.asarray((h + h.conj().T) / 2)


@pytest.mark.parametrize("name", ANSATZE)
def test_rows_of_a_quantum_state_give_the_energys_gradient_and_the_geometric_tensor(name):
    log_psi, leaf, options = ANSATZE[name]
    h = hamiltonian(complex if name != "real" else float)
    rng = np.random.default_rng(0)
    draw = lambda *shape: 0.3 * rng.normal(size=(*shape, 2)).view(complex)[..., 0]  # noqa: E731
    params = {"w": draw(2, SPINS), "b": draw(SPINS)}
    params = jax.tree.map(lambda x: jnp.asarray(x if leaf is complex else x.real), params)
    flat, back = ravel_pytree(params)
    if leaf is complex:
        unravel = lambda x: back(jax.lax.complex(*jnp.split(x, 2)))  # noqa: E731
        flat = jnp.concatenate([flat.real, flat.imag])
    else:
        unravel = back

    def psi_of(x):
        return jnp.exp(jax.vmap(lambda s: log_psi(unravel(x), s))(STATES)).astype(h.dtype)

    def unit_of(x):
        return psi_of(x) / jnp.linalg.norm(psi_of(x)).astype(h.dtype)

    def energy(x):
        psi = psi_of(x)
        return jnp.vdot(psi, h @ psi).real / jnp.vdot(psi, psi).real

    optimiser = optim.imaginary_time(1.0, damping=1e-3, tolerance=1e-13, iterations=200)

    @jax.jit
    def found_and_needed(params, flat):
        psi = psi_of(flat)
        rows = optim.wavefunction_rows(
            log_psi, params, STATES, h @ psi / psi, weights=jnp.abs(psi) ** 2, **options
        )
        updates, _ = optimiser.update(None, optimiser.init(params), params, **rows._asdict())
        return updates, unit_of(flat), jax.jacfwd(unit_of)(flat), jax.grad(energy)(flat)

    updates, *needed = found_and_needed(params, flat)
    unit, derivative, force = map(np.asarray, needed)
    across = derivative - np.outer(unit, unit.conj() @ derivative)
    metric = (across.conj().T @ across).real
    force = force / 2
    expected = -np.linalg.solve(metric + 1e-3 * np.eye(len(flat)), force)
    found = ravel_pytree(updates)[0]
    found = np.concatenate([found.real, found.imag]) if leaf is complex else found
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_samples_count_as_often_as_they_are_drawn_and_weightless_ones_not_at_all():
    params = {"w": jnp.ones((2, SPINS)) / 3, "b": jnp.arange(3.0) / 5}
    energies = jnp.arange(8.0)
    drawn = jnp.array([0, 1, 1, 5])
    often = jnp.array([1.0, 2.0, 0, 0, 0, 1.0, 0, 0])
    rows, same = jax.jit(
        lambda p: (
            optim.wavefunction_rows(real_ansatz, p, STATES[drawn], energies[drawn], chunk=3),
            optim.wavefunction_rows(
                real_ansatz, p, STATES, energies.at[3].set(jnp.inf), weights=often
            ),
        )
    )(params)
    first, second = dense(rows.jacobian), dense(same.jacobian)
    np.testing.assert_allclose(first.T @ first, second.T @ second, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(first.T @ rows.residual, second.T @ same.residual, atol=1e-12)
    np.testing.assert_allclose(np.sum(first, axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("dtype", [float, complex])
def test_local_energies_are_those_of_the_matrix(dtype):
    h = hamiltonian(dtype)
    log_psi = real_ansatz if dtype is float else complex_value
    params = {"w": jnp.ones((2, SPINS)) / 3, "b": jnp.arange(3.0) / 5}
    connected = jnp.broadcast_to(STATES, (8, 8, SPINS))
    log, found = jax.jit(
        lambda p: (
            jax.vmap(lambda s: log_psi(p, s))(STATES),
            optim.local_energies(log_psi, p, STATES, connected, h, chunk=5),
        )
    )(params)
    psi = np.exp(log)
    np.testing.assert_allclose(found, np.asarray(h) @ psi / psi, rtol=1e-9)


def test_padding_and_elements_of_another_dtype_do_no_harm():
    steep = lambda params, s: params * jnp.sum(s)  # noqa: E731
    down, flips = jnp.array([[-1.0]]), jnp.array([[[-1.0], [1.0]]])  # e^2000 at the second
    found = optim.local_energies(steep, jnp.array(1e3), down, flips, jnp.array([[1j, 0]]))
    np.testing.assert_array_equal(found, [1j])


def test_float32_stays_float32():
    small = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, tree
    )
    params, inputs, labels = small(network())
    spins = small({"w": jnp.ones((2, SPINS)) / 3, "b": jnp.arange(3.0) / 5})
    every = jax.eval_shape(
        lambda params, spins: [
            optim.likelihood_rows(log_likelihood, params, (inputs, labels)),
            optim.categorical_rows(logits, params, inputs, labels),
            optim.wavefunction_rows(real_ansatz, spins, *small((STATES, jnp.arange(8.0)))),
        ],
        params,
        spins,
    )
    assert {x.dtype for x in jax.tree.leaves(every)} == {jnp.dtype(jnp.float32)}


def test_arguments_that_do_not_fit_are_named(bare_errors):
    params, inputs, labels = network()
    both = (inputs, labels)
    with pytest.raises(ValueError, match=r"weights must have one number a prediction, \(4,\)"):
        optim.likelihood_rows(log_likelihood, params, both, weights=jnp.ones(3))
    with pytest.raises(ValueError, match=r"predictions \(4,\), got shape \(4, 1\)"):
        optim.categorical_rows(logits, params, inputs, labels[:, None])
    with pytest.raises(TypeError, match="labels must be integers, got dtype float64"):
        optim.categorical_rows(logits, params, inputs, labels.astype(float))
    with pytest.raises(ValueError, match="chunk must be >= 1"):
        optim.likelihood_rows(log_likelihood, params, both, chunk=0)
    with pytest.raises(TypeError, match="params must be a real floating-point array"):
        optim.likelihood_rows(log_likelihood, jnp.arange(3), both)
    spins = {"w": jnp.ones((2, SPINS)), "b": jnp.ones(3)}
    turned = jax.tree.map(lambda x: x.astype(complex), spins)
    energies = jnp.arange(8.0)
    with pytest.raises(ValueError, match=r"one number a sample, \(8,\), got \(7,\) and \(8,\)"):
        optim.wavefunction_rows(real_ansatz, spins, STATES, energies[:7])
    with pytest.raises(ValueError, match="say holomorphic=True"):
        optim.wavefunction_rows(holomorphic, turned, STATES, energies)
    with pytest.raises(ValueError, match="holomorphic needs complex leaves"):
        optim.wavefunction_rows(real_ansatz, spins, STATES, energies, holomorphic=True)
    with pytest.raises(ValueError, match="must fit samples"):
        optim.local_energies(real_ansatz, spins, STATES, STATES[:7, None], jnp.ones((7, 1)))


def test_a_diagonal_metric_takes_the_step_of_fisher_adam():
    """Rows with one entry each have a diagonal Gram matrix: there the whole metric is its diagonal.

    And of any rows fisher_adam sees the diagonal alone, the same as imaginary_time sees of rows
    that are taken apart into their entries.
    """
    rng = np.random.default_rng(10)
    x, labels = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.integers(0, 2, 4))
    params = {"w": jnp.asarray(rng.normal(size=(3, 2))), "b": jnp.zeros(2)}
    rows = jax.jit(
        lambda p: optim.categorical_rows(lambda p, x: x @ p["w"] + p["b"], p, x, labels)
    )(params)
    grads = jax.tree.map(lambda j: jnp.tensordot(rows.residual, j, 1), rows.jacobian)
    diagonal, exact = (
        optim.fisher_adam(0.3, b1=0.0, damping=0.05),
        optim.imaginary_time(0.3, damping=0.05),
    )
    found = diagonal.update(grads, diagonal.init(params), params, jacobian=rows.jacobian)[0]
    exactly = jax.jit(
        lambda jacobian: exact.update(grads, exact.init(params), params, jacobian=jacobian)[0]
    )
    flat = jnp.concatenate([rows.jacobian["b"], rows.jacobian["w"].reshape(-1, 6)], axis=1)
    apart = (flat[:, :, None] * jnp.eye(8)[None]).reshape(-1, 8)  # an entry a row, b before w
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8), found, exactly(apart)
    )
    whole = exactly(rows.jacobian)
    assert np.abs(whole["w"] - found["w"]).max() > 1e-2
