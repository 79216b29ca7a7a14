"""Any block mask: against the NumPy reference, and errors that name the argument."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import attention


def inputs(time=70, span=None, heads=4, key_heads=2, dtype="float32"):
    r = np.random.default_rng(0)
    shapes = [(2, time, heads, 8)] + 2 * [(2, span or time, key_heads, 8)]
    return [jnp.asarray(r.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("lead", "is_causal", "span", "dtype"),
    [((2, 4), True, None, "float32"), ((), False, 96, "float32"), ((2,), True, None, "float64")],
)
def test_block_masks_match_the_reference(xla, contract, lead, is_causal, span, dtype):
    """In blocks of 16 tokens; test_kernels.py has those that kernels serve."""
    _, reference = contract
    tensors = inputs(span=span, dtype=dtype)
    r = np.random.default_rng(1)
    rows, columns = -(-70 // 16), -(-(span or 70) // 16)
    blocks = r.uniform(size=(*lead, rows, columns)) < 0.5
    blocks[..., 1, :] = False  # a query block that sees nothing
    whole = blocks.reshape(*lead, *[1] * (2 - len(lead)), rows, columns)
    whole = np.broadcast_to(whole, (2, 4, rows, columns))
    mask = np.kron(whole, np.ones((16, 16), bool))[:, :, :70, : span or 70]
    if is_causal:
        mask = mask & np.tril(np.ones((70, 70), bool))
    weights = r.normal(size=tensors[0].shape), r.normal(size=tensors[0].shape[:3])
    want = reference(*tensors, mask, 8**-0.5, *weights)

    @jax.jit
    def run(*tensors):
        def loss(*tensors):
            output, lse = xla(
                attention.block_sparse_attention,
                *tensors,
                jnp.asarray(blocks),
                is_causal=is_causal,
                block_size=16,
                return_lse=True,
            )
            some = jnp.where(lse > -jnp.inf, lse, 0)
            w, u = (jnp.asarray(a, output.dtype) for a in weights)
            return jnp.sum(w * output) + jnp.sum(u * some), (output, lse)

        gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        (_, results), gradients = gradient(*tensors)
        return (*results, *gradients)

    tolerance = 1e-12 if dtype == "float64" else xla.tolerance
    for got, exact in zip(run(*tensors), want, strict=True):
        np.testing.assert_allclose(got, exact, rtol=tolerance, atol=5 * tolerance)
    assert not np.asarray(run(*tensors)[0])[:, 16:32].any()


def test_block_size_follows_from_the_mask():
    tensors = inputs(time=64)
    blocks = jnp.tril(jnp.ones((4, 4), bool))
    got = jax.jit(attention.block_sparse_attention)(*tensors, blocks)
    want = jax.jit(lambda *x: jax.nn.dot_product_attention(*x, is_causal=True))(*tensors)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_errors_name_the_argument(bare_errors):
    tensors = inputs(time=64)

    def call(blocks, tensors=tensors, **options):
        attention.block_sparse_attention(*tensors, blocks, **options)

    with pytest.raises(ValueError, match="blocks must divide 64 queries"):
        call(jnp.ones((5, 5), bool))
    with pytest.raises(ValueError, match="blocks must be 4 by 4"):
        call(jnp.ones((5, 5), bool), block_size=16)
    with pytest.raises(ValueError, match=r"blocks must have one of the leading axes .* B = 2"):
        call(jnp.ones((3, 4, 4), bool))
    with pytest.raises(TypeError, match="blocks must be boolean"):
        call(jnp.ones((4, 4), jnp.int32))
    with pytest.raises(ValueError, match="key must have 64 tokens like query where is_causal"):
        call(jnp.ones((4, 6), bool), inputs(64, 96))
    with pytest.raises(NotImplementedError, match="'xla'"):
        call(jnp.ones((4, 4), bool), implementation="cudnn")
