"""Router-free routing: the nearest centroids of hyperbolic space, and gates from the distances."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks, _dispatch
from physnet.hyperbolic import polar, tree
from physnet.moe import _search

PAYS = 2**20  # token-centroid pairs; on an H100 both take as long at 2^18


class Routing(NamedTuple):
    """Where n tokens go: the k nearest of E experts each, the nearest first.

    Attributes:
        expert: (n, k) int32. `apply` takes a number outside 0..E-1 for no expert.
        gate: (n, k), the weight of the expert's output.
        distance: (n, k), hyperbolic.
        evaluations: (n,) int32: centroids (and nodes of a tree) that a token was compared with.
        certified: (n,) bool: a bound proved that no centroid left out is nearer. The others were
            compared with all centroids one by one, so that their routes are right as well.
    """

    expert: Any
    gate: Any
    distance: Any
    evaluations: Any
    certified: Any


def route(
    tokens: Float[Array, "n d"],
    centroids: Float[Array, "E d"],
    *,
    top_k: int = 1,
    curvature: ArrayLike = 1.0,
    search: Literal["dense", "tree"] | tree.Tree = "dense",
    normalise: bool = False,
    implementation: _dispatch.Implementation | None = None,
) -> Routing:
    r"""Route each token to its top_k nearest centroids, with gates e^{-d}.

    Tokens and centroids are tangent vectors v at the origin, for the points x = exp_0(v) with
    d(0, x) = 2 |v|. In Klein's model the nearest centroid is the largest of affine functions,

        argmin_e d(x, mu_e) = argmax_e (w_e . k + b_e),
        k = tanh(r) u / sqrt(c),  w = sqrt(c) sinh(r) u,  b = -cosh(r),    r = 2 sqrt(c) |v|,

    one product of matrices, in full precision, over parts of the tokens. Far out it loses all
    digits. So it only proposes: the best of each token are compared again by the polar form of the
    distance, which is accurate everywhere, and a bound on the product's rounding certifies that no
    other is nearer by more than 1e-4 of the distance. Tokens without the certificate are compared
    with all centroids in the polar form.

    Under `vmap` over tokens the batch is searched as one; over centroids too, one after another.

    Args:
        tokens: v (n, d).
        centroids: (E, d), likewise.
        top_k: How many experts a token has, 1..E. Static.
        curvature: c > 0, of curvature -c; a number.
        search: "dense" compares with all centroids; "tree" builds `hyperbolic.tree` over them and
            searches it, exact too and faster for many centroids that form a hierarchy, slower for
            those spread evenly over many dimensions, of which it must see nearly all; a `Tree` of
            these centroids and this curvature, once built, saves the building. Static but for a
            Tree.
        normalise: Whether the gates of a token sum to 1: softmax(-d) over the top_k.
        implementation: "xla", or "triton" for a dense search of float32 on a GPU: there the product
            is one of bfloat16 whose rounding is bounded, scores never leave the chip, and groups
            of centroids are compared by the polar form until the bound excludes all others. None
            takes the fastest that serves the call.

    Returns:
        A `Routing`, in float32 (float64 for float64). Gates and distances have gradients to tokens,
        centroids and curvature, finite also where a token lies on its centroid (0 there); experts
        have none. A token with NaN has NaN gates and distances, and some expert. With a NaN among
        the centroids nothing is certified, and what is found is open.

    Raises:
        ValueError: Shapes that do not fit, top_k outside 1..E, an unknown search, a curvature that
            is not one positive number.
        TypeError: Arrays that are not real and floating.
        NotImplementedError: `implementation` does not serve the call.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> centroids = jnp.array([[3.0, 0.0], [0.0, 3.0], [-3.0, 0.0]])
        >>> routing = jax.jit(route)(jnp.array([[2.9, 0.1], [-0.2, 2.5]]), centroids)
        >>> routing.expert[:, 0].tolist()
        [0, 1]
        >>> [f"{d:.3f}" for d in routing.distance[:, 0]]
        ['3.731', '4.604']

    References:
        Nielsen & Nock, Hyperbolic Voronoi diagrams made easy (arXiv:0903.3287).
    """
    tokens, centroids = _points("tokens", tokens), _points("centroids", centroids)
    if centroids.shape[0] == 0 or centroids.shape[1] != tokens.shape[1]:
        raise ValueError(
            f"centroids must have shape (E, {tokens.shape[1]}) with E > 0, got {centroids.shape}"
        )
    top_k = _checks.positive_int("top_k", top_k)
    if top_k > centroids.shape[0]:
        raise ValueError(f"top_k must be at most {centroids.shape[0]} experts, got {top_k}")
    wide = any(x.dtype == jnp.float64 for x in (tokens, centroids))
    dtype = jnp.float64 if wide else jnp.float32
    tokens, centroids = tokens.astype(dtype), centroids.astype(dtype)
    c = _checks.one_positive("curvature", curvature, dtype)
    found = _found(*lax.stop_gradient((tokens, centroids, c)), top_k, search, implementation)
    # Not what the search found: these have gradients.
    chosen = centroids[found.index]
    distance = polar.distance(tokens[:, None, :], chosen, curvature=c)
    return Routing(
        found.index,
        gate(distance, normalise=normalise),
        distance,
        found.evaluations,
        found.certified,
    )


def gate(distance: Float[Array, "*b k"], *, normalise: bool = False) -> Float[Array, "*b k"]:
    """The gates e^{-d} of experts at distances d.

    Args:
        distance: d (..., k), of the k experts of a token.
        normalise: Whether to divide by the sum over the k: softmax(-d), which underflows nowhere.

    Returns:
        (..., k), in (0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> [f"{g:.3f}" for g in gate(jnp.array([0.0, 1.0]))]
        ['1.000', '0.368']
        >>> [f"{g:.3f}" for g in gate(jnp.array([90.0, 91.0]), normalise=True)]
        ['0.731', '0.269']
    """
    distance = _checks.at_least_1d("distance", _checks.real("distance", distance))
    return jax.nn.softmax(-distance, axis=-1) if normalise else jnp.exp(-distance)


def _found(
    tokens: Array,
    centroids: Array,
    c: Array,
    top_k: int,
    search: Any,
    implementation: _dispatch.Implementation | None,
) -> Any:
    """index, evaluations and certified, by that search."""
    built = isinstance(search, tree.Tree)
    kind = "tree" if built else _checks.one_of("search", search, ("dense", "tree"))
    name = _dispatch.choose(
        f"moe.route(search={kind!r})",
        implementation,
        pays=tokens.shape[0] * centroids.shape[0] >= PAYS,
        arrays=(tokens, centroids),
        dtype=tokens.dtype,
        top_k=top_k,
        d=tokens.shape[1],
    )
    if built:
        return tree.search(search, tokens, top_k=top_k)
    if kind == "dense":
        return _search.dense(tokens, centroids, c, top_k, name)
    return _by_tree(tokens, centroids, c, top_k)


@functools.partial(jax.jit, static_argnums=3)
def _by_tree(tokens: Array, centroids: Array, c: Array, top_k: int) -> tree.Found:
    """The key decides how the tree looks, not what is found."""
    built = tree.build(centroids, key=jax.random.key(0), curvature=c)
    return tree.search(built, tokens, top_k=top_k)


def _points(name: str, value: Any) -> jax.Array:
    array = _checks.real(name, value)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must have shape (n, d) with d > 0, got {array.shape}")
    return array
