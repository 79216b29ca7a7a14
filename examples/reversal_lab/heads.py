"""Two coupled oscillators by a forward and a backward head over one trunk.

The heads are two maps of their own, z_t -> z_{t+1} and z_{t+1} -> z_t: nothing makes the one the
inverse of the other but data, or a loss of consistency. No momentum is flipped, so friction, under
which the way back is another law, does not speak against it.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from physnet import time_reversal
from reversal_lab import oscillators
from reversal_lab.oscillators import METRICS
from reversal_lab.settings import Oscillators

ROWS = {
    "base": "two heads, data only",
    "euclidean": "and consistency, Euclidean",
    "hyperbolic": "and consistency, hyperbolic",
}


def heads(key: jax.Array, width: int) -> dict[str, Any]:
    """A trunk of two hidden layers, and a linear head for each direction."""
    keys = jax.random.split(key, 4)
    sizes = (4, width, width)
    trunk = [
        (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b))
        for k, a, b in zip(keys[:2], sizes[:-1], sizes[1:], strict=True)
    ]
    out = jax.random.normal(keys[2], (2, width, 4)) / width**0.5
    return {"trunk": trunk, "out": out, "bias": jnp.zeros((2, 4))}


def passed(params: Any, z: jax.Array, way: int, *, steps: int, step: float) -> jax.Array:
    """States (steps + 1, ..., 4) from z (..., 4): forward for way 0, backward for way 1."""

    def one(z, _):
        h = z
        for w, b in params["trunk"]:
            h = jnp.tanh(h @ w + b)
        new = z + step * (h @ params["out"][way] + params["bias"][way])
        return new, new

    return jnp.concatenate([z[None], jax.lax.scan(one, z, None, length=steps)[1]])


def there_and_back(params: Any, states: jax.Array, *, step: float) -> jax.Array:
    """A forward pass's states, as the backward head passes through them again from the end."""
    return passed(params, states[-1], 1, steps=len(states) - 1, step=step)[::-1]


def loss(kind: str, s: Oscillators) -> Callable[..., jax.Array]:
    """A function (params, key, train, weight): errors of both passes over windows of the data."""

    def whole(params, key, train, weight):
        keys = jax.random.split(key)
        which = jax.random.randint(keys[0], (s.batch,), 0, len(train))
        first = jax.random.randint(keys[1], (s.batch,), 0, train.shape[1] - s.window)
        times = first + jnp.arange(s.window + 1)[:, None]
        seen = train[which[None], times]
        states = passed(params, seen[0], 0, steps=s.window, step=s.step)
        back = passed(params, seen[-1], 1, steps=s.window, step=s.step)[::-1]
        error = jnp.mean((states - seen)[1:] ** 2) + jnp.mean((back - seen)[:-1] ** 2)
        if kind in METRICS:
            again = there_and_back(params, states, step=s.step)
            error = error + weight * time_reversal.consistency_loss(
                states, again, metric=kind, squared=True
            )
        return error

    return whole


def program(kind: str, s: Oscillators) -> Callable[..., Any]:
    """As `oscillators.program`, of the forward head's states."""
    forward = functools.partial(passed, way=0)
    return oscillators.trained(loss(kind, s), heads, forward, there_and_back, s)


def rows(s: Oscillators) -> Iterator[dict[str, Any]]:
    """A row for each way of training, friction and weight, as in `oscillators.rows`."""
    yield from oscillators.rows(s, part="heads", kinds=tuple(ROWS), program=program)
