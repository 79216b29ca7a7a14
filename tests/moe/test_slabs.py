"""Slabs, as accelerators run experts, on any device: against a loop over tokens, in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import moe
from physnet.moe import _experts, _layout, _plan


@pytest.fixture(autouse=True)
def slabs(monkeypatch):
    """As on a GPU, whatever the device."""
    run = _experts.run
    monkeypatch.setattr(_experts, "run", lambda *a, **kw: run(*a, **{**kw, "loop": False}))


def inputs(expert, experts=5, seed=0):
    rng = np.random.default_rng(seed)
    expert = jnp.asarray(expert, jnp.int32)
    n, k = expert.shape
    tokens, params, scale = (jnp.asarray(rng.normal(size=s)) for s in ((n, 4), (experts, 4, 3), 4))
    return (tokens, jnp.asarray(rng.uniform(0.5, 1, (n, k))), params, scale), expert


def mixture(arrays, expert, **options):
    """What expert_fn closes over is among the arrays."""
    tokens, gate, params, scale = arrays
    fn = lambda p, x: jnp.tanh((scale[None, :] * x) @ p)  # noqa: E731
    return moe.apply(tokens, moe.Routing(expert, gate, None, None, None), fn, params, **options)


def masked(arrays, expert):
    """Every expert on every token."""
    tokens, gate, params, scale = arrays
    out = jnp.tanh(jnp.einsum("nd,edo->eno", scale[None, :] * tokens, params))
    hot = expert[..., None] == jnp.arange(params.shape[0], dtype=jnp.int32)[None, None, :]
    return jnp.einsum("nk,nke,eno->no", gate, hot.astype(gate.dtype), out)


LOADS = {
    "within": np.arange(40).reshape(40, 1) % 5,
    "beyond": np.where(np.arange(80) < 70, 1, np.arange(80) % 7 - 1).reshape(40, 2),
}


@pytest.mark.slow
def test_derivatives_of_both_orders():
    arrays, expert = inputs(LOADS["beyond"])
    moves = jax.tree.map(jnp.cos, arrays)

    def derivatives(function):
        loss = lambda arrays: jnp.sum(jnp.sin(function(arrays, expert)))  # noqa: E731
        forward = lambda arrays: jax.jvp(loss, (arrays,), (moves,))  # noqa: E731
        gradient = jax.grad(jax.checkpoint(loss))
        along = lambda arrays: sum(  # noqa: E731
            jnp.sum(a * b) for a, b in zip(gradient(arrays), moves, strict=True)
        )
        return (
            forward(arrays),
            gradient(arrays),
            jax.jvp(gradient, (arrays,), (moves,))[1],
            jax.grad(along)(arrays),
        )

    got, want = (jax.jit(derivatives, static_argnums=0)(f) for f in (mixture, masked))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_a_batch_of_which_one_exceeds_the_slabs():
    arrays, expert = inputs(LOADS["beyond"])
    experts = jnp.stack([expert, jnp.asarray(np.arange(80).reshape(40, 2) % 5, jnp.int32)])

    def slopes(function):
        loss = lambda arrays, expert: jnp.sum(jnp.sin(function(arrays, expert)))  # noqa: E731
        return jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))(arrays, experts)

    got, want = (jax.tree.leaves(slopes(f)) for f in (mixture, masked))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("capacity_factor", [None, 2.0])
def test_an_expert_without_tokens_spoils_no_sum(capacity_factor):
    """Its parameters are NaN; what all experts close over has a finite cotangent."""
    arrays, expert = inputs(np.arange(40).reshape(40, 1) % 4)
    arrays = *arrays[:2], arrays[2].at[4].set(jnp.nan), arrays[3]

    def loss(arrays):
        return jnp.sum(mixture(arrays, expert, capacity_factor=capacity_factor))

    got = jax.jit(jax.grad(loss))(arrays)
    valid = *arrays[:2], arrays[2][:4], arrays[3]
    want = jax.jit(jax.grad(lambda arrays: jnp.sum(masked(arrays, expert))))(valid)
    np.testing.assert_array_equal(got[2][4], 0)
    got = *got[:2], got[2][:4], got[3]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


masked_slopes = jax.jit(jax.grad(lambda arrays, expert: jnp.sum(jnp.sin(masked(arrays, expert)))))


@pytest.mark.parametrize("index", range(4))
def test_one_argument_alone(index):
    arrays, expert = inputs(LOADS["beyond"])

    def loss(x):
        return jnp.sum(jnp.sin(mixture((*arrays[:index], x, *arrays[index + 1 :]), expert)))

    found, wanted = jax.jit(jax.grad(loss))(arrays[index]), masked_slopes(arrays, expert)[index]
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_no_branch_hands_parameters_on():
    """One result of a branch has their shape, their cotangent: what passes through is copied."""
    arrays, expert = inputs(LOADS["within"])
    gradient = jax.jit(jax.grad(lambda arrays: jnp.sum(mixture(arrays, expert)) ** 2))
    text = gradient.lower(arrays).as_text()
    results = re.findall(r"\}\) : \(tensor<i32>\) -> (.*)", text)
    assert len(results) == 2  # outputs, cotangents
    assert "".join(results).count("tensor<5x4x3xf64>") == 1


@pytest.mark.parametrize(("assignments", "experts"), [(1, 3), (128, 1), (1000, 7)])
def test_ranks_by_products_are_those_of_a_sort(assignments, experts):
    rng = np.random.default_rng(0)
    key = jnp.asarray(rng.integers(0, experts + 1, assignments), jnp.int32)
    rank, count = jax.jit(_plan._ranks, static_argnums=1)(key, experts)
    want = jax.jit(_layout.segments, static_argnums=1)(key, experts)
    np.testing.assert_array_equal(count, want.count)
    np.testing.assert_array_equal(rank[key < experts], want.rank[key < experts])


def test_the_plan_fills_slabs_in_order():
    expert = jnp.asarray([2, 0, 2, -1, 2, 3, 0], jnp.int32)
    run = jax.jit(_plan.plan, static_argnums=(1, 2), static_argnames="drop")
    plan, served, count = run(expert, 3, 2, drop=False)
    np.testing.assert_array_equal(plan.source[::2], [[1, 6], [0, 2]])
    np.testing.assert_array_equal(plan.real, [[True, True], [False, False], [True, True]])
    np.testing.assert_array_equal(plan.slot, [4, 0, 5, -1, -1, -1, 1])
    np.testing.assert_array_equal(plan.rest, [-1, -1, -1, -1, 2, -1, -1])
    np.testing.assert_array_equal(served, [True, True, True, False, True, False, True])
    np.testing.assert_array_equal(count, [2, 0, 3])
    assert not plan.fits


def test_random_loads_exceed_the_capacity_rarely():
    rng = np.random.default_rng(0)
    rows = _plan.capacity(16384, 64)
    assert rows == 320
    most = rng.multinomial(16384, np.full(64, 1 / 64), size=2000).max(axis=1)
    assert np.mean(most > rows) < 0.01
    assert _plan.capacity(5, 1) == 5
