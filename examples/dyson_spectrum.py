"""Does the Dyson equation predict where gradients localise? Deep stacks, predicted and measured.

    python examples/dyson_spectrum.py            # table, dyson_spectrum.png, dyson_spectrum.json

Stacks of tanh layers, Gaussian, orthogonal and near the identity, some with layers that are not
alike. The probes of each layer (one forward pass) give propagators over depth, a propagator
gives |gradient| at every layer, one backward pass measures it. The predictors:

    chi      product of sqrt(chi_l), how squares grow on average: incoherent. It is also the column
             |G(l, L)| of the chain H = N + N^T - N^T N at z = 1, N = sqrt(chi) above the diagonal
    rho      product of rho_l = tr J_l / d: the scalar propagator G(l, k), coherent
    chain    |G(l, L)| of a chain in which the probes are onsite energies and hoppings themselves:
             of all the settings in CHAINS the one with the least error

What it finds (165 stacks): chi does predict, to less than a factor of 2 (rms) in 84% of stacks; its
error grows with depth, by up to 1 / 2d a layer, since a typical product is below the mean one.
rho predicts near the identity (residual 0.99) and fails by many orders of magnitude in plain
layers, where it is 0 on average. No such chain predicts: its waves pass or decay, and do not grow.
"""

import argparse
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from physnet import dyson

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

PREDICTORS = ("chi", "rho", "chain")
FIGURES = ("pearson", "spearman", "step_pearson", "log_error")
COLOURS = {"measured": "0.15", "chi": "#2b6cb0", "rho": "#dd6b20", "chain": "#2f855a"}
CHAINS = tuple(  # onsite, hopping, z
    itertools.product(
        ("0", "rho"), ("sqrt chi", "rho", "sigma"), (0.1j, 0.01j, 1 + 0.1j, 1 + 0.01j, 2 + 0.1j)
    )
)
Init = Callable[[np.random.Generator, int, int], dict[str, np.ndarray]]


def layer(params: dict[str, jax.Array], h: jax.Array) -> jax.Array:
    """skip h + branch tanh(W h)."""
    return params["skip"] * h + params["branch"] * jnp.tanh(params["w"] @ h)


def gaussian(gain: Callable[[np.random.Generator, int], Any]) -> Init:
    """Plain layers, W Gaussian with entries of variance gain_l^2 / d."""

    def init(rng, layers, width):
        scale = np.broadcast_to(gain(rng, layers), layers) / width**0.5
        w = scale[:, None, None] * rng.normal(size=(layers, width, width))
        return {"w": w, "skip": np.zeros(layers), "branch": np.ones(layers)}

    return init


def orthogonal(rng: np.random.Generator, layers: int, width: int) -> dict[str, np.ndarray]:
    """Plain layers, W orthogonal."""
    w = np.linalg.qr(rng.normal(size=(layers, width, width)))[0]
    return {"w": w, "skip": np.zeros(layers), "branch": np.ones(layers)}


def residual(weight: float, gain: float = 1.0) -> Init:
    """h weight + (1 - weight) tanh(W h): near the identity where weight is near 1."""

    def init(rng, layers, width):
        params = gaussian(lambda *_: gain)(rng, layers, width)
        return params | {
            "skip": np.full(layers, weight),
            "branch": np.full(layers, 1 - weight),
        }

    return init


def mixed(rng: np.random.Generator, layers: int, width: int) -> dict[str, np.ndarray]:
    """h s_l + (1 - s_l) tanh(W h), s_l uniform in (0.8, 1), gains in (0.8, 4)."""
    params = gaussian(lambda rng, layers: rng.uniform(0.8, 4.0, layers))(rng, layers, width)
    weight = rng.uniform(0.8, 1.0, layers)
    return params | {"skip": weight, "branch": 1 - weight}


def bottleneck(_: np.random.Generator, layers: int) -> np.ndarray:
    """Gain 1.2, with a tenth of the layers in the middle at 0.7."""
    l = np.arange(layers) / layers
    return np.where((l > 0.45) & (l < 0.55), 0.7, 1.2)


STACKS: dict[str, Init] = {
    **{f"gaussian {gain}": gaussian(lambda *_, g=gain: g) for gain in (0.8, 0.9, 1.0, 1.2, 1.4)},
    "gaussian 0.8-1.4": gaussian(lambda rng, layers: rng.uniform(0.8, 1.4, layers)),
    "gaussian bottleneck": gaussian(bottleneck),
    "orthogonal": orthogonal,
    "residual 0.9": residual(0.9),
    "residual 0.99": residual(0.99),
    "residual mixed": mixed,
}


def chains(probes: dyson.LayerProbes, norms: jax.Array) -> dyson.Spectrum:
    """Spectra of all CHAINS, stacked."""
    values = {
        "0": jnp.zeros_like(probes.rho),
        "rho": jnp.abs(probes.rho),
        "sqrt chi": jnp.sqrt(probes.chi),
        "sigma": jnp.sqrt(probes.self_energy),
    }
    onsite, hopping, z = zip(*CHAINS, strict=True)

    def one(onsite, hopping, z):
        return dyson.spectrum(dyson.chain_propagator(onsite, hopping[1:], z), norms)

    return jax.vmap(one)(
        jnp.stack([values[name] for name in onsite]),
        jnp.stack([values[name] for name in hopping]),
        jnp.asarray(z, jnp.complex64),
    )


@jax.jit
def examine(params: Any, h: jax.Array, cotangent: jax.Array, key: jax.Array):
    """Spectra of chi, rho and all chains for one stack on a batch (b, d), and the probes' means."""

    def probe(h, key):
        return dyson.probe_layers(layer, params, h, key=key, probes=4)

    probes = jax.vmap(probe)(h, jax.random.split(key, len(h)))
    probes = jax.tree.map(lambda x: jnp.mean(x, 0), probes)
    norms = jax.vmap(lambda h, c: dyson.gradient_norms(layer, params, h, c))(h, cotangent)
    largest = jnp.max(norms, 0, keepdims=True)  # squares of the norms may underflow
    norms = largest[0] * jnp.sqrt(jnp.mean((norms / largest) ** 2, 0))
    scalars = {"chi": jnp.sqrt(probes.chi), "rho": probes.rho}
    spectra = {name: dyson.spectrum(rho, norms) for name, rho in scalars.items()}
    return spectra | {"chain": chains(probes, norms)}, probes


def one_stack(name: str, layers: int, seed: int, *, width: int, batch: int):
    """`examine` of a fresh stack with random inputs and cotangents of unit length per channel."""
    rng = np.random.default_rng([seed, layers, list(STACKS).index(name)])
    params = STACKS[name](rng, layers, width)
    params, h, cotangent = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32), (params, *rng.normal(size=(2, batch, width)))
    )
    return examine(params, h, cotangent, jax.random.key(seed))


def measure(depths: list[int], seeds: int, *, width: int, batch: int):
    """(stack, depth) -> what `examine` found for each seed."""
    return {
        (name, layers): [
            jax.device_get(one_stack(name, layers, seed, width=width, batch=batch))
            for seed in range(seeds)
        ]
        for layers in depths
        for name in STACKS
    }


def medians(spectra: list[dyson.Spectrum]) -> dict[str, Any]:
    """Median figures; correlations that do not exist are left out."""
    table = {f: np.nanmedian([getattr(s, f) for s in spectra], 0).tolist() for f in FIGURES}
    within = [s.log_error < math.log(2) for s in spectra]
    return table | {"within_factor_2": np.mean(within, 0).tolist()}


def summarise(found: dict) -> tuple[dict, list[dict], list[dict], int]:
    """Medians of the three predictors, a row for each stack, medians of all chains, the best."""
    runs = [spectra for several in found.values() for spectra, _ in several]
    every = medians([spectra["chain"] for spectra in runs])
    best = int(np.argmin(every["log_error"]))
    all_chains = [
        dict(zip(("onsite", "hopping", "z"), map(str, setting), strict=True))
        | {figure: values[i] for figure, values in every.items()}
        for i, setting in enumerate(CHAINS)
    ]
    for spectra in runs:
        spectra["chain"] = dyson.Spectrum(*(x[best] for x in spectra["chain"]))
    table = {name: medians([spectra[name] for spectra in runs]) for name in PREDICTORS}
    rows = []
    for (name, layers), several in found.items():
        row: dict[str, Any] = {"stack": name, "layers": layers}
        row |= {
            f"mean_{field}": float(np.mean([getattr(probes, field) for _, probes in several]))
            for field in ("rho", "chi")
        }
        for predictor in PREDICTORS:
            row[predictor] = {
                f: [float(getattr(spectra[predictor], f)) for spectra, _ in several]
                for f in FIGURES
            }
        rows.append(row)
    return table, rows, all_chains, best


def mean(values: list[float]) -> float:
    """Mean of those that exist."""
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def show(table: dict, rows: list[dict], best: int) -> None:
    print("correlation of logarithms, of ranks, of steps from layer to layer (means over seeds);")
    print("error: rms of ln(predicted / measured)\n")
    print(f"{'':19} {'':6} {'mean':>6} {'mean':>6}", end="")
    print(*(f" | {predictor:^28}" for predictor in PREDICTORS), sep="")
    print(f"{'stack':19} {'layers':>6} {'rho':>6} {'chi':>6}", end="")
    print(f" | {'log':>5} {'rank':>5} {'step':>5} {'error':>10}" * len(PREDICTORS))
    for row in rows:
        print(
            f"{row['stack']:19} {row['layers']:6d} {row['mean_rho']:6.2f} {row['mean_chi']:6.2f}",
            end="",
        )
        for predictor in PREDICTORS:
            values = (mean(row[predictor][figure]) for figure in FIGURES)
            print(" | {:5.2f} {:5.2f} {:5.2f} {:10.2f}".format(*values), end="")
        print()
    print("\nmedians over all stacks, depths and seeds; last, the share of errors below ln 2")
    for predictor, own in table.items():
        print(f"{predictor:6}", *(f"{figure} {value:.3f}" for figure, value in own.items()))
    onsite, hopping, z = CHAINS[best]
    print(f"chain: onsite {onsite}, hopping {hopping}, z = {z}, the best of {len(CHAINS)}")


def draw(found: dict, depth: int, rows: list[dict], output: Path) -> None:
    names = ("gaussian 0.8", "gaussian 0.8-1.4", "gaussian bottleneck", "residual 0.99",
             "residual mixed")  # fmt: skip
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        spectra, _ = found[name, depth][0]
        measured = np.asarray(spectra["chi"].measured, float)
        axis.semilogy(measured, color=COLOURS["measured"], lw=2.2, label="measured")
        for predictor in PREDICTORS:
            axis.semilogy(
                spectra[predictor].predicted, color=COLOURS[predictor], lw=1.1, label=predictor
            )
        low, high = measured.min(), max(measured.max(), spectra["chi"].predicted.max())
        room = max(0.2 * math.log10(high / low), 0.3) if low > 0 else 1.0
        low, high = (10 ** (math.log10(x) + side) for x, side in ((low, -room), (high, room)))
        axis.set(title=f"{name}, {depth} layers", ylim=(low, high), xlabel="layer")
    for axis in axes[:, 0]:
        axis.set_ylabel(r"$|\delta_l|$")
    axes[0, 0].legend(frameon=False, loc="center", bbox_to_anchor=(0.35, 0.6))
    last = axes[1, 2]
    for predictor in PREDICTORS:
        errors = sorted(max(value, 1e-3) for r in rows for value in r[predictor]["log_error"])
        share = np.arange(1, len(errors) + 1) / len(errors)
        last.step(errors, share, where="post", color=COLOURS[predictor], lw=1.6)
    last.axvline(math.log(2), color="0.6", lw=0.8, zorder=0)
    last.set(
        xscale="log", ylim=(0, 1.02), xlabel="rms of ln(predicted / measured)",
        title="share of stacks with less error (line: ln 2)",
    )  # fmt: skip
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[50, 100, 300])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("dyson_spectrum.png"))
    parser.add_argument("--results", type=Path, default=Path("dyson_spectrum.json"))
    arguments = parser.parse_args()
    for name in ("seeds", "width", "batch"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if min(arguments.depths) < 4:
        parser.error(f"--depths must be at least 4, got {min(arguments.depths)}")
    start = time.perf_counter()
    sizes = {"width": arguments.width, "batch": arguments.batch}
    found = measure(arguments.depths, arguments.seeds, **sizes)
    table, rows, all_chains, best = summarise(found)
    show(table, rows, best)
    draw(found, max(arguments.depths), rows, arguments.output)
    report = {
        "command": " ".join(["python examples/dyson_spectrum.py", *sys.argv[1:]]),
        "device": f"cpu, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "seconds": round(time.perf_counter() - start, 1),
        **sizes,
        "seeds": arguments.seeds,
        "medians": table,
        "chains": all_chains,
        "rows": rows,
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(report, indent=1) + "\n")
    print(f"picture: {arguments.output}, results: {arguments.results}")


if __name__ == "__main__":
    main()
