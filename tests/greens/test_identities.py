"""Exact relations of a resolvent, on chains that hypothesis draws."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from physnet import greens

N = 12  # one length, so that each function compiles once
number = st.floats(-3, 3, allow_subnormal=False)
vector = st.lists(number, min_size=N, max_size=N).map(np.array)
energies = st.tuples(number, st.floats(0.05, 2.0)).map(lambda z: complex(*z))
hoppings = st.tuples(vector, vector).map(lambda b: (b[0] + 1j * b[1])[: N - 1])
few = settings(max_examples=25, deadline=None, derandomize=True)

diagonal, left, ldos, solve = map(
    jax.jit, (greens.diagonal, greens.left, greens.ldos, greens.solve)
)
IDENTITY = np.eye(N)


def chain(onsite, hopping, energy):
    return jnp.asarray(onsite), jnp.asarray(hopping), jnp.asarray(energy)


def resolvent(onsite, hopping, energy):
    """All of G: `solve` on the unit sources."""
    return np.asarray(solve(*chain(onsite, hopping, energy), IDENTITY))


def close(a, b, energies=(1j,)):
    # |G| is at most 1 / eta, and so is what rounding is measured by.
    scale = 1 / min(np.imag(z) for z in energies)
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12 * max(1.0, scale**2))


@few
@given(vector, hoppings, energies)
def test_ward_identity(a, b, z):
    """sum_j |G_ij|^2 eta = -Im G_ii."""
    g = resolvent(a, b, z)
    close((np.abs(g) ** 2).sum(-1) * z.imag, -np.asarray(diagonal(*chain(a, b, z))).imag, [z])


@few
@given(vector, vector, hoppings, energies)
def test_dyson_equation(a, v, b, z):
    """G = G0 + G0 V G."""
    free, full = resolvent(a, b, z), resolvent(a + v, b, z)
    close(full, free + free @ np.diag(v) @ full, [z])


@few
@given(vector, hoppings, energies, energies)
def test_first_resolvent_identity(a, b, z, w):
    """G(z) - G(w) = (w - z) G(z) G(w)."""
    g, h = resolvent(a, b, z), resolvent(a, b, w)
    close(g - h, (w - z) * g @ h, [z, w])


@few
@given(vector, hoppings)
def test_sum_rule(a, b):
    """The density of states integrates to one state a site: quadrature on the whole line."""
    angle = (np.arange(512) + 0.5) * np.pi / 512  # E = tan: dE = (1 + E^2) d(angle)
    energy = 3 * np.tan(angle - np.pi / 2)
    density = ldos(jnp.asarray(a), jnp.asarray(b), jnp.asarray(energy + 0.5j))
    weight = np.pi / 512 * 3 * (1 + (energy / 3) ** 2)
    np.testing.assert_allclose((np.asarray(density) * weight[:, None]).sum(0), 1.0, rtol=1e-3)


@few
@given(vector, hoppings, energies)
def test_reflection(a, b, z):
    """The mirrored chain has the mirrored diagonal; its left is the right of the chain."""
    g = np.asarray(diagonal(*chain(a, b, z)))
    close(diagonal(*chain(a[::-1], b[::-1].conj(), z))[::-1], g, [z])
    before = np.asarray(left(*chain(a, b, z)))
    behind = np.asarray(left(*chain(a[::-1], b[::-1], z)))[::-1]
    # 1 / G = 1 / gL + 1 / gR - (z - a)
    close(1 / g, 1 / before + 1 / behind - (z - a), [0.05j])


@few
@given(vector, hoppings, energies)
def test_conjugation(a, b, z):
    """G(conj z) = G(z)^dagger, and conj(G_ii) on the diagonal."""
    close(resolvent(a, b, z.conjugate()), resolvent(a, b, z).conj().T, [z])
    close(diagonal(*chain(a, b, z.conjugate())), np.asarray(diagonal(*chain(a, b, z))).conj(), [z])


@few
@given(vector, hoppings, energies)
def test_trace_identity(a, b, z):
    """Tr G = d/dz log det(z - H) = sum_m 1 / (z - E_m), and log det(z - H) = -sum log gL."""
    matrix = np.diag(a).astype(complex) + np.diag(b, 1) + np.diag(b.conj(), -1)
    levels = np.linalg.eigvalsh(matrix)
    close(diagonal(*chain(a, b, z)).sum(), (1 / (z - levels)).sum(), [z])
    log_det = -np.log(np.asarray(left(*chain(a, b, z)))).sum()
    # the phase is that of one level after the other: no jumps of 2 pi
    close(log_det, np.log(z - levels).sum(), [z])


@few
@given(vector, hoppings, energies)
def test_signs(a, b, z):
    """Densities are not negative, half lines lie below the axis, and |G| <= 1 / eta."""
    arguments = chain(a, b, z)
    assert np.all(ldos(*arguments) >= 0)
    assert np.all(left(*arguments).imag <= 0)
    assert np.all(np.abs(diagonal(*arguments)) <= (1 + 1e-12) / z.imag)
