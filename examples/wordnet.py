"""The mammals of WordNet in the Poincare ball: is-a relations as distances.

    python examples/wordnet.py                    # three seeds in five dimensions; a picture in two
    python examples/wordnet.py --dim 10 --seeds 0 1 2 3 4 --no-picture

1,180 nouns at and below "mammal" and the 6,540 pairs of a noun and an ancestor among them: the list
of Nickel and Kiela, from the nouns of Debian's package `wordnet-base`. Points are trained by
Riemannian descent so that ancestors are nearer than random other nouns; then every ancestor is
ranked by its distance among all nouns that are no ancestors. Mean rank 1 and mean average precision
1 say that distances alone give the hierarchy back. Published for five dimensions: 1.26 and 0.927.

The loss, the slow start and the measures are theirs. Different here: steps of 64 pairs (theirs: 10)
that share 200 random nouns (50 for each pair), of which a pair leaves its own ancestors out; 600
epochs (300) at a rate of 0.02 a pair (0.03) that falls linearly over the second half. Of equal
distances the ancestor's counts as the larger.

Reference: Nickel, Kiela, "Poincare embeddings for learning hierarchical representations" (2017).
"""

import argparse
import functools
import io
import pathlib
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib import patheffects
from matplotlib.collections import LineCollection
from PIL import Image

from physnet import optim
from physnet.hyperbolic import poincare, polar

PICTURE = pathlib.Path(__file__).parent.parent / "docs" / "pictures" / "wordnet.png"
WORDNET = pathlib.Path("/usr/share/wordnet/data.noun")
UNPUBLISHED = ("tusker", "female_mammal")  # nouns that the published list leaves out
INK, REST, COLOURS = "#22303c", "#8d9aa4", 224
GROUPS = {  # a later one takes its part of an earlier one
    "ungulate": "#c98a1b",
    "carnivore": "#d1495b",
    "canine": "#8f2d3f",
    "feline": "#f0803c",
    "rodent": "#1f6f8b",
    "primate": "#6a4c93",
    "bat": "#3c3c3c",
    "aquatic_mammal": "#2ca6a4",
    "marsupial": "#5a8f3d",
}
NAMED = (  # where names overlap, the first is written
    "mammal ungulate carnivore rodent primate bat marsupial feline dog whale horse cattle fox bear "
    "deer mouse squirrel hominid monkey sheep spaniel terrier hound big_cat seal antelope lemur "
    "edentate insectivore kangaroo"
)


class Hierarchy(NamedTuple):
    """Nouns and what is above them, by their places in `names`.

    Attributes:
        names: The first word of each noun, in the file's order.
        edges: (m, 2) int32, a noun and one that it is directly below.
        pairs: (n, 2) int32, a noun and any one above it.
    """

    names: list[str]
    edges: np.ndarray
    pairs: np.ndarray


def hierarchy(
    path: pathlib.Path, *, root: str = "mammal", without: Collection[str] = UNPUBLISHED
) -> Hierarchy:
    """The first noun named `root` and all below it, by kinds ("@") and instances ("@i")."""
    if not path.exists():
        raise SystemExit(
            f"error: {path} is missing: the nouns of WordNet, which Debian has as wordnet-base "
            "(apt install wordnet-base); --wordnet names another copy of data.noun"
        )
    names: dict[str, str] = {}
    above: dict[str, list[str]] = {}
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):  # the licence
            continue
        offset, _, _, words, first, *rest = line.partition(" | ")[0].split()
        names[offset] = first
        pointers = rest[2 * int(words, 16) :]
        kinds_and_targets = zip(pointers[::4], pointers[1::4], strict=True)
        above[offset] = [target for kind, target in kinds_and_targets if kind in ("@", "@i")]

    @functools.cache
    def ancestors(offset: str) -> frozenset[str]:
        return frozenset(above[offset]).union(*map(ancestors, above[offset]))

    top = next((offset for offset, name in names.items() if name == root), None)
    if top is None:
        raise SystemExit(f"error: {path} has no noun {root!r}")
    below = [offset for offset in names if top in ancestors(offset) or offset == top]
    place = {o: i for i, o in enumerate(o for o in below if names[o] not in without)}

    def places(upwards: Callable[[str], Iterable[str]]) -> np.ndarray:
        found = [(i, place[a]) for o, i in place.items() for a in upwards(o) if a in place]
        return np.asarray(sorted(found), np.int32).reshape(-1, 2)

    return Hierarchy([names[o] for o in place], places(above.__getitem__), places(ancestors))


def is_above(count: int, pairs: np.ndarray) -> np.ndarray:
    """Table (count, count): whether the second noun is above the first."""
    table = np.zeros((count, count), bool)
    table[pairs[:, 0], pairs[:, 1]] = True
    return table


def start(count: int, dim: int, draw: np.random.Generator) -> jax.Array:
    """Random points (count, dim) next to the origin."""
    return jnp.asarray(draw.uniform(-1e-3, 1e-3, (count, dim)), jnp.float32)


def train(
    count: int,
    pairs: np.ndarray,
    *,
    seed: int,
    dim: int,
    epochs: int,
    rate: float = 0.02,
    batch: int = 64,
    negatives: int = 200,
    warmup: int = 30,
) -> jax.Array:
    """Points (count, dim) of the ball after `epochs` passes over the pairs.

    The loss of a pair is -log of e^{-d} of its ancestor over the sum of e^{-d} of the ancestor and
    of random nouns that are none; a step adds up `batch` pairs, all with the same random nouns. The
    rate is a tenth of `rate` in the first `warmup` epochs, in which points find their directions,
    and falls linearly to 0 in the second half.
    """
    draw = np.random.default_rng(seed)
    steps = -(-len(pairs) // batch)
    half = epochs * steps // 2
    schedule = optax.join_schedules(
        [optax.constant_schedule(rate / 10), optax.constant_schedule(rate),
         optax.linear_schedule(rate, 0.0, epochs * steps - half)],
        [min(warmup * steps, half), half],
    )  # fmt: skip
    optimiser = optim.riemannian_sgd(schedule)
    excluded = is_above(count, pairs) | np.eye(count, dtype=bool)

    def loss(points: jax.Array, chosen: jax.Array, others: jax.Array, excluded: jax.Array):
        noun, ancestor = points[chosen[:, 0]], points[chosen[:, 1]]
        near = -poincare.distance(noun, ancestor)
        far = -poincare.distance(noun[:, None], points[others])
        far = jax.nn.logsumexp(far, axis=1, where=~excluded[chosen[:, :1], others])
        return jnp.sum(jnp.logaddexp(near, far) - near)

    @jax.jit
    def epoch(points, state, chosen, others, excluded):
        def step(carry, drawn):
            points, state = carry
            slope = jax.grad(loss)(points, *drawn, excluded)
            updates, state = optimiser.update(slope, state, points)
            return (optax.apply_updates(points, updates), state), None

        return jax.lax.scan(step, (points, state), (chosen, others))[0]

    points = start(count, dim, draw)
    state = optimiser.init(points)
    excluded = jnp.asarray(excluded)
    for _ in range(epochs):
        order = np.resize(draw.permutation(len(pairs)), (steps, batch))  # the last batch is filled
        others = draw.integers(count, size=(steps, negatives), dtype=np.int32)
        points, state = epoch(points, state, pairs[order], others, excluded)
    return points


def scores(points: jax.Array, pairs: np.ndarray) -> tuple[float, float]:
    """Mean rank of the ancestors among what is none, and mean average precision over nouns."""
    table = np.array(jax.jit(poincare.distance)(points[:, None], points[None]), np.float64)
    np.fill_diagonal(table, np.inf)
    mine = is_above(len(table), pairs)
    ranks, precision = [], []
    for noun in np.unique(pairs[:, 0]):
        order = np.lexsort((mine[noun], table[noun]))  # of a tie the ancestors come last
        found = np.flatnonzero(mine[noun][order])
        ahead = np.arange(len(found))  # ancestors in front of each
        ranks.append(found - ahead + 1)
        precision.append(np.mean((ahead + 1) / (found + 1)))
    return float(np.mean(np.concatenate(ranks))), float(np.mean(precision))


@jax.jit
def geodesics(start: jax.Array, end: jax.Array) -> jax.Array:
    """Tangent coordinates (edges, 161, 2) along the geodesics between points of the disk."""
    share = jnp.linspace(0.0, 1.0, 161)[None, :, None]
    velocity = poincare.logmap(start, end)[:, None]
    return polar.from_poincare(poincare.expmap(start[:, None], share * velocity))


def draw(points: jax.Array, nouns: Hierarchy, title: str, output: pathlib.Path) -> None:
    """The disk with geodesics as edges: as the ball has it, and with distances as radii."""
    place = {name: i for i, name in reversed(list(enumerate(nouns.names)))}
    above = is_above(len(nouns.names), nouns.pairs) | np.eye(len(nouns.names), dtype=bool)
    colours = np.full(len(nouns.names), REST)
    for group, colour in GROUPS.items():
        if group in place:
            colours[above[:, place[group]]] = colour
    lower, upper = nouns.edges.T
    with jax.enable_x64(True):  # or the far ends of long ones are off by as much as is seen
        exact = jnp.asarray(points, jnp.float64)
        lines = np.asarray(geodesics(exact[lower], exact[upper]))
    spots = np.asarray(polar.from_poincare(points))
    figure, axes = plt.subplots(1, 2, figsize=(13, 6.9), layout="constrained")
    titles = ("The Poincare disk", "The same, with distance from the centre as radius")
    for axis, show, text in zip(axes, (polar.to_poincare, lambda v: 2 * v), titles, strict=True):
        bent, seen = (np.asarray(show(jnp.asarray(v, jnp.float32))) for v in (lines, spots))
        edges = LineCollection(bent, colors=colours[lower], linewidths=0.5, alpha=0.6)
        axis.add_collection(edges)
        axis.scatter(*seen.T, s=4, c=colours, linewidths=0, zorder=3)
        axis.set_title(text, fontsize=10, color=INK)
        axis.set_aspect("equal")
        axis.axis("off")
    axes[0].add_patch(plt.Circle((0, 0), 1, fill=False, color="#b8c4cc", linewidth=0.6))
    figure.suptitle(title, fontsize=12, color=INK)
    figure.draw_without_rendering()  # settles where names go
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    boxes = []
    for name in (name for name in NAMED.split() if name in place):
        text = axes[1].text(
            *2 * spots[place[name]],
            name.replace("_", " "),
            color=INK if colours[place[name]] == REST else colours[place[name]],
            weight="bold" if name in GROUPS else "normal",
            fontsize=8.5,
            ha="center",
            va="center",
            path_effects=halo,
            zorder=5,
        )
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in boxes):
            text.remove()
        else:
            boxes.append(box)
    output.parent.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    figure.savefig(image, dpi=100)
    plt.close(figure)
    Image.open(image).convert("RGB").quantize(COLOURS).save(output, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wordnet", type=pathlib.Path, default=WORDNET, help="data.noun")
    parser.add_argument("--dim", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--output", type=pathlib.Path, default=PICTURE)
    parser.add_argument("--no-picture", action="store_true", help="no run in two dimensions")
    options = parser.parse_args()
    nouns = hierarchy(options.wordnet)
    print(f"{len(nouns.names):,} nouns, {len(nouns.pairs):,} pairs", flush=True)

    def run(dim: int, seed: int) -> tuple[jax.Array, float, float]:
        started = time.perf_counter()
        points = train(len(nouns.names), nouns.pairs, seed=seed, dim=dim, epochs=options.epochs)
        rank, precision = scores(points, nouns.pairs)
        print(
            f"{dim} dimensions, seed {seed}: mean rank {rank:.3f}, mean average precision "
            f"{precision:.4f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        return points, rank, precision

    results = np.array([run(options.dim, seed)[1:] for seed in options.seeds])
    rank, precision = results.mean(axis=0)
    print(f"mean of {len(results)}: mean rank {rank:.3f}, mean average precision {precision:.4f}")
    if not options.no_picture:
        points, rank, precision = run(2, options.seeds[0])
        title = (
            f"{len(nouns.names):,} mammals of WordNet in two dimensions: mean rank {rank:.1f}, "
            f"mean average precision {precision:.2f}"
        )
        draw(points, nouns, title, options.output)


if __name__ == "__main__":
    main()
