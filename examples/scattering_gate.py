"""What the scattering gate keeps: scores, pairs, and blocks before and after ordering by class.

    python examples/scattering_gate.py                # writes docs/pictures/scattering_gate.png

A disordered chain of 2048 sites; the score of a site is its causal integrated density of states in
a window, and the pairs with s_i s_j > threshold take part in attention: a quarter of them.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap

from physnet import scattering

SITES, BLOCK, SHARE = 2048, 64, 0.25
INK, KEPT, SCORE = "#22303c", "#1f6f8b", "#d1495b"
PICTURE = pathlib.Path(__file__).parent.parent / "docs" / "pictures" / "scattering_gate.png"


def chain(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A potential with quiet and disordered stretches, as text has dense and plain ones."""
    noise = jax.random.normal(key, (SITES,))
    place = jnp.arange(SITES) / SITES
    disorder = 1.2 + 1.0 * jnp.sin(2 * jnp.pi * 3 * place)
    return disorder * noise, jnp.ones(SITES - 1)


def block_states(plan: scattering.Schedule) -> np.ndarray:
    """0 skipped, 1 masked, 2 full: (query blocks, key blocks), empty blocks left out."""
    size = plan.block_size
    first, last, full = (np.asarray(x)[..., None] for x in (plan.first, plan.last, plan.full))
    block = np.arange(plan.key_order.shape[-1] // size)
    kept = ((block >= first) & (block < last)).any(1)
    whole = ((block >= first) & (block < first + full)).any(1)
    used = (np.asarray(plan.key_order).reshape(-1, size) < SITES).any(1)
    return (kept.astype(int) + whole)[np.ix_(used, used)]


def matrix(axis, image, title: str, label: str, cmap) -> None:
    axis.imshow(image, cmap=cmap, interpolation="nearest", aspect="equal", vmin=0, vmax=cmap.N - 1)
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.set_xlabel(f"key {label}", fontsize=9)
    axis.set_ylabel(f"query {label}", fontsize=9)
    axis.tick_params(labelsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=PICTURE)
    options = parser.parse_args()

    onsite, hopping = chain(jax.random.key(0))
    score = scattering.score(onsite, hopping, center=0.0, radius=0.7, order=8)
    threshold = scattering.threshold_for_density(score, SHARE)
    sample = scattering.score(*chain(jax.random.key(1)), center=0.0, radius=0.7, order=8)
    edges = scattering.class_edges(sample, threshold, length=SITES, block_size=BLOCK)
    plan = scattering.schedule(score, threshold, edges=edges, block_size=BLOCK)
    in_place = scattering.schedule(score, threshold, edges=jnp.zeros(0), block_size=BLOCK)

    pairs = np.tril(np.asarray(scattering.pair_gate(score, score, threshold)))
    order = np.asarray(plan.query_order)
    order = order[order < SITES]
    ordered = pairs[np.ix_(order, order)]

    two = ListedColormap(["white", KEPT])
    three = ListedColormap(["white", "#9cc5d3", KEPT])
    figure = plt.figure(figsize=(8.4, 9.8), layout="constrained")
    grid = figure.add_gridspec(3, 6, height_ratios=(0.45, 1, 1))
    line, histogram = figure.add_subplot(grid[0, :4]), figure.add_subplot(grid[0, 4:])
    line.plot(np.asarray(score), lw=0.5, color=SCORE)
    line.axhline(float(threshold) ** 0.5, color=INK, lw=0.8, ls="--")
    line.text(SITES - 20, 0.92, r"dashed: $\sqrt{\tau}$", ha="right", va="center", fontsize=9)
    line.set(xlim=(0, SITES), ylim=(0, 1), xlabel="site", ylabel="score")
    line.set_title("Score: causal integrated density of states", fontsize=10, loc="left")
    histogram.hist(np.asarray(score), bins=60, color=SCORE)
    for edge in np.asarray(edges):
        histogram.axvline(edge, color=INK, lw=0.8)
    histogram.set(xlabel="score", ylabel="sites", xlim=(0, 1))
    histogram.set_title(f"and its {len(edges) + 1} classes", fontsize=10, loc="left")

    share = pairs.sum() / (SITES * (SITES + 1) / 2)
    panels = (
        (grid[1, :3], pairs, f"Kept pairs in position order: {share:.0%}", "position", two),
        (grid[1, 3:], ordered, "The same pairs by (class, position)", "rank", two),
        (
            grid[2, :3],
            block_states(in_place),
            f"Blocks to compute in position order: {float(in_place.kept_fraction):.0%}",
            "block",
            three,
        ),
        (
            grid[2, 3:],
            block_states(plan),
            f"Blocks to compute by class: {float(plan.kept_fraction):.0%} (dark: no mask)",
            "block",
            three,
        ),
    )
    for cell, image, title, label, cmap in panels:
        matrix(figure.add_subplot(cell), image, title, label, cmap)
    for axis in (line, histogram):
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    for axis in figure.axes:
        axis.spines[:].set_color("#b8c4cc")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=130)
    print(
        f"pairs kept {share:.3f}, blocks of {BLOCK} to compute: in position order "
        f"{float(in_place.kept_fraction):.3f}, by class {float(plan.kept_fraction):.3f}"
    )


if __name__ == "__main__":
    main()
