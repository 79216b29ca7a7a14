"""Small BK-Core models that the tests share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from physnet.models import bk_core
from physnet.models.bk_core import BKCoreConfig

CONFIG = BKCoreConfig(
    vocab_size=11, layers=2, heads=2, width=16, chains=4, local_window=3, density=0.5
)
VARIANTS = {
    "both": CONFIG,
    "mixer": dataclasses.replace(CONFIG, attention=False),
    "attention": dataclasses.replace(CONFIG, mixer=False),
    "soft": dataclasses.replace(CONFIG, soft_gate=True, learn_hopping=True),
}


def tokens(batch=2, time=12, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 11, (batch, time)), jnp.int32)


def lively(config, seed=0, sample=None):
    """Parameters away from their start, all in use, with calibrated gates."""

    @jax.jit
    def make(key, sample):
        params = bk_core.init(config, key)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        noise = (
            0.2 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)
        )
        moved = [a + b for a, b in zip(leaves, noise, strict=True)]
        return bk_core.calibrate(config, jax.tree.unflatten(tree, moved), sample)

    return make(jax.random.key(seed), tokens() if sample is None else sample)


# Compiled: op by op the small tests would take most of their time.
apply = jax.jit(bk_core.apply, static_argnums=0, static_argnames=("dtype", "return_info"))
