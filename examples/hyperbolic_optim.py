"""Centroids near the boundary: tokens rerouted by a step, and updates that settle or do not.

    python examples/hyperbolic_optim.py               # writes docs/pictures/hyperbolic_optim.png

128 centroids in 8 dimensions: 16 groups at hyperbolic radius R, siblings about 1 apart. Tokens lie
around centroids with normal noise of 0.3 a dimension; each goes to the nearest centroid.

Left: the share of tokens whose nearest centroid changes in one step of all centroids in random
directions. A Euclidean step of 1e-3 is longer in the metric the nearer the boundary is; a
Riemannian step has the length that its rate says.

Right: every centroid begins at distance 1 from its place and is pulled by a fresh token a step for
200 steps, at one rate for all radii. How far from its place it is over the last 50.
"""

import argparse
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from physnet import optim
from physnet.hyperbolic import poincare, polar

GROUPS, SIBLINGS, DIM, LAST = 16, 8, 8, 50
INK, FLAT, CURVED = "#22303c", "#d1495b", "#1f6f8b"
PICTURE = pathlib.Path(__file__).parent.parent / "docs" / "pictures" / "hyperbolic_optim.png"
STYLES = {"ball": "-", "tangent": "--"}


def derivatives(v: jax.Array, w: jax.Array) -> jax.Array:
    """Derivatives by tangent coordinates whose Riemannian gradient is w in an orthonormal frame."""
    length = jnp.linalg.norm(v, axis=-1, keepdims=True)
    u, r = v / length, 2 * length
    along = jnp.sum(w * u, axis=-1, keepdims=True) * u
    return 2 * (along + jnp.sinh(r) / r * (w - along))


@jax.jit
def walk(v: jax.Array, w: jax.Array) -> jax.Array:
    """exp_v(-w): one Riemannian step at rate 1."""
    step = optim.riemannian_sgd(1.0, coordinates="tangent")
    return optax.apply_updates(v, step.update(derivatives(v, w), step.init(v), v)[0])


@functools.partial(jax.jit, static_argnums=1)
def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(key, shape)


@jax.jit
def unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def centroids(key: jax.Array, radii: np.ndarray) -> jax.Array:
    """Tangent coordinates (radii, 128, 8)."""
    group, sibling = (
        unit(normal(k, (len(radii), GROUPS * SIBLINGS, DIM))) for k in jax.random.split(key)
    )
    centre = jnp.repeat(group[:, :GROUPS], SIBLINGS, axis=1) * (radii / 2)[:, None, None]
    return walk(centre, 0.7 * sibling)


def around(key: jax.Array, v: jax.Array) -> jax.Array:
    """A token of each centroid."""
    return walk(v, 0.3 * normal(key, v.shape))


distance = jax.jit(polar.distance)
to_ball, to_tangent = jax.jit(polar.to_poincare), jax.jit(polar.from_poincare)


@jax.jit
def nearest(v: jax.Array, tokens: jax.Array) -> jax.Array:
    return jnp.argmin(polar.distance(tokens[:, None], v), axis=-1)


def flicker(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Share of the tokens whose nearest centroid has changed."""
    return (before != after).mean(axis=-1)


def one_step(key: jax.Array, radii: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Flicker of a step in random directions at each radius, by kind of step and coordinates."""
    keys = jax.random.split(key, 10)
    v = centroids(keys[0], radii)
    tokens = np.concatenate([around(k, v) for k in keys[2:]], axis=1)
    push = unit(normal(keys[1], v.shape))

    def route(v):
        return np.stack([nearest(*row) for row in zip(np.asarray(v), tokens, strict=True)])

    shares = {}
    for coordinates in STYLES:
        ball = coordinates == "ball"
        x = to_ball(v) if ball else v
        grads = push if ball else derivatives(v, push)
        # With both decays 0 each point steps by the rate.
        curved = optim.riemannian_adam(0.1, b1=0.0, b2=0.0, coordinates=coordinates)
        updates = jax.jit(curved.update)(grads, curved.init(x), x)[0]
        flat, riemannian = x - 1e-3 * push, optax.apply_updates(x, updates)
        if ball:
            flat = jax.jit(poincare.project)(flat)
        places = {"before": x, "Euclidean": flat, "Riemannian": riemannian}
        routes = {name: route(to_tangent(x) if ball else x) for name, x in places.items()}
        for name in ("Euclidean", "Riemannian"):
            shares[name, coordinates] = flicker(routes["before"], routes[name])
    return shares


@jax.jit
def slope(v: jax.Array, tokens: jax.Array) -> jax.Array:
    """Derivative of the squared distance to the token of each centroid."""
    return jax.grad(lambda v: jnp.sum(polar.distance(v, tokens) ** 2))(v)


def settle(optimiser, coordinates: str, place: jax.Array, key: jax.Array, steps: int):
    """Mean distance of the centroids from their place over the last steps, at each radius."""
    ball = coordinates == "ball"

    def inward(x):
        return polar.from_poincare(x) if ball else x

    @jax.jit
    def move(x, state, grads):
        grads = jax.vjp(inward, x)[1](grads)[0]
        updates, state = optimiser.update(grads, state, x)
        x = optax.apply_updates(x, updates)
        x = poincare.project(x) if ball else x
        return x, inward(x), state

    v = walk(place, unit(normal(key, place.shape)))
    x = to_ball(v) if ball else v
    state, left = optimiser.init(x), []
    for number in range(steps):
        x, v, state = move(x, state, slope(v, around(jax.random.fold_in(key, number), place)))
        if number >= steps - LAST:
            left.append(np.mean(distance(v, place), axis=-1))
    return np.mean(left, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=PICTURE)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--radii", type=float, nargs="+", default=list(range(2, 11)))
    options = parser.parse_args()
    radii = np.asarray(options.radii, np.float32)
    if options.steps < LAST:
        parser.error(f"--steps must be at least {LAST}, got {options.steps}")
    started = time.perf_counter()
    keys = jax.random.split(jax.random.key(0), 3)
    left = one_step(keys[0], radii)
    optimisers = {
        ("Euclidean", "SGD", "ball"): optax.sgd(1e-3),
        ("Euclidean", "Adam", "ball"): optax.adam(1e-3),
        ("Euclidean", "Adam", "tangent"): optax.adam(1e-2),
        ("Riemannian", "Adam", "ball"): optim.riemannian_adam(2e-2),
        ("Riemannian", "Adam", "tangent"): optim.riemannian_adam(2e-2, coordinates="tangent"),
    }
    place = centroids(keys[1], radii)
    right = {
        name: settle(optimiser, name[-1], place, keys[2], options.steps)
        for name, optimiser in optimisers.items()
    }

    print(f"{'radius':45s}" + "".join(f"{r:8.0f}" for r in radii))
    for (kind, coordinates), values in left.items():
        size = "1e-3" if kind == "Euclidean" else "0.1"
        label = f"rerouted: {kind} step of {size}, {coordinates}"
        print(f"{label:45s}" + "".join(f"{value:8.1%}" for value in values))
    for name, values in right.items():
        label = f"distance left: {' '.join(name[:2])}, {name[2]}"
        print(f"{label:45s}" + "".join(f"{value:8.2g}" for value in values))
    print(f"{time.perf_counter() - started:.1f} s")
    draw(radii, left, right, options.output)


def draw(radii: np.ndarray, left: dict, right: dict, output: pathlib.Path) -> None:
    figure, (rerouted, settled) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for (kind, coordinates), values in left.items():
        size, colour = ("1e-3", FLAT) if kind == "Euclidean" else ("0.1", CURVED)
        label = f"{kind} step of {size}, {coordinates}"
        rerouted.plot(radii, values, STYLES[coordinates], color=colour, label=label, marker="o")
    for (kind, rule, coordinates), values in right.items():
        colour = (FLAT if kind == "Euclidean" else CURVED) if rule == "Adam" else "#e9a03b"
        label = f"{kind} {rule}, {coordinates}"
        settled.plot(radii, values, STYLES[coordinates], color=colour, label=label, marker="o")
    rerouted.set(ylim=(0, 1), ylabel="share of tokens")
    rerouted.set_title("Rerouted by one step of the centroids", fontsize=10, loc="left")
    settled.set(yscale="log", ylim=(0.03, 2000), ylabel="hyperbolic distance")
    settled.set_title("Distance from the right place at the end", fontsize=10, loc="left")
    for axis in (rerouted, settled):
        axis.set_xlabel("hyperbolic radius of the centroids")
        axis.legend(fontsize=8, frameon=False, loc="upper left")
        axis.spines[:].set_color("#b8c4cc")
        axis.tick_params(labelsize=8, colors=INK)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)


if __name__ == "__main__":
    main()
