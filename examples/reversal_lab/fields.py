"""The FitzHugh-Nagumo equations on a ring: a convolutional model learns their next states.

    u_t = u_xx + u - u^3 / 3 - v + 1/2,        v_t = 0.08 (u + 0.7 - 0.8 v)

Diffusion forgets: a sequence of states backwards obeys no law that could be told from a state.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reversal_lab import training
from reversal_lab.settings import Fields

ROWS = {
    "base": "forward data only",
    "reversed": "reversed data too",
    "flagged": "reversed data too, told apart",
}
MEASURES = ("one_step", "rollout", "backward")
ROLLOUT = 20  # steps
TUNING = 1000  # seeds from here on choose rates
WORST = 1e6
FINER = 2  # points of the solver for one of the model
KERNEL = 5  # points that a convolution sees


def slope(state: np.ndarray, length: float) -> np.ndarray:
    """d/dt of states (..., 2, points), periodic in space: diffusion by Fourier modes."""
    u, v = state[..., 0, :], state[..., 1, :]
    wave = 2 * np.pi * np.fft.rfftfreq(u.shape[-1], length / u.shape[-1])
    spread = np.fft.irfft(-(wave**2) * np.fft.rfft(u), u.shape[-1])
    return np.stack([spread + u - u**3 / 3 - v + 0.5, 0.08 * (u + 0.7 - 0.8 * v)], -2)


def solved(
    start: np.ndarray, *, frames: int, step: float, length: float, substeps: int = 12
) -> np.ndarray:
    """States (..., frames + 1, 2, points), by the classical Runge-Kutta method in float64."""
    h, state, kept = step / substeps, np.asarray(start, np.float64), [start]
    for _ in range(frames):
        for _ in range(substeps):
            a = slope(state, length)
            b = slope(state + h / 2 * a, length)
            c = slope(state + h / 2 * b, length)
            state = state + h / 6 * (a + 2 * b + 2 * c + slope(state + h * c, length))
        kept.append(state)
    return np.stack(kept, -3)


def data(seed: int, count: int, s: Fields) -> np.ndarray:
    """Trajectories (count, frames + 1, 2, points) from random waves, in units of about 1."""
    draw = np.random.default_rng(seed)
    x = 2 * np.pi * np.arange(FINER * s.points) / (FINER * s.points)
    modes = np.arange(1, 6)[:, None]
    phase = draw.uniform(0, 2 * np.pi, (count, 2, len(modes), 1))
    size = draw.normal(size=phase.shape) * np.array([1.0, 0.5])[:, None, None]
    start = np.sum(size * np.cos(modes * x + phase), -2) / 1.5
    found = solved(start, frames=s.frames, step=s.step, length=s.length)
    return found[..., ::FINER]


def model(key: jax.Array, width: int) -> list[tuple[jax.Array, jax.Array]]:
    """Three convolutions; the third input channel is the direction."""
    sizes = (3, width, width, 2)
    gains = (1.0, 1.0, 0.1)
    return [
        (gain * jax.random.normal(k, (KERNEL * a, b)) / (KERNEL * a) ** 0.5, jnp.zeros(b))
        for k, a, b, gain in zip(
            jax.random.split(key, 3), sizes[:-1], sizes[1:], gains, strict=True
        )
    ]


def advance(params: Any, state: jax.Array, direction: float) -> jax.Array:
    """The next state (..., points, 2): this one and what three circular convolutions add."""
    flag = jnp.full((*state.shape[:-1], 1), direction, state.dtype)
    h = jnp.concatenate([state, flag], -1)
    for i, (w, b) in enumerate(params):
        near = [jnp.roll(h, k - KERNEL // 2, -2) for k in range(KERNEL)]
        h = jnp.concatenate(near, -1) @ w + b
        h = h if i == len(params) - 1 else jax.nn.gelu(h)
    return state + h


def rolled(params: Any, state: jax.Array, direction: float, *, steps: int) -> jax.Array:
    """States (steps, ..., points, 2) that follow."""

    def one(state, _):
        new = advance(params, state, direction)
        return new, new

    return jax.lax.scan(one, state, None, length=steps)[1]


def program(kind: str, s: Fields) -> Callable[..., Any]:
    """A function (train, count, rate, test, seed) -> `MEASURES`, mean square errors.

    Of the next state, of the `ROLLOUT` states that follow the first, and of the next state in
    sequences that run backwards. Only the first `count` of the trajectories are trained on.
    """
    ahead, back = (1.0, -1.0) if kind == "flagged" else (0.0, 0.0)

    def run(train, count, rate, test, seed):
        key, draw = jax.random.split(jax.random.key(seed))

        def error(params, states, direction, key):
            keys = jax.random.split(key)
            which = jax.random.randint(keys[0], (s.batch,), 0, count)
            first = jax.random.randint(keys[1], (s.batch,), 0, states.shape[1] - s.window)
            seen = states[which[None], first + jnp.arange(s.window + 1)[:, None]]
            guessed = rolled(params, seen[0], direction, steps=s.window)
            return jnp.mean((guessed - seen[1:]) ** 2)

        def loss(params, key):
            found = error(params, train, ahead, key)
            if kind == "base":
                return found
            return found + error(params, train[:, ::-1], back, jax.random.fold_in(key, 1))

        params = training.descend(loss, model(key, s.width), rate=rate, updates=s.updates, key=draw)
        far = jnp.swapaxes(rolled(params, test[:, 0], ahead, steps=ROLLOUT), 0, 1)
        pairs = (
            (advance(params, test[:, :-1], ahead), test[:, 1:]),
            (far, test[:, 1 : ROLLOUT + 1]),
            (advance(params, test[:, 1:], back), test[:, :-1]),
        )
        return tuple(jnp.mean((guessed - seen) ** 2) for guessed, seen in pairs)

    return run


def rows(s: Fields) -> Iterator[dict[str, Any]]:
    """A row for each way of training and number of trajectories, at the rate of its own tuning.

    Rates are chosen by the error of rollouts on seeds of their own.
    """
    seeds = list(range(s.seeds)) + list(range(TUNING, TUNING + s.tuning_seeds))
    most = max(s.counts)
    states = np.moveaxis(data(0, (most + s.tests) * len(seeds), s), -1, -2).astype(np.float32)
    known = dict(zip(seeds, np.split(states, len(seeds)), strict=True))
    variance = float(np.mean(np.var(states, (0, 1, 2))))
    moved = float(np.mean((states[:, 1:] - states[:, :-1]) ** 2))
    runs = list(itertools.product(s.counts, s.rates, seeds))
    arguments = (
        jnp.asarray(np.stack([known[seed][:most] for _, _, seed in runs])),
        jnp.asarray([count for count, _, _ in runs], jnp.int32),
        jnp.asarray([rate for _, rate, _ in runs], jnp.float32),
        jnp.asarray(np.stack([known[seed][most:] for _, _, seed in runs])),
        jnp.asarray([seed for _, _, seed in runs], jnp.int32),
    )
    jobs = {kind: training.Job(program(kind, s), arguments) for kind in ROWS}
    for kind, found, seconds in training.done(jobs):
        table = {
            run: {
                name: float(np.clip(np.nan_to_num(part[i], nan=WORST), 1e-12, WORST))
                for name, part in zip(MEASURES, found, strict=True)
            }
            for i, run in enumerate(runs)
        }

        def merit(count, rate, table=table):
            return np.mean([np.log(table[count, rate, x]["rollout"]) for x in seeds[s.seeds :]])

        for count in s.counts:
            rate = min(s.rates, key=lambda rate, count=count: merit(count, rate))
            yield {
                "part": "fields",
                "setting": count,
                "row": kind,
                "rate": rate,
                "edge": len(s.rates) > 1 and rate in (min(s.rates), max(s.rates)),
                "values": {
                    name: [table[count, rate, seed][name] for seed in seeds[: s.seeds]]
                    for name in MEASURES
                },
                "variance": variance,
                "moved": moved,
                "seconds": seconds,
            }
