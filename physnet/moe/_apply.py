"""Experts on the tokens that were routed to them, none dropped unless asked for."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from physnet import _checks, _dispatch, _varying
from physnet.moe import _arguments, _exchange, _experts, _load
from physnet.moe._route import Routing
from physnet.moe._rows import weighted


def apply(
    tokens: Float[Array, "n d"],
    routing: Routing,
    expert_fn: Callable[[Any, Array], Array],
    expert_params: Any,
    *,
    capacity_factor: float | None = None,
    axis_name: str | None = None,
    return_info: bool = False,
) -> Float[Array, "n o"] | tuple[Float[Array, "n o"], _load.Load]:
    r"""The experts' outputs, summed with their gates: y_i = sum_j gate_ij f(params[e_ij], x_i).

    By default no token is dropped: equal to a loop over tokens, in values and derivatives. On CPUs
    assignments are sorted by expert into blocks of rows, computed one after another, in sizes that
    follow the loads where no derivatives are asked for. Elsewhere all experts run at once, each on
    as many rows as random loads exceed rarely (mean + 4 sqrt(mean)); what a load exceeds them by
    follows in blocks of 256 rows, one after another, so skewed loads take longer. No parameter is
    copied, unless there are three times as many experts as assignments: then those in use are.
    First derivatives, forward and reverse, run in the same way; higher ones go through all blocks
    one after another, in use or not, which is much slower.

    With a capacity factor every expert has ceil(factor n k / E) rows, filled in the order of the
    tokens; what comes later is dropped (output 0). That order keeps a sequence causal: no later
    token takes an earlier one's place, which dropping the smallest gates would allow.

    Inside `shard_map` with `axis_name`, tokens and experts are both sharded over that axis: each
    device holds the next E of the experts, which `routing` numbers over the whole axis. Tokens
    travel to their experts and back by all-to-all. Each pair of devices has room for twice its even
    share; where some pair needs more, all devices repeat nothing but take buffers of the worst
    case, so that none is dropped there either.

    Call it under `jit`: the loops are compiled for every `expert_fn` object anew.

    Args:
        tokens: x (n, d).
        routing: From `route`; only expert and gate (n, k) are used. An expert outside of those that
            there are counts as none.
        expert_fn: f(params_e, x (m, d)) -> (m, o), acting on each row alone.
        expert_params: Any pytree of arrays with a first axis E, the expert.
        capacity_factor: None, or the rows of an expert over its even share, > 0. Static.
        axis_name: The mesh axis that experts and tokens are sharded over.
        return_info: Also return the loads. Static.

    Returns:
        y (n, o) of expert_fn's dtype, summed in float32 at least; with `return_info` a pair of it
        and a `Load`, over all devices of the axis, with the share dropped. Gradients reach tokens,
        gates and parameters; rows that only fill a block pass none on.

    Raises:
        ValueError: Shapes that do not fit, parameters without a common first axis, a capacity
            factor that is not positive.
        TypeError: Tokens that are not real and floating, experts that are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> routing = Routing(jnp.array([[1], [0], [1]]), jnp.ones((3, 1)), None, None, None)
        >>> scale = jnp.array([10.0, 100.0])
        >>> run = jax.jit(lambda x: apply(x, routing, lambda p, x: p * x, scale, return_info=True))
        >>> y, info = run(jnp.ones((3, 2)))
        >>> y[:, 0].tolist(), info.count.tolist()
        ([100.0, 10.0, 100.0], [1, 2])
    """
    tokens = _checks.real("tokens", tokens)
    if tokens.ndim != 2:
        raise ValueError(f"tokens must have shape (n, d), got {tokens.shape}")
    expert = _arguments.numbers("routing.expert", routing.expert)
    gate = _checks.real("routing.gate", routing.gate)
    for name, array in (("expert", expert), ("gate", gate)):
        if array.ndim != 2 or array.shape[0] != tokens.shape[0] or array.shape != expert.shape:
            raise ValueError(
                f"routing.{name} must have shape (n, k), n={tokens.shape[0]}, as routing.expert; "
                f"got {array.shape}"
            )
    local = _checks.stacked("expert_params", expert_params, "experts")
    shape = _output(expert_fn, expert_params, tokens)
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    assignments = expert.size * devices
    # Sums over devices of cotangents of what these share: here, where all devices come by.
    tokens, gate, params = _varying.alike((tokens, gate, expert_params), expert)
    run = functools.partial(
        _experts.run,
        expert_fn=expert_fn,
        params=params,
        experts=local,
        capacity=_capacity(capacity_factor, assignments, local * devices),
        loop=_dispatch.device(tokens).platform == "cpu",
    )
    if expert.size == 0:
        y = jnp.zeros((expert.shape[0], shape.shape[-1]), shape.dtype)
        kept, count = jnp.zeros(expert.shape, bool), jnp.zeros(local * devices, jnp.int32)
    elif axis_name is None:
        y, kept, count = run(tokens, expert, gate)
    else:
        out, kept, count = _exchange.exchanged(
            tokens, expert, run, axis_name=axis_name, local=local
        )
        y = weighted(gate, out)
    if not return_info:
        return y
    total = jnp.sum(kept, dtype=jnp.int32)
    total = total if axis_name is None else lax.psum(total, axis_name)
    return y, _load.of_counts(count, total, assignments)


def _capacity(factor: float | None, assignments: int, experts: int) -> int | None:
    """Rows of an expert, or None without a bound."""
    if factor is None:
        return None
    factor = _checks.number("capacity_factor", factor)
    if not 0 < factor < math.inf:
        raise ValueError(f"capacity_factor must be positive and finite, got {factor}")
    return min(max(math.ceil(factor * assignments / experts), 1), max(assignments, 1))


def _output(expert_fn: Callable[[Any, Array], Array], params: Any, tokens: Array) -> Any:
    """Shape and dtype of an expert's output for a row."""
    one = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p)[1:], jnp.result_type(p)), params)
    _checks.function("expert_fn", expert_fn)
    shape = jax.eval_shape(expert_fn, one, jax.ShapeDtypeStruct((3, tokens.shape[1]), tokens.dtype))
    dims = getattr(shape, "shape", None)
    if dims is None or len(dims) != 2 or dims[0] != 3:
        raise ValueError(
            f"expert_fn must return (m, o) for x of (m, d), got {dims} for (3, {tokens.shape[1]})"
        )
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        raise TypeError(f"expert_fn must return real floating-point numbers, got {shape.dtype}")
    return shape
