"""The embedding of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.models._tokens import PRODUCT_ROWS
from physnet.models._tokens import embed as eager

embed = jax.jit(eager, static_argnums=2)


@pytest.mark.parametrize("rows", [7, PRODUCT_ROWS + 1])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_rows_of_the_table_and_nan_outside_it(rows, dtype):
    table = jax.random.normal(jax.random.key(0), (rows, 5))
    tokens = jnp.asarray([[0, rows - 1, 3], [rows, -1, 2]])
    found = embed(table, tokens, jnp.dtype(dtype))
    assert found.dtype == jnp.dtype(dtype)
    found = np.asarray(found)
    inside = np.asarray([[True, True, True], [False, False, True]])
    expected = np.asarray(table.astype(dtype))[np.where(inside, tokens, 0)]
    np.testing.assert_array_equal(found[inside], expected[inside])
    assert np.isnan(found[~inside]).all()


@pytest.mark.parametrize("rows", [7, PRODUCT_ROWS + 1])
def test_the_gradient_of_a_frequent_token_in_16_bits(rows):
    """One after another, ones in bfloat16 add up to no more than 256."""
    tokens = jnp.zeros((4, 1000), jnp.int32)
    gradient = jax.grad(lambda table: embed(table, tokens, jnp.bfloat16).sum(dtype=jnp.float32))
    np.testing.assert_array_equal(
        jax.jit(gradient)(jnp.ones((rows, 2)))[:2], [[4000, 4000], [0, 0]]
    )
