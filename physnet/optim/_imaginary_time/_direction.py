"""The direction of a natural gradient step, by one of the three solves."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.optim._imaginary_time import _cg, _gram, _parameters, _rows, _samples

Solver = Literal["samples", "parameters", "cg"]


class Options(NamedTuple):
    """How to solve: the options of `imaginary_time` of these names."""

    solver: Solver | None
    rtol: Any
    tolerance: Any
    iterations: int


def direction(
    jacobian: Any,
    residual: Any,
    grads: Any,
    params: Any,
    carried: Any,
    start: Any,
    damping: Float[Array, ""],
    options: Options,
) -> tuple[Any, Int[Array, ""]]:
    """d, and the products it took; `grads` count where there is no residual, `start` for "cg"."""
    pair = _rows.as_products(jacobian)
    if pair is not None and options.solver not in (None, "cg"):
        raise ValueError(
            f"solver must be 'cg' or None for a jacobian of products, got {options.solver!r}"
        )
    if pair is not None and options.rtol is not None:
        raise ValueError(f"rtol must be None for a jacobian of products, got {options.rtol!r}")
    if pair is None and options.solver != "cg":
        found = _dense(jacobian, residual, grads, params, carried, damping, options)
        return found, jnp.zeros([], jnp.int32)
    if pair is None:
        pair = _of_matrix(jacobian, params)
    else:
        pair = pair._replace(jvp=lambda d, jvp=pair.jvp: jvp(_cast(d, params)))
    if grads is None:
        grads = _rows.adjoint(pair, params, _checks.inexact("residual", residual))
    return _cg.solve(
        lambda d: _cg.add(_rows.adjoint(pair, params, pair.jvp(d)), damping, d),
        _cg.add(grads, damping, carried),
        start,
        tolerance=jnp.asarray(options.tolerance),
        iterations=options.iterations,
    )


def _cast(tree: Any, like: Any) -> Any:
    """In the parameters' own dtypes, as linear maps at them need it."""
    return jax.tree.map(lambda x, p: x.astype(p.dtype), tree, like)


def _dense(
    jacobian: Any,
    residual: Any,
    grads: Any,
    params: Any,
    carried: Any,
    damping: Float[Array, ""],
    options: Options,
) -> Any:
    """m + the solve of what m leaves over."""
    rows, stacked = _rows.matrix(jacobian, params)
    samples = len(rows) // 2 if stacked else len(rows)
    few = options.solver == "samples" or (options.solver is None and len(rows) <= rows.shape[1])
    side = _samples if few else _parameters
    shift = damping.astype(rows.dtype)
    rtol = None if options.rtol is None else jnp.asarray(options.rtol, rows.dtype)
    ahead = _rows.flatten(carried, rows.dtype)
    image = _gram.product(rows, ahead)
    if grads is None:
        left = _rows.target(residual, samples, stacked, rows.dtype) - image
        found = side.least_squares(rows, left, shift, rtol)
    else:
        left = _rows.flatten(grads, rows.dtype) - _gram.product(rows.T, image)
        found = side.natural(rows, left, shift, rtol)
    return _rows.unflatten(ahead + found, params)


def _of_matrix(jacobian: Any, params: Any) -> _rows.Products:
    """The products of a Jacobian that is given whole; rows as `_rows.matrix` has them."""
    rows, stacked = _rows.matrix(jacobian, params)

    def jvp(tree):
        image = _gram.product(rows, _rows.flatten(tree, rows.dtype))
        if not stacked:
            return image
        re, im = jnp.split(image, 2)
        return jax.lax.complex(re, im)

    def vjp(cotangent):
        parts = _rows.target(jnp.conj(cotangent), len(cotangent), stacked, rows.dtype)
        found = _rows.unflatten(_gram.product(rows.T, parts), params)
        return jax.tree.map(jnp.conj, found)

    return _rows.Products(jvp, vjp)
