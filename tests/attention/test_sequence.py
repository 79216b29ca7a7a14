"""A sequence cut over devices, in a process of its own: equal to a plain softmax on one.

All pairs at once, and over blocks; the band and segments cross the borders of pieces.
"""

import pytest

SEQUENCE = """
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec as P

from physnet import attention
from physnet.attention import _exchange, _over_blocks

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
mesh = jax.make_mesh((4, 2), ("sequence", "batch"), axis_types=(AxisType.Auto,) * 2)
rng = np.random.default_rng(0)
B, T, N, K, H = 2, 24, 4, 2, 8
x = {name: rng.normal(size=(B, T, n, H)) for name, n in (("query", N), ("key", K), ("value", K))}
x |= {"cotangent": rng.normal(size=(B, T, N, H)), "d_lse": rng.normal(size=(B, T, N))}
x = {name: array.astype(np.float32) for name, array in x.items()}
x["score"] = rng.uniform(size=(B, T, N)).astype(np.float32)
x["segment"] = np.sort(rng.integers(0, 3, (B, T)), axis=1).astype(np.int32)
tau = np.array([0.3, 0.5, 0.2, 0.6], np.float32)
CASES = {  # threshold, window, causal, segments; pieces have 6 tokens
    "band": (tau, 9, True, True),
    "gate": (0.3, 0, True, False),
    "some": (0.7, 4, True, False),  # few enough to send only those
    "both ways": (tau, 3, False, False),
    "dense": (None, 0, True, False),
}


def pairs(threshold, window, causal, segments):
    i, j = np.indices((T, T))
    score = np.moveaxis(x["score"], 2, 1)
    mask = np.ones((B, N, T, T), bool)
    if threshold is not None:
        bound = np.broadcast_to(np.float32(threshold), N)[:, None, None]
        mask = score[..., :, None] * score[..., None, :] > bound
        mask = mask | (abs(i - j) < window)
    if segments:
        mask = mask & (x["segment"][:, None, :, None] == x["segment"][:, None, None, :])
    return mask & ((j <= i) | (not causal))


def softmax(mask, query, key, value):
    # in float64, its gradients by JAX
    key, value = (jnp.repeat(a, N // K, axis=2) for a in (key, value))
    logits = jnp.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(H)
    empty = ~mask.any(-1)
    seen = mask | empty[..., None]
    lse = jax.nn.logsumexp(jnp.where(seen, logits, -jnp.inf), axis=-1)
    weight = jnp.where(mask, jnp.exp(logits - lse[..., None]), 0)
    lse = jnp.where(empty, 0, lse)
    return jnp.einsum("bnts,bsnh->btnh", weight, value), jnp.swapaxes(lse, 1, 2)


def total(attend, query, key, value, cotangent, d_lse):
    output, lse = attend(query, key, value)
    lse = jnp.where(lse == -jnp.inf, 0, lse)
    return jnp.sum(output * cotangent) + jnp.sum(lse * d_lse), (output, lse)


def results(case):
    threshold, window, causal, segments = CASES[case]

    def attend(score, segment, query, key, value):
        return attention.scattering_attention(
            query, key, value, score, threshold=threshold, local_window=window, is_causal=causal,
            segment_ids=segment if segments else None, return_lse=True, axis_name="sequence",
        )

    def local(x):
        own = functools.partial(attend, x["score"], x["segment"])
        rest = (x[name] for name in ("query", "key", "value", "cotangent", "d_lse"))
        (_, found), back = jax.value_and_grad(
            functools.partial(total, own), (0, 1, 2), has_aux=True
        )(*rest)
        return *found, *back

    run = jax.shard_map(
        local, mesh=mesh, in_specs=(P("batch", "sequence"),), out_specs=P("batch", "sequence")
    )
    return jax.jit(run)


with jax.enable_x64(True):
    wide = [x[name].astype(np.float64) for name in ("query", "key", "value", "cotangent", "d_lse")]
    exact = jax.jit(lambda mask, *wide: jax.value_and_grad(
        functools.partial(total, functools.partial(softmax, mask)), (0, 1, 2), has_aux=True
    )(*wide))
    wanted = {}
    for case, options in CASES.items():
        (_, found), back = exact(pairs(*options), *wide)
        wanted[case] = [np.asarray(a) for a in (*found, *back)]

for most, cases in ((_over_blocks.DENSE_PAIRS, CASES), (0, ("some", "both ways"))):
    _over_blocks.DENSE_PAIRS = most
    for case in cases:
        for a, b in zip(results(case)(x), wanted[case], strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())

# A key that holds a NaN: who sees it is NaN, in other pieces too, and nobody else.
for most in (0, 2**16):
    _over_blocks.DENSE_PAIRS = most
    spoiled = x | {"key": x["key"].copy()}
    spoiled["key"][:, 4, 1] = np.nan
    output = np.asarray(results("band")(spoiled)[0])
    seen = np.moveaxis(pairs(*CASES["band"]), 1, 2)[..., 4] & (np.arange(N) >= 2)
    assert (np.isnan(output).all(-1) == seen).all() and (np.isnan(output).any(-1) == seen).all()
    assert seen[:, 6:].any()

# What is not to be kept stays on its device, but for the band: whatever the share that goes.
def gathered(window, causal, key, keep):
    return _exchange.kept(key, -key, keep, window, causal, "sequence")


for window, causal in ((1, True), (3, False)):
    run = jax.jit(jax.shard_map(
        functools.partial(gathered, window, causal), mesh=mesh, in_specs=(P(None, "sequence"),) * 2,
        out_specs=P("sequence"),
    ))
    away = np.arange(T) - 6 * np.arange(4)[:, None, None, None]  # (piece, batch, head, key)
    own = (away > -window) & (away < (6 if causal else 5 + window))
    for most in (1, 2, 3, 4, 6):
        keep = np.zeros((B, 4, 6, K), bool)
        for place in np.ndindex(B, 4, K):
            keep[(*place[:2], rng.permutation(6)[:most], place[2])] = True
        keep = keep.reshape(B, T, K)
        want = own | np.moveaxis(keep, 1, 2)
        want = np.moveaxis(want, 2, 3).reshape(4 * B, T, K, 1) * np.tile(x["key"], (4, 1, 1, 1))
        key, value = run(x["key"], keep)
        assert (key == want).all() and (value == -want).all()
print("equal")
"""


@pytest.mark.slow
def test_equal_to_a_softmax(on_devices):
    assert on_devices(SEQUENCE, 8) == "equal"
