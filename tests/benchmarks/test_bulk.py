"""What is lost of a field whose levels were compressed, where the answer is known."""

import dataclasses

import bulk
import jax
import jax.numpy as jnp
import mera
import pytest

SETTINGS = dataclasses.replace(mera.SMOKE, window=16, examples=(64,))


@pytest.fixture(autouse=True)
def two_ways(monkeypatch):
    monkeypatch.setattr(bulk, "WAYS", ("block PCA", "Haar"))


def test_smooth_fields_pass_their_levels():
    size = jax.random.normal(jax.random.key(0), (2, 64, 1, 4))
    still = jnp.broadcast_to(size, (2, 64, 16, 4))
    found = bulk.compress(still, still[:, :8], SETTINGS, 0)
    for way in found:
        assert found[way]["levels"] < 1e-6
        assert found[way]["field"] < 1e-6


def test_white_noise_keeps_the_share_of_its_numbers():
    noise = jax.random.normal(jax.random.key(1), (1, 264, 16, 4))
    found = bulk.compress(noise[:, :64], noise[:, 64:], SETTINGS, 0)["Haar"]
    assert abs(found["field"] - 0.5) < 0.04  # half of the numbers
    assert 0.7 < found["levels"] < 0.85  # 4 numbers of 16, which the coarser level sees as well
