"""The perfect tensor: its stabilisers, its splits, what it does to operators."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from dense import matrix

from physnet.holography import codes
from physnet.holography.codes import _perfect

TENSOR = np.asarray(codes.perfect_tensor(dtype=jnp.float64))
STABILISERS = ("XZZXII", "IXZZXI", "XIXZZI", "ZXIXZI", "XXXXXX", "ZZZZZZ")


def test_the_state_that_its_stabilisers_fix():
    for word in STABILISERS:
        letters = np.array(list(word))
        fixed = matrix(letters == "X", letters == "Z", 0) @ TENSOR.ravel()
        np.testing.assert_allclose(fixed, TENSOR.ravel(), atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(TENSOR), 1, rtol=1e-15)
    entries = TENSOR[TENSOR != 0]
    np.testing.assert_allclose(np.abs(entries), 32**-0.5, rtol=1e-15)
    assert len(entries) == 32
    assert entries[0] > 0


def test_isometric_across_all_twenty_splits():
    splits = list(itertools.combinations(range(6), 3))
    assert len(splits) == 20
    for legs in splits:
        others = [leg for leg in range(6) if leg not in legs]
        square = TENSOR.transpose(*legs, *others).reshape(8, 8)
        np.testing.assert_allclose(8 * square @ square.T, np.eye(8), atol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_dtypes(dtype):
    assert codes.perfect_tensor(dtype=dtype).dtype == dtype
    assert codes.perfect_tensor().dtype == jnp.float32


@pytest.mark.parametrize("inputs", [(5,), (0,), (0, 1), (0, 5), (0, 1, 5), (4, 2, 3), ()])
def test_operators_on_some_legs_have_equals_on_the_others(inputs):
    others = [leg for leg in range(6) if leg not in inputs]
    m = len(inputs)
    isometry = TENSOR.transpose(*others, *inputs).reshape(2 ** (6 - m), 2**m) * 2 ** (m / 2)
    np.testing.assert_allclose(isometry.T @ isometry, np.eye(2**m), atol=1e-14)
    table, free = _perfect.pushed(inputs)
    assert table.x.shape == (4**m, 6 - m)
    for index in range(4**m):
        bits = np.array([index >> (2 * m - 1 - i) & 1 for i in range(2 * m)], bool)
        inside = matrix(bits[::2], bits[1::2], 0)
        outside = matrix(*(field[index] for field in table))
        np.testing.assert_allclose(outside @ isometry, isometry @ inside, atol=1e-14)
    assert free.x.shape == (6 - 2 * m, 6 - m)
    for row in zip(*free, strict=True):
        np.testing.assert_allclose(matrix(*row) @ isometry, isometry, atol=1e-14)
