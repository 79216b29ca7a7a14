"""The dense resolvent."""

import jax
import jax.numpy as jnp
import numpy as np

from physnet import greens

resolvent = jax.jit(greens.resolvent)


def test_resolvent_inverts_any_square_matrix():
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.normal(size=(3, 6, 6)))
    for energy in (0.3 + 0.5j, 7.0, jnp.array([1j, 2j, -3 + 0j])):
        g = resolvent(matrix, energy)
        z = np.broadcast_to(np.asarray(energy), 3)[:, None, None]
        identity = (z * np.eye(6) - np.asarray(matrix)) @ np.asarray(g)
        np.testing.assert_allclose(identity, np.broadcast_to(np.eye(6), (3, 6, 6)), atol=1e-12)
    for low in (matrix.astype(jnp.float32), matrix[0].astype(jnp.bfloat16)):
        assert jax.eval_shape(lambda m: greens.resolvent(m, 1j), low).dtype == jnp.complex64


def test_resolvent_of_a_chain_has_its_diagonal(random_chain, hamiltonian):
    chain = random_chain(9, (2,))
    dense = resolvent(jnp.asarray(hamiltonian(*chain[:2])), chain[2])
    ours = jax.jit(greens.diagonal)(*chain)
    np.testing.assert_allclose(jnp.diagonal(dense, axis1=-2, axis2=-1), ours, rtol=1e-12)
