"""Gradients at the edges that docstrings name: finite, and those of the function.

SMOOTH edges are compared with central differences in float64; where a function has a kink or the
docstring says what counts as its derivative, that is compared (GIVEN).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import (
    attention,
    birman_schwinger,
    dyson,
    greens,
    holography,
    hyperbolic,
    moe,
    optim,
    scattering,
    symplectic,
    teleport,
    time_reversal,
)
from physnet.holography import memory
from physnet.hyperbolic import klein, lorentz, poincare, polar
from physnet.models import bk_core
from physnet.nn import hamiltonian, layers, mixer, witten
from physnet.superposition import distill
from physnet.symplectic import echo

X, Y = jnp.array([0.3, -0.2]), jnp.array([-0.1, 0.5])
SIDE = jnp.array([0.7, -0.4])
FAR = jnp.array([0.8, 0.6]) * (1 - 1e-9)  # next to the rim of the ball
ORIGIN = jnp.zeros(2)
UP = jnp.array([1.0, 0.0, 0.0])  # the origin of the hyperboloid
Z = 0.2 + 0.5j


def along(function):
    """A number of a vector: its product with fixed, unlike weights."""

    def total(x):
        y = function(x)
        y = jnp.concatenate([y.real, y.imag], -1) if jnp.iscomplexobj(y) else y
        return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return total


def attended(**options):
    """Attention of three tokens whose first and last scores let no pair pass."""
    score = jnp.array([[0.0, 1.0, 0.0]])

    def run(x):
        query, key, value = x.reshape(3, 1, 3, 1, 2)
        return attention.scattering_attention(query, key, value, score, threshold=0.5, **options)

    return run


def blocks(x):
    query, key, value = x.reshape(3, 1, 4, 1, 2)
    kept = jnp.array([[False, False], [True, False]])
    return attention.block_sparse_attention(query, key, value, kept)


def experts(x):
    tokens, params = x[:6].reshape(3, 2), x[6:].reshape(2, 2, 2)
    chosen = jnp.array([[1], [1], [-1]])  # the first expert is empty, the last token has none
    routing = moe.Routing(chosen, jnp.full((3, 1), 0.5), None, None, None)
    return moe.apply(tokens, routing, lambda p, t: jnp.tanh(t @ p), params)


def spring(k, q, _):
    return -k * q


def potential(k, q, _):
    return k * jnp.sum(q**2) / 2


def swung(friction):
    options = {"steps": 5, "step_size": 0.1, "friction": friction[0]}
    return jnp.stack(symplectic.leapfrog(spring, (jnp.ones(1), jnp.zeros(1)), 1.0, **options))


def remembered(x):
    """Attention over a memory whose two merged slots are one and the same."""
    small = memory.Config(window=2, block=2, sinks=0, landmarks=0, per_level=2, levels=2)
    same = jnp.ones((8, 2), x.dtype)
    held = memory.extend(memory.init(None, 2, config=small, dtype=x.dtype), same, same * x[2:])
    return memory.attend(x[:2], held)


def jumped(x):
    layer = lambda weight, h: jnp.tanh(weight * h)  # noqa: E731
    options = {"propagator": jnp.full(3, jnp.inf), "strength": 0.0}
    return teleport.scan(layer, x[:6].reshape(3, 2), x[6:], **options)


def mixed(x):
    params = mixer.init(jax.random.key(0), 4, heads=2)
    params = jax.tree.map(lambda leaf: leaf.astype(x.dtype), params)
    return mixer.apply(params, x.reshape(2, 4), groups=2).output


def oscillated(x):
    params = hamiltonian.init(jax.random.key(0), 2, oscillators=2, units=2)
    return hamiltonian.apply(params, x.reshape(3, 2))


def diagrams(x):
    params = witten.init(jax.random.key(0), 2, features=2, levels=2)
    return witten.apply(params, x.reshape(3, 2), terms=8)


def student(teachers):
    return lambda u: distill.mixture_kl(u, teachers)


def waves(matrix):
    """The density of an operator that ends after two sites of its chain."""
    symmetric = (matrix + matrix.T) / 2
    return greens.ldos_lanczos(lambda v: symmetric @ v, jnp.eye(3)[0], 0.1 + 0.5j, order=3)


TEACHERS = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]]))
SMOOTH = {
    "poincare.distance, from the origin": (lambda x: poincare.distance(x, Y), ORIGIN),
    "poincare.distance, near the rim": (lambda x: poincare.distance(0.99 * x, Y), FAR),
    "poincare.expmap0 at 0": (along(poincare.expmap0), ORIGIN),
    "poincare.logmap0 at 0": (along(poincare.logmap0), ORIGIN),
    "poincare.expmap, no velocity": (along(lambda v: poincare.expmap(X, v)), ORIGIN),
    "poincare.logmap, equal points": (along(lambda y: poincare.logmap(X, y)), X),
    "poincare.mobius_add at 0": (along(lambda x: poincare.mobius_add(x, x)), ORIGIN),
    "poincare.transport, equal points": (along(lambda y: poincare.transport(X, y, SIDE)), X),
    "poincare.transport from 0": (along(lambda x: poincare.transport(x, Y, SIDE)), ORIGIN),
    "poincare.midpoint of 0 and 0": (
        along(lambda x: poincare.midpoint(x.reshape(2, 2))),
        jnp.zeros(4),
    ),
    "klein.to_poincare at 0": (along(klein.to_poincare), ORIGIN),
    "klein.from_tangent at 0": (along(klein.from_tangent), ORIGIN),
    "klein.to_tangent at 0": (along(klein.to_tangent), ORIGIN),
    "lorentz.from_tangent at 0": (along(lorentz.from_tangent), ORIGIN),
    "lorentz.to_tangent at the origin": (
        along(lambda s: lorentz.to_tangent(lorentz.project(jnp.concatenate([UP[:1], s])))),
        ORIGIN,
    ),
    "lorentz.expmap0 at 0": (
        along(lambda v: lorentz.expmap0(jnp.concatenate([jnp.zeros(1), v]))),
        ORIGIN,
    ),
    "polar.distance, from the origin": (lambda u: polar.distance(u, Y), ORIGIN),
    "polar.midpoint at 0": (along(lambda x: polar.midpoint(x.reshape(2, 2))), jnp.zeros(4)),
    "frechet_mean of equal points": (
        along(lambda x: hyperbolic.frechet_mean(x.reshape(2, 2))),
        jnp.concatenate([X, X]),
    ),
    "moe.ball_expert, centroid 0": (
        along(lambda m: moe.ball_expert(X[None], m, jnp.tanh)),
        ORIGIN,
    ),
    "moe.ball_expert, token on centroid": (
        along(lambda x: moe.ball_expert(x[None], X, jnp.tanh)),
        X,
    ),
    "moe.apply, an empty expert": (along(experts), jnp.linspace(-1.0, 1.0, 14)),
    "greens.diagonal, zero couplings": (
        along(lambda x: greens.diagonal(x[:3], x[3:], Z)),
        jnp.array([0.1, -0.2, 0.3, 0.0, 0.0]),
    ),
    "greens.diagonal, one site": (along(lambda a: greens.diagonal(a, a[:0], Z)), jnp.ones(1)),
    "greens.left, zero couplings": (
        along(lambda x: greens.left(x[:3], x[3:], Z)),
        jnp.array([0.1, -0.2, 0.3, 0.0, 0.0]),
    ),
    "greens.diagonal, degenerate levels": (
        along(lambda x: greens.diagonal(x[:2], x[2:], 1e-3j)),
        jnp.array([0.5, 0.5, 0.0]),
    ),
    "greens.window, zero couplings": (
        along(lambda x: greens.window(x[:2], x[2:], center=0.0, radius=1.0)),
        jnp.array([0.4, 0.9, 0.0]),
    ),
    "greens.recurrence, factor 0": (
        along(lambda x: greens.recurrence(x[:3], x[3:])),
        jnp.array([0.0, 0.0, 0.0, 1.0, 2.0, 3.0]),
    ),
    "greens.ldos_lanczos, a chain that ends": (
        waves,
        jnp.array([[0.1, 0.7, 0.0], [0.7, -0.3, 0.0], [0.0, 0.0, 0.4]]),
    ),
    "birman_schwinger.log_determinant, V = 0": (
        along(lambda v: birman_schwinger.log_determinant(jnp.ones(2), jnp.ones(1), v, Z)[None]),
        ORIGIN,
    ),
    "dyson.solve, Sigma = 0": (
        along(lambda s: dyson.solve(jnp.eye(2), s.reshape(2, 2))),
        jnp.zeros(4),
    ),
    "scattering.score, one site": (
        along(lambda a: scattering.score(a, a[:0], kind="ldos", eta=0.5)),
        jnp.array([0.3]),
    ),
    "attention, queries without a pair": (along(attended()), jnp.linspace(-1.0, 1.0, 18)),
    "attention, the local band alone": (
        along(attended(local_window=1)),
        jnp.linspace(-1.0, 1.0, 18),
    ),
    "attention, zero queries and keys": (along(attended(local_window=2)), jnp.zeros(18)),
    "block_sparse_attention, empty rows": (along(blocks), jnp.linspace(-1.0, 1.0, 24)),
    "bulk_to_boundary at x = 0": (
        along(lambda x: holography.bulk_to_boundary(jnp.ones(2), x, delta=1.5)),
        ORIGIN,
    ),
    "bulk_to_boundary_fourier at k = 0": (
        lambda k: holography.bulk_to_boundary_fourier(k, 0.7, delta=2.5),
        jnp.zeros(()),
    ),
    "gram_entropy, equal singular values": (holography.gram_entropy, jnp.eye(3)[:2] * 0.7),
    "memory.attend, equal slots": (along(remembered), jnp.array([0.3, -0.2, 1.0, 2.0])),
    "optim.polar_factor, orthogonal already": (
        along(lambda a: optim.polar_factor(a.reshape(2, 2))),
        jnp.array([0.6, -0.8, 0.8, 0.6]),
    ),
    "distill.mixture_kl, nothing to learn": (
        student(jnp.log(jnp.array([[0.2, 0.3, 0.5]]))),
        jnp.log(jnp.array([0.2, 0.3, 0.5])),
    ),
    "distill.reverse_mixture_kl, nothing to learn": (
        lambda u: distill.reverse_mixture_kl(u, u[None] * 0 + jnp.log(jnp.array([[0.2, 0.8]]))),
        jnp.log(jnp.array([0.2, 0.8])),
    ),
    "distill.mixture_kl, a class that all teachers rule out": (student(TEACHERS), jnp.zeros(3)),
    "distill.boltzmann_weights, equal losses": (along(distill.boltzmann_weights), jnp.ones(3)),
    "symplectic.leapfrog, friction 0": (along(swung), jnp.zeros(1)),
    "symplectic.energy at rest": (
        lambda q: symplectic.energy(potential, (q, jnp.zeros(1)), 1.0),
        jnp.zeros(1),
    ),
    "consistency_loss, squared, equal states": (
        lambda x: time_reversal.consistency_loss(x[None], X[None], squared=True),
        X,
    ),
    "teleport.scan, strength 0, infinite sums": (along(jumped), jnp.linspace(-1.0, 1.0, 8)),
    "nn.layers.rms_norm at 0": (along(layers.rms_norm), jnp.zeros(3)),
    "nn.mixer at 0": (along(mixed), jnp.zeros(8)),
    "nn.hamiltonian at 0": (along(oscillated), jnp.zeros(6)),
    "nn.witten at 0": (along(diagrams), jnp.zeros(6)),
}
GIVEN = {
    "poincare.distance, equal points": (lambda x: poincare.distance(x, X), X, 0.0),
    "poincare.distance, both at the origin": (lambda x: poincare.distance(x, ORIGIN), ORIGIN, 0.0),
    "klein.distance, equal points": (lambda x: klein.distance(x, X), X, 0.0),
    "lorentz.distance, equal points": (lambda x: lorentz.distance(x, UP), UP, 0.0),
    "polar.distance, equal points": (lambda x: polar.distance(x, X), X, 0.0),
    "polar.pairwise, equal points": (lambda x: polar.pairwise(x[None], X[None])[0, 0], X, 0.0),
    "poincare.midpoint, no weight": (
        lambda x: jnp.sum(poincare.midpoint(jnp.stack([x, Y]), weights=jnp.zeros(2))),
        X,
        0.0,
    ),
    "frechet_mean, no weight": (
        lambda x: jnp.sum(hyperbolic.frechet_mean(jnp.stack([x, Y]), weights=jnp.zeros(2))),
        X,
        0.0,
    ),
    "moe.route, token on centroid": (
        lambda x: jnp.sum(moe.route(x[None], jnp.stack([X, Y])).distance),
        X,
        0.0,
    ),
    "birman_schwinger.operator, V = 0": (
        lambda v: jnp.sum(birman_schwinger.operator(jnp.ones(2), jnp.ones(1), v, Z).real),
        ORIGIN,
        0.0,
    ),
    "hilbert_schmidt_norm, V = 0": (
        lambda v: birman_schwinger.hilbert_schmidt_norm(jnp.ones(2), jnp.ones(1), v, Z),
        ORIGIN,
        0.0,
    ),
    "scattering.score, abs, G underflows": (
        lambda a: jnp.sum(scattering.score(a, a[:0], kind="abs", eta=1.0)),
        jnp.array([1e300]),
        0.0,
    ),
    "gram_entropy of nothing": (holography.gram_entropy, jnp.zeros((2, 3)), 0.0),
    "memory.attend, an empty memory": (
        lambda q: jnp.sum(memory.attend(q, memory.init(8_192, 2, dtype=jnp.float64))),
        X,
        0.0,
    ),
    "consistency_loss, equal states": (
        lambda x: time_reversal.consistency_loss(x[None], X[None]),
        X,
        0.0,
    ),
    "consistency_loss, euclidean, equal states": (
        lambda x: time_reversal.consistency_loss(x[None], X[None], metric="euclidean"),
        X,
        0.0,
    ),
    "distill.objective, nothing counts": (
        lambda u: (
            distill.objective(u[None], jnp.full((1, 2), jnp.nan), mask=jnp.zeros(1, bool)).total
        ),
        ORIGIN,
        0.0,
    ),
    "holography.recover, all lost": (
        lambda x: jnp.sum(
            holography.recover(x.reshape(4, 1), jnp.ones(4, bool), slots=2, key=jax.random.key(0))
        ),
        jnp.ones(4),
        0.0,
    ),
    "echo.gradient, one particle, friction 0": (
        lambda q: echo.gradient(
            potential,
            (q, jnp.zeros(1)),
            jnp.float64(1.0),
            final_cotangent=(jnp.ones(1), jnp.zeros(1)),
            steps=1,
            step_size=0.1,
            friction=0.0,
        )[0],
        jnp.ones(1),
        -0.005,  # q (1 - k h^2 / 2): -h^2 / 2
    ),
}


def differences(function, x, step=1e-6):
    """Central differences in every coordinate, as one program."""
    unit = step * jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    up, down = jax.lax.map(function, jnp.concatenate([x[None] + unit, x[None] - unit])).reshape(
        2, -1
    )
    return ((up - down) / (2 * step)).reshape(x.shape)


@pytest.mark.parametrize("edge", SMOOTH)
def test_gradient_is_that_of_differences(edge):
    function, x = SMOOTH[edge]
    both = jax.jit(lambda x: (jax.grad(function)(x), differences(function, x)))
    found, wanted = (np.asarray(array) for array in both(x))
    scale = max(1.0, np.abs(wanted).max(initial=0))
    np.testing.assert_allclose(found, wanted, atol=2e-6 * scale)


@pytest.mark.parametrize("edge", GIVEN)
def test_gradient_is_what_the_docstring_says(edge):
    function, x, wanted = GIVEN[edge]
    found = jax.jit(jax.grad(function))(x)
    np.testing.assert_allclose(found, np.broadcast_to(wanted, x.shape), atol=1e-7)


def test_generation_of_constants_alone_is_traced():
    config = bk_core.BKCoreConfig(vocab_size=7, layers=1, heads=2, width=16, chains=4)
    shapes = jax.eval_shape(lambda key: bk_core.init(config, key), jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    prompt, key = np.ones((1, 2), np.int32), jax.random.key(1)
    tokens = jax.eval_shape(lambda: bk_core.generate(config, params, prompt, 3, key=key))
    assert tokens.shape == (1, 3)
    assert tokens.dtype == np.int32
