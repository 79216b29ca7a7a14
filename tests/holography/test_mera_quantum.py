"""MERA states of the Ising chain: exact diagonalisation, free fermions, lifted operators."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet import optim
from physnet.holography import mera
from physnet.holography.mera import quantum

# One program each and a size: op by op they are dozens.
start = jax.jit(quantum.init, static_argnames=("sites", "bonds", "noise", "dtype"))
energy, state_of = jax.jit(quantum.energy), jax.jit(quantum.state)
expectation = jax.jit(quantum.expectation)


def hamiltonian(sites, field=1.0):
    """Dense, from Pauli matrices on every site."""
    x, z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])

    def on(matrices):
        found = np.eye(1)
        for site in range(sites):
            found = np.kron(found, matrices.get(site, np.eye(2)))
        return found

    total = sum(-on({i: x, (i + 1) % sites: x}) for i in range(sites))
    return total - field * sum(on({i: z}) for i in range(sites))


def free_fermions(sites, field=1.0):
    k = (2 * np.arange(sites) + 1) * np.pi / sites
    return -np.sqrt(1 + field**2 - 2 * field * np.cos(k)).sum()


def train(chain, term, steps, rate):
    optimiser = optim.stiefel_adam(optax.cosine_decay_schedule(rate, steps))

    @jax.jit
    def run(chain):
        def one(carry, _):
            chain, state = carry
            value, slope = jax.value_and_grad(quantum.energy)(chain, term)
            updates, state = optimiser.update(slope, state, chain)
            return (optax.apply_updates(chain, updates), state), value

        return jax.lax.scan(one, (chain, optimiser.init(chain)), None, length=steps)

    with jax.numpy_dtype_promotion("standard"):
        (chain, _), values = run(chain)
    return chain, values


def test_amplitudes_and_energy_against_dense_operators():
    assert free_fermions(6, 0.7) == pytest.approx(np.linalg.eigvalsh(hamiltonian(6, 0.7))[0])
    for sites, bonds in ((6, (3,)), (8, (4,)), (12, (2, 3))):
        options = {"sites": sites, "bonds": bonds, "dtype": np.float64, "noise": 1.0}
        chain = start(jax.random.key(0), **options)
        psi = np.asarray(state_of(chain))
        np.testing.assert_allclose(np.linalg.norm(psi), 1, rtol=1e-13)
        term = quantum.ising(field=0.7)
        found = energy(chain, term)
        np.testing.assert_allclose(found, expectation(psi, term), rtol=1e-12)
        if sites <= 8:
            direct = psi @ hamiltonian(sites, 0.7) @ psi
            np.testing.assert_allclose(found, direct, rtol=1e-12)


def test_state_is_the_network_index_by_index():
    """Two by two: psi = U W W W top on six sites, by one einsum."""
    chain = start(jax.random.key(1), sites=6, bonds=(3,), dtype=np.float64, noise=1.0)
    (level,) = jax.tree.map(np.asarray, chain.levels)
    u = level.disentanglers[0].reshape(2, 2, 2, 2)
    w = level.isometry.reshape(2, 2, 3)
    top = np.asarray(chain.top).reshape(3, 3, 3)
    expected = np.einsum("pqr,abp,cdq,efr,BCbc,DEde,FAfa->ABCDEF", top, w, w, w, u, u, u)
    np.testing.assert_allclose(state_of(chain), expected.reshape(-1), atol=1e-14)


@pytest.mark.slow
def test_critical_chain_of_eight_sites_reaches_the_exact_energy():
    exact = np.linalg.eigvalsh(hamiltonian(8))[0]
    assert free_fermions(8) == pytest.approx(exact)
    chain = start(jax.random.key(0), sites=8, bonds=(4,), dtype=np.float64)
    term = quantum.ising()
    # Four states hold two spins exactly: the disentangled chain is the whole space.
    chain, values = train(chain, term, 400, 0.1)
    values = np.asarray(values)
    assert values[-1] >= exact - 1e-12
    assert values[-1] == pytest.approx(exact, rel=1e-4)
    for matrix in map(np.asarray, jax.tree.leaves(chain)):
        inner = matrix.mT @ matrix
        assert np.abs(inner - np.eye(inner.shape[-1])).max() < 1e-12


def test_a_thousand_sites_cost_their_levels():
    """Product states in closed form, and a bound from free fermions that no state is below."""
    term, plus, zero = quantum.ising(field=0.7), np.ones(2) / np.sqrt(2), np.array([1.0, 0.0])
    for vector, expected in ((zero, -0.7), (plus, -1.0)):
        other = vector[::-1] * np.array([-1.0, 1.0])
        w = np.stack([np.kron(vector, vector), np.kron(other, other)], 1)
        above = np.stack([np.kron(zero, zero), np.kron(1 - zero, 1 - zero)], 1)
        first, rest = (mera.Level(np.eye(4)[None], m, 2) for m in (w, above))
        chain = quantum.Chain((first, *(rest,) * 8), np.eye(8)[:, :1])
        np.testing.assert_allclose(energy(chain, term), expected * 1536)
    chain = start(jax.random.key(0), sites=1536, bonds=(2,) * 9, dtype=np.float64)
    assert energy(chain, term) > free_fermions(1536, 0.7)


def test_errors_name_what_is_wrong(bare_errors):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"sites must be n 2\^2 with n >= 3 .*, got 8"):
        quantum.init(key, sites=8, bonds=(2, 2))
    with pytest.raises(ValueError, match=r"bonds must be at most the square .* 2, got"):
        quantum.init(key, sites=6, bonds=(5,))
    with pytest.raises(TypeError, match="dtype must be real floating"):
        quantum.init(key, sites=6, bonds=(2,), dtype=np.complex64)
    for sites, bonds in ((8, (1,)), (4, ())):
        with pytest.raises(ValueError, match=r"bonds must hold a size a level, the last above 1"):
            quantum.init(key, sites=sites, bonds=bonds)
    chain = quantum.init(key, sites=6, bonds=(2,))
    with pytest.raises(ValueError, match=r"term must have shape \(4, 4\)"):
        quantum.energy(chain, jnp.eye(9))
    with pytest.raises(ValueError, match=r"chain.top must have 2\^n entries, n >= 3, got 7"):
        quantum.state(chain._replace(top=chain.top[:-1]))
    with pytest.raises(ValueError, match="at least one level"):
        quantum.energy(mera.quantum.Chain((), chain.top), quantum.ising())
    with pytest.raises(ValueError, match=r"psi must have 2\^N entries"):
        quantum.expectation(jnp.ones(7), quantum.ising())
