"""Tilings of the hyperbolic plane by pentagons and hexagons, four at a vertex, as networks."""

import dataclasses
import functools
from typing import Literal

import numpy as np
from jaxtyping import Int

from physnet import _checks

Kind = Literal["pentagon", "pentagon-hexagon", "single-qubit"]
KINDS = ("pentagon", "pentagon-hexagon", "single-qubit")
BULK = 5  # the leg of a pentagon that is no bond


@dataclasses.dataclass(frozen=True)
class Code:
    """A holographic code: perfect tensors on tiles, bonds across edges. Equal by kind and layers.

    Tiles are numbered ring by ring from the centre, 0. Legs of a tile: first those to the one or
    two tiles inside of it, then those outwards, in the order around the tile; a pentagon's leg 5
    is its logical qubit. Bonds contract a leg of one tile with a leg of another.

    Attributes:
        kind, layers: As given to `happy_code`.
        ring: Of each tile, its distance from the centre, (tiles,).
        bonds: Rows (inner tile, its leg, outer tile, its leg), (bonds, 4).
        boundary: The tile and leg of each physical qubit, (n, 2).
        bulk: The tile of each logical qubit, the centre's first, (k,).
    """

    kind: Kind
    layers: int
    ring: Int[np.ndarray, " tiles"] = dataclasses.field(compare=False, repr=False)
    bonds: Int[np.ndarray, "bonds 4"] = dataclasses.field(compare=False, repr=False)
    boundary: Int[np.ndarray, "n 2"] = dataclasses.field(compare=False, repr=False)
    bulk: Int[np.ndarray, " k"] = dataclasses.field(compare=False, repr=False)

    @property
    def physical(self) -> int:
        """n, physical qubits: legs on the boundary."""
        return len(self.boundary)

    @property
    def logical(self) -> int:
        """k, logical qubits: pentagons."""
        return len(self.bulk)

    @property
    def rate(self) -> float:
        """k / n."""
        return self.logical / self.physical


def happy_code(kind: Kind, layers: int) -> Code:
    """The holographic code on a tiling with this many rings around the central pentagon.

    Four tiles meet at a vertex, so neighbours in a ring share a tile of the next one. Rates for
    many layers: 1 / sqrt(5) = 0.447 for "pentagon"; for "pentagon-hexagon", where the two take
    turns, 0.299 with pentagons outermost (an even number of layers) and 0.088 with hexagons (odd).

    Args:
        kind: "pentagon": a logical qubit on every tile. "pentagon-hexagon": rings of hexagons,
            without one, and pentagons in turn. "single-qubit": hexagons around one pentagon.
        layers: Rings, >= 0, static; 0 is the five-qubit code.

    Returns:
        The code: geometry alone. `stabilisers` has its operators, `encode` its states.

    Raises:
        TypeError, ValueError: Another kind; layers that are no int >= 0.

    Example:
        >>> code = happy_code("pentagon", 2)
        >>> print(code.logical, code.physical, round(happy_code("pentagon", 6).rate, 4))
        21 55 0.4457

    References:
        Pastawski, Yoshida, Harlow, Preskill, "Holographic quantum error-correcting codes: toy
        models for the bulk/boundary correspondence", JHEP 06 (2015) 149.
    """
    _checks.one_of("kind", kind, KINDS)
    return _grown(kind, _checks.positive_int("layers", layers, minimum=0))


@functools.lru_cache
def _grown(kind: Kind, layers: int) -> Code:
    """Ring by ring, once for each code."""

    def edges(ring: int) -> int:
        hexagons = {"pentagon": False, "pentagon-hexagon": ring % 2 == 1, "single-qubit": ring > 0}
        return 6 if hexagons[kind] else 5

    ring, bonds, bulk = [0], [], [0]
    tiles, inside = [0], [0]  # those of the last ring, and how many of their legs go inwards
    for r in range(1, layers + 1):
        children: list[list[tuple[int, int]]] = []  # of each child, its legs' (parent, leg)
        count = len(tiles)
        for i, (tile, taken) in enumerate(zip(tiles, inside, strict=True)):
            last = edges(r - 1) - 1
            shared = r > 1  # the first and the last outward leg, with the neighbours in the ring
            children += [[(tile, leg)] for leg in range(taken + shared, last + 1 - shared)]
            if shared:
                after = (i + 1) % count
                children.append([(tiles[after], inside[after]), (tile, last)])
        start = len(ring)
        tiles, inside = list(range(start, start + len(children))), [len(c) for c in children]
        for tile, parents in zip(tiles, children, strict=True):
            bonds += [(parent, leg, tile, own) for own, (parent, leg) in enumerate(parents)]
        ring += [r] * len(children)
        bulk += tiles if edges(r) == 5 else []
    boundary = [(tile, leg) for tile, taken in zip(tiles, inside, strict=True)
                for leg in range(taken, edges(layers))]  # fmt: skip
    arrays = ring, np.reshape(bonds, (-1, 4)), boundary, bulk
    fixed = [np.array(array, np.int32) for array in arrays]
    for array in fixed:  # shared by all who ask for this code
        array.flags.writeable = False
    return Code(kind, layers, *fixed)
