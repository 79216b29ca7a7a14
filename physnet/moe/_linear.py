"""A linear function with a transpose of its own.

Like `jax.custom_derivatives.linear_call`, which can neither be batched nor differentiated by what
it depends on otherwise.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

Map = Callable[[Any, list[Array]], list[Array]]


class _Maps(NamedTuple):
    """Functions of flat residuals and operands, all lists of arrays."""

    straight: Map
    back: Map
    plain: Map
    plain_back: Map


def linear(straight: Map, back: Map, plain: Map, residuals: Any, x: list[Array]) -> list[Array]:
    """straight(residuals, x), linear in x.

    Args:
        straight: The function, of residuals and of a list of arrays; it needs no derivatives.
        back: Its transpose in x: (residuals, cotangents of the outputs) to those of x.
        plain: Equal to `straight`, by operations that JAX differentiates: its derivatives in the
            residuals are those of the outputs.
        residuals: Any pytree of arrays.
        x: Floating-point arrays.
    """
    leaves, tree = jax.tree.flatten(residuals)
    shapes = [jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)) for v in x]

    def flat(function):
        return lambda leaves, x: list(function(tree.unflatten(leaves), list(x)))

    def plain_back(residuals, ct):
        return jax.linear_transpose(lambda *x: plain(residuals, list(x)), *shapes)(ct)

    maps = _Maps(*map(flat, (straight, back, plain, plain_back)))
    return _linear.bind(*leaves, *x, maps=maps, split=len(leaves))


def _run(*operands, maps: _Maps, split: int):
    return maps.straight(list(operands[:split]), list(operands[split:]))


def _eager(*operands, **options):
    return jax.jit(functools.partial(_run, **options))(*operands)


def _abstract(*avals, **options):
    return jax.make_jaxpr(functools.partial(_run, **options))(*avals).out_avals


def _jvp(primals, tangents, *, maps: _Maps, split: int):
    residuals, x = primals[:split], primals[split:]
    out = _linear.bind(*primals, maps=maps, split=split)
    parts = []
    if any(type(t) is not ad.Zero for t in tangents[split:]):
        moves = [ad.instantiate_zeros(t) for t in tangents[split:]]
        parts.append(_linear.bind(*residuals, *moves, maps=maps, split=split))
    moving = [i for i, t in enumerate(tangents[:split]) if type(t) is not ad.Zero]
    if moving:

        def of(*moved):
            every = list(residuals)
            for i, value in zip(moving, moved, strict=True):
                every[i] = value
            return maps.plain(every, x)

        point, moves = ([values[i] for i in moving] for values in (residuals, tangents))
        parts.append(jax.jvp(of, point, moves)[1])
    return out, [functools.reduce(jnp.add, same) for same in zip(*parts, strict=True)]


def _transpose(cts, *operands, maps: _Maps, split: int):
    cts = [ad.instantiate_zeros(ct) for ct in cts]
    turned = _Maps(maps.back, maps.straight, maps.plain_back, maps.plain)
    back = _linear.bind(*operands[:split], *cts, maps=turned, split=split)
    back = [*[None] * split, *back]
    return [ct if ad.is_undefined_primal(x) else None for x, ct in zip(operands, back, strict=True)]


def _batch(operands, axes, *, maps: _Maps, split: int):
    size = next(x.shape[d] for x, d in zip(operands, axes, strict=True) if d is not None)
    operands = [
        x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, axes, strict=True)
    ]
    x = [
        jnp.broadcast_to(x, (size, *x.shape)) if d is None else x
        for x, d in zip(operands[split:], axes[split:], strict=True)
    ]
    own = [None if d is None else 0 for d in axes[:split]]

    def each(function):
        batched = jax.vmap(lambda r, x: list(function(r, x)), (own, 0), axis_size=size)
        return lambda residuals, x: batched(list(residuals), list(x))

    out = _linear.bind(*operands[:split], *x, maps=_Maps(*map(each, maps)), split=split)
    return out, [0] * len(out)


_linear = Primitive("linear")
_linear.multiple_results = True
_linear.def_impl(_eager)
_linear.def_abstract_eval(_abstract)
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
mlir.register_lowering(_linear, mlir.lower_fun(_run, multiple_results=True))
