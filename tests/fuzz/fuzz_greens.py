"""Green's functions, Birman-Schwinger, Dyson."""

import fuzz_arguments as fa
import jax.numpy as jnp
import numpy as np
from fuzz_rules import Entry

from physnet import birman_schwinger, dyson, greens


def dense(onsite, hopping):
    """The matrix of a chain, in complex128."""
    a, b = np.asarray(onsite, np.float64), np.asarray(hopping, np.complex128)
    n = a.shape[-1]
    h = np.zeros((*np.broadcast_shapes(a.shape[:-1], b.shape[:-1]), n, n), np.complex128)
    i = np.arange(n)
    h[..., i, i] = a
    h[..., i[:-1], i[1:]], h[..., i[1:], i[:-1]] = b, b.conj()
    return h


def inverse(onsite, hopping, energy):
    h = dense(onsite, hopping)
    z = np.asarray(energy, np.complex128)
    return np.linalg.inv(z[..., None, None] * np.eye(h.shape[-1]) - h)


def ordinary(*arrays):
    """Whether no number is so large that inverses lose all digits, or energies nearly real."""
    return all(np.all(np.abs(np.asarray(a, np.complex128)) < 1e3) for a in arrays)


def near(got, wanted, tolerance=1e-4):
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert np.abs(got - wanted).max(initial=0) <= tolerance * max(np.abs(wanted).max(initial=0), 1)


def is_diagonal(g, onsite, hopping, energy):
    assert np.asarray(g).imag.max(initial=-1) <= 0 or np.min(np.imag(energy)) < 0
    if ordinary(onsite, hopping, energy) and np.min(np.imag(energy)) > 0.05:
        wanted = np.diagonal(inverse(onsite, hopping, energy), axis1=-1, axis2=-2)
        near(g, wanted, 3e-2 if jnp.finfo(onsite.dtype).bits < 32 else 1e-4)


def is_left(g, onsite, hopping, energy):
    assert np.asarray(g).imag.max(initial=-1) <= 0 or np.min(np.imag(energy)) < 0
    if ordinary(onsite, hopping, energy) and np.min(np.imag(energy)) > 0.05:
        n = onsite.shape[-1]
        for i in range(n):
            wanted = inverse(onsite[..., : i + 1], hopping[..., :i], energy)[..., i, i]
            near(g[..., i], wanted)


def is_ldos(rho, onsite, hopping, energy):
    assert np.all(np.asarray(rho) >= 0) or np.min(np.imag(energy)) < 0
    if ordinary(onsite, hopping, energy) and np.min(np.imag(energy)) > 0.05:
        g = np.diagonal(inverse(onsite, hopping, energy), axis1=-1, axis2=-2)
        near(rho, -g.imag / np.pi)


def in_unit(x, /, **_):
    x = np.asarray(x)
    assert np.all((x >= 0) & (x <= 1))


def is_solution(psi, onsite, hopping, energy, source):
    if ordinary(onsite, hopping, energy, source) and np.min(np.imag(energy)) > 0.05:
        near(psi, inverse(onsite, hopping, energy) @ np.asarray(source))


def is_resolvent(g, matrix, energy):
    m, z = np.asarray(matrix, np.complex128), np.asarray(energy, np.complex128)
    if ordinary(m, z):
        a = z[..., None, None] * np.eye(m.shape[-1]) - m
        if np.linalg.cond(a).max() < 1e3:
            near(g, np.linalg.inv(a), 1e-3)


def ring(x):
    return jnp.roll(x, 1) + jnp.roll(x, -1)


def is_lanczos(found, matvec, vectors, order):
    onsite, hopping = (np.asarray(x) for x in found)
    assert np.all(hopping >= 0)
    assert np.abs(onsite).max() <= 2.001
    assert np.all(hopping <= 2.001)


def is_recurrence(y, factor, source):
    if ordinary(factor, source):
        shape = np.broadcast_shapes(factor.shape, source.shape)
        f, s = (np.broadcast_to(np.asarray(a, np.complex128), shape) for a in (factor, source))
        wanted = np.zeros(shape, np.complex128)
        for i in range(shape[-1]):
            wanted[..., i] = s[..., i] + (f[..., i] * wanted[..., i - 1] if i else 0)
        near(y, wanted, 1e-4)


CHAIN = {"onsite": fa.real("b n"), "hopping": fa.inexact("n-1"), "energy": fa.energy()}
STATE = {"n": (5, 2, 3)}
PERTURBED = {
    "onsite": fa.real("b n"),
    "hopping": fa.inexact("n-1"),
    "potential": fa.real("n"),
    "energy": fa.energy(),
}
ENTRIES = {
    "greens.diagonal": Entry(greens.diagonal, CHAIN, ("b n complex",), is_diagonal),
    "greens.left": Entry(greens.left, CHAIN, ("b n complex",), is_left),
    "greens.left:state": Entry(
        greens.left,
        CHAIN
        | {
            "hopping": fa.inexact("n"),
            "initial": fa.made(lambda rng, dims: jnp.full((dims["b"],), -0.5j, jnp.complex64)),
            "return_state": fa.fixed(True),
        },
        ("b n complex", "b complex"),
    ),
    "greens.ldos": Entry(greens.ldos, CHAIN, ("b n real",), is_ldos),
    "greens.window": Entry(
        greens.window,
        {
            "onsite": fa.real("b n"),
            "hopping": fa.inexact("n-1"),
            "center": fa.number(0.0, 0.3),
            "radius": fa.number(0.5, 2.0, bad=(0.0, -1.0)),
            "order": fa.size(8, 2, 4, least=2),
            "causal": fa.fixed(False),
        },
        ("b n real",),
        in_unit,
    ),
    "greens.window:causal": Entry(
        greens.window,
        {
            "onsite": fa.real("b n"),
            "hopping": fa.inexact("b n-1"),
            "center": fa.number(0.0, 0.3),
            "radius": fa.number(0.5, 2.0, bad=(0.0, -1.0)),
            "causal": fa.fixed(True),
            "return_state": fa.fixed(True),
        },
        ("b n real", "b 4 complex"),
    ),
    "greens.propagate": Entry(
        greens.propagate, CHAIN | {"source": fa.inexact("n d")}, ("b n d complex",)
    ),
    "greens.solve": Entry(
        greens.solve, CHAIN | {"source": fa.inexact("n d")}, ("b n d complex",), is_solution
    ),
    "greens.resolvent": Entry(
        greens.resolvent,
        {"matrix": fa.inexact("b n n"), "energy": fa.number(1.5, -2.0, real=False)},
        ("b n n complex",),
        is_resolvent,
        infinite=True,
    ),
    "greens.lanczos": Entry(
        greens.lanczos,
        {"matvec": fa.function(ring), "vectors": fa.inexact("b n"), "order": fa.size(3, 1, 7)},
        None,
        is_lanczos,
    ),
    "greens.ldos_lanczos": Entry(
        greens.ldos_lanczos,
        {
            "matvec": fa.function(ring),
            "vectors": fa.inexact("b n"),
            "energy": fa.energy(),
            "order": fa.size(3, 1, 7),
        },
        ("b real",),
    ),
    "greens.recurrence": Entry(
        greens.recurrence,
        {"factor": fa.inexact("b n", nan="open"), "source": fa.inexact("n")},
        ("b n inexact",),
        is_recurrence,
    ),
    "birman_schwinger.operator": Entry(birman_schwinger.operator, PERTURBED, ("b n n complex",)),
    "birman_schwinger.log_determinant": Entry(
        birman_schwinger.log_determinant, PERTURBED, ("b complex",)
    ),
    "birman_schwinger.spectral_shift": Entry(
        birman_schwinger.spectral_shift,
        PERTURBED,
        ("b real",),
        lambda xi, onsite, **_: near(np.clip(xi, -onsite.shape[-1], onsite.shape[-1]), xi),
    ),
    "birman_schwinger.hilbert_schmidt_norm": Entry(
        birman_schwinger.hilbert_schmidt_norm,
        PERTURBED,
        ("b real",),
        lambda norm, **_: near(np.maximum(norm, 0), norm),
    ),
}


def layer(weight, h):
    return jnp.tanh(weight @ h)


def is_dyson(g, /, free, self_energy, **_):
    f, s = np.asarray(free, np.complex128), np.asarray(self_energy, np.complex128)
    a = np.eye(f.shape[-1]) - f @ s
    if ordinary(f, s) and np.linalg.cond(a).max() < 1e3:
        near(g, np.linalg.solve(a, np.broadcast_to(f, a.shape)), 1e-3)


def is_born(g, /, free, self_energy, order, **_):
    f, s = np.asarray(free, np.complex128), np.asarray(self_energy, np.complex128)
    if ordinary(f, s) and order < 9:
        total, term = f, f
        for _ in range(order):
            term = f @ s @ term
            total = total + term
        near(g, total, 1e-3)


def is_strict(g, /, **_):
    assert not np.tril(np.asarray(g)).any()


def propagators(rng, dims):
    return jnp.asarray(rng.uniform(size=dims["T"]), jnp.float32)


LAYERS = {
    "layer": fa.function(layer),
    "params": fa.inexact("m d d", alike=True, ints="open"),
    "h": fa.real("d", alike=True),
}
PROBES = LAYERS | {"key": fa.key(), "probes": fa.size(2, 3, least=2)}
ENTRIES |= {
    "dyson.solve": Entry(
        dyson.solve,
        {"free": fa.inexact("b n n"), "self_energy": fa.inexact("n n")},
        ("b n n inexact",),
        is_dyson,
    ),
    "dyson.solve:triangular": Entry(
        dyson.solve,
        {
            "free": fa.inexact("b n n"),
            "self_energy": fa.inexact("n n", nan="open"),  # of a triangle alone
            "triangular": fa.choice("upper", "lower", optional=True),
        },
        ("b n n inexact",),
    ),
    "dyson.born_series": Entry(
        dyson.born_series,
        {
            "free": fa.inexact("b n n"),
            "self_energy": fa.inexact("n n"),
            "order": fa.size(3, 1, 0, least=0),
        },
        ("b n n inexact",),
        is_born,
    ),
    "dyson.born_series:tolerance": Entry(
        dyson.born_series,
        {
            "free": fa.inexact("b n n"),
            "self_energy": fa.inexact("n n", -0.1, 0.1),
            "order": fa.size(9, 1, least=0),
            "tolerance": fa.number(1e-3, optional=True, bad=(-1.0,), nan="raise", traced=False),
        },
        None,
    ),
    "dyson.as_propagator": Entry(
        dyson.as_propagator, {"propagator": fa.inexact("T")}, ("T 1 inexact",) * 3
    ),
    "dyson.chain_propagator": Entry(
        dyson.chain_propagator,
        {"onsite": fa.real("n"), "hopping": fa.inexact("n-1"), "energy": fa.energy()},
        ("n 1 complex",) * 3,
    ),
    "dyson.apply": Entry(
        dyson.apply,
        {"propagator": fa.inexact("T", nan="open"), "source": fa.inexact("T d", nan="open")},
        ("T d inexact",),
        lambda a, **_: near(a[-1], np.zeros_like(a[-1])),
    ),
    "dyson.dense": Entry(
        dyson.dense, {"propagator": fa.inexact("T", nan="open")}, ("T T inexact",), is_strict
    ),
    "dyson.probe_layers": Entry(dyson.probe_layers, PROBES, ("m real",) * 6),
    "dyson.isometry_penalty": Entry(
        dyson.isometry_penalty, PROBES | {"probes": fa.size(1, 2)}, ("real",)
    ),
    "dyson.gradient_norms": Entry(
        dyson.gradient_norms, LAYERS | {"cotangent": fa.real("d")}, ("m real",)
    ),
    "dyson.spectrum": Entry(
        dyson.spectrum,
        {"propagator": fa.inexact("T", 0.1, 1.0), "norms": fa.real("T", 0.1, 2.0)},
        None,
        infinite=True,
        dims={"T": (6, 4, 3)},
    ),
}
REASONS = {
    "greens.PropagateState": "holds what `propagate` returns",
    "dyson.BornInfo": "holds what `born_series` returns",
    "dyson.LayerProbes": "holds what `probe_layers` returns",
    "dyson.Spectrum": "holds what `spectrum` returns",
    "dyson.Propagator": "holds what `as_propagator` checks",
}
