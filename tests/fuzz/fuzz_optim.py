"""Optimisers: made with their options, started, and stepped once."""

import functools

import fuzz_arguments as fa
import jax
import jax.numpy as jnp
import numpy as np
from fuzz_greens import near, ordinary
from fuzz_rules import Entry

from physnet import optim


def stepped(make, params, grads, extra=(), **options):
    """Updates of one step."""
    given = {name: options.pop(name) for name in extra}
    rule = (
        make(options.pop("learning_rate"), **options)
        if "learning_rate" in options
        else make(**options)
    )
    return rule.update(grads, rule.init(params), params, **given)[0]


def rule(make, arguments, result, check=None, *, extra=(), **options):
    one = functools.partial(stepped, make, extra=extra)
    return Entry(one, arguments, result, check, names=("updates", "momentum", *extra), **options)


DECAY = {"bad": (-0.1, 1.0, 1.5)}
RATE = {"learning_rate": fa.number(0.1, 0.5, nan="open")}
POINTS = {"params": fa.real("b d", -0.4, 0.4), "grads": fa.real("b d", alike=True, optional=True)}
CURVATURE = {"curvature": fa.number(1.0, 0.5, bad=(0.0, -1.0))}
CHART = {"coordinates": fa.choice("ball", "tangent")} | CURVATURE


def orthonormal(rng, dims):
    return jnp.asarray(np.linalg.qr(rng.normal(size=(2, 4, 2)))[0], jnp.float32)


MATRICES = {
    "params": fa.ArrayKind(orthonormal, True, dtype="real", zero="open"),
    "grads": fa.real("2 4 2", alike=True, optional=True),
}
STIEFEL = {"metric": fa.choice("euclidean", "canonical"), "retraction": fa.choice("polar", "qr")}


def on_stiefel(updates, /, params, **_):
    if ordinary(params, updates) and params.dtype == jnp.float32 and np.abs(params).max() > 0.1:
        x = np.asarray(params + updates, np.float64)
        near(np.swapaxes(x, -1, -2) @ x, np.broadcast_to(np.eye(2), (2, 2, 2)), 1e-3)


def in_ball(updates, /, params, curvature=1.0, coordinates="ball", **_):
    if (
        coordinates == "ball"
        and ordinary(params)
        and np.ndim(curvature) == 0
        and 0.1 < curvature < 10
    ):
        x = np.asarray(params, np.float64) + np.asarray(updates, np.float64)
        assert np.all(float(curvature) ** 0.5 * np.linalg.norm(x, axis=-1) <= 1 + 1e-2)


def is_polar(factor, matrix):
    m = np.asarray(matrix, np.float64)
    singular = np.linalg.svd(m, compute_uv=False) if ordinary(m) else np.zeros(1)
    if singular.min(initial=1) > 1e-2:
        u, _, v = np.linalg.svd(m, full_matrices=False)
        near(factor, u @ v, 3e-2 if matrix.dtype.itemsize < 4 else 1e-3)


def averaged(tokens, assignment, centroids, decay, coordinates, curvature):
    average = optim.ema_midpoint(decay, coordinates=coordinates, curvature=curvature)
    return average.update(tokens, assignment, average.init(centroids))


def initialised(key, gain):
    return optim.orthogonal_initializer(gain=gain)(key, (2, 4, 3), jnp.float32)


def is_orthogonal(w, /, gain, **_):
    if np.ndim(gain) == 0 and 1e-3 < abs(float(gain)) < 1e3:
        w = np.asarray(w, np.float64) / float(gain)
        near(np.swapaxes(w, -1, -2) @ w, np.broadcast_to(np.eye(3), (2, 3, 3)), 1e-3)


ENTRIES = {
    "riemannian_adam": rule(
        optim.riemannian_adam,
        POINTS
        | RATE
        | CHART
        | {
            "b1": fa.number(0.9, 0.0, **DECAY),
            "b2": fa.number(0.999, 0.5, **DECAY),
            "eps": fa.number(1e-8),
        },
        ("b d real",),
        in_ball,
        dear=True,
    ),
    "riemannian_sgd": rule(
        optim.riemannian_sgd,
        POINTS | RATE | CHART | {"momentum": fa.number(0.9, 0.0, optional=True, **DECAY)},
        ("b d real",),
        in_ball,
        dear=True,
    ),
    "ema_midpoint": Entry(
        averaged,
        {
            "tokens": fa.real("n d", -0.4, 0.4, nan="open"),
            "assignment": fa.ints("n", 0, 3),
            "centroids": fa.real("m d", -0.4, 0.4),
            "decay": fa.number(0.9, 0.0, nan="open", **DECAY),
        }
        | CHART,
        ("m d real", "m real"),
        dear=True,
        dims={"m": (4, 3)},
    ),
    "teleported_lookahead": rule(
        optim.teleported_lookahead,
        {
            "params": fa.made(lambda rng, dims: jnp.ones(dims["d"], jnp.float32)),
            "grads": fa.inexact("d", alike=True, optional=True),
            "teleported": fa.real("d", ints="open"),
        }
        | RATE
        | {"momentum": fa.number(0.9, 0.0, optional=True, **DECAY)},
        ("d real",),
        extra=("teleported",),
    ),
    "polar_factor": Entry(
        optim.polar_factor, {"matrix": fa.real("b n d", zero="work")}, ("b n d real",), is_polar
    ),
    "orthogonal_initializer": Entry(
        initialised,
        {"key": fa.key(), "gain": fa.number(1.0, 2.0)},
        ("2 4 3 real",),
        is_orthogonal,
    ),
    "orthogonal_retraction": rule(
        optim.orthogonal_retraction,
        {
            "params": fa.real("b n d"),
            "grads": fa.real("b n d", alike=True, optional=True),
            "gain": fa.number(1.0, 2.0, bad=(0.0, -1.0)),
        },
        ("b n d real",),
    ),
    "stiefel_adam": rule(
        optim.stiefel_adam,
        MATRICES
        | RATE
        | STIEFEL
        | {
            "b1": fa.number(0.9, 0.0, **DECAY),
            "b2": fa.number(0.999, 0.5, **DECAY),
            "eps": fa.number(1e-8),
        },
        ("2 4 2 real",),
        on_stiefel,
        dear=True,
    ),
    "stiefel_sgd": rule(
        optim.stiefel_sgd,
        MATRICES | RATE | STIEFEL | {"momentum": fa.number(0.9, 0.0, optional=True, **DECAY)},
        ("2 4 2 real",),
        on_stiefel,
        dear=True,
    ),
}


def log_p(mean, x):
    return -jnp.sum((x - mean) ** 2) / 2


def log_psi(params, s):
    return jnp.sum(params * s)


def logits(params, x):
    return x @ params


def quadratic(w):
    return jnp.sum(w * w)


def mixed(params, grads, key, weight, **options):
    made = optim.path_integral_gradients(weight, **options)
    return made.update(grads, made.init(params), params, key=key, loss_fn=quadratic)[0]


def outer(params, x, labels):
    def log_likelihood(tap, w, x, labels):
        found = jax.nn.log_softmax(tap("w", x, x @ w))
        return jnp.sum(jnp.take_along_axis(found, labels, -1))

    return optim.outer_scores(log_likelihood, params, x, labels)


DAMPING = fa.number(1e-2, nan="open")
CHUNK = {"chunk": fa.size(2, 1, optional=True), "products": fa.fixed(False)}
WEIGHTS = fa.real("n", 0.1, 1.0, optional=True, nan="open", zero="open")
ENTRIES |= {
    "imaginary_time": rule(
        optim.imaginary_time,
        {
            "params": fa.inexact("d", nan="open"),
            "grads": fa.fixed(None),
            "jacobian": fa.inexact("n d", alike=True, nan="open"),
            "residual": fa.inexact("n", alike=True, nan="open"),
            "damping": fa.number(1e-2, 1.0, bad=(0.0, -1.0), nan="open"),
            "momentum": fa.number(0.9, 0.0, nan="open", bad=(1.0, -0.1)),
            "solver": fa.choice("samples", "parameters", "cg", optional=True),
            "max_norm": fa.number(1.0, optional=True, bad=(0.0, -1.0), nan="open"),
            "iterations": fa.size(9, 3),
            "tolerance": fa.number(1e-5, nan="open"),
        }
        | RATE,
        ("d inexact",),
        extra=("jacobian", "residual"),
        dear=True,
    ),
    "categorical_rows": Entry(
        optim.categorical_rows,
        {
            "logits": fa.function(logits),
            "params": fa.real("d m", alike=True),
            "inputs": fa.real("n d", alike=True, ints="open", nan="open"),
            "labels": fa.ints("n", 0, 2),
            "weights": WEIGHTS,
        }
        | CHUNK,
        dims={"m": (4, 2)},
        dear=True,
    ),
    "likelihood_rows": Entry(
        optim.likelihood_rows,
        {
            "log_likelihood": fa.function(log_p),
            "params": fa.real("d", alike=True),
            "examples": fa.real("n d", alike=True, ints="open", nan="open", dicts="open"),
            "weights": WEIGHTS,
        }
        | CHUNK,
        ("n d real", "n real"),
        dear=True,
    ),
    "local_energies": Entry(
        optim.local_energies,
        {
            "log_psi": fa.function(log_psi),
            "params": fa.inexact("d", alike=True, ints="open"),
            "samples": fa.inexact("n d", ints="open"),
            "connected": fa.inexact("n 2 d", ints="open", alike=True),
            "elements": fa.inexact("n 2", alike=True),
            "chunk": fa.size(2, 1, optional=True),
        },
        ("n inexact",),
        dear=True,
    ),
    "wavefunction_rows": Entry(
        optim.wavefunction_rows,
        {
            "log_psi": fa.function(log_psi),
            "params": fa.real("d", alike=True, nan="open"),
            "samples": fa.inexact("n d", alike=True, ints="open", nan="open"),
            "energies": fa.inexact("n", nan="open"),
            "weights": WEIGHTS,
        }
        | CHUNK,
        dear=True,
    ),
    "fisher_adam": rule(
        optim.fisher_adam,
        {
            "params": fa.real("d d", nan="open"),
            "grads": fa.real("d d", alike=True, optional=True),
            "jacobian": fa.inexact("n d d", alike=True, nan="open", optional=True, ints="open"),
            "metric": fa.choice("diagonal", "kronecker"),
            "source": fa.fixed("jacobian"),
            "damping": fa.number(1e-2, bad=(-1.0,)),
            "b1": fa.number(0.9, 0.0, **DECAY),
            "b2": fa.number(0.9, 0.5, **DECAY),
            "power": fa.number(1.0, 0.5, bad=(0.0, -1.0), nan="raise", traced=False),
            "trust": fa.number(1.0, bad=(0.0, -1.0), optional=True, nan="open"),
            "largest": fa.size(1024),
            "every": fa.size(1, 2),
        }
        | RATE,
        ("d d real",),
        extra=("jacobian",),
        dear=True,
        infinite=True,
    ),
    "outer_scores": Entry(
        outer,
        {
            "params": fa.real("d m", alike=True, ints="open"),
            "x": fa.real("n d", alike=True, ints="open", nan="open"),
            "labels": fa.made(lambda rng, dims: jnp.zeros((dims["n"], 1), jnp.int32), traced=True),
        },
        ("n d real", "n m real"),
        names=("log_likelihood", "args", "tap"),
        dear=True,
    ),
    "path_integral_gradients": Entry(
        mixed,
        {
            "params": fa.real("d", nan="open"),
            "grads": fa.real("d", alike=True, optional=True),
            "key": fa.key(),
            "weight": fa.number(0.5, bad=(-1.0, 1.5), nan="open"),
            "particles": fa.size(8, 4, least=2),
            "sigma": fa.number(0.1, bad=(0.0, -1.0)),
            "temperature": fa.number(1.0, bad=(-1.0,), optional=True, nan="open"),
        },
        ("d real",),
        names=("updates",),
        dear=True,
    ),
}
ENTRIES = {f"optim.{name}": entry for name, entry in ENTRIES.items()}
STATES = "RiemannianAdam RiemannianSGD EmaMidpoint FisherAdam ImaginaryTime TeleportedLookahead"
STATES += " PathIntegralGradients StiefelAdam StiefelSGD"
REASONS = {
    f"optim.{name}State": "holds what an optimiser's `init` returns" for name in STATES.split()
}
REASONS |= {
    "optim.EmaMidpoint": "holds what `ema_midpoint` returns",
    "optim.OuterScores": "holds what `outer_scores` returns",
    "optim.Products": "holds two functions of the user",
    "optim.Rows": "holds what `likelihood_rows` returns",
}
