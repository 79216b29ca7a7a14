"""Tilings: counts, rates, four tiles at a vertex; stabilisers and logical operators."""

import numpy as np
import pytest
from dense import commute, rank

from physnet.holography import codes

SMALL = [(kind, layers) for kind in ("pentagon", "pentagon-hexagon", "single-qubit")
         for layers in range(4)]  # fmt: skip


@pytest.mark.parametrize(("kind", "layers"), SMALL)
def test_every_leg_is_one_thing_and_four_tiles_meet_at_a_vertex(kind, layers):
    code = codes.happy_code(kind, layers)
    tiles = len(code.ring)
    pentagons = set(code.bulk.tolist())
    legs = np.concatenate([code.bonds[:, :2], code.bonds[:, 2:], code.boundary]).tolist()
    expected = [[t, leg] for t in range(tiles) for leg in range(5 if t in pentagons else 6)]
    assert sorted(legs) == expected
    # Bonds make a planar graph of V = tiles, E bonds, whose E - V + 1 bounded faces are the
    # vertices of the tiling: if all are quadrilaterals, these are all its cycles of four.
    adjacent = np.zeros((tiles, tiles), np.int64)
    adjacent[code.bonds[:, 0], code.bonds[:, 2]] = adjacent[code.bonds[:, 2], code.bonds[:, 0]] = 1
    assert adjacent.sum() == 2 * len(code.bonds)  # no two tiles share two edges
    paths = adjacent @ adjacent
    np.fill_diagonal(paths, 0)
    cycles = (paths * (paths - 1) // 2).sum() // 4  # pairs of corners, each cycle twice, ordered
    assert cycles == len(code.bonds) - tiles + 1
    rings = code.ring[code.bonds[:, [0, 2]]]
    assert np.all(rings[:, 1] == rings[:, 0] + 1)
    if kind == "pentagon-hexagon":
        assert pentagons == set(np.flatnonzero(code.ring % 2 == 0))


@pytest.mark.parametrize(("kind", "layers", "limit", "within"), [
    ("pentagon", 6, 5**-0.5, 0.002),
    ("pentagon", 9, 5**-0.5, 1e-4),
    ("pentagon-hexagon", 4, 0.299, 0.003),
    ("pentagon-hexagon", 6, 0.299, 0.001),
    ("pentagon-hexagon", 5, 0.088, 0.001),
    ("pentagon-hexagon", 7, 0.088, 2e-4),
])  # fmt: skip
def test_published_rates(kind, layers, limit, within):
    assert abs(codes.happy_code(kind, layers).rate - limit) < within


def test_a_code_is_what_it_was_made_from():
    one, other = (codes.happy_code("pentagon", layers) for layers in (1, 2))
    assert one == codes.happy_code("pentagon", 1)
    assert one != other
    assert len({one, other, codes.happy_code("single-qubit", 1)}) == 3
    assert (one.logical, one.physical, one.rate) == (6, 20, 0.3)


@pytest.mark.parametrize(("kind", "layers"), SMALL)
def test_stabilisers_and_logical_operators(kind, layers):
    code = codes.happy_code(kind, layers)
    generators, logicals = codes.stabilisers(code)
    n, k = code.physical, code.logical
    assert generators.x.shape == generators.z.shape == (n - k, n)
    assert logicals.x.shape == logicals.z.shape == (k, 2, n)
    assert np.all(commute(generators.x, generators.z, generators.x, generators.z))
    assert np.all(commute(generators.x, generators.z, logicals.x, logicals.z))
    pairs = commute(logicals.x, logicals.z, logicals.x, logicals.z)
    np.testing.assert_array_equal(~pairs, np.kron(np.eye(k), [[0, 1], [1, 0]]) == 1)
    assert rank(np.concatenate([generators.x, generators.z], 1)) == n - k
    for rows in (generators, logicals):  # Hermitian: i^phase X^x Z^z squares to 1
        np.testing.assert_array_equal(rows.phase % 2, np.sum(rows.x & rows.z, -1) % 2)


@pytest.mark.parametrize(("arguments", "error", "words"), [
    (("hexagon", 2), ValueError, "kind .* got 'hexagon'"),
    (("pentagon", -1), ValueError, "layers .* got -1"),
    (("pentagon", 1.5), TypeError, "layers .* got 1.5"),
    (("pentagon", 1.0), TypeError, "layers .* got 1.0"),  # also where 1 is in the cache
])  # fmt: skip
def test_errors(arguments, error, words, bare_errors):
    codes.happy_code("pentagon", 1)
    with pytest.raises(error, match=words):
        codes.happy_code(*arguments)
