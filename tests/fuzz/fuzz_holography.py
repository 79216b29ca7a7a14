"""Bulk and boundary: kernels, levels, Witten diagrams, surfaces, codes, MERA."""

import fuzz_arguments as fa
import jax.numpy as jnp
import numpy as np
from fuzz_greens import near, ordinary
from fuzz_rules import Entry

from physnet import holography

DELTA = {"delta": fa.number(1.0, 1.5, bad=(0.5, -1.0))}
DEPTH = fa.real("b n", 0.5, 2.0, zero="open")


def is_kernel(k, z, x, delta):
    assert np.all(np.asarray(k) >= 0)
    z, x = np.asarray(z, np.float64), np.asarray(x, np.float64)
    if ordinary(z, x) and np.all(z > 1e-3) and np.ndim(delta) == 0 and delta in (1.0, 1.5):
        constant = {1.0: 1 / np.pi, 1.5: 0.5}[float(delta)]
        near(k, constant * (z / (z * z + x * x)) ** delta, 1e-3)


def is_fourier(k_hat, /, k, z, delta, **_):
    if np.ndim(delta) == 0 and float(delta) == 1.0 and np.ndim(z) == 0 and 1e-3 < z < 1e3:
        near(k_hat, np.exp(-np.abs(np.asarray(k, np.float64)) * z), 1e-3)


def isometry(found, /, field, **_):
    norm = np.linalg.norm(np.asarray(field, np.float64))
    if norm < 1e3:
        assert all(
            np.linalg.norm(np.asarray(level, np.float64)) <= norm * 1.01 + 1e-5 for level in found
        )


def levels_of(count):
    return lambda rng, dims: [
        jnp.asarray(rng.normal(size=(-(-dims["T"] // 2**i), dims["d"])), jnp.float32)
        for i in range(count)
    ]


def is_causal_bulk(result, /, field, z, **_):
    phi, _state = result
    assert phi.shape[-2] == field.shape[-2]


DIM = {"dim": fa.size(1)}
EDGES = {"edge": fa.choice("zero", "reflect"), "method": fa.choice("fft")}
TWO = {"T": (6, 3, 2)}
ENTRIES = {
    "holography.bulk_to_boundary": Entry(
        holography.bulk_to_boundary,
        {"z": DEPTH, "x": fa.real("n")} | DELTA,
        ("b n real",),
        is_kernel,
    ),
    "holography.bulk_to_boundary:dim": Entry(
        holography.bulk_to_boundary,
        {"z": DEPTH, "x": fa.real("n 2"), "delta": fa.number(1.5, bad=(1.0,)), "dim": fa.size(2)},
        ("b n real",),
    ),
    "holography.bulk_to_boundary_fourier": Entry(
        holography.bulk_to_boundary_fourier,
        {"k": fa.real("b n"), "z": fa.number(2.0, 0.7, bad=(0.0, -1.0))} | DELTA | DIM,
        ("b n real",),
        is_fourier,
    ),
    "holography.conformal_dimension": Entry(
        holography.conformal_dimension,
        {"mass_squared": fa.real("b n", 0.0, 2.0)} | DIM,
        ("b n real",),
    ),
    "holography.mass_squared": Entry(
        holography.mass_squared,
        {"delta": fa.real("b n", 1.0, 3.0, zero="open")} | DIM,
        ("b n real",),
    ),
    "holography.encode": Entry(
        holography.encode,
        {
            "field": fa.real("b T d"),
            "levels": fa.size(2, 1),
            "width": fa.number(0.5, 1.0, bad=(0.0, -1.0), nan="raise", traced=False),
        }
        | DELTA,
        None,
        isometry,
        dims=TWO,
    ),
    "holography.decode": Entry(
        holography.decode,
        {
            "levels": fa.tree(levels_of(2)),
            "n": fa.made(lambda rng, dims: dims["T"]),
            "width": fa.number(0.5, 1.0, bad=(0.0, -1.0), nan="raise", traced=False),
        }
        | DELTA,
        ("T d real",),
        dims=TWO,
        dear=True,
    ),
    "holography.all_levels": Entry(
        holography.all_levels,
        {"n": fa.size(64, 1, 65)},
        check=lambda found, n: near(found, 1 + int(np.ceil(np.log2(n)))),
        host=True,
    ),
    "holography.level_sizes": Entry(
        holography.level_sizes, {"n": fa.size(64, 10), "levels": fa.size(3, 1)}, host=True
    ),
    "holography.to_bulk": Entry(
        holography.to_bulk,
        {"field": fa.real("b T d"), "levels": fa.size(2, 1)} | EDGES | DELTA,
        None,
        dims=TWO,
    ),
    "holography.to_boundary": Entry(
        holography.to_boundary,
        {"levels": fa.tree(levels_of(2)), "n": fa.made(lambda rng, dims: dims["T"])}
        | EDGES
        | DELTA,
        ("T d real",),
        dims=TWO,
    ),
    "holography.causal_to_bulk": Entry(
        holography.causal_to_bulk,
        {
            "field": fa.real("b T d"),
            "z": fa.real("m", 0.5, 2.0, zero="nan"),
            "delta": fa.number(1.0, bad=(0.5,), nan="raise", traced=False),
            "terms": fa.size(16, 8, least=4),
            "span": fa.number(1e4, bad=(0.0, -1.0), nan="raise", traced=False),
        },
        None,
        is_causal_bulk,
        dims={"m": (2, 1)},
    ),
    "holography.causal_to_boundary": Entry(
        holography.causal_to_boundary,
        {
            "bulk": fa.real("b m T d"),
            "z": fa.real("m", 0.5, 2.0, zero="nan"),
            "delta": fa.number(1.0, bad=(0.5,), nan="raise", traced=False),
            "terms": fa.size(16, 8, least=4),
        },
        None,
        dims={"m": (2, 1)},
    ),
    "holography.exponentials": Entry(
        holography.exponentials,
        {
            "delta": fa.number(1.0, 1.5, bad=(0.5, -1.0), nan="raise", traced=False),
            "terms": fa.size(16, 8, least=4),
            "span": fa.number(1e4, bad=(0.0, -1.0), nan="raise", traced=False),
        },
        host=True,
        wide=True,
    ),
    "holography.three_point": Entry(
        holography.three_point,
        {"points": fa.real("b 3", zero="open"), "deltas": fa.fixed((1.0, 1.5, 2.0))} | DIM,
        ("b real",),
        infinite=True,
    ),
    "holography.four_point": Entry(
        holography.four_point,
        {"points": fa.real("b 4", zero="open"), "deltas": fa.fixed((1.0,) * 4)} | DIM,
        ("b real",),
        dear=True,
    ),
    "holography.contact": Entry(
        holography.contact,
        {"points": fa.real("b 3", zero="open"), "deltas": fa.fixed((1.0, 1.5, 2.0))},
        ("b real",),
        dear=True,
    ),
}


def survives(slots, lost, key, rate, noise):
    coded = holography.protect(slots, rate=rate, key=key)
    lost = jnp.zeros(len(coded), bool) if lost is None else lost
    return holography.recover(coded, lost, slots=len(slots), key=key, noise=noise)


def is_recovered(back, /, slots, lost, noise, **_):
    if lost is None and ordinary(slots) and np.ndim(noise) == 0 and noise == 0:
        near(back, slots, 5e-2 if slots.dtype.itemsize < 4 else 1e-3)


def keeps_norm(coded, /, slots, **_):
    if ordinary(slots):
        near(
            np.linalg.norm(np.asarray(coded, np.float64)),
            np.linalg.norm(np.asarray(slots, np.float64)),
            3e-2,
        )


def is_surface(slots, /, field, **_):
    if ordinary(field):
        norms = [np.linalg.norm(np.asarray(x, np.float64)) for x in (slots, field)]
        assert norms[0] <= norms[1] * 1.01 + 1e-5


def is_gram(s, slots):
    assert -1e-3 <= float(s) <= np.log(max(min(slots.shape), 1)) + 1e-2


ENTRIES |= {
    "holography.protect": Entry(
        holography.protect,
        {
            "slots": fa.real("n d"),
            "rate": fa.number(0.5, bad=(0.0, -1.0, 1.5), nan="raise", traced=False),
            "key": fa.key(),
        },
        ("k d real",),
        keeps_norm,
        dims={"n": (5,), "k": (10,)},
    ),
    "holography.recover": Entry(
        survives,
        {
            "slots": fa.real("n d"),
            "lost": fa.fixed(None),
            "key": fa.key(),
            "rate": fa.fixed(0.5),
            "noise": fa.number(0.0, bad=(-1.0,)),
        },
        ("n d real",),
        is_recovered,
        names=("coded",),
        dear=True,
    ),
    "holography.recover:mask": Entry(
        holography.recover,
        {
            "coded": fa.real("8 d", nan="open"),
            "lost": fa.mask("8"),
            "slots": fa.size(4, 2),
            "key": fa.key(),
            "noise": fa.number(0.1, 0.0, bad=(-1.0,), nan="open"),
        },
        dear=True,
    ),
    "holography.surface_slots": Entry(
        holography.surface_slots,
        {"shape": fa.fixed((6, 6)), "block": fa.size(3, 6, optional=True)},
        check=lambda found, **_: near(found > 0, True),
        host=True,
    ),
    "holography.surface_encode": Entry(
        holography.surface_encode,
        {
            "field": fa.real("4 4 d"),
            "block": fa.size(2, 4, optional=True),
            "mass": fa.number(0.0, 0.5, bad=(-1.0,), nan="raise", traced=False),
        },
        None,
        is_surface,
    ),
    "holography.surface_decode": Entry(
        holography.surface_decode,
        {
            "slots": fa.real("4 4 d"),
            "shape": fa.fixed((4, 4)),
            "block": fa.size(2),
            "mass": fa.number(0.0, 0.5, bad=(-1.0,), nan="raise", traced=False),
        },
        ("4 4 d real",),
    ),
    "holography.entanglement_entropy": Entry(
        holography.entanglement_entropy,
        {
            "shape": fa.fixed((4, 3)),
            "region": fa.made(lambda rng, dims: rng.uniform(size=(4, 3)) < 0.5),
            "mass": fa.number(0.0, 0.5, bad=(-1.0,), nan="raise", traced=False),
        },
        check=lambda s, **_: near(max(s, 0), s),
        host=True,
    ),
    "holography.gram_entropy": Entry(
        holography.gram_entropy, {"slots": fa.real("n d")}, ("real",), is_gram
    ),
}
REASONS = {
    "holography.Exponentials": "holds what `exponentials` returns",
    "holography.Recovery": "holds what `recover` returns",
}
