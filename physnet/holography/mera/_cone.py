"""Which sites of each scale can see which sites of a signal."""

import numpy as np
from jaxtyping import Int

from physnet import _checks
from physnet.holography.mera._levels import Boundary, sizes


def light_cone(
    region: Int[np.ndarray, " m"],
    *,
    sites: int,
    levels: int,
    layers: int = 1,
    boundary: Boundary = "open",
) -> list[Int[np.ndarray, " _"]]:
    r"""The sites of every scale that depend on a region of the signal.

    A layer of disentanglers joins each site with its partner, a level halves positions. So however
    large the signal, the width of a region ends at no more than 2 layers + 1 (2 for a tree): a
    change of one site changes O(log N) numbers, and a local energy costs O(log N).

    Args:
        region: Sites of the signal.
        sites: N.
        levels: Of the MERA.
        layers: Of disentanglers a level.
        boundary: As for `encode`.

    Returns:
        The region and, for each level, the sites above it that can change when the region does (of
        the top or the next level, and of this level's details alike), in order.

    Raises:
        ValueError: A site outside the signal.
        TypeError: A size that is not a static integer.

    Example:
        >>> import numpy as np
        >>> cone = light_cone(np.array([500]), sites=1024, levels=6)
        >>> [len(x) for x in cone], cone[-1]
        ([1, 2, 2, 3, 3, 3, 3], array([6, 7, 8]))
    """
    _checks.one_of("boundary", boundary, ("open", "periodic"))
    _checks.positive_int("layers", layers, minimum=0)
    counts = sizes(_checks.positive_int("sites", sites), _checks.positive_int("levels", levels))
    known = sorted({int(x) for x in np.asarray(region).ravel()})
    if known and not 0 <= known[0] <= known[-1] < sites:
        raise ValueError(f"region must lie in 0..{sites - 1}, got {known}")
    found = [np.array(known, np.int64)]
    for count in counts[:-1]:
        count += count % 2
        here = set(found[-1].tolist())
        for layer in range(layers):
            straddles = (layers - 1 - layer) % 2 == 0
            here |= {_partner(x, count, straddles, boundary) for x in here}
        found.append(np.array(sorted({x // 2 for x in here}), np.int64))
    return found


def _partner(site: int, count: int, straddles: bool, boundary: Boundary) -> int:
    if not straddles:
        return site ^ 1
    other = ((site - 1) ^ 1) + 1
    if boundary == "periodic":
        return other % count
    return other if 0 < site < count - 1 else site
