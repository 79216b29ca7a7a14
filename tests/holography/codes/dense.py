"""Independent forms: matrices of operators, ranks by whole numbers, absorption one at a time."""

import functools
import itertools

import numpy as np

PAULIS = (np.eye(2), np.array([[0, 1], [1, 0]]), np.diag([1, -1]))


def matrix(x, z, phase):
    """i^phase X^x Z^z as a matrix on all qubits."""
    factors = [
        np.linalg.matrix_power(PAULIS[1], int(a)) @ np.linalg.matrix_power(PAULIS[2], int(b))
        for a, b in zip(x, z, strict=True)
    ]
    return (1j ** int(phase)) * functools.reduce(np.kron, factors, np.eye(1))


def rank(rows):
    """Over GF(2), of rows of bits: one whole number a row."""
    basis = {}
    for row in rows:
        number = int("0" + "".join("01"[int(bit)] for bit in row), 2)
        while number:
            top = number.bit_length()
            if top not in basis:
                basis[top] = number
                break
            number ^= basis[top]
    return len(basis)


def commute(x, z, other_x, other_z):
    """Of each row with each other row, whether they commute."""
    one, two = (a.reshape(-1, a.shape[-1]).astype(np.int64) for a in (x, z))
    three, four = (a.reshape(-1, a.shape[-1]).astype(np.int64) for a in (other_x, other_z))
    return (one @ four.T + two @ three.T) % 2 == 0


def recoverable_by_rank(group, lost, logical=0):
    """X and Z add nothing to the rank of the stabilisers on what is lost."""
    generators, logicals = group
    rows = np.concatenate([generators.x[:, lost], generators.z[:, lost]], 1)
    ours = np.concatenate([logicals.x[logical][:, lost], logicals.z[logical][:, lost]], 1)
    return rank(rows) == rank(np.concatenate([rows, ours]))


def recoverable_by_search(group, lost, logical=0):
    """No operator at all on what is lost commutes with the stabilisers but not with X and Z."""
    generators, logicals = group
    where = np.flatnonzero(lost)
    words = np.array(list(itertools.product([False, True], repeat=2 * len(where))))
    x, z = np.zeros((2, len(words), len(lost)), bool)
    x[:, where], z[:, where] = words[:, : len(where)], words[:, len(where) :]
    hidden = commute(x, z, generators.x, generators.z).all(1)
    harmless = commute(x, z, logicals.x[logical], logicals.z[logical]).all(1)
    return not np.any(hidden & ~harmless)


def absorbed(code, lost, logical=0):
    """The greedy decoder, tensor by tensor."""
    known = {}
    for i, (tile, leg) in enumerate(code.boundary.tolist()):
        known[tile, leg] = not lost[i]
    bonds = {}
    for a, i, b, j in code.bonds.tolist():
        bonds[a, i], bonds[b, j] = (b, j), (a, i)
    done = set()
    while True:
        ready = [
            tile for tile in range(len(code.ring))
            if tile not in done and sum(known.get((tile, leg), False) for leg in range(6)) >= 3
        ]  # fmt: skip
        if not ready:
            return int(code.bulk[logical]) in done
        done.add(ready[0])
        for leg in range(6):
            if (ready[0], leg) in bonds:
                known[bonds[ready[0], leg]] = True
