"""Bottlenecks as large as surfaces, and entropies that grow with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import holography

entropy = jax.jit(holography.gram_entropy)  # one program each, not one an operation
encode = jax.jit(holography.surface_encode, static_argnames=("block", "mass"))
decode = jax.jit(holography.surface_decode, static_argnums=1, static_argnames=("block", "mass"))


def cube(side, length, dim):
    """A cube in the middle of a grid."""
    start = (side - length) // 2
    grid = np.indices((side,) * dim)
    return np.all((grid >= start) & (grid < start + length), axis=0)


@pytest.mark.parametrize(
    ("shape", "block"), [((12,), 4), ((6, 9), 3), ((5, 7), None), ((4,) * 3, 4)]
)
def test_the_surface_map_is_an_isometry_with_its_adjoint(shape, block):
    rng = np.random.default_rng(0)
    field = np.float32(rng.normal(size=(*shape, 3)))
    forth = functools.partial(encode, block=block, mass=0.4)
    back = functools.partial(decode, block=block, mass=0.4)
    slots = np.asarray(forth(field))
    assert slots.dtype == jnp.float32
    assert slots.shape[0] * slots.shape[1] == holography.surface_slots(shape, block=block)
    other = np.float32(rng.normal(size=slots.shape))
    made = np.asarray(back(other, shape))
    np.testing.assert_allclose(forth(made), other, atol=1e-5)
    np.testing.assert_allclose(np.sum(made**2), np.sum(other**2), rtol=1e-5)
    np.testing.assert_allclose(np.sum(slots * other), np.sum(field * made), rtol=1e-4)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(forth(x) * other)))(field)
    np.testing.assert_allclose(grad, made, atol=1e-5)


def test_what_is_harmonic_within_its_regions_comes_back_exactly():
    x, y = np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")
    harmonic = np.stack([np.ones_like(x), x, x * y, x**2 - y**2], -1)  # of the lattice, too
    for block in (None, 4):
        slots = encode(harmonic, block=block)
        back = decode(slots, (8, 8), block=block)
        np.testing.assert_allclose(back, harmonic, atol=1e-10)
    line = np.arange(10.0)[:, None] * 3 + 1  # two numbers are all that a line carries
    slots = encode(line)
    assert slots.shape == (1, 2, 1)
    np.testing.assert_allclose(decode(slots, (10,)), line, atol=1e-10)


def test_slots_of_a_site_stay_at_their_site():
    """In row-major order of the surface; with a large mass they are its values."""
    field = np.random.default_rng(0).normal(size=(5, 5, 1))
    shell = np.ones((5, 5), bool)
    shell[1:-1, 1:-1] = False
    slots = np.asarray(encode(field, mass=100.0))
    np.testing.assert_allclose(slots[0], field[shell], atol=1e-3)
    unit = np.zeros((5, 5, 1))
    unit[0, 2] = 1.0
    one = np.asarray(encode(unit))[0, :, 0]
    assert np.argmax(np.abs(one)) == 2


@pytest.mark.parametrize(("dim", "sides"), [(1, (8, 64, 512)), (2, (4, 16, 64)), (3, (4, 8, 16))])
def test_slots_grow_as_the_surface(dim, sides):
    for side in sides:
        volume = side**dim
        slots = holography.surface_slots((side,) * dim)
        assert slots == volume - (side - 2) ** dim
        assert slots <= 2 * dim * volume ** ((dim - 1) / dim)
        assert slots >= (2 * dim * volume ** ((dim - 1) / dim)) / 2
    assert holography.surface_slots((16,) * dim, block=4) == 4**dim * (4**dim - 2**dim)


def test_one_dimension_has_central_charge_one():
    """An end adds (c / 6) ln(2 L / pi sin(pi l / L)), of a region of two ends so (c / 3) ln l."""
    length, site = 400, np.arange(400)
    cuts = np.array([10, 20, 40, 80, 160, 200])
    found = [holography.entanglement_entropy((length,), site < cut) for cut in cuts]
    chord = np.log(np.sin(np.pi * (cuts + 0.5) / (length + 1)))
    central = 6 * np.polyfit(chord, found, 1)[0]
    assert abs(central - 1) < 2e-3
    massive = [
        holography.entanglement_entropy((length,), site < 200, mass=mass) for mass in (0.02, 0.04)
    ]
    assert abs(6 * (massive[0] - massive[1]) / np.log(2) - 1) < 0.01  # -(c / 6) ln m


def test_two_dimensions_have_an_area_law():
    sides = np.array([2, 4, 6, 8, 10])
    found = np.array(
        [holography.entanglement_entropy((20, 20), cube(20, s, 2), mass=1.0) for s in sides]
    )
    slope, offset = np.polyfit(4 * sides, found, 1)
    np.testing.assert_allclose(found, slope * 4 * sides + offset, rtol=2e-3)
    assert abs(offset) < 0.15 * found[0]
    assert found[-1] / sides[-1] ** 2 < 0.3 * found[0] / sides[0] ** 2


def test_three_dimensions_have_an_area_law():
    sides = np.array([2, 3, 4, 5])
    found = [holography.entanglement_entropy((9,) * 3, cube(9, s, 3), mass=1.0) for s in sides]
    power = np.polyfit(np.log(sides), np.log(found), 1)[0]
    assert abs(power - 2) < 0.15  # the surface's, not the volume's 3


def test_entropies_with_closed_forms():
    site = np.zeros((2,), bool)
    site[0] = True  # two oscillators: frequencies 1 and sqrt(3)
    nu = 0.25 * np.sqrt((1 + 1 / np.sqrt(3)) * (1 + np.sqrt(3)))
    exact = (nu + 0.5) * np.log(nu + 0.5) - (nu - 0.5) * np.log(nu - 0.5)
    np.testing.assert_allclose(holography.entanglement_entropy((2,), site), exact, rtol=1e-10)
    whole = holography.entanglement_entropy((6, 5), np.ones((6, 5), bool))
    assert abs(whole) < 1e-6  # a pure state
    half = cube(12, 6, 1)
    inside, outside = (holography.entanglement_entropy((12,), x, mass=0.2) for x in (half, ~half))
    np.testing.assert_allclose(inside, outside, rtol=1e-6)
    share = np.array([0.1, 0.2, 0.7])
    slots = np.diag(np.sqrt(share))
    np.testing.assert_allclose(entropy(slots), -np.sum(share * np.log(share)), rtol=1e-10)
    assert entropy(np.zeros((3, 2))) == 0
    direction = np.random.default_rng(0).normal(size=(3, 3))
    grad = np.asarray(jax.jit(jax.grad(holography.gram_entropy))(slots))
    two = [entropy(slots + h * direction) for h in (1e-6, -1e-6)]
    np.testing.assert_allclose((two[0] - two[1]) / 2e-6, np.sum(grad * direction), rtol=1e-5)


def test_what_the_bottleneck_carries_is_bounded_by_the_surface():
    """Of white noise in many channels: effective ranks that fill volume and surface."""
    for side in (4, 8):
        field = np.float32(np.random.default_rng(side).normal(size=(side, side, 4096)))
        volume = np.exp(entropy(field.reshape(side**2, -1)))
        surface = np.exp(entropy(np.asarray(encode(field))[0]))
        assert 0.97 * side**2 < float(volume) <= side**2 * (1 + 1e-5)
        assert 0.97 * (4 * side - 4) < float(surface) <= (4 * side - 4) * (1 + 1e-5)


def test_slots_keep_what_a_region_knows_of_its_surroundings():
    """Mutual information of a field with nearest neighbours: more than principal axes do."""
    side, block, mass = 14, 6, 0.3
    n = np.arange(1, side + 1)
    one = np.sqrt(2 / (side + 1)) * np.sin(np.pi * np.outer(n, n) / (side + 1))
    square = 4 * np.sin(0.5 * np.pi * n / (side + 1)) ** 2
    waves = np.kron(one, one)
    cov = waves / (np.add.outer(square, square).ravel() + mass**2) @ waves.T
    inside = cube(side, block, 2).ravel()
    a, b = cov[np.ix_(inside, inside)], cov[np.ix_(~inside, ~inside)]
    across = cov[np.ix_(inside, ~inside)]
    identity = np.eye(block**2).reshape(block, block, -1)
    surface = np.asarray(encode(identity, mass=mass))[0]
    principal = np.linalg.eigh(a)[1][:, -len(surface) :].T

    def information(rows):
        own, with_out = rows @ a @ rows.T, rows @ across
        joint = np.block([[own, with_out], [with_out.T, b]])
        parts = (np.linalg.slogdet(x)[1] for x in (own, b, joint))
        return 0.5 * (next(parts) + next(parts) - next(parts))

    whole = information(np.eye(block**2))
    shell = np.ones((block, block), bool)
    shell[1:-1, 1:-1] = False
    np.testing.assert_allclose(information(np.eye(block**2)[shell.ravel()]), whole, rtol=1e-9)
    assert information(surface) > 0.93 * whole
    assert information(principal) < 0.91 * whole


def test_bad_arguments_are_named(bare_errors):
    x = jnp.ones((4, 6, 2))
    for call, error, why in (
        (lambda: holography.surface_slots((4, 6), block=4), ValueError, "multiples of block=4"),
        (lambda: holography.surface_slots(()), ValueError, "at least one side"),
        (lambda: holography.surface_encode(x[0, 0]), ValueError, "grid axes and channels"),
        (lambda: holography.surface_encode(x, mass=-1.0), ValueError, "mass must be"),
        (lambda: holography.surface_encode(jnp.ones((2, 2), int)), TypeError, "field must be"),
        (lambda: holography.surface_decode(x, (4, 6)), ValueError, r"slots must have .*\(1, 16\)"),
        (lambda: holography.gram_entropy(x), ValueError, "slots must have the shape"),
        (
            lambda: holography.entanglement_entropy((3,), np.ones(4, bool)),
            ValueError,
            "region must be booleans",
        ),
    ):
        with pytest.raises(error, match=why):
            call()
