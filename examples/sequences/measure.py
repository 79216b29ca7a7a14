"""How well gradients agree, and what one layer's gradient keeps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from physnet.nn import hamiltonian
from sequences import training
from sequences.data import Series
from sequences.model import Model, Params
from sequences.training import Recipe

GRADIENTS = ("backpropagation", "echo", "finite")


def agreement(
    series: Series, model: Model, recipe: Recipe, params: Params, seeds: int, batches: int = 2
) -> dict[str, Any]:
    """Cosine and ratio of norms of the layers' gradients to those of backpropagation.

    Of each seed's parameters on the same augmented batches; the largest deviations found.
    """
    x, y = jnp.asarray(series.train.x), jnp.asarray(series.train.y)

    def vectors(gradient: str, batch: int) -> np.ndarray:
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(10**6), seed))(
            jnp.arange(seeds) + batch * seeds
        )
        own = dataclasses.replace(model, gradient=gradient)
        found = training.gradient(params, keys, x, y, own, recipe)["blocks"]
        return np.concatenate(
            [np.asarray(a, np.float64).reshape(seeds, -1) for a in jax.tree.leaves(found)], 1
        )

    cosines: dict[str, list] = {name: [] for name in GRADIENTS[1:]}
    norms: dict[str, list] = {name: [] for name in GRADIENTS[1:]}
    for batch in range(batches):
        plain = vectors("backpropagation", batch)
        length = np.linalg.norm(plain, axis=1)
        for name in GRADIENTS[1:]:
            other = vectors(name, batch)
            size = np.linalg.norm(other, axis=1)
            cosines[name] += ((plain * other).sum(1) / (length * size)).tolist()
            norms[name] += (size / length).tolist()
    return {
        name: {
            "cosine_least": min(cosines[name]),
            "cosine_mean": float(np.mean(cosines[name])),
            "norm_ratio": [min(norms[name]), max(norms[name])],
        }
        for name in GRADIENTS[1:]
    }


def memory(model: Model, steps: int, batch: int) -> dict[str, int]:
    """Temporary bytes of one layer's gradient for a loss that reads the last position."""
    units = model.units if model.kind == "nonlinear" else 0
    params = hamiltonian.init(jax.random.key(0), 3, oscillators=model.oscillators, units=units)
    x = jax.ShapeDtypeStruct((batch, steps, 3), jnp.float32)

    def temporary(gradient: str) -> int:
        def last(params: Params, x: jax.Array) -> jax.Array:
            q = hamiltonian.positions(params, x, form=model.form, gradient=gradient)
            return jnp.sum(q[:, -1] ** 2)

        program = jax.jit(jax.grad(last)).lower(params, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    return {name: temporary(name) for name in GRADIENTS}
