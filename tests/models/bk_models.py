"""Small BK-Core models that the tests share."""

import dataclasses
import functools

import jax
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
    "experts": dataclasses.replace(
        CONFIG, layers=1, attention=False, experts=4, expert_top_k=2, expert_width=6, route_dim=3
    ),
}


def tokens(batch=2, time=12, seed=0):
    return jax.device_put(np.int32(np.random.default_rng(seed).integers(0, 11, (batch, time))))


_init = jax.jit(bk_core.init, static_argnums=0)
_calibrate = jax.jit(bk_core.calibrate, static_argnums=0)


def init(config, seed=0):
    """`bk_core.init` of a model with every part, of which this one takes its own."""
    if config.experts:
        return _init(config, jax.random.key(seed))
    largest = dataclasses.replace(VARIANTS["soft"], layers=config.layers)
    wanted = jax.eval_shape(lambda: bk_core.init(config, jax.random.key(0)))

    def take(found, wanted):
        if not isinstance(wanted, dict):
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            return found
        return {name: take(found[name], part) for name, part in wanted.items()}

    return take(_init(largest, jax.random.key(seed)), wanted)


@functools.cache
def lively(config, samples=4):
    """Parameters away from their start, all in use, with calibrated gates."""
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda x: np.asarray(x) + rng.normal(scale=0.2, size=x.shape).astype(x.dtype), init(config)
    )
    return _calibrate(config, moved, tokens(samples, 40))


# Compiled: op by op the small tests would take most of their time.
apply = jax.jit(bk_core.apply, static_argnums=0, static_argnames=("dtype", "return_info"))
extend = jax.jit(bk_core.extend, static_argnums=0, static_argnames="dtype")
