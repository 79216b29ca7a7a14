"""Stabilisers and logical operators of a holographic code, pushed outwards tile by tile."""

import functools
from typing import NamedTuple

import numpy as np

from physnet.holography.codes import _perfect
from physnet.holography.codes._perfect import Pauli
from physnet.holography.codes._tiling import BULK, Code


class Stabilisers(NamedTuple):
    """Operators on the n physical qubits of a code.

    Attributes:
        generators: Of the stabiliser group, n - k independent rows, which leave the code as it is.
        logicals: X and Z of each logical qubit, (k, 2, n); they commute with the generators and
            with those of the other logical qubits.
    """

    generators: Pauli
    logicals: Pauli


@functools.lru_cache
def stabilisers(code: Code) -> Stabilisers:
    """The stabiliser group of a code as GF(2) matrices, with signs.

    Each tile is an isometry from its legs inwards and its logical qubit to its legs outwards; an
    operator on the one side has an equal on the other, by the stabilisers of the perfect tensor.

    Args:
        code: From `happy_code`.

    Returns:
        Generators and logical operators, in NumPy arrays; phases are such that with the tensors of
        `encode` each generator has eigenvalue +1.

    Example:
        >>> from physnet.holography import codes
        >>> generators, logicals = stabilisers(codes.happy_code("pentagon", 2))
        >>> print(generators.x.shape, logicals.z.shape)
        (34, 55) (21, 2, 55)

    References:
        Gottesman, "Stabilizer codes and quantum error correction", thesis, Caltech 1997.
    """
    n, k, tiles = code.physical, code.logical, len(code.ring)
    legs = np.zeros((tiles, _perfect.LEGS), int)  # the column of each leg; outwards ones are set
    inside = np.bincount(code.bonds[:, 2], minlength=tiles)
    legs[code.bonds[:, 0], code.bonds[:, 1]] = np.arange(n, n + len(code.bonds))
    legs[code.bonds[:, 2], code.bonds[:, 3]] = np.arange(n, n + len(code.bonds))
    legs[code.boundary[:, 0], code.boundary[:, 1]] = np.arange(n)
    x, z = np.zeros((2, n + k, n + len(code.bonds)), bool)
    phase, logical, row, order = np.zeros(n + k, int), np.zeros((k, 2), int), 0, iter(range(k))
    carriers = set(code.bulk.tolist())
    for tile in range(tiles):
        inwards = legs[tile, : inside[tile]]
        carries = tile in carriers
        inputs = tuple(range(inside[tile])) + ((BULK,) if carries else ())
        table, free = _perfect.pushed(inputs)
        outwards = legs[tile, [leg for leg in range(_perfect.LEGS) if leg not in inputs]]
        index = np.zeros(row, int)  # in the table, of what the rows so far do on legs inwards
        for column in inwards:
            index = 4 * index + 2 * x[:row, column] + z[:row, column]
        if carries:
            logical[next(order)] = row, row + 1
            index = np.append(4 * index, [2, 1])
        rows = len(index)
        for whole, part, extra in ((x, table.x, free.x), (z, table.z, free.z)):
            whole[:rows, outwards] = part[index]
            whole[rows : rows + len(extra), outwards] = extra
        phase[:rows] += table.phase[index]
        phase[rows : rows + len(free.phase)] = free.phase
        row = rows + len(free.phase)
    whole = Pauli(x[:, :n], z[:, :n], phase % 4)
    rest = np.setdiff1d(np.arange(n + k), logical)
    found = Stabilisers(*(Pauli(*(field[which] for field in whole)) for which in (rest, logical)))
    for array in (*found.generators, *found.logicals):  # shared by all who ask for this code
        array.flags.writeable = False
    return found
