"""Adam from a start to an end, for many runs at once."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Job(NamedTuple):
    """run(*shared, *own) for each entry `own` of axis 0 of the arguments."""

    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    shared: tuple[Any, ...] = ()
    precision: str | None = "float32"  # of products: not the 10 bits that GPUs take by default


def compiled(job: Job) -> Any:
    """All runs at once on an accelerator; on a CPU, which gains nothing from it, one by one."""

    def all_of_them(shared: Any, arguments: Any) -> Any:
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda own: job.run(*shared, *own), arguments)
        return jax.vmap(lambda *own: job.run(*shared, *own))(*arguments)

    with jax.default_matmul_precision(job.precision):
        return jax.jit(all_of_them).lower(job.shared, job.arguments).compile()


def done(jobs: dict[str, Job]) -> Iterator[tuple[str, Any, float]]:
    """Name, results as NumPy arrays and seconds of each job, while later ones are compiled."""
    with ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 1) // 2))) as pool:
        for (name, job), program in zip(
            jobs.items(), pool.map(compiled, jobs.values()), strict=True
        ):
            began = time.perf_counter()
            found = jax.tree.map(np.asarray, program(job.shared, job.arguments))
            yield name, found, time.perf_counter() - began


def adam(rate: Any, updates: int) -> optax.GradientTransformation:
    """With a tenth of the updates to the full rate, and down to a hundredth of it by a cosine."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, updates // 10 + 1, updates + 2, 0.01)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.scale_by_schedule(schedule),
        optax.scale_by_learning_rate(rate),
    )


def descend(
    loss: Callable[[Any, jax.Array], jax.Array], params: Any, *, rate: Any, updates: int, key: Any
) -> Any:
    """Parameters after so many updates; loss(params, key) draws its batch by the key."""
    rule = adam(rate, updates)

    def update(carry: Any, number: jax.Array) -> tuple[Any, None]:
        params, state = carry
        slope = jax.grad(loss)(params, jax.random.fold_in(key, number))
        change, state = rule.update(slope, state, params)
        return (optax.apply_updates(params, change), state), None

    numbers = jnp.arange(updates, dtype=jnp.int32)
    return jax.lax.scan(update, (params, rule.init(params)), numbers)[0][0]
