"""Witten layer: boundary fields of a sequence meet at vertices in the bulk and return to it.

Shapes: any leading (batch) axes, T time or place, W width, F features, L levels, P legs.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from physnet import _checks, holography
from physnet._dtypes import accurate
from physnet.nn._module import ParamsModule
from physnet.nn.layers import linear

Params = dict[str, Any]


class State(NamedTuple):
    """What a causal layer keeps of the past, Q numbers a level and feature.

    Attributes:
        inward: (P, ..., L, Q, F), of the propagators from the boundary to the vertices.
        outward: (..., L, Q, F), of those back.
    """

    inward: Float[Array, "P *b L Q F"]
    outward: Float[Array, "*b L Q F"]


def init(
    key: jax.Array,
    width: int,
    *,
    features: int = 16,
    points: int = 3,
    levels: int = 6,
    output_deviation: float = 0.02,
) -> Params:
    r"""Parameters of a layer, as float32 arrays.

    Args:
        key: A JAX random key.
        width: W.
        features: F vertices of their own at each place of the bulk.
        points: Boundary points of a diagram: 3 for cubic vertices, 4 for quartic ones; all but one
            are sources.
        levels: L depths z = 2^l / 2.
        output_deviation: Of the projection back to the residual stream.

    Returns:
        source (W, P F) with P = points - 1, coupling (L, F), out (F, W).

    Raises:
        ValueError: A number out of range.
    """
    width, features = (
        _checks.positive_int(name, size)
        for name, size in (("width", width), ("features", features))
    )
    levels = _checks.positive_int("levels", levels)
    legs = _checks.positive_int("points", points, minimum=3) - 1
    sources, back = jax.random.split(_checks.key("key", key))

    def normal(key, shape, deviation):
        return deviation * jax.random.normal(key, shape, jnp.float32)

    return {
        "source": normal(sources, (width, legs * features), width**-0.5),
        "coupling": jnp.full((levels, features), levels**-0.5, jnp.float32),
        "out": normal(back, (features, width), output_deviation),
    }


def apply(
    params: Params,
    x: Float[Array, "*b t w"],
    *,
    delta: float = 1.0,
    causal: bool = True,
    terms: int = 16,
) -> Float[Array, "*b t w"]:
    r"""Contract bulk-to-boundary propagators at bulk vertices: a contact Witten diagram a feature.

        phi_p(z, s) = z^{Delta - 1} sum_i K(z, s - i) (x_i W_p),     p = 1 .. P sources
        y_t = sum_z g_z sum_s z^{Delta - 1} K(z, t - s) phi_1 ... phi_P (z, s),     output = y W_o

    A cubic layer (P = 2) is a bilinear form of two places of the sequence, weighted by the
    three-point function of K at those and at its own place; a quartic one is trilinear. The powers
    of z turn K into averages of width z; they and the measure z^{-2} dz are part of the coupling g,
    one a level and feature, which is learned. With g = log(2) / z on the lattice that function is
    met to a tenth, as the depths are octaves apart: `holography.contact` is the integral itself.

    Args:
        params: As `init` returns them.
        x: (..., T, W).
        delta: Scaling dimension Delta > 1/2 of all legs. Static.
        causal: Propagators of light-cone time, that see the past alone (`causal_to_bulk`): O(T) a
            level. Otherwise K on the dyadic lattice (`to_bulk`), with at most `all_levels(T)`
            levels, where the vertices of level l are 2^l places apart; nothing beyond the ends.
        terms: Exponentials of a causal propagator. Static.

    Returns:
        (..., T, W), in the dtype of x.

    Raises:
        ValueError: An empty sequence, another width, more levels than the places have.
        TypeError: x is not real floating-point.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = init(jax.random.key(0), 8, features=4, levels=3)
        >>> x = jax.random.normal(jax.random.key(1), (12, 8))
        >>> run = jax.jit(apply)
        >>> y = run(params, x)
        >>> bool(jnp.allclose(run(params, 2 * x), 4 * y, rtol=1e-4))      # bilinear
        True
        >>> moved = run(params, x.at[7].set(0.0))
        >>> bool(jnp.all(moved[:7] == y[:7])), bool(jnp.any(moved[7:] != y[7:]))
        (True, True)

    References:
        Witten 1998, Anti de Sitter space and holography.
    """
    if causal:
        return extend(params, x, None, delta=delta, terms=terms)[0]
    fields = _sources(params, x)
    length, coupling = x.shape[-2], params["coupling"].astype(fields.dtype)
    levels = coupling.shape[0]
    if levels > holography.all_levels(length):
        raise ValueError(
            f"x must have at least {2 ** (levels - 2) + 1} places for {levels} levels, got {length}"
        )
    bulk = holography.to_bulk(fields, levels, delta=delta)
    vertices = []
    for level, phi in enumerate(bulk):
        # slots stand for 2^l places each; `to_boundary` has a cell's volume 2 log 2
        scale = (2.0**level / 2) ** ((delta - 1) * (phi.shape[0] + 1))
        own = coupling[level] * (scale * 2**level / (2 * math.log(2.0)))
        product = jnp.prod(phi, 0)
        vertices.append(product * own.reshape((1,) * (product.ndim - 1) + own.shape))
    y = holography.to_boundary(vertices, length, delta=delta)
    return linear(y, params["out"]).astype(x.dtype)


def extend(
    params: Params,
    x: Float[Array, "*b t w"],
    state: State | None,
    *,
    delta: float = 1.0,
    terms: int = 16,
) -> tuple[Float[Array, "*b t w"], State]:
    """The causal layer on the next piece of a sequence.

    Args:
        params, x, delta, terms: As in `apply`.
        state: What the piece before returned; None at the start.

    Returns:
        Output (..., T, W) and the state to go on from.

    Raises:
        ValueError, TypeError: As `apply`, or a state of other shapes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = init(jax.random.key(0), 8, features=4, points=4, levels=3)
        >>> x = jax.random.normal(jax.random.key(1), (12, 8))
        >>> run = jax.jit(extend)
        >>> first, state = run(params, x[:5], None)
        >>> rest, _ = run(params, x[5:], state)
        >>> whole = jax.jit(apply)(params, x)
        >>> bool(jnp.allclose(jnp.concatenate([first, rest]), whole, atol=1e-6))
        True
    """
    fields, delta = _sources(params, x), _checks.number("delta", delta)
    coupling = params["coupling"].astype(fields.dtype)
    z = jnp.asarray(2.0 ** np.arange(coupling.shape[0]) / 2, fields.dtype)
    power = z ** (delta - 1)
    options = {"delta": delta, "terms": terms}
    inward, outward = (None, None) if state is None else state
    phi, inward = holography.causal_to_bulk(fields, z, state=inward, **options)
    vertex = jnp.prod(phi, 0)  # (..., L, T, F)
    own = coupling * (power ** (phi.shape[0] + 1))[:, None]
    vertex = vertex * own.reshape((1,) * (vertex.ndim - 3) + (own.shape[0], 1, own.shape[1]))
    y, outward = holography.causal_to_boundary(vertex, z, state=outward, **options)
    return linear(y, params["out"]).astype(x.dtype), State(inward, outward)


def _sources(params: Params, x: Array) -> Array:
    """(P, ..., T, F) fields on the boundary."""
    _checks.instance("params", params, Mapping)
    width, features = params["source"].shape[0], params["out"].shape[0]
    x = _checks.real("x", x)
    if x.ndim < 2 or x.shape[-2] == 0 or x.shape[-1] != width:
        raise ValueError(f"x must have shape (..., T >= 1, {width}), got {x.shape}")
    fields = linear(x.astype(accurate(x.dtype)), params["source"])
    legs = fields.shape[-1] // features
    return jnp.moveaxis(fields.reshape(*x.shape[:-1], legs, features), -2, 0)


class WittenLayer(ParamsModule):
    """`apply` as a module: (..., T, W) to the same shape.

    Args:
        width: W.
        features, points, levels: As in `init`.
        delta, causal: As in `apply`.
        rngs: Flax random streams; `params` is used.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = WittenLayer(8, features=4, levels=3, rngs=nnx.Rngs(0))
        >>> nnx.jit(lambda layer, x: layer(x))(layer, jnp.ones((2, 5, 8))).shape
        (2, 5, 8)
    """

    def __init__(
        self,
        width: int,
        *,
        features: int = 16,
        points: int = 3,
        levels: int = 6,
        delta: float = 1.0,
        causal: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        self.delta, self.causal = delta, causal
        key = rngs.params()
        super().__init__(init(key, width, features=features, points=points, levels=levels))

    def __call__(self, x: Float[Array, "*b T W"]) -> Float[Array, "*b T W"]:
        return apply(self.tree(), x, delta=self.delta, causal=self.causal)
