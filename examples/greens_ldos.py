"""Where the states of a chain live: local densities of states, causal and two-sided.

    python examples/greens_ldos.py                  # writes ldos.png and prints what it shows
    python examples/greens_ldos.py --disorder 2     # any strength

Disorder grows along a tight-binding chain from nothing to its full strength. On the clean side
waves spread over many sites (fringes); on the other each level is a spot on a few sites. The whole
map, energies times sites, is one call.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np

from physnet import greens

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

CENTER, RADIUS = 0.0, 0.6
BLUE, ORANGE = "#2b6cb0", "#dd6b20"


def chain(sites: int, disorder: float, seed: int):
    """onsite and hopping; site i draws its energy from [-1, 1] * disorder / 2 * (i / sites)^2."""
    ramp = np.linspace(0, 1, sites) ** 2
    onsite = disorder / 2 * ramp * np.random.default_rng(seed).uniform(-1, 1, sites)
    return jnp.asarray(onsite, jnp.float32), jnp.ones(sites - 1, jnp.float32)


def densities(onsite, hopping, eta: float):
    """Energies and the two maps (energies, sites): -Im G_ii / pi and -Im gL_i / pi."""
    edge = 2.2 + float(jnp.abs(onsite).max())
    energy = np.linspace(-edge, edge, 600)
    z = energy + 1j * eta
    two_sided = greens.ldos(onsite, hopping, z)
    causal = -greens.left(onsite, hopping, z).imag / np.pi
    return energy, np.asarray(two_sided), np.asarray(causal)


def windows(onsite, hopping):
    """Share of each site's states in the window: two-sided and causal."""
    options = {"center": CENTER, "radius": RADIUS, "order": 8}
    return tuple(
        np.asarray(greens.window(onsite, hopping, **options, causal=causal))
        for causal in (False, True)
    )


def leak(onsite, hopping, site: int):
    """|change| of both windows when one site's energy changes by 1."""
    before = windows(onsite, hopping)
    after = windows(onsite.at[site].add(1.0), hopping)
    return tuple(np.abs(b - a) for a, b in zip(before, after, strict=True))


def draw(onsite, hopping, *, eta: float, site: int, output: Path) -> None:
    energy, two_sided, causal = densities(onsite, hopping, eta)
    sites = np.arange(len(onsite))
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    figure, axes = plt.subplots(
        2, 2, figsize=(11, 6.4), layout="constrained", height_ratios=(1.6, 1), sharex=True
    )
    brightest = np.quantile(two_sided, 0.995)
    maps = (
        (axes[0, 0], two_sided, r"two-sided: LDOS $-\mathrm{Im}\,G_{ii}/\pi$"),
        (axes[0, 1], causal, r"causal: half line $-\mathrm{Im}\,g^L_i/\pi$ (sites $\leq i$ alone)"),
    )
    for axis, values, title in maps:
        image = axis.pcolormesh(
            sites, energy, values, cmap="magma", vmin=0, vmax=brightest, rasterized=True
        )
        for line in (CENTER - RADIUS, CENTER + RADIUS):
            axis.axhline(line, color="white", lw=0.7, ls=(0, (4, 4)), alpha=0.8)
        axis.set_title(title)
    axes[0, 0].set_ylabel("energy / hopping")
    figure.colorbar(image, ax=axes[0, :], label="states / energy / site", pad=0.01)

    for values, color, name in zip(
        windows(onsite, hopping), (BLUE, ORANGE), ("two-sided", "causal"), strict=True
    ):
        axes[1, 0].plot(sites, values, color=color, lw=1.1, label=name)
    axes[1, 0].set(
        ylim=(0, 1), xlabel="site", ylabel="share of states",
        title=f"window |E| < {RADIUS} (dashed above), always in [0, 1]",
    )  # fmt: skip
    axes[1, 0].legend(frameon=False, loc="upper left", ncols=2)

    floor = 1e-8  # float32 rounding
    for values, color, name in zip(
        leak(onsite, hopping, site), (BLUE, ORANGE), ("two-sided", "causal"), strict=True
    ):
        axes[1, 1].semilogy(sites, np.maximum(values, floor), color=color, lw=1.1, label=name)
    axes[1, 1].axvline(site, color="0.6", lw=0.8, zorder=0)
    axes[1, 1].set(
        ylim=(floor, 2), xlabel="site", ylabel="|change| of the window",
        title=f"one site's energy changes ({site}): causal is exactly 0 before it",
    )  # fmt: skip
    axes[1, 1].set_xlim(sites[0], sites[-1])
    for axis in axes[1]:
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sites", type=int, default=240)
    parser.add_argument("--disorder", type=float, default=7.0, help="full width at the far end")
    parser.add_argument("--eta", type=float, default=0.02, help="broadening, Im z")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("ldos.png"))
    arguments = parser.parse_args()
    if arguments.sites < 2:
        parser.error(f"--sites must be at least 2, got {arguments.sites}")
    if arguments.eta <= 0:
        parser.error(f"--eta must be positive, got {arguments.eta}")
    onsite, hopping = chain(arguments.sites, arguments.disorder, arguments.seed)
    site = arguments.sites // 2
    two_sided, causal = leak(onsite, hopping, site)
    print(f"change of the window at the site before: two-sided {two_sided[site - 1]:.1e}, ", end="")
    print(f"causal {causal[:site].max():.1e}")
    draw(onsite, hopping, eta=arguments.eta, site=site, output=arguments.output)
    print(f"picture: {arguments.output}")


if __name__ == "__main__":
    main()
