r"""Exact nearest centroids in hyperbolic space by a tree, from few distances.

Every node has up to eight children, each with a centre; a centroid belongs to the child whose
centre is nearest, level by level. A child is left out where no centroid in it can be nearer than
what is known, by two bounds on the distance from x to its cell: d(x, G_j) less the cell's radius,
and the distance to the hyperplane that parts G_j from a sibling G_i, which all of the cell lies
beyond,

.. math:: \sinh d \ge \frac{\cosh d(x, G_j) - \cosh d(x, G_i)}{2 \sinh (d(G_i, G_j) / 2)}.

Trees pay for hierarchical or low-dimensional data. Among points spread evenly over many dimensions
nearly all are about equally far away, and nothing can be left out: use a product of matrices there.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key

from physnet import _checks, _varying
from physnet.hyperbolic import _arguments, polar
from physnet.hyperbolic._means import midpoints, nearest_of, rough

CHILDREN = 8
LEAF = 4  # centroids in a leaf, about
STEPS = 6  # of Lloyd's algorithm in a node
FEW = 12  # nodes that nearly all points are content with


class Tree(NamedTuple):
    """A hierarchy over E centroids; M nodes besides the root, whose index is M."""

    table: Float[Array, "M+E d"]  # centres of nodes, then centroids in the order of the leaves
    size: Int[Array, " M+E"]  # centroids in a node; 1 for a centroid
    radius: Float[Array, " M"]  # the farthest centroid of a node from its centre
    apart: Float[Array, "P 8 8"]  # sinh(d / 2) between the children of inner nodes; P counts them
    begin: Int[Array, " M"]  # a node's centroids are those from begin on, size of them
    order: Int[Array, " E"]  # what the centroids' numbers are
    root: Float[Array, ""]  # sqrt(c): the table is in tangents for curvature -1


class Found(NamedTuple):
    """What `search` finds for n points."""

    index: Int[Array, "n k"]
    distance: Float[Array, "n k"]  # ascending
    evaluations: Int[Array, " n"]  # of distances to centres and centroids, those to all included
    certified: Bool[Array, " n"]  # the tree alone sufficed; the others were compared with all


def build(
    centroids: Float[Array, "E d"], *, key: Key[Array, ""], curvature: ArrayLike = 1.0
) -> Tree:
    """The tree of centroids in tangent coordinates.

    Shapes depend on E and d alone: under `jit` trees are built anew when centroids have moved.

    Args:
        centroids: (E, d) tangents v at the origin, for the points exp_0(v).
        key: of the draws that split nodes.
        curvature: c > 0, a number; the sectional curvature is -c.

    Returns:
        A `Tree`; about 1.1 to 1.8 E rows of d numbers, in float32 (float64 for float64).

    Raises:
        ValueError: Centroids that are not (E, d), a curvature that is not one positive number.
        TypeError: Centroids that are not real and floating.

    Example:
        >>> import jax
        >>> from physnet.hyperbolic import tree
        >>> centroids = jax.random.normal(jax.random.key(0), (200, 2))
        >>> built = jax.jit(tree.build)(centroids, key=jax.random.key(1))
        >>> found = jax.jit(tree.search)(built, centroids[:3])
        >>> [int(i) for i in found.index[:, 0]]
        [0, 1, 2]
    """
    centroids = _checks.real("centroids", centroids)
    if centroids.ndim != 2 or 0 in centroids.shape:
        raise ValueError(f"centroids must have the shape (E, d), not empty, got {centroids.shape}")
    key = _checks.key("key", key)
    root = jnp.sqrt(_checks.one_positive("curvature", curvature, _arguments.dtypes(centroids)[1]))
    points = root * lax.stop_gradient(centroids).astype(root.dtype)
    node = jnp.zeros((len(points),), jnp.int32)
    centres, radii, sizes, apart = [], [], [], []
    for level in range(_levels(len(points))):
        nodes = CHILDREN**level
        centre = _split(points, node, nodes, jax.random.fold_in(key, level))
        node, distance = _assigned(points, node, centre)
        radii.append(jnp.maximum(jax.ops.segment_max(distance, node, len(centre)), 0))
        sizes.append(jnp.bincount(node, length=len(centre)).astype(jnp.int32))
        family = centre.reshape(nodes, CHILDREN, -1)
        between = polar.distance(family[:, :, None], family[:, None])
        apart.append(jnp.sinh(between / 2))
        centres.append(centre)
    order = jnp.argsort(node, stable=True).astype(jnp.int32)
    last = jnp.cumsum(sizes[-1]) - sizes[-1]
    begin = [last[:: CHILDREN ** (len(sizes) - 1 - level)] for level in range(len(sizes))]
    return Tree(
        jnp.concatenate([*centres, points[order]]),
        jnp.concatenate([*sizes, jnp.ones((len(points),), jnp.int32)]),
        jnp.concatenate(radii),
        jnp.concatenate(apart),
        jnp.concatenate(begin).astype(jnp.int32),
        order,
        root,
    )


def search(
    tree: Tree, points: Float[Array, "n d"], *, top_k: int = 1, limit: int = 48, rows: int = 256
) -> Found:
    """The nearest centroids, the cell with the least bound first.

    Args:
        tree: From `build`.
        points: (n, d) tangents at the origin.
        top_k: how many of the nearest; static.
        limit: nodes to open for a point before it is compared with all centroids; static.
        rows: points that are searched for together; static.

    Returns:
        `Found`. Distances agree with a comparison with all centroids within rounding: bounds are
        taken 1e-5 shorter than they come out. Gradients do not flow: take the distances to
        `index` again for them.

    Raises:
        ValueError: Points that are not (n, d) with the d of the tree, top_k outside 1..E.
        TypeError: Points that are not real and floating.
    """
    points, count = _checks.real("points", points), len(tree.order)
    limit, rows = _checks.positive_int("limit", limit), _checks.positive_int("rows", rows)
    if points.ndim != 2 or points.shape[1] != tree.table.shape[1]:
        raise ValueError(
            f"points must have the shape (n, {tree.table.shape[1]}), got {points.shape}"
        )
    if _checks.positive_int("top_k", top_k) > count:
        raise ValueError(f"top_k must be between 1 and {count}, got {top_k}")
    x = tree.root * lax.stop_gradient(points).astype(tree.table.dtype)
    missing = -len(x) % min(rows, max(len(x), 1))
    x = jnp.pad(x, ((0, missing), (0, 0)))
    x = x.reshape(-1, min(rows, max(len(points), 1)), x.shape[1])
    # A part takes as long as its slowest point: those that need more nodes are put together.
    nobody = jnp.zeros(x.shape[1], bool)
    found = lax.map(lambda part: _best_first(tree, part, nobody, top_k, min(FEW, limit)), x)
    order = jnp.argsort(found[3].reshape(-1))
    x, *found = (a.reshape(-1, *a.shape[2:])[order].reshape(a.shape) for a in (x, *found))
    found = lax.map(lambda part: _further(tree, part[0], part[1:], top_k, limit), (x, *found))
    back = jnp.argsort(order)[: len(points)]
    index, distance, evaluations, certified = (a.reshape(-1, *a.shape[2:])[back] for a in found)
    index = tree.order[index]
    return Found(index, distance / tree.root, evaluations, certified)


def _levels(count: int) -> int:
    """So many that a leaf has about LEAF centroids."""
    return max(1, round(math.log(max(count / LEAF, 1)) / math.log(CHILDREN)))


def _split(points: Array, node: Array, nodes: int, key: Array) -> Array:
    """Centres (nodes * 8, d) of the parts of every node."""
    index = jnp.arange(len(points), dtype=jnp.int32)

    def draw(i, carry):
        """One more centre for each node, rather far from those it has."""
        centres, least = carry
        noise = jax.random.gumbel(jax.random.fold_in(key, i), least.shape, least.dtype)
        score = jnp.where(i == 0, 0.0, jnp.log(least)) + noise  # before the first all are alike
        best = jax.ops.segment_max(score, node, nodes)
        winner = jax.ops.segment_max(jnp.where(score == best[node], index, -1), node, nodes)
        chosen = points[jnp.maximum(winner, 0)]
        distance = rough(points, chosen[node])
        return centres.at[:, i].set(chosen), jnp.minimum(least, distance * distance)

    start = jnp.zeros((nodes, CHILDREN, points.shape[1]), points.dtype)
    far = jnp.full((len(points),), jnp.inf, points.dtype)
    centres, _ = lax.fori_loop(0, CHILDREN, draw, _varying.alike((start, far), points))
    centres = centres.reshape(nodes * CHILDREN, -1)

    def step(_, centres):
        child, _ = _assigned(points, node, centres, rough)
        found, size = midpoints(points, child, len(centres))
        return jnp.where((size > 0)[:, None], found, centres)

    return lax.fori_loop(0, STEPS, step, centres)


def _assigned(
    points: Array, node: Array, centres: Array, distance: Callable[..., Array] = polar.distance
) -> tuple[Array, Array]:
    """The nearest child of each point's node, and the distance to its centre."""
    family = centres.reshape(-1, CHILDREN, centres.shape[1])[node]
    child, least = nearest_of(distance(points[:, None], family))
    return node * CHILDREN + child, least


class _Open(NamedTuple):
    """Cells that may be opened, in slots, for each of n points."""

    bound: Array  # (n, slots), inf where there is none
    node: Array
    begin: Array  # the next centroid of a leaf


def _further(tree: Tree, x: Array, before, top_k: int, limit: int):
    """What was found before; for points that are not certified more cells are opened, then all."""
    index, distance, evaluations, done = before
    found = _best_first(tree, x, done, top_k, limit)
    index = jnp.where(done[:, None], index, found[0])
    distance = jnp.where(done[:, None], distance, found[1])
    return _with_all(tree, x, (index, distance, evaluations + found[2], done | found[3]))


def _best_first(tree: Tree, x: Array, done: Array, top_k: int, limit: int):
    """For the points that are not done."""
    n, nodes = len(x), len(tree.radius)
    inner = len(tree.apart) - 1  # nodes with children, the root aside, are the first
    slots = 1 + CHILDREN * limit
    step = jnp.arange(CHILDREN, dtype=jnp.int32)[None]
    start = _Open(
        jnp.full((n, slots), jnp.inf, x.dtype).at[:, 0].set(jnp.where(done, jnp.inf, 0.0)),
        jnp.full((n, slots), nodes, jnp.int32),
        jnp.zeros((n, slots), jnp.int32),
    )
    best = jnp.zeros((n, top_k), jnp.int32), jnp.full((n, top_k), jnp.inf, x.dtype)

    def unfinished(carry):
        t, cells, (_, distance), _ = carry
        return (t < limit) & jnp.any(jnp.min(cells.bound, axis=1) < distance[:, -1])

    def expand(carry):
        t, cells, (index, distance), evaluations = carry
        at, bound = nearest_of(cells.bound)
        is_open = bound < distance[:, -1]
        node, begin = (jnp.take_along_axis(a, at[:, None], axis=1)[:, 0] for a in cells[1:])
        is_leaf = (node >= inner) & (node < nodes)
        family = jnp.where(node == nodes, 0, node + 1)
        own = jnp.minimum(node, nodes - 1)
        end = tree.begin[own] + tree.size[own]
        first = jnp.where(is_leaf, nodes + begin, CHILDREN * family)
        row = first[:, None] + step
        real = is_open[:, None] & jnp.where(is_leaf[:, None], row < nodes + end[:, None], True)
        row = jnp.minimum(row, len(tree.table) - 1)
        real = real & (tree.size[row] > 0)
        away = jnp.where(real, polar.distance(x[:, None], tree.table[row]), jnp.inf)
        evaluations = evaluations + jnp.sum(real, axis=1, dtype=jnp.int32)

        both = jnp.concatenate([distance, jnp.where(is_leaf[:, None], away, jnp.inf)], axis=1)
        names = jnp.concatenate([index, row - nodes], axis=1)
        if top_k == 1:
            pick, distance = (a[:, None] for a in nearest_of(both))
        else:
            distance, pick = lax.top_k(-both, top_k)
            distance = -distance
        index = jnp.take_along_axis(names, pick, axis=1)

        parent = jnp.minimum(family, inner)
        new = _bounds(tree, away, row, parent)
        new = jnp.maximum(new, bound[:, None])
        new = jnp.where(real & ~is_leaf[:, None], new, jnp.inf)
        again = is_leaf & (begin + CHILDREN < end)
        left = jnp.where(is_open & ~again, jnp.inf, bound)
        here = jnp.arange(slots, dtype=jnp.int32)[None] == at[:, None]
        child = jnp.minimum(row, nodes - 1)
        cells = _Open(
            _write(jnp.where(here, left[:, None], cells.bound), new, t),
            _write(cells.node, child, t),
            _write(
                jnp.where(here & again[:, None], begin[:, None] + CHILDREN, cells.begin),
                tree.begin[child],
                t,
            ),
        )
        return t + 1, cells, (index, distance), evaluations

    carry = (start, best, jnp.zeros((n,), jnp.int32))
    carry = (jnp.int32(0), *_varying.alike(carry, x, tree))
    _, cells, (index, distance), evaluations = lax.while_loop(unfinished, expand, carry)
    certified = jnp.min(cells.bound, axis=1) >= distance[:, -1]
    return index, distance, evaluations, certified


def _write(slots: Array, new: Array, t: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(slots, new, 1 + CHILDREN * t, axis=1)


def _bounds(tree: Tree, away: Array, row: Array, parent: Array) -> Array:
    """The least distance (n, 8) that a centroid of a child can have."""
    nearest, near = nearest_of(away)
    ball = away - tree.radius[jnp.minimum(row, len(tree.radius) - 1)]
    between = jnp.take_along_axis(tree.apart[parent], nearest[:, None, None], axis=2)[:, :, 0]
    far = jnp.where(jnp.isfinite(away), away, 0.0)
    near = jnp.where(jnp.isfinite(near), near, 0.0)[:, None]
    rise = jnp.sinh((far + near) / 2) * jnp.sinh((far - near) / 2)
    beyond = jnp.arcsinh(rise / jnp.where(between > 0, between, jnp.inf))
    # Far out, where the exponentials overflow, the ball alone bounds.
    bound = jnp.where(jnp.isfinite(beyond), jnp.maximum(ball, beyond), ball)
    return bound - 1e-5 * (1 + far)


def _with_all(tree: Tree, x: Array, found):
    """Compare the points that are not certified with all centroids, one after another."""
    nodes = len(tree.radius)
    centroids = tree.table[nodes:]
    top_k = found[0].shape[1]

    def missing(carry):
        return ~jnp.all(carry[4])

    def one(carry):
        index, distance, evaluations, certified, done = carry
        i = jnp.argmin(done)
        away, pick = lax.top_k(-polar.distance(x[i], centroids), top_k)
        return (
            index.at[i].set(pick.astype(jnp.int32)),
            distance.at[i].set(-away),
            evaluations.at[i].add(len(centroids)),
            certified,
            done.at[i].set(True),
        )

    return lax.while_loop(missing, one, (*found, found[3]))[:4]
