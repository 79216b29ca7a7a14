"""Gradients of attention over block lists on Hopper.

One kernel along the lists of the key blocks forms all three from five products, the gradient of
queries by sums in memory. Where that does not fit (head dimension 256), or where XLA is told to be
deterministic, a second one along the lists of the query blocks forms the gradient of queries, from
seven products in all.
"""

import os

import jax
import jax.numpy as jnp

from physnet_kernels.scattering_attention._mosaic_along_keys import along_keys
from physnet_kernels.scattering_attention._mosaic_along_queries import d_query
from physnet_kernels.scattering_attention._types import Labels, Lists, Marks, Rule


def backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    d_output: jax.Array,
    lse: jax.Array,
    shift: jax.Array,
    marks: Marks,
    lists: Lists,
    labels: Labels,
    *,
    rule: Rule,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cotangents of query, key and value, in their shapes and dtypes.

    The gradient of queries, and of keys and values that query heads share, is summed in no fixed
    order, so its last bit may differ from run to run, unless XLA_FLAGS hold
    --xla_gpu_deterministic_ops=true or --xla_gpu_exclude_nondeterministic_ops=true when a call is
    traced.

    Args:
        query, key, value, lists, labels, rule: As `forward` takes them.
        d_output: Cotangent of the output (B, 128 P, N, D).
        lse: (B, N, 128 P). Rows with +inf have no gradient and give none. Those with NaN, or where
            `shift` is not finite, get NaN and give nothing to keys and values.
        shift: sum(dO O) - dlse (B, N, 128 P) float32.
        marks: Of `forward`: queries that are not finite have no gradient, whatever their lse.
    """
    lost = (jnp.isnan(lse) | ~jnp.isfinite(shift)) & ~marks.queries
    lse, shift = jnp.where(marks.queries, jnp.inf, lse), jnp.where(marks.queries, 0, shift)
    whole = jnp.where(lost, jnp.inf, lse), jnp.where(lost, 0, shift)
    spoilt = marks._replace(queries=marks.queries | lost)
    at_once = query.shape[-1] <= 128 and not _deterministic()
    of_key, of_value, *of_query = along_keys(
        *(query, key, value, d_output, *whole, spoilt, lists, labels), rule=rule, with_query=at_once
    )
    if not of_query:
        whole = jnp.where(lost, jnp.nan, lse), shift
        arguments = (query, key, value, d_output, *whole, marks.key_blocks, lists, labels)
        return d_query(*arguments, rule=rule), of_key, of_value
    lost = jnp.swapaxes(lost, 1, 2)[..., None]
    total = jnp.where(lost, jnp.nan, of_query[0] * rule.scale)
    return total.astype(query.dtype), of_key, of_value


def _deterministic() -> bool:
    flags = os.environ.get("XLA_FLAGS", "").split()
    names = ("--xla_gpu_deterministic_ops", "--xla_gpu_exclude_nondeterministic_ops")
    return any(name + value in flags for name in names for value in ("", "=true", "=1"))
