"""Gradients of attention over block lists on Hopper: a kernel for queries, one for keys and values.

The first follows the lists of the query blocks, the second their transpose.
"""

import jax
import jax.numpy as jnp

from physnet_kernels.scattering_attention._mosaic_d_key import d_key_value
from physnet_kernels.scattering_attention._mosaic_d_query import d_query
from physnet_kernels.scattering_attention._types import Labels, Lists, Rule


def backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    d_output: jax.Array,
    lse: jax.Array,
    shift: jax.Array,
    lists: Lists,
    labels: Labels,
    *,
    rule: Rule,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cotangents of query, key and value, in their shapes and dtypes.

    Args:
        query, key, value, lists, labels, rule: As `forward` takes them.
        d_output: Cotangent of the output (B, 128 P, N, D).
        lse: (B, N, 128 P). Rows with +inf have no gradient and give none. Those with NaN get NaN
            and give nothing to keys and values.
        shift: sum(dO O) - dlse (B, N, 128 P) float32.
    """
    lost = jnp.isnan(lse) | ~jnp.isfinite(shift)
    whole = jnp.where(lost, jnp.inf, lse), jnp.where(lost, 0, shift)
    of_query = d_query(query, key, value, d_output, lse, shift, lists, labels, rule=rule)
    labels = labels._replace(query_spoil=jnp.where(lost, jnp.nan, labels.query_spoil))
    of_key, of_value = d_key_value(query, key, value, d_output, *whole, lists, labels, rule=rule)
    return of_query, of_key, of_value
