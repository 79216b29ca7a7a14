"""Both decoders against brute force; the greedy one never beats the optimal one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import absorbed, recoverable_by_rank, recoverable_by_search

from physnet.holography import codes
from physnet.holography.codes._decoders import tolerances

FIVE = codes.happy_code("pentagon", 0)
CODES = [("pentagon", 1), ("pentagon", 2), ("pentagon-hexagon", 2), ("single-qubit", 2)]


def decide(code, masks, decoder, logical=0):
    """Of each row of masks, as lifetimes 0 and 1: one compiled program."""
    lifetimes = jnp.asarray(1.0 - masks.T, jnp.float32)
    return np.asarray(tolerances(code, lifetimes, decoder=decoder, logical=logical)) > 0.5


def test_five_qubits_survive_any_two_losses_and_no_three():
    masks = np.array(list(itertools.product([False, True], repeat=5)))
    for decoder in ("optimal", "greedy"):
        np.testing.assert_array_equal(decide(FIVE, masks, decoder), masks.sum(1) <= 2)


@pytest.mark.parametrize(("kind", "layers"), CODES)
def test_optimal_is_the_rank_and_greedy_the_absorption(kind, layers):
    code = codes.happy_code(kind, layers)
    rng = np.random.default_rng(layers)
    masks = rng.random((96, code.physical)) < rng.uniform(0.1, 0.6, (96, 1))
    optimal, greedy = (decide(code, masks, decoder) for decoder in ("optimal", "greedy"))
    group = codes.stabilisers(code)
    assert optimal.tolist() == [recoverable_by_rank(group, mask) for mask in masks]
    assert greedy.tolist() == [absorbed(code, mask) for mask in masks]
    assert 8 < greedy.sum() <= optimal.sum() < 88
    assert layers == 1 or greedy.sum() < optimal.sum()


@pytest.mark.parametrize("kind", ["pentagon", "single-qubit"])
def test_optimal_is_what_no_operator_on_the_lost_qubits_can_spoil(kind):
    code = codes.happy_code(kind, 1)
    group = codes.stabilisers(code)
    rng = np.random.default_rng(0)
    masks = np.zeros((60, code.physical), bool)
    near = rng.permuted(np.tile(np.arange(9), (60, 1)), axis=1)  # close to one another: harder
    for mask, places, size in zip(masks, near, rng.integers(4, 8, 60), strict=True):
        mask[places[:size]] = True
    logical = code.logical - 1  # of the last tile, which loses more easily than the centre
    expected = [recoverable_by_search(group, mask, logical) for mask in masks]
    assert decide(code, masks, "optimal", logical).tolist() == expected
    if kind == "pentagon":
        outer = [recoverable_by_search(group, mask, 2) for mask in masks]
        assert decide(code, masks, "optimal", 2).tolist() == outer
        assert 5 < sum(outer) < 55


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_one_logical_qubit_lies_in_one_half_of_any_cut(layers):
    """By X -> Z -> Y of all qubits at once: lost and left cannot share it, nor can both have it."""
    code = codes.happy_code("single-qubit", layers)
    masks = np.random.default_rng(1).random((200, code.physical)) < 0.5
    np.testing.assert_array_equal(decide(code, masks, "optimal"), ~decide(code, ~masks, "optimal"))


@pytest.mark.parametrize("kind", ["pentagon", "pentagon-hexagon", "single-qubit"])
def test_greedy_success_is_optimal_success_on_every_sample(kind):
    code = codes.happy_code(kind, 2)
    lifetimes = jax.random.uniform(jax.random.key(5), (code.physical, 512), jnp.float32)
    greedy, optimal = (
        np.asarray(tolerances(code, lifetimes, decoder=decoder, logical=0))
        for decoder in ("greedy", "optimal")
    )
    assert np.all(greedy <= optimal)
    assert np.mean(greedy < optimal) > 0.2


@pytest.mark.parametrize("decoder", ["optimal", "greedy"])
def test_the_time_of_loss_is_when_the_answer_changes(decoder):
    code = codes.happy_code("pentagon", 2)
    lifetimes = jax.random.uniform(jax.random.key(6), (code.physical, 96), jnp.float32)
    times = np.asarray(tolerances(code, lifetimes, decoder=decoder, logical=3))
    lifetimes = np.asarray(lifetimes)
    before, after = lifetimes < times, lifetimes <= times
    assert np.all(decide(code, before.T, decoder, 3))
    assert not np.any(decide(code, after.T, decoder, 3))


def test_under_jit_and_vmap_with_traced_masks():
    masks = jnp.asarray(np.random.default_rng(2).random((3, 4, 20)) < 0.35)
    code = codes.happy_code("pentagon", 1)
    for decoder in ("optimal", "greedy"):
        one = jax.jit(lambda mask, d=decoder: codes.recoverable(code, mask, decoder=d))
        found = jax.vmap(jax.vmap(one))(masks)
        expected = decide(code, np.asarray(masks).reshape(12, 20), decoder)
        np.testing.assert_array_equal(np.ravel(found), expected)
        assert found.dtype == jnp.bool_
        assert 0 < found.sum() < 12


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"decoder": "best"}, ValueError, "decoder .* got 'best'"),
    ({"logical": 1}, ValueError, "logical must be below the 1 .* got 1"),
    ({"logical": -1}, ValueError, "logical .* got -1"),
    ({"lost": jnp.zeros(4, bool)}, ValueError, r"lost .* \(5,\), got \(4,\)"),
    ({"lost": jnp.zeros(5)}, TypeError, "lost .* got dtype float"),
])  # fmt: skip
def test_errors(options, error, words, bare_errors):
    with pytest.raises(error, match=words):
        codes.recoverable(FIVE, options.pop("lost", jnp.zeros(5, bool)), **options)
