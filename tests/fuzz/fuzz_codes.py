"""Holographic codes and MERA."""

import functools

import fuzz_arguments as fa
import jax
import jax.numpy as jnp
import numpy as np
from fuzz_greens import near, ordinary
from fuzz_holography import keeps_norm
from fuzz_rules import Entry

from physnet.holography import codes, mera
from physnet.holography.mera import quantum

FIVE = codes.happy_code("pentagon", 0)
LOGICAL = {"logical": fa.size(0, least=0)}
MONTE_CARLO = {
    "key": fa.key(),
    "samples": fa.size(8, 2),
    "decoder": fa.choice("greedy", "optimal"),
} | LOGICAL


def lost(count):
    return lambda rng, dims: np.arange(5) < count


def is_rate(rate, /, **_):
    rate = np.asarray(rate)
    assert np.all((rate >= 0) & (rate <= 1))


ENTRIES = {
    "holography.codes.happy_code": Entry(
        codes.happy_code,
        {
            "kind": fa.choice("pentagon", "pentagon-hexagon", "single-qubit"),
            "layers": fa.size(1, 0, least=0),
        },
        host=True,
    ),
    "holography.codes.perfect_tensor": Entry(
        codes.perfect_tensor,
        {
            "dtype": fa.made(
                lambda rng, dims: (jnp.float32, jnp.float16, jnp.complex64)[rng.integers(3)]
            )
        },
        ("2 2 2 2 2 2 inexact",),
        host=True,
    ),
    "holography.codes.stabilisers": Entry(
        codes.stabilisers, {"code": fa.fixed(FIVE)}, host=True, wide=True
    ),
    "holography.codes.logical_operators": Entry(
        codes.logical_operators,
        {"code": fa.fixed(FIVE), "lost": fa.ArrayKind(lost(2), False, dtype="bool")} | LOGICAL,
        host=True,
        wide=True,
    ),
    "holography.codes.recoverable": Entry(
        codes.recoverable,
        {"code": fa.fixed(FIVE), "lost": fa.mask("5"), "decoder": fa.choice("greedy", "optimal")}
        | LOGICAL,
        ("bool",),
    ),
    "holography.codes.encode": Entry(
        codes.encode,
        {"code": fa.fixed(FIVE), "state": fa.inexact("2")},
        ("2 2 2 2 2 inexact",),
        lambda psi, state, **_: keeps_norm(np.abs(psi), np.abs(state)),
    ),
    "holography.codes.decode": Entry(
        codes.decode,
        {
            "code": fa.fixed(FIVE),
            "state": fa.inexact("2 2 2 2 2"),
            "lost": fa.ArrayKind(lost(2), False, dtype="bool"),
        }
        | LOGICAL,
        ("2 2 complex",),
        dear=True,
    ),
    "holography.codes.erasure_tolerance": Entry(
        codes.erasure_tolerance, {"code": fa.fixed(FIVE)} | MONTE_CARLO, check=is_rate, dear=True
    ),
    "holography.codes.erasure_recovery": Entry(
        codes.erasure_recovery,
        {"code": fa.fixed(FIVE), "probability": fa.number(0.3, 0.0, bad=(-1.0, 1.5))} | MONTE_CARLO,
        ("real",),
        is_rate,
        dear=True,
    ),
    "holography.codes.erasure_threshold": Entry(
        codes.erasure_threshold,
        {
            "codes": fa.fixed(
                [codes.happy_code("single-qubit", 0), codes.happy_code("single-qubit", 1)]
            )
        }
        | MONTE_CARLO
        | {"samples": fa.size(8, 2, least=2), "decoder": fa.choice("greedy")},
        infinite=True,
        host=True,
        dear=True,
    ),
}


def mera_levels(rng, dims):
    return mera.init(jax.random.key(int(rng.integers(9))), dims["d"], levels=2, start="random")


def is_mera(bulk, /, signal, **_):
    if ordinary(signal):
        parts = [bulk.top, *bulk.details]
        total = sum(np.sum(np.square(np.asarray(part, np.float64))) for part in parts)
        near(total, np.sum(np.square(np.asarray(signal, np.float64))), 2e-2)


def round_trip(levels, signal, boundary):
    bulk = mera.encode(levels, signal, boundary=boundary)
    return mera.decode(levels, bulk, sites=signal.shape[-2], boundary=boundary)


def is_same(back, /, signal, **_):
    if ordinary(signal):
        near(back, np.asarray(signal, np.float64), 3e-2)


BOUNDARY = {"boundary": fa.choice("open", "periodic")}
SIZES = {"levels": fa.size(2, 1), "layers": fa.size(1, 0, 2, least=0)}
CHAIN = functools.partial(quantum.init, sites=6, bonds=(3,))
ENTRIES |= {
    "holography.mera.init": Entry(
        mera.init,
        {
            "key": fa.key(),
            "dim": fa.size(3, 1),
            "start": fa.choice("mean", "identity", "random"),
            "sites": fa.size(8, optional=True),
        }
        | SIZES,
    ),
    "holography.mera.principal": Entry(
        mera.principal, {"signals": fa.real("b T d")} | SIZES, dims={"T": (8, 4)}, dear=True
    ),
    "holography.mera.encode": Entry(
        mera.encode,
        {"levels": fa.tree(mera_levels), "signal": fa.real("b T d")} | BOUNDARY,
        None,
        is_mera,
    ),
    "holography.mera.decode": Entry(
        round_trip,
        {"levels": fa.made(mera_levels, traced=True), "signal": fa.real("b T d")} | BOUNDARY,
        ("b T d real",),
        is_same,
        dear=True,
    ),
    "holography.mera.light_cone": Entry(
        mera.light_cone,
        {
            "region": fa.made(lambda rng, dims: np.array([5])),
            "sites": fa.size(16),
            "levels": fa.size(2, 1),
            "layers": fa.size(1, 0, least=0),
        }
        | BOUNDARY,
        host=True,
    ),
    "holography.mera.quantum.init": Entry(
        quantum.init,
        {
            "key": fa.key(),
            "sites": fa.size(6, 12),
            "bonds": fa.fixed((3,)),
            "physical": fa.size(2),
            "noise": fa.number(0.1, 0.0),
        },
        dims={},
        dear=True,
    ),
    "holography.mera.quantum.ising": Entry(
        quantum.ising, {"field": fa.number(1.0, 0.5)}, host=True, wide=True
    ),
    "holography.mera.quantum.state": Entry(
        quantum.state,
        {"chain": fa.tree(lambda rng, dims: CHAIN(jax.random.key(0)))},
        ("64 real",),
        lambda psi, **_: near(np.linalg.norm(psi), 1.0, 1e-3),
        dear=True,
    ),
    "holography.mera.quantum.expectation": Entry(
        quantum.expectation, {"psi": fa.real("8"), "term": fa.real("4 4")}, ("real",)
    ),
    "holography.mera.quantum.energy": Entry(
        quantum.energy,
        {"chain": fa.tree(lambda rng, dims: CHAIN(jax.random.key(0))), "term": fa.real("4 4")},
        ("real",),
        dear=True,
    ),
}
REASONS = {
    "holography.codes.Code": "holds what `happy_code` returns",
    "holography.codes.Pauli": "holds what `logical_operators` returns",
    "holography.codes.Stabilisers": "holds what `stabilisers` returns",
    "holography.codes.Threshold": "holds what `erasure_threshold` returns",
    "holography.mera.Level": "holds what `init` returns",
    "holography.mera.Bulk": "holds what `encode` returns",
    "holography.mera.quantum.Chain": "holds what `init` returns",
}
