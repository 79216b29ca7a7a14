"""A function in a place of its own in the compiled program, where its bits do not depend on others.

Fused with its neighbours in another way, the same function is contracted to other multiply-adds and
differs in its last bits. XLA's optimisation barriers keep neighbours away on a GPU, where they
stay until all is fused. On a CPU they go before that; there the function is a call that is not
inlined. It is a primitive because JAX would take a jitted function apart: within the derivative of
a loop, what does not depend on the loop moves out of it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from physnet import _varying


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), compiled by itself; it may not close over tracers."""
    jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    leaves = _apart.bind(*_fence(jaxpr.consts + jax.tree.leaves(arguments)), jaxpr=_open(jaxpr))
    return jax.tree.unflatten(jax.tree.structure(shape), _fence(leaves))


def _open(jaxpr: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """Its constants as first arguments."""
    inner = jaxpr.jaxpr
    return core.ClosedJaxpr(
        inner.replace(constvars=(), invars=[*inner.constvars, *inner.invars]), ()
    )


def _fence(leaves: list[Any]) -> list[Any]:
    """A barrier to the compiler; keys are integers, the same however they are computed.

    One for all that varies over the same axes of a `shard_map`: a barrier makes its operands alike.
    """
    found, groups = list(leaves), {}
    for i, x in enumerate(leaves):
        if not jnp.issubdtype(x.dtype, jax.dtypes.extended):
            groups.setdefault(_varying.axes(x), []).append(i)
    for plain in groups.values():
        for i, x in zip(plain, lax.optimization_barrier([leaves[i] for i in plain]), strict=True):
            found[i] = x
    return found


def fence(tree: Any) -> Any:
    """The same tree, behind a barrier."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _fence(leaves))


def _inline(*arguments: Any, jaxpr: core.ClosedJaxpr) -> Any:
    return core.jaxpr_as_fun(jaxpr)(*arguments)


def _called(*arguments: Any, jaxpr: core.ClosedJaxpr) -> Any:
    with set_xla_metadata(inlineable="false"):
        return jax.jit(core.jaxpr_as_fun(jaxpr))(*arguments)


def _batched(arguments: Any, axes: Any, *, jaxpr: core.ClosedJaxpr) -> Any:
    function = jax.vmap(core.jaxpr_as_fun(jaxpr), in_axes=tuple(axes))
    batched = jax.make_jaxpr(function)(*arguments)
    found = _apart.bind(*batched.consts, *arguments, jaxpr=_open(batched))
    return found, [0] * len(found)


def _derivative(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(
        "a trajectory on a lattice has first derivatives alone: take lattice=None for higher ones"
    )


_apart = core.Primitive("apart")
_apart.multiple_results = True
_apart.def_impl(_inline)
_apart.def_abstract_eval(lambda *_, jaxpr: jaxpr.out_avals)
# Some functions of jax.numpy, such as searchsorted, are operations that JAX 0.12 has yet to expand
# ("high"). Those inside are expanded where the function is lowered, and no rule is needed before.
_apart.is_high = lambda *_, **__: False
mlir.register_lowering(_apart, mlir.lower_fun(_inline, multiple_results=True))
mlir.register_lowering(_apart, mlir.lower_fun(_called, multiple_results=True), platform="cpu")
batching.primitive_batchers[_apart] = _batched
ad.primitive_jvps[_apart] = _derivative
