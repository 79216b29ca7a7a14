"""Ways to compress a signal of N sites and D features to N D / r numbers: `WAYS`, for mera.py.

way(signals, levels, settings, key) makes one from examples (S, N, D) whose mean is 0, for
r = 2^levels: a function that gives back what it keeps of other signals, and how many numbers were
learned.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from physnet import holography, optim
from physnet.holography import mera

Project = Callable[[jax.Array], jax.Array]  # (..., N, D): what is left of a signal


def trained(signals, levels, layers, wide, settings, key) -> tuple[Project, int]:
    """A MERA (S, N, D) from principal axes, then by steps on the Stiefel manifold."""
    features = signals.shape[-1]
    up = (2 * features,) * (levels - 1) + (features,) if wide else features
    start = mera.principal(signals, levels=levels, up=up, layers=layers, complements=False)
    optimiser = optim.stiefel_adam(optax.cosine_decay_schedule(settings.rate, settings.steps))

    def kept(params, batch):
        return jnp.sum(mera.encode(params, batch).top ** 2) / jnp.sum(batch**2)

    def one(carry, key):
        params, state = carry
        chosen = jax.random.choice(key, len(signals), (min(settings.batch, len(signals)),), False)
        slope = jax.grad(kept)(params, signals[chosen])
        updates, state = optimiser.update(jax.tree.map(jnp.negative, slope), state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(key, settings.steps)
    (params, _), _ = jax.lax.scan(one, (start, optimiser.init(start)), keys)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return lambda x: mera.decode(params, mera.encode(params, x)), count


def principal_axes(rows: jax.Array, kept: int) -> jax.Array:
    """(S, n) to (n, kept), whatever the number of examples."""
    _, _, axes = jnp.linalg.svd(rows, full_matrices=False)
    return axes[:kept].T


def block_pca(signals, levels, settings, key) -> tuple[Project, int]:
    features, size = signals.shape[-1], 2**levels * signals.shape[-1]
    rows = signals.reshape(-1, size)
    axes = jnp.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :features]

    def project(x):
        return (x.reshape(-1, size) @ axes @ axes.T).reshape(x.shape)

    return project, axes.size


def feature_pca(signals, levels, settings, key) -> tuple[Project, int]:
    """D / r features of every site, by principal axes: low rank, no site merged."""
    features = signals.shape[-1]
    rows = signals.reshape(-1, features)
    axes = jnp.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, : features // 2**levels]
    return lambda x: x @ axes @ axes.T, axes.size


def global_pca(signals, levels, settings, key) -> tuple[Project, int]:
    size = signals.shape[-2] * signals.shape[-1]
    axes = principal_axes(signals.reshape(-1, size), size // 2**levels)
    return lambda x: (x.reshape(-1, size) @ axes @ axes.T).reshape(x.shape), axes.size


def wavelet_levels(levels: int, features: int, taps: int) -> tuple[mera.Level, ...]:
    """Wavelets of two or of four taps as a MERA: rotations that all features share."""
    angles = (0.0, np.pi / 4) if taps == 2 else (DAUBECHIES[0], DAUBECHIES[1])
    u, w = (np.kron(rotation(angle), np.eye(features)) for angle in angles)
    u, w = (jnp.asarray(m, jnp.float32) for m in (u, w))
    return tuple(mera.Level(u[None], w, features) for _ in range(levels))


def rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


# U and W whose four taps are those of Daubechies' D4: tests/benchmarks holds them to it.
DAUBECHIES = (-np.pi / 6, np.pi / 12)


def coarsest(signals, levels, settings, key, *, taps) -> tuple[Project, int]:
    params = wavelet_levels(levels, signals.shape[-1], taps)
    options: Any = {"boundary": "periodic"}

    def project(x):
        bulk = mera.encode(params, x, **options)
        return mera.decode(params, bulk._replace(details=(None,) * levels), **options)

    return project, 0


def chosen(signals, levels, settings, key, *, taps) -> tuple[Project, int]:
    """All levels down to one site; fixed places of the largest variance."""
    window, features = signals.shape[-2:]
    rows = signals.reshape(-1, features)
    axes = jnp.linalg.eigh(rows.T @ rows)[1]
    params = wavelet_levels(int(np.log2(window)), features, taps)

    def bulk_of(x):
        return mera.encode(params, x @ axes, boundary="periodic")

    power = jax.tree.map(lambda part: jnp.mean(part**2, 0), bulk_of(signals))
    every = jnp.concatenate([part.reshape(-1) for part in jax.tree.leaves(power)])
    least = jnp.sort(every)[-(window * features // 2**levels)]

    def project(x):
        bulk = jax.tree.map(
            lambda part, size: jnp.where(size[None] >= least, part, 0), bulk_of(x), power
        )
        return mera.decode(params, bulk, boundary="periodic") @ axes.T

    return project, axes.size + window * features // 2**levels


def boundary_level(signals, levels, settings, key) -> tuple[Project, int]:
    """The level of N / r slots of the bulk-boundary kernel with Delta = 1, of every feature."""
    sites = jnp.eye(signals.shape[-2], dtype=signals.dtype)[..., None]
    rows = holography.encode(sites, levels + 1)[-1][..., 0]  # an isometry's transpose (N, N / r)

    def project(x):
        return jnp.einsum("nm,km,...kd->...nd", rows, rows, x)

    return project, 0


WAYS: dict[str, Callable[..., tuple[Project, int]]] = {
    "MERA": lambda x, n, s, k: trained(x, n, 1, False, s, k),
    "tree": lambda x, n, s, k: trained(x, n, 0, False, s, k),
    "MERA, wide": lambda x, n, s, k: trained(x, n, 1, True, s, k),
    "tree, wide": lambda x, n, s, k: trained(x, n, 0, True, s, k),
    "block PCA": block_pca,
    "feature PCA": feature_pca,
    "global PCA": global_pca,
    "boundary level": boundary_level,
    "Haar": functools.partial(coarsest, taps=2),
    "Daubechies": functools.partial(coarsest, taps=4),
    "Haar, chosen": functools.partial(chosen, taps=2),
    "Daubechies, chosen": functools.partial(chosen, taps=4),
}
