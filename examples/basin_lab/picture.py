"""Success by basin, and one cloud and one descent on a landscape of many minima."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

from basin_lab import methods
from basin_lab.problems import function
from physnet.superposition import path_integral

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

COLOURS = {
    "path integral": "#2b6cb0",
    "λ = 1, fixed": "#90cdf4",
    "Adam": "#dd6b20",
    "SGD": "#f6ad55",
    "random starts": "0.7",
}


def paths(steps: int = 40) -> dict[str, np.ndarray]:
    """Means and widths of a cloud, and the points of Adam, from one start on Rastrigin's plane."""
    problem = function("Rastrigin", 2, 1)
    start = jnp.asarray([0.62, -0.55])

    def one(state, key):
        new, _ = path_integral.step(key, state, problem.loss)
        return new, (state.params, state.sigma)

    state = path_integral.init(start, particles=40, sigma=0.3, covariance="none")
    keys = jax.random.split(jax.random.key(0), steps)
    _, (means, widths) = jax.jit(lambda s: jax.lax.scan(one, s, keys))(state)
    rule = optax.adam(0.03)

    def move(carry, _):
        x, memory = carry
        change, memory = rule.update(jax.grad(problem.loss)(x), memory, x)
        return (optax.apply_updates(x, change), memory), x

    _, points = jax.jit(lambda c: jax.lax.scan(move, c, None, length=8 * steps))(
        (start, rule.init(start))
    )
    return {"means": np.asarray(means), "widths": np.asarray(widths), "Adam": np.asarray(points)}


def draw(rows: list[dict[str, Any]], output: Path) -> None:
    names = list(dict.fromkeys(row["problem"] for row in rows))
    figure, (bars, plane) = plt.subplots(
        1, 2, figsize=(13, 1.6 + 0.62 * max(len(names), 7)), width_ratios=(1.25, 1),
        layout="constrained",
    )  # fmt: skip
    height = 0.8 / len(methods.METHODS)
    for i, method in enumerate(methods.METHODS):
        own = {row["problem"]: row for row in rows if row["method"] == method}
        share = np.array([own[name]["share"] for name in names])
        span = np.array([own[name]["interval"] for name in names]).T
        place = np.arange(len(names)) + (i - (len(methods.METHODS) - 1) / 2) * height
        error = np.abs(span - share)
        bars.barh(place, share, height, xerr=error, color=COLOURS[method], label=method,
                  error_kw={"lw": 0.8, "ecolor": "0.3"})  # fmt: skip
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.set_xlim(0, 1.02)
    bars.set_xlabel("share of searches that end in the lowest basin")
    bars.set_title("Equal evaluations, tuned alike, 95% intervals")
    bars.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.09), ncol=5, fontsize=8)
    found = paths()
    line = np.linspace(-1, 1, 300)
    x, y = np.meshgrid(line, line)
    loss = function("Rastrigin", 2, 1).loss
    heights = jax.vmap(loss)(jnp.asarray(np.stack([x.ravel(), y.ravel()], 1), jnp.float32))
    plane.contourf(x, y, np.asarray(heights).reshape(x.shape), 18, cmap="Greys_r", alpha=0.8)
    for i in (0, 2, 5, 10, 16, 24, 32):
        mean, width = found["means"][i], found["widths"][i]
        plane.add_patch(plt.Circle(mean, width, fill=False, color=COLOURS["path integral"], lw=1))
    plane.plot(*found["means"].T, "o-", ms=3, color=COLOURS["path integral"],
               label="mean and width of the cloud")  # fmt: skip
    plane.plot(*found["Adam"].T, "-", lw=2, color=COLOURS["Adam"], label="Adam")
    plane.plot(0, 0, "*", ms=14, color="#c53030", label="lowest minimum")
    plane.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[], yticks=[])
    plane.set_title("One search on Rastrigin's plane")
    plane.legend(loc="lower left", fontsize=8)
    bars.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=100)
    plt.close(figure)
