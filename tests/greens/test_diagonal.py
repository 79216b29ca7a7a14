"""diagonal, left and ldos against dense inverses; edges; causality."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens

diagonal, left, ldos = map(jax.jit, (greens.diagonal, greens.left, greens.ldos))
SHAPES = [  # n, and the batch axes of onsite, hopping and energy
    (1, (), (), ()),
    (2, (), (), ()),
    (7, (), (), (5,)),
    (31, (3, 1), (4,), ()),
    (200, (2,), (), (3, 1)),
]


def relative(value, expected):
    value, expected = np.asarray(value), np.asarray(expected)
    return np.max(np.abs(value - expected) / np.abs(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_diagonal_is_that_of_the_dense_inverse(shape, random_chain, inverse):
    chain = random_chain(*shape)
    expected = inverse(*chain).diagonal(axis1=-2, axis2=-1)
    g = diagonal(*chain)
    assert g.shape == expected.shape
    assert relative(g, expected) < 1e-12
    density = ldos(*chain)
    np.testing.assert_array_less(-1e-300, density)
    np.testing.assert_allclose(density, -expected.imag / np.pi, rtol=1e-11)


@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_left_is_the_end_of_each_shorter_chain(shape, random_chain, half_line):
    chain = random_chain(*shape)
    expected = half_line(*chain).diagonal(axis1=-2, axis2=-1)
    g = left(*chain)
    assert g.shape == expected.shape
    assert relative(g, expected) < 1e-12


def test_real_hopping_and_a_python_energy(inverse):
    onsite, hopping = jnp.array([0.3, -1.0, 2.0]), jnp.array([1.0, -0.5])
    expected = inverse(onsite, hopping, 0.2 + 0.1j).diagonal()
    assert relative(greens.diagonal(onsite, hopping, 0.2 + 0.1j), expected) < 1e-14


@pytest.mark.parametrize("function", [left, diagonal, ldos], ids=["left", "diagonal", "ldos"])
def test_without_hopping_each_site_is_alone(function):
    onsite = np.linspace(-3, 3, 9)
    alone = 1 / (0.5 + 1e-4j - onsite)
    expected = -alone.imag / np.pi if function is ldos else alone
    g = function(jnp.asarray(onsite), jnp.zeros(8), 0.5 + 1e-4j)
    assert relative(g, expected) < 1e-12


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("n", [9, 400])
def test_later_sites_change_no_bit_of_left(n, random_chain):
    onsite, hopping, energy = random_chain(n, (2,), (), (2,))
    before, whole = left(onsite, hopping, energy), diagonal(onsite, hopping, energy)
    for j in (n - 1, n // 2, 3):
        other = onsite.at[:, j:].multiply(-3.0)
        changed = left(other, hopping.at[j - 1 :].add(0.7), energy)
        np.testing.assert_array_equal(changed[:, :j], before[:, :j])
        assert not np.array_equal(changed[:, j], before[:, j])
        two_sided = diagonal(other, hopping, energy)
        assert not np.array_equal(two_sided[:, j - 1], whole[:, j - 1])


def test_a_chain_continues_from_its_state(random_chain):
    onsite, hopping, energy = random_chain(50, (2,), (), (2,))
    whole = left(onsite, hopping, energy)
    run = jax.jit(functools.partial(greens.left, return_state=True))
    parts, state = [], None
    for start, stop in [(0, 1), (1, 20), (20, 21), (21, 50)]:
        bonds = hopping[max(start - 1, 0) : stop - 1]
        g, state = run(onsite[:, start:stop], bonds, energy, initial=state)
        parts.append(g)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), whole, rtol=1e-13)
    np.testing.assert_array_equal(state, parts[-1][..., -1])
    no_lead = left(onsite, jnp.pad(hopping, (1, 0)), energy, initial=jnp.zeros(2, complex))
    np.testing.assert_allclose(no_lead, whole, rtol=1e-13)


def test_a_nan_reaches_every_site_that_sees_it(random_chain):
    onsite, hopping, energy = random_chain(40, (2,))
    for bad in (jnp.nan, jnp.inf):
        broken = onsite.at[0, 25].set(bad)
        causal, two_sided = (f(broken, hopping, energy) for f in (left, diagonal))
        assert np.isfinite(causal[0, :25]).all()
        assert np.isnan(causal[0, 25:]).all()
        assert np.isnan(two_sided[0]).all()
        assert np.isfinite(causal[1]).all()
        assert np.isfinite(two_sided[1]).all()
