"""Encoded states: stabilised, and exactly decoded from what is left of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import matrix

from physnet.holography import codes

FIVE = codes.happy_code("pentagon", 0)
SIX = codes.happy_code("pentagon", 1)  # 6 logical qubits in 20


encode = jax.jit(codes.encode, static_argnums=0)  # one program, not one an operation


def random_state(qubits, seed=0):
    x = np.random.default_rng(seed).normal(size=(2, *(2,) * qubits))
    return (x[0] + 1j * x[1]) / np.linalg.norm(x)


@pytest.fixture(scope="module")
def encoded():
    """A random state of six logical qubits, entangled with one another, and its 20 qubits."""
    state = random_state(6)
    return state, np.asarray(encode(SIX, state))


def applied(row, state):
    """The operator on a state of many qubits, one after another."""
    for qubit, (x, z) in enumerate(zip(row.x, row.z, strict=True)):
        signs = np.where(z, [1, -1], 1).reshape([2] + [1] * (state.ndim - 1 - qubit))
        state = np.flip(state * signs, qubit) if x else state * signs
    return state * 1j**row.phase


def rows(operators):
    return [codes.Pauli(*row) for row in zip(*operators, strict=True)]


def test_five_qubits_as_matrices():
    generators, logicals = codes.stabilisers(FIVE)
    isometry = np.stack([np.asarray(encode(FIVE, unit)).ravel() for unit in np.eye(2)], 1)
    np.testing.assert_allclose(isometry.T @ isometry, np.eye(2), atol=1e-6)
    for row in rows(generators):
        np.testing.assert_allclose(matrix(*row) @ isometry, isometry, atol=1e-6)
    for row, inside in zip(rows(codes.Pauli(*(f[0] for f in logicals))),
                           ([[0, 1], [1, 0]], [[1, 0], [0, -1]]), strict=True):  # fmt: skip
        np.testing.assert_allclose(matrix(*row) @ isometry, isometry @ inside, atol=1e-6)


def test_twenty_qubits_are_stabilised_and_logical_operators_act(encoded):
    logical_state, state = encoded
    generators, logicals = codes.stabilisers(SIX)
    np.testing.assert_allclose(np.linalg.norm(state.ravel()), 1, rtol=1e-12)
    for row in rows(generators)[::4]:
        np.testing.assert_allclose(applied(row, state), state, atol=1e-12)
    qubit = 4
    x = codes.Pauli(*(f[qubit, 0] for f in logicals))
    expected = encode(SIX, np.flip(logical_state, qubit))
    np.testing.assert_allclose(applied(x, state), expected, atol=1e-12)


def erased(state, lost, seed):
    """The lost qubits moved to an environment, random states in their place."""
    where = np.flatnonzero(lost)
    n = len(lost)
    fresh = random_state(len(where), seed)
    joint = np.tensordot(fresh, state, 0)  # fresh ones first, then all n
    inside = [int(i) + len(where) for i in range(n)]
    for position, qubit in enumerate(where):
        inside[qubit] = position
    return joint.transpose(inside + [int(q) + len(where) for q in where])


def test_five_qubits_come_back_after_any_loss_of_two():
    amplitudes = random_state(1, 3)
    state = np.asarray(encode(FIVE, amplitudes))
    expected = np.outer(amplitudes, np.conj(amplitudes))
    for size in (0, 1, 2):
        for places in itertools.combinations(range(5), size):
            lost = np.isin(np.arange(5), places)
            operators = codes.logical_operators(FIVE, lost)
            assert not np.any((operators.x | operators.z)[:, lost])
            found = codes.decode(FIVE, jax.device_put(erased(state, lost, size)), lost)
            np.testing.assert_allclose(found, expected, atol=1e-12)
            fidelity = np.real(np.conj(amplitudes) @ np.asarray(found) @ amplitudes)
            assert abs(fidelity - 1) < 1e-10


def test_float32_stays_single_and_keeps_six_digits():
    amplitudes = random_state(1, 4).astype(np.complex64)
    found = codes.decode(FIVE, encode(FIVE, amplitudes), jnp.arange(5) > 2)
    assert found.dtype == jnp.complex64
    fidelity = np.real(np.conj(amplitudes) @ np.asarray(found) @ amplitudes)
    assert abs(fidelity - 1) < 1e-6
    real = encode(FIVE, np.array([0.6, 0.8], np.float32))
    assert real.dtype == jnp.float32
    assert codes.decode(FIVE, real, jnp.arange(5) > 2).dtype == jnp.complex64


def test_products_are_in_full_precision_on_every_device():
    def both(state):
        return codes.decode(FIVE, codes.encode(FIVE, state), np.arange(5) > 2)

    program = str(jax.make_jaxpr(both)(jnp.ones(2, jnp.float32)))
    assert program.count("dot_general[") == program.count("(Precision.HIGHEST") == 2


@pytest.mark.parametrize("logical", [0, 3])
def test_a_part_of_an_entangled_logical_state_comes_back(encoded, logical):
    logical_state, state = encoded
    lost = np.zeros(20, bool)
    lost[{0: [0, 1, 5, 10, 15], 3: [0, 1, 2, 3, 4, 12]}[logical]] = True
    assert bool(codes.recoverable(SIX, jnp.asarray(lost), logical=logical))
    where = np.flatnonzero(lost)
    rng = np.random.default_rng(7)
    size = (2 ** len(where),) * 2
    turned = np.linalg.qr(rng.normal(size=size) + 1j * rng.normal(size=size))[0]
    moved = np.moveaxis(state, where, range(len(where)))
    spoilt = (turned @ moved.reshape(len(turned), -1)).reshape(moved.shape)
    spoilt = np.moveaxis(spoilt, range(len(where)), where)  # any unitary on all lost ones at once
    found = codes.decode(SIX, jax.device_put(spoilt), lost, logical=logical)
    halves = np.moveaxis(logical_state, logical, 0).reshape(2, -1)
    np.testing.assert_allclose(found, halves @ halves.conj().T, atol=1e-10)


def test_what_is_lost_is_lost(bare_errors):
    lost = jnp.arange(5) < 3
    with pytest.raises(ValueError, match=r"recoverable .* got a loss of 3 of 5 qubits"):
        codes.decode(FIVE, encode(FIVE, random_state(1)), lost)


def test_batches_under_jit_and_vmap_and_gradients():
    states = np.stack([random_state(1, seed) for seed in range(3)])
    lost = np.array([True, False, True, False, False])

    def infidelity(state, target):
        found = codes.decode(FIVE, codes.encode(FIVE, state), lost)
        return 1 - jnp.real(jnp.conj(target) @ found @ target)

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(infidelity)))(states, states)
    np.testing.assert_allclose(values, 0, atol=1e-12)
    # <t|s><s|t>: at s = t its gradient in JAX's convention is -2 conj(t)
    np.testing.assert_allclose(slopes, -2 * states.conj(), atol=1e-12)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: codes.encode(FIVE, jnp.ones((2, 2))), ValueError, r"state .* got \(2, 2\)"),
    (lambda: codes.encode(FIVE, jnp.arange(2)), TypeError, "state .* got dtype int"),
    (lambda: codes.decode(FIVE, jnp.ones(32), np.zeros(5, bool)), ValueError, r"got \(32,\)"),
    (lambda: codes.logical_operators(FIVE, np.zeros(5)), TypeError, "lost must be a bool"),
    (lambda: codes.logical_operators(FIVE, np.zeros(4, bool)), ValueError, r"lost .* got \(4,\)"),
    (lambda: codes.logical_operators(FIVE, np.zeros(5, bool), logical=2), ValueError, "got 2"),
    (lambda: jax.jit(lambda m: codes.logical_operators(FIVE, m))(jnp.zeros(5, bool)), TypeError,
     "known at trace time"),
])  # fmt: skip
def test_errors(call, error, words, bare_errors):
    with pytest.raises(error, match=words):
        call()
