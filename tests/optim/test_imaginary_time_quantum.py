"""Steps of quantum states against exact imaginary-time evolution, and against NetKet's steps."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from physnet import optim


def ising(spins, field=1.0):
    """The transverse-field Ising ring as a dense matrix."""
    s = 1 - 2.0 * ((np.arange(2**spins)[:, None] >> np.arange(spins)) & 1)
    h = np.diag(-np.sum(s * np.roll(s, -1, axis=1), axis=1))
    for i in range(spins):
        h[np.arange(2**spins), np.arange(2**spins) ^ (1 << i)] -= field
    return h


def cooled(h, start, time):
    """exp(-time H) start by eigenvectors, of norm 1."""
    values, vectors = np.linalg.eigh(h)
    psi = vectors @ (np.exp(-time * (values - values[0])) * (vectors.conj().T @ start))
    return psi / np.linalg.norm(psi)


@pytest.mark.parametrize("kind", ["Ising", "complex"])
def test_one_weight_a_state_follows_exact_imaginary_time(kind):
    if kind == "Ising":
        h, start = ising(5), np.exp(np.random.default_rng(0).normal(size=32) / 5)
    else:
        rng = np.random.default_rng(1)
        h = rng.normal(size=(6, 6, 2)).view(complex)[..., 0]
        h, start = (h + h.conj().T) / 2, np.exp(rng.normal(size=(6, 2)).view(complex)[..., 0] / 5)
    matrix = jnp.asarray(h)
    optimiser = lambda dt: optim.imaginary_time(dt, damping=1e-12)  # noqa: E731

    @jax.jit
    def evolve(dt, steps, x):
        def step(_, x):
            psi = jnp.exp(x)
            rows = optim.wavefunction_rows(
                lambda x, site: x[site],
                x,
                jnp.arange(len(x)),
                matrix @ psi / psi,
                weights=jnp.abs(psi) ** 2,
                holomorphic=kind == "complex",
            )
            one = optimiser(dt)
            return x + one.update(None, one.init(x), x, **rows._asdict())[0]

        psi = jnp.exp(jax.lax.fori_loop(0, steps, step, x))
        return psi / jnp.linalg.norm(psi).astype(psi.dtype)

    exact = cooled(h, start, 0.4)
    lost = []
    for steps in (20, 40, 80):
        psi = np.asarray(evolve(0.4 / steps, steps, jnp.log(jnp.asarray(start))))
        lost.append(1 - abs(np.vdot(exact, psi)) ** 2)
    assert lost[-1] < 1e-4
    np.testing.assert_allclose([lost[0] / lost[1], lost[1] / lost[2]], 4, rtol=0.12)


# Made by `python benchmarks/netket_step.py`, with the versions that it names.
NETKET = json.loads((Path(__file__).parent / "netket_step.json").read_text())


def as_array(numbers):
    """Real numbers, or [real parts, imaginary parts]."""
    x = np.asarray(numbers)
    return jnp.asarray(x if x.ndim == 1 else x[0] + 1j * x[1])


@pytest.mark.parametrize("name", NETKET["cases"])
@pytest.mark.parametrize("solver", ["samples", "parameters", "cg"])
def test_steps_are_netkets(name, solver):
    recorded = NETKET["cases"][name]
    turned = "complex" in name
    shapes = {"Dense": {"bias": jnp.zeros(4), "kernel": jnp.zeros((4, 4))}, "visible": jnp.zeros(4)}
    shapes = jax.tree.map(lambda x: x.astype(complex if turned else float), shapes)
    flat, back = ravel_pytree(shapes)
    values = 0.3 * np.sin(np.arange(1, 25))
    if turned:
        values = values + 0.3j * np.sin(np.arange(25, 49))
    params = back(jnp.asarray(values, flat.dtype))

    def log_psi(params, s):
        inside = s @ params["Dense"]["kernel"] + params["Dense"]["bias"]
        return jnp.sum(jnp.log(jnp.cosh(inside))) + params["visible"] @ s

    optimiser = optim.imaginary_time(
        1.0,
        damping=NETKET["damping"],
        momentum=NETKET["momentum"] if "spring" in name else 0.0,
        solver=solver,
        tolerance=1e-13,
        iterations=300,
    )

    @jax.jit
    def step(state, samples, energies):
        rows = optim.wavefunction_rows(log_psi, params, samples, energies, holomorphic=turned)
        flips = samples[:, None, :] * (1 - 2 * jnp.eye(4, dtype=flat.dtype))[None]
        connected = jnp.concatenate([samples[:, None], flips], axis=1)
        bonds = -jnp.sum(samples * jnp.roll(samples, -1, axis=1), axis=1)
        elements = jnp.concatenate([bonds[:, None], jnp.full((12, 4), -1, flat.dtype)], axis=1)
        own = optim.local_energies(log_psi, params, samples, connected, elements)
        return own, optimiser.update(None, state, params, **rows._asdict())

    state = optimiser.init(params)
    for row in recorded:
        samples = jnp.asarray(row["samples"], flat.dtype)
        energies, (updates, state) = step(state, samples, as_array(row["energies"]))
        np.testing.assert_allclose(energies, as_array(row["energies"]), rtol=1e-9, atol=1e-9)
        found = -2 * ravel_pytree(updates)[0]  # NetKet's update is a gradient, and twice as long
        np.testing.assert_allclose(found, as_array(row["update"]), rtol=1e-6, atol=1e-7)
