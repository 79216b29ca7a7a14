"""Two coupled oscillators: a neural vector field learns their motion from noisy trajectories.

The field knows nothing of energy, and its Runge-Kutta rollouts are not reversible by construction:
what a loss of consistency asks of it, it would not have otherwise.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from physnet import time_reversal
from reversal_lab import training
from reversal_lab.settings import Oscillators

ROWS = {
    "base": "forward data only",
    "reversed": "reversed trajectories too",
    "euclidean": "consistency, Euclidean",
    "hyperbolic": "consistency, hyperbolic",
}
METRICS = ("euclidean", "hyperbolic")
NEAR, FAR = 10, 100  # steps of a rollout after which states are compared
TUNING = 1000  # seeds from here on choose weights
WORST = 1e6  # a rollout that ran away


class Data(NamedTuple):
    """One seed's: noisy states (n, times + 1, 4) to train on; clean ones (tests, 4) to compare."""

    train: np.ndarray
    start: np.ndarray
    near: np.ndarray
    far: np.ndarray


def law(friction: float) -> np.ndarray:
    """A in z' = A z, z = (q, p): springs of stiffness 1 to a wall each and between the two."""
    zero, one = np.zeros((2, 2)), np.eye(2)
    springs = np.array([[2.0, -1.0], [-1.0, 2.0]])
    return np.block([[zero, one], [-springs, -friction * one]])


def energy(z: np.ndarray) -> np.ndarray:
    q, p = z[..., :2], z[..., 2:]
    return (np.sum(p**2 + q**2, -1) + (q[..., 0] - q[..., 1]) ** 2) / 2


def data(friction: float, seed: int, s: Oscillators) -> Data:
    """By the matrix exponential, in float64; starts and noise are the same for every friction."""
    draw = np.random.default_rng(seed)
    flow = scipy.linalg.expm(s.step * law(friction))
    start = draw.uniform(-1, 1, (s.trajectories, 4))
    test = draw.uniform(-1, 1, (s.tests, 4))
    noise = s.noise * draw.normal(size=(s.trajectories, s.times + 1, 4))
    powers = [np.linalg.matrix_power(flow, t).T for t in range(s.times + 1)]
    clean = np.stack([start @ power for power in powers], 1)
    near, far = (test @ np.linalg.matrix_power(flow, t).T for t in (NEAR, FAR))
    return Data(clean + noise, test, near, far)


def field(key: jax.Array, width: int) -> list[tuple[jax.Array, jax.Array]]:
    """Parameters of z' = f(z): two hidden layers."""
    sizes = (4, width, width, 4)
    return [
        (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b))
        for k, a, b in zip(jax.random.split(key, 3), sizes[:-1], sizes[1:], strict=True)
    ]


def rollout(params: Any, z: jax.Array, *, steps: int, step: float) -> jax.Array:
    """States (steps + 1, ..., 4) from z (..., 4), by the classical Runge-Kutta method."""

    def f(z):
        for w, b in params[:-1]:
            z = jnp.tanh(z @ w + b)
        w, b = params[-1]
        return z @ w + b

    def one(z, _):
        a = f(z)
        b = f(z + step / 2 * a)
        c = f(z + step / 2 * b)
        d = f(z + step * c)
        new = z + step / 6 * (a + 2 * b + 2 * c + d)
        return new, new

    return jnp.concatenate([z[None], jax.lax.scan(one, z, None, length=steps)[1]])


def backwards(states: jax.Array) -> jax.Array:
    """The same motion (times, ..., 4) backwards."""
    return jnp.concatenate(time_reversal.reverse_trajectory(states[..., :2], states[..., 2:]), -1)


def there_and_back(params: Any, states: jax.Array, *, step: float) -> jax.Array:
    """A rollout's states, as a rollout from its reversed end passes through them again."""
    end = backwards(states)[0]
    return backwards(rollout(params, end, steps=len(states) - 1, step=step))


def loss(kind: str, s: Oscillators) -> Callable[..., jax.Array]:
    """A function (params, key, train, weight): error of rollouts over windows of the data."""

    def batch(params, key, train):
        keys = jax.random.split(key)
        which = jax.random.randint(keys[0], (s.batch,), 0, len(train))
        first = jax.random.randint(keys[1], (s.batch,), 0, train.shape[1] - s.window)
        times = first + jnp.arange(s.window + 1)[:, None]
        seen = train[which[None], times]
        states = rollout(params, seen[0], steps=s.window, step=s.step)
        return states, jnp.mean((states - seen)[1:] ** 2)

    def whole(params, key, train, weight):
        states, error = batch(params, key, train)
        if kind == "reversed":
            back = jnp.swapaxes(backwards(jnp.swapaxes(train, 0, 1)), 0, 1)
            error = error + weight * batch(params, jax.random.fold_in(key, 1), back)[1]
        elif kind in METRICS:
            again = there_and_back(params, states, step=s.step)
            error = error + weight * time_reversal.consistency_loss(
                states, again, metric=kind, squared=True
            )
        return error

    return whole


def program(kind: str, s: Oscillators) -> Callable[..., Any]:
    """A function (train, start, weight, seed) -> states of the trained field's rollouts.

    Those near and far from the start, and the mean distance from the way back on the way to near.
    """
    return trained(loss(kind, s), field, rollout, there_and_back, s)


def trained(
    objective: Callable[..., jax.Array],
    init: Callable[[jax.Array, int], Any],
    passes: Callable[..., jax.Array],
    returns: Callable[..., jax.Array],
    s: Oscillators,
) -> Callable[..., Any]:
    """`program` of any model: how it starts, passes on from a state, and comes back."""

    def run(train, start, weight, seed):
        key, draw = jax.random.split(jax.random.key(seed))
        params = training.descend(
            lambda params, key: objective(params, key, train, weight),
            init(key, s.width),
            rate=s.rate,
            updates=s.updates,
            key=draw,
        )
        states = passes(params, start, steps=FAR, step=s.step)
        near = states[: NEAR + 1]
        again = returns(params, near, step=s.step)
        apart = time_reversal.consistency_loss(near, again, metric="euclidean")
        return states[NEAR], states[FAR], apart

    return run


def measures(found: tuple[np.ndarray, ...], known: Data) -> dict[str, float]:
    """Of one run: square errors, the error of the energy as a share of that at the start."""
    near, far = (np.nan_to_num(np.asarray(x, float), nan=WORST) for x in found[:2])
    energies = np.abs(energy(far) - energy(known.far)) / energy(known.start)
    values = {
        "near": np.mean((near - known.near) ** 2),
        "far": np.mean((far - known.far) ** 2),
        "energy": np.mean(energies),
        "asymmetry": np.nan_to_num(found[2], nan=WORST),
    }
    return {name: float(np.clip(value, 1e-12, WORST)) for name, value in values.items()}


def rows(
    s: Oscillators,
    *,
    part: str = "oscillators",
    kinds: tuple[str, ...] = tuple(ROWS),
    program: Callable[..., Any] = program,
) -> Iterator[dict[str, Any]]:
    """A row for each way of training, friction and weight; `own` marks what its tuning chose.

    Weights are chosen by the far error on seeds of their own, at each friction. `frictionless`
    marks the weight that is chosen without friction.
    """
    reported = list(range(s.seeds))
    seeds = reported + list(range(TUNING, TUNING + s.tuning_seeds))
    known = {(f, seed): data(f, seed, s) for f in s.frictions for seed in seeds}
    weights = dict.fromkeys(kinds, s.weights) | {"base": (0.0,), "reversed": (1.0,)}
    runs = {k: list(itertools.product(s.frictions, weights[k], seeds)) for k in kinds}

    def job(kind):
        own = [known[f, seed] for f, _, seed in runs[kind]]
        columns = (
            np.stack([d.train for d in own]),
            np.stack([d.start for d in own]),
            [weight for _, weight, _ in runs[kind]],
        )
        numbers = jnp.asarray([seed for _, _, seed in runs[kind]], jnp.int32)
        return training.Job(
            program(kind, s), (*(jnp.asarray(x, jnp.float32) for x in columns), numbers)
        )

    for kind, found, seconds in training.done({kind: job(kind) for kind in kinds}):
        table = {
            run: measures(tuple(part[i] for part in found), known[run[0], run[2]])
            for i, run in enumerate(runs[kind])
        }

        def merit(f, w, table=table):
            return np.mean([np.log(table[f, w, seed]["far"]) for seed in seeds[s.seeds :]])

        best = {f: min(weights[kind], key=lambda w, f=f: merit(f, w)) for f in s.frictions}
        for f, w in itertools.product(s.frictions, weights[kind]):
            yield {
                "part": part,
                "setting": f,
                "row": kind,
                "weight": w,
                "own": w == best[f],
                "frictionless": w == best[s.frictions[0]],
                "edge": len(weights[kind]) > 1 and w in (min(s.weights), max(s.weights)),
                "tuning": float(np.exp(merit(f, w))),
                "values": {
                    name: [table[f, w, seed][name] for seed in reported]
                    for name in ("near", "far", "energy", "asymmetry")
                },
                "seconds": seconds,
            }
