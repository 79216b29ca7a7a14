"""Propagators G(l, k) over depth, l < k, as one linear recurrence from the last layer to the first.

Site l is the output of layer l, and G(l, k) carries an error from site k to site l.
"""

from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from physnet import _checks, greens
from physnet.dyson._matrices import computing_dtype, product


class Propagator(NamedTuple):
    """G(l, k) = sum_r read[l, r] (prod_{m=l+1..k} decay[m, r]) write[k, r], for l < k.

    Attributes:
        read, decay, write: (L, r), real or complex. decay[0] is not used. No product is ever
            divided by, so zeros are allowed anywhere.
    """

    read: Inexact[Array, "L r"]
    decay: Inexact[Array, "L r"]
    write: Inexact[Array, "L r"]


PropagatorLike: TypeAlias = (
    Propagator
    | Inexact[Array, " L"]
    | Inexact[Array, "L L"]
    | tuple[Inexact[Array, "L r"], Inexact[Array, "L r"]]
)


def as_propagator(propagator: PropagatorLike) -> Propagator:
    r"""A `Propagator` from any of the forms in which one may be given.

    Args:
        propagator: One of

            - rho (L,): products of scalars, G(l, k) = prod_{m=l+1..k} rho_m. Rank 1.
            - (U, V), both (L, r): semiseparable, G(l, k) = U_l . V_k, without conjugation.
            - a dense (L, L), of which the part above the diagonal counts. Rank L: nothing is saved.
            - a `Propagator`, checked.

    Returns:
        The `Propagator`, of the precision that came.

    Raises:
        ValueError: The shape is none of these.
        TypeError: An array is not of floating dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> print(dense(as_propagator(jnp.array([9.0, 0.5, 0.0, 2.0]))))
        [[0.  0.5 0.  0. ]
         [0.  0.  0.  0. ]
         [0.  0.  0.  2. ]
         [0.  0.  0.  0. ]]
    """
    if isinstance(propagator, Propagator):
        names = ("propagator.read", "propagator.decay", "propagator.write")
        return Propagator(*_same_shape(names, propagator))
    if isinstance(propagator, tuple):
        if len(propagator) != 2:
            raise ValueError(
                f"propagator must be a pair (U, V) if it is a tuple, got {len(propagator)} entries"
            )
        left, right = _same_shape(("U of propagator", "V of propagator"), propagator)
        return Propagator(left, jnp.ones_like(left), right)
    array = _checks.inexact("propagator", propagator)
    if array.ndim == 1 and len(array):
        one = jnp.ones_like(array)[:, None]
        return Propagator(one, array[:, None], one)
    if array.ndim == 2 and array.shape[0] == array.shape[1] and len(array):
        return Propagator(array, jnp.ones_like(array), jnp.eye(len(array), dtype=array.dtype))
    raise ValueError(
        "propagator must be scalars (L,), a pair (U, V) of (L, r), a dense (L, L) or a Propagator, "
        f"got an array of shape {array.shape}"
    )


def chain_propagator(
    onsite: Float[Array, " L"], hopping: Inexact[Array, " m"], energy: ArrayLike
) -> Propagator:
    r"""The resolvent of a tridiagonal chain whose sites are the layers, in O(L).

        G(l, k) = [(z - H)^{-1}]_lk = (prod_{m=l+1..k} gL_{m-1} b_{m-1}) G_kk

    with gL of `greens.left` and G_kk of `greens.diagonal`: rank 1, complex, right to rounding.

    Args:
        onsite: a (L,), real.
        hopping: b (L-1,), H[l, l+1] = b_l.
        energy: z, a complex number, Im z > 0.

    Returns:
        The `Propagator`.

    Raises:
        ValueError, TypeError: As `greens.diagonal`, and where there are batch axes.

    Example:
        >>> import jax.numpy as jnp
        >>> onsite, hopping = jnp.array([0.0, 1.0, 0.0]), jnp.ones(2)
        >>> chain = jnp.diag(onsite) + jnp.eye(3, k=1) + jnp.eye(3, k=-1)
        >>> print(f"{greens.resolvent(chain, 1j)[0, 2]:.4f}")
        0.1000+0.3000j
        >>> print(f"{dense(chain_propagator(onsite, hopping, 1j))[0, 2]:.4f}")
        0.1000+0.3000j
    """
    onsite, hopping = _checks.real("onsite", onsite), _checks.inexact("hopping", hopping)
    shapes = {"onsite": onsite.shape, "hopping": hopping.shape}
    places = (0, *_checks.array("energy", energy).shape)
    for name, shape in (shapes | {"energy": places}).items():
        if len(shape) != 1:
            raise ValueError(f"{name} must have no batch axes (use vmap), got shapes {shapes}")
    half, full = greens.left(onsite, hopping, energy), greens.diagonal(onsite, hopping, energy)
    decay = half[:-1] * hopping.astype(half.dtype)
    decay = jnp.concatenate([jnp.zeros_like(half[:1]), decay])
    return Propagator(jnp.ones_like(full)[:, None], decay[:, None], full[:, None])


def apply(propagator: PropagatorLike, source: Inexact[Array, "L *h"]) -> Inexact[Array, "L *h"]:
    r"""The errors that a propagator carries to each layer from all later ones.

        A_l = sum_{k>l} G(l, k) delta_k

    by one pass from the last layer to the first with r accumulators, O(L r):
    S_l = decay_{l+1} (S_{l+1} + write_{l+1} delta_{l+1}), A_l = read_l . S_l.

    Args:
        propagator: As `as_propagator` takes it. A dense matrix is multiplied with.
        source: delta (L, ...), real or complex, layers first.

    Returns:
        A (L, ...), complex where one of both is, float32 at least. A_{L-1} = 0.

    Raises:
        ValueError, TypeError: As `as_propagator`; the numbers of layers differ.

    Example:
        >>> import jax.numpy as jnp
        >>> print(apply(jnp.full(4, 0.5), jnp.ones(4)))
        [0.875 0.75  0.5   0.   ]
    """
    p = as_propagator(propagator)
    source = _checks.at_least_1d("source", _checks.inexact("source", source))
    layers = len(p.read)
    if len(source) != layers:
        raise ValueError(
            f"source must have the propagator's {layers} layers on its first axis, "
            f"got shape {source.shape}"
        )
    dtype = computing_dtype(*p, source)
    flat = source.astype(dtype).reshape(layers, -1)
    p = Propagator(*(x.astype(dtype) for x in p))
    if getattr(propagator, "ndim", 0) == 2:
        return product(jnp.triu(p.read, 1), flat).reshape(source.shape)

    def step(accumulated, layer):
        read, decay, write, delta = layer
        out = product(read, accumulated)
        accumulated = decay[:, None] * (accumulated + write[:, None] * delta[None, :])
        return accumulated, out

    zero = jnp.zeros_like(p.decay[0][:, None] * p.write[0][:, None] * flat[0][None, :])
    return lax.scan(step, zero, (*p, flat), reverse=True)[1].reshape(source.shape)


def dense(propagator: PropagatorLike) -> Inexact[Array, "L L"]:
    r"""The matrix G(l, k) of a propagator, zero on and below the diagonal.

    With ones on the diagonal, that of scalars rho is the solution of the Dyson equation whose G0 is
    1 and whose self-energy holds rho above the diagonal.

    Args:
        propagator: As `as_propagator` takes it.

    Returns:
        (L, L), strictly upper triangular.

    Raises:
        ValueError, TypeError: As `as_propagator`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(dense((jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [4.0]]))))
        [[0. 4.]
         [0. 0.]]
    """
    p = as_propagator(propagator)
    return apply(propagator, jnp.eye(len(p.read), dtype=computing_dtype(*p)))


def _same_shape(names: tuple[str, ...], arrays: Any) -> list[Array]:
    arrays = [_checks.inexact(name, x) for name, x in zip(names, arrays, strict=True)]
    shapes = [x.shape for x in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ValueError(
            f"{', '.join(names)} must share one shape (L, r), got {', '.join(map(str, shapes))}"
        )
    return arrays
