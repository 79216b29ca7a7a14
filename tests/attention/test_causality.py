"""What comes later changes no bit of an earlier row, by any implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import attention


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("window", [0, 6])
def test_a_changed_later_token_changes_no_bit_of_an_earlier_row(implementation, window):
    r = np.random.default_rng(3)
    time, dtype = 400, implementation.dtypes[0]
    tensors = [jnp.asarray(r.normal(size=(1, time, 2, 8)), dtype) for _ in range(3)]
    score = r.uniform(size=(1, time)).astype(np.float32)

    @jax.jit
    def run(tensors, score):
        return implementation(
            attention.scattering_attention,
            *tensors,
            score,
            threshold=0.3,
            local_window=window,
            return_lse=True,
        )

    before = run(tensors, jnp.asarray(score))
    for start, spoil in ((210, False), (399, False), (150, True)):
        later = np.arange(time) >= start
        noise = r.uniform(size=score.shape).astype(np.float32)
        changed = jnp.asarray(np.where(later[None], noise, score))
        bad = jnp.asarray(np.where(r.uniform(size=time) < 0.5, np.nan, np.inf))
        other = [
            jnp.where(later[None, :, None, None], bad[None, :, None, None].astype(dtype), t)
            if spoil
            else jnp.where(later[None, :, None, None], t * 3 + 1, t)
            for t in tensors
        ]
        after = run(other, changed)
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(old[:, :start], new[:, :start])
        assert (np.asarray(before[0][:, start:]) != np.asarray(after[0][:, start:])).any()
