"""The rows of a natural gradient's metric as one real matrix, and trees as real vectors."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from physnet import _checks
from physnet.optim import _leaves


class Products(NamedTuple):
    """A Jacobian known by its products, both linear, in JAX's conventions.

    Attributes:
        jvp: From a tree like the parameters to (samples,), as `jax.linearize` gives it.
        vjp: From (samples,) to a tree like the parameters, as `jax.vjp` or `jax.linear_transpose`
            give it (a tuple of one such tree will do).
    """

    jvp: Callable[[Any], Any]
    vjp: Callable[[Any], Any]


class Rows(NamedTuple):
    """What `imaginary_time` takes as extra arguments: update(None, state, params, **r._asdict()).

    Attributes:
        jacobian: Scaled so that its Gram matrix over the samples is the metric: a tree like the
            parameters whose leaves have a leading axis (samples,), or `Products`.
        residual: (samples,), scaled alike: the loss's gradient is jacobian^T residual.
    """

    jacobian: Any
    residual: Inexact[Array, " samples"]


def as_products(jacobian: Any) -> Products | None:
    """`jacobian` where it is a pair of callables, else None."""
    pair = isinstance(jacobian, tuple) and len(jacobian) == 2
    return Products(*jacobian) if pair and all(map(callable, jacobian)) else None


def adjoint(products: Products, like: Any, rows: Inexact[Array, " samples"]) -> Any:
    """J^dagger rows: what is dual to jvp under the real inner product Re(conj(a) b)."""
    shape = jax.eval_shape(products.jvp, like)
    if rows.shape != shape.shape:
        raise ValueError(
            f"residual must have the shape of jvp's results, {shape.shape}, got {rows.shape}"
        )
    rows = rows if jnp.issubdtype(shape.dtype, jnp.complexfloating) else jnp.real(rows)
    found = products.vjp(jnp.conj(rows).astype(shape.dtype))
    outer = jax.tree.structure(found)
    if outer != jax.tree.structure(like) and isinstance(found, tuple) and len(found) == 1:
        found = found[0]
    return jax.tree.map(lambda x, p: jnp.conj(x).astype(wide(p).dtype), found, like)


def wide(x: Any) -> jax.Array:
    """In float32 or complex64 at least: what directions are kept in."""
    return _leaves.wide(x)


def widest(arrays: list[Any]) -> np.dtype:
    """The real dtype that holds all of them: float32 or float64."""
    return np.dtype(jnp.finfo(np.result_type(*(wide(x).dtype for x in arrays))).dtype)


def over(function: Callable[[Any], Any], examples: Any, chunk: int | None) -> Any:
    """The function's results of all examples, `chunk` at once."""
    if chunk is None:
        return jax.vmap(function)(examples)
    return lax.map(function, examples, batch_size=_checks.positive_int("chunk", chunk))


def linearised(function: Callable[[Any], Any], params: Any) -> Products:
    """The products of a function's Jacobian at these parameters."""
    _, jvp = jax.linearize(function, params)
    return Products(jvp, jax.linear_transpose(jvp, params))


def scale(x: Float[Array, "..."], root: Float[Array, "..."]) -> Float[Array, "..."]:
    """Rows times their weights' roots; 0 where the weight is."""
    root = root.astype(x.dtype).reshape(root.shape + (1,) * (x.ndim - root.ndim))
    return jnp.where(root > 0, root * x, 0)


def roots(weights: Any, shape: tuple[int, ...], params: Any) -> Float[Array, "..."]:
    """Roots of the weights, by default of the mean's, in the widest dtype of the parameters."""
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise ValueError("params must hold at least one array, got none")
    dtype = widest(leaves)
    if weights is None:
        return jnp.full(shape, math.prod(shape) ** -0.5, dtype)
    found = _checks.real("weights", weights)
    if found.shape != shape:
        raise ValueError(f"weights must have one number a prediction, {shape}, got {found.shape}")
    return jnp.sqrt(found.astype(dtype))


def is_complex(tree: Any) -> bool:
    """Whether a leaf is complex."""
    return any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(tree))


def flatten(tree: Any, dtype: Any) -> Float[Array, " p"]:
    """All leaves as one real vector: of a complex leaf its real parts, then its imaginary ones."""
    pieces = []
    for leaf in jax.tree.leaves(tree):
        flat = jnp.ravel(leaf)
        pieces += [flat.real, flat.imag] if jnp.iscomplexobj(flat) else [flat]
    return jnp.concatenate([piece.astype(dtype) for piece in pieces])


def unflatten(vector: Float[Array, " p"], like: Any) -> Any:
    """The tree, like `like`, whose real vector this is."""
    leaves, structure = jax.tree.flatten(like)
    found, start = [], 0

    def take(leaf):
        nonlocal start
        start += leaf.size
        return vector[start - leaf.size : start].reshape(leaf.shape)

    for leaf in leaves:
        found.append(lax.complex(take(leaf), take(leaf)) if jnp.iscomplexobj(leaf) else take(leaf))
    return jax.tree.unflatten(structure, found)


def _columns(jacobian: Any, params: Any) -> list[jax.Array]:
    """For each leaf its derivatives, (samples, entries)."""
    leaves, structure = jax.tree.flatten(params)
    sizes = [leaf.size for leaf in leaves]
    if hasattr(jacobian, "shape") and jacobian.shape[1:] == (sum(sizes),) and len(jacobian):
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        return jnp.split(_checks.inexact("jacobian", jacobian), ends, axis=1)
    if jax.tree.structure(jacobian) != structure:
        raise ValueError(
            "jacobian must be a tree like params, a matrix (samples, "
            f"{sum(sizes)}) or a pair of callables (jvp, vjp), got "
            f"{getattr(jacobian, 'shape', jax.tree.structure(jacobian))} for params of {structure}"
        )
    samples = _checks.stacked("jacobian", jacobian, "the samples")
    for found, leaf in zip(jax.tree.leaves(jacobian), leaves, strict=True):
        if found.shape[1:] != leaf.shape:
            raise ValueError(
                f"jacobian must have leaves (samples, ...) over those of params, got {found.shape} "
                f"for a leaf of shape {leaf.shape}"
            )
    found = [_checks.inexact("jacobian", x) for x in jax.tree.leaves(jacobian)]
    return [x.reshape(samples, math.prod(x.shape[1:])) for x in found]


def matrix(jacobian: Any, params: Any) -> tuple[Float[Array, "r p"], bool]:
    """The Jacobian over real parameters, and whether its rows are real parts, then imaginary ones.

    A complex leaf stands for its real and imaginary parts; its column d is the holomorphic
    derivative, so that the two parts have d and i d.
    """
    leaves = jax.tree.leaves(params)
    columns = [wide(x) for x in _columns(jacobian, params)]
    dtype = widest(columns)
    stacked = is_complex(columns) or is_complex(leaves)
    blocks = []
    for column, leaf in zip(columns, leaves, strict=True):
        re, im = jnp.real(column).astype(dtype), jnp.imag(column).astype(dtype)
        blocks.append(jnp.concatenate([re, im]) if stacked else re)
        if jnp.iscomplexobj(leaf):
            blocks.append(jnp.concatenate([-im, re]))
    return jnp.concatenate(blocks, axis=1), stacked


def target(residual: Any, samples: int, stacked: bool, dtype: Any) -> Float[Array, " r"]:
    """The residual in the rows' form; of a complex one over real rows only the real part counts."""
    found = _checks.inexact("residual", residual)
    if found.shape != (samples,):
        raise ValueError(
            f"residual must have one number a sample of jacobian, ({samples},), got {found.shape}"
        )
    parts = [jnp.real(found), jnp.imag(found)] if stacked else [jnp.real(found)]
    return jnp.concatenate([part.astype(dtype) for part in parts])
