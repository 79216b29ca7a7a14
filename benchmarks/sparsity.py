"""Which rule should drop pairs from attention? Losses at an equal share of kept causal pairs.

    python benchmarks/sparsity.py            # about two minutes on a large GPU
    python benchmarks/sparsity.py --quick    # the first table with tiny models, no download

Every row is the same small language model (BK-Core, with its resolvent mixer and without), trained
with its mask in place: the same parameters at the start, batches and optimiser. All rows and seeds
of a section train in one program over dense masked softmax: it is the quality of the rules that is
compared, not kernels. Prints two tables and writes benchmarks/results/sparsity.json.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ensemble import (
    STEPS_PER_CALL,
    Context,
    Layer,
    as_bias,
    attend,
    band,
    compile_all,
    corpora,
    forward,
    initial_state,
    kept,
    provenance,
    read_options,
    read_text,
    spread,
    step,
    steps,
)
from lm.settings import Training
from rules import GATES, L0, RANDOM, SOFT, WINDOW, Gate, Params, l0_shares

from physnet.models import bk_core
from physnet.models.bk_core import BKCoreConfig
from physnet.nn import attention as gated

RESULTS = Path(__file__).parent / "results" / "sparsity.json"
SECTIONS = {"with the resolvent mixer": True, "attention alone": False}
SHARES = (0.25, 0.4)
OPEN = 2.0  # log alpha of the L0 gates at the start: nearly all open
PENALTY_RATE, PENALTY_GAIN = 0.005, 5.0  # of their multiplier: integral and proportional part
PENALTY_LIMIT = 0.1  # of the excess that it feels: gates that close too fast do not open again


# A section: all rows and seeds as members of one ensemble.


class Row(NamedTuple):
    gate: Gate
    share: float


def rows_for(shares: tuple[float, ...]) -> tuple[Row, ...]:
    """Dense attention, then every gate at every share."""
    return (Row(WINDOW, 1.0), *(Row(gate, share) for gate in GATES for share in shares))


@dataclasses.dataclass(frozen=True)
class Section:
    """Members are rows x seeds, row by row; rows of a gate are neighbours."""

    config: BKCoreConfig
    training: Training
    seeds: int
    rows: tuple[Row, ...]

    def init(self, key: jax.Array) -> Params:
        config, (first, second) = self.config, jax.random.split(key)
        shape = (config.layers, config.width, config.heads)
        gate = {
            "read": 0.02 * jax.random.normal(second, shape, jnp.float32),
            "bias": jnp.full((config.layers, config.heads), OPEN, jnp.float32),
            "slope": jnp.zeros((config.layers, config.heads), jnp.float32),
        }
        params = bk_core.init(config, first)
        return params | {"layers": params["layers"] | {"gate": gate}}

    def by_gate(self) -> list[tuple[Gate, slice]]:
        gates = list(dict.fromkeys(row.gate for row in self.rows))
        ends = np.cumsum([self.seeds * sum(r.gate is g for r in self.rows) for g in gates])
        return [(g, slice(a, b)) for g, a, b in zip(gates, [0, *ends[:-1]], ends, strict=True)]

    def members(self, gate: Gate) -> slice:
        return next(part for g, part in self.by_gate() if g is gate)

    def mask(self, layer: Params, context: Context, *, training: bool) -> tuple[jax.Array, Any]:
        """The bias of all members, and the L0 members' decision."""
        biases, learned = [], None
        for gate, part in self.by_gate():
            own = jax.tree.map(lambda leaf, p=part: leaf[p], (layer, context))
            decide = functools.partial(gate.decide, self.config)
            decision = jax.vmap(lambda l, c, d=decide: d(l, c, training))(*own)
            bias = jax.vmap(functools.partial(gate.bias, self.config))(own[0], decision)
            biases.append(jnp.broadcast_to(bias, (len(bias), *_pairs(own[1]))))
            learned = decision if gate is L0 else learned
        return jnp.concatenate(biases), learned

    def objective(
        self, params: Params, windows: jax.Array, key: jax.Array, multiplier: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Mean nats of all members, and for L0 members multiplier x expected share."""
        found = []

        def mask(index: int, layer: Params, context: Context) -> jax.Array:
            bias, learned = self.mask(layer, context, training=True)
            found.append(learned.log_alpha)
            return bias

        nats, _ = self._nats(params, windows, mask, key)
        nats = jnp.mean(nats, (1, 2))
        expected, certain = (s.mean(0) for s in l0_shares(self.config, jnp.stack(found)))
        own = self.members(L0)
        target = jnp.asarray(np.repeat([r.share for r in self.rows if r.gate is L0], self.seeds))
        excess = jnp.clip(certain - target.astype(certain.dtype), -PENALTY_LIMIT, PENALTY_LIMIT)
        force = jax.lax.stop_gradient(multiplier[own] + PENALTY_GAIN * excess)
        return jnp.sum(nats) + jnp.sum(force * expected), (
            nats,
            jnp.zeros_like(multiplier).at[own].set(excess),
        )

    def evaluate(self, params: Params, windows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Nats (M, B, T) of windows (B, T + 1), and the share of kept pairs (M,)."""
        windows = jnp.broadcast_to(windows[None], (len(self.rows) * self.seeds, *windows.shape))

        def mask(index: int, layer: Params, context: Context) -> jax.Array:
            return self.mask(layer, context, training=False)[0]

        nats, layers = self._nats(params, windows, mask, jax.random.key(0))
        return nats, kept(layers)

    def calibrate(self, params: Params, windows: jax.Array) -> Params:
        """The parameters with constants for each row's share, from text (B, T + 1)."""
        windows = jnp.broadcast_to(windows[None], (len(self.rows) * self.seeds, *windows.shape))
        found = []

        def mask(index: int, layer: Params, context: Context) -> jax.Array:
            constants = []
            for i, row in enumerate(self.rows):
                part = slice(i * self.seeds, (i + 1) * self.seeds)
                own = jax.tree.map(lambda leaf, p=part: leaf[p], (layer, context))
                calibrate = functools.partial(row.gate.calibrate, self.config, share=row.share)
                constants.append(jax.vmap(calibrate)(*own))
            attention = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *constants)
            found.append({name: attention[name] for name in ("ceiling", "threshold")})
            return self.mask(layer | {"attention": attention}, context, training=False)[0]

        self._nats(params, windows, mask, jax.random.key(1))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *found)
        return _with_constants(params, stacked)

    def _nats(self, params, windows, mask, key) -> tuple[jax.Array, list[Layer]]:
        tokens, targets = windows[..., :-1], windows[..., 1:]
        dtype = jnp.dtype(self.training.dtype)
        logits, layers = forward(self.config, params, tokens, mask, key, dtype=dtype)
        return step.losses(logits, targets), layers


def _pairs(context: Context) -> tuple[int, ...]:
    batch, time, heads, _ = context.parts.query.shape[1:]
    return batch, heads, time, time


def _with_constants(params: Params, constants: Params) -> Params:
    layers = params["layers"]
    return params | {"layers": layers | {"attention": layers["attention"] | constants}}


class Prepared(NamedTuple):
    """A section's start, its programs and the text that it sees."""

    state: Any
    functions: dict[str, tuple[Callable, tuple]]
    train: jax.Array
    sample: jax.Array  # (B, T + 1), of the training text: calibrates the gates that are compared
    windows: jax.Array  # (parts, B, T + 1), held out


def prepare(section: Section, text: corpora.Corpus) -> Prepared:
    training, train = section.training, jnp.asarray(text.train)
    state = initial_state(section.config, training, section.init, section.seeds, len(section.rows))
    length = training.block + 1
    parts = len(text.validation) // length // training.batch
    parts = min(parts, -(-training.evaluation_windows // training.batch))
    windows = jnp.asarray(text.validation[: parts * training.batch * length])
    sample = step.batch(train, jax.random.key(9), size=training.batch, block=training.block)
    run = steps(section.config, training, section.objective, section.seeds, rate=PENALTY_RATE)
    functions = {
        "train": (run, (state, train, jnp.int32(0))),
        "evaluate": (section.evaluate, (state["params"], sample)),
        "calibrate": (section.calibrate, (state["params"], sample)),
    }
    return Prepared(state, functions, train, sample, windows.reshape(parts, training.batch, length))


def run_section(section: Section, ready: Prepared, programs: dict[str, Callable]) -> list[dict]:
    """Train, evaluate and measure all rows."""
    training, seeds = section.training, section.seeds
    state, _, train, sample, windows = ready
    for first in range(0, training.steps, training.steps_per_call):
        key = jax.random.fold_in(jax.random.key(8), first)
        calibration = step.batch(train, key, size=training.batch, block=training.block)
        state["params"] = programs["calibrate"](state["params"], calibration)
        state, nats = programs["train"](state, train, jnp.int32(first))
        if not bool(jnp.isfinite(nats).all()):
            raise SystemExit(f"a loss is not finite within {len(nats)} steps after {first}")

    def measure(params: Params) -> tuple[np.ndarray, np.ndarray, Params]:
        params = programs["calibrate"](params, sample)
        params = settle_l0(section, params, lambda p: programs["evaluate"](p, sample)[1])
        parts = [programs["evaluate"](params, part) for part in windows]
        nats = np.mean([np.asarray(n, np.float64).mean((1, 2)) for n, _ in parts], 0)
        return nats, np.mean([np.asarray(k) for _, k in parts], 0), params

    nats, share, params = measure(state["params"])
    leak = leaks(programs["evaluate"], params, windows[0])
    own = section.rows
    dense = jax.tree.map(lambda p: jnp.concatenate([p[:seeds]] * len(own)), state["params"])
    afterwards, _, _ = measure(dense)
    overheads = overhead(section, params)
    rows = []
    for i, row in enumerate(section.rows):
        own = slice(i * seeds, (i + 1) * seeds)
        mean, error = spread(nats[own])
        against, against_error = spread(nats[own] - nats[:seeds])
        untrained = row.share < 1 and row.gate not in (L0, SOFT)
        rows.append({
            "gate": row.gate.label if row.share < 1 else "dense",
            "target_share": row.share,
            "kept_share": float(share[own].mean()),
            "nats": mean,
            "nats_error": error,
            "above_dense": against,
            "above_dense_error": against_error,
            "nats_by_seed": nats[own].tolist(),
            "afterwards": spread(afterwards[own])[0] if untrained else None,
            "extra_parameters": row.gate.parameters(section.config),
            "overhead": overheads[row.gate.label],
            "leak": float(leak[own].max()),
        })  # fmt: skip
    return rows


def settle_l0(section: Section, params: Params, shares: Callable[[Params], jax.Array]) -> Params:
    """A common shift of each L0 member's gates that keeps exactly its share, by bisection.

    The multiplier brings the share near its target in training; rows are compared at equal ones.
    """
    own = section.members(L0)
    target = np.repeat([row.share for row in section.rows if row.gate is L0], section.seeds)
    low, high = np.full(len(target), -8.0), np.full(len(target), 8.0)
    attention = params["layers"]["attention"]
    for _ in range(14):
        shift = (low + high) / 2
        threshold = attention["threshold"].at[own].set(jnp.float32(shift)[:, None, None])
        params = _with_constants(params, {"threshold": threshold})
        above = np.asarray(shares(params))[own] > target
        low, high = np.where(above, shift, low), np.where(above, high, shift)
    return params


def leaks(evaluate: Callable, params: Params, windows: jax.Array) -> np.ndarray:
    """Largest change of a loss in front of a changed token, (M,): 0 for a causal rule."""
    time = windows.shape[1] - 1
    at = time // 4 + 5 * np.arange(len(windows)) % (time // 2)
    column = np.arange(time + 1)
    changed = jnp.where(jnp.asarray(column >= at[:, None]), windows[:, ::-1], windows)
    change = np.abs(evaluate(params, changed)[0] - evaluate(params, windows)[0])
    # The loss at t knows tokens up to t and its target t + 1.
    return np.where(column[:-1] < at[:, None] - 1, change, 0).max((1, 2))


def overhead(section: Section, params: Params, *, repeats: int = 30) -> dict[str, float]:
    """Time of a gate's decision over that of dense attention, on one CPU, run in turns."""
    with jax.default_device(jax.devices("cpu")[0]):
        config = section.config
        layer = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf[0, 0])), params["layers"])
        shape = (section.training.batch, section.training.block, config.width)
        h = jax.random.normal(jax.random.key(0), shape)
        position = jnp.arange(shape[1], dtype=jnp.int32)
        parts = gated.project(layer["attention"], h, position, rotary_base=config.rotary_base)
        found = None
        if config.mixer:  # the mixer has run its chains by then
            found = jax.random.uniform(jax.random.key(1), (*shape[:2], config.chains))
        context = Context(h, parts, found, jax.random.key(2))
        full = as_bias(band(shape[1], shape[1]))[None, None]
        programs = {"": (lambda layer, context: attend(context.parts, full)[0], (layer, context))}
        for gate in GATES:
            if gate not in (WINDOW, RANDOM):
                decide = functools.partial(gate.decide, config, training=False)
                programs[gate.label] = (decide, (layer, context))
        compiled = compile_all(programs)
        least = dict.fromkeys(compiled, float("inf"))
        for _ in range(repeats):
            for name, program in compiled.items():
                start = time.perf_counter()
                jax.block_until_ready(program(layer, context))
                least[name] = min(least[name], time.perf_counter() - start)
        ratios = {name: least[name] / least[""] for name in least if name}
        return ratios | {WINDOW.label: 0.0, RANDOM.label: 0.0}


def show(title: str, rows: list[dict]) -> None:
    print(f"\n{title}")
    print(
        f"{'rule':22} {'target':>6} {'kept':>6} {'validation nats':>17} {'above dense':>17} "
        f"{'put on dense':>12} {'parameters':>10} {'gate time':>9}  causal"
    )
    for row in rows:
        after = "" if row["afterwards"] is None else f"{row['afterwards']:.4f}"
        causal = "yes" if row["leak"] < 1e-5 else f"no: {row['leak']:.1e} nats"
        print(
            f"{row['gate']:22} {row['target_share']:6.0%} {row['kept_share']:6.1%} "
            f"{row['nats']:8.4f} +- {row['nats_error']:.4f} "
            f"{row['above_dense']:+8.4f} +- {row['above_dense_error']:.4f} "
            f"{after:>12} {row['extra_parameters']:10d} {row['overhead']:9.1%}  {causal}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = read_options(parser)
    if options.quick:
        training = Training(
            steps=4, batch=2, block=64, steps_per_call=2, warmup=1, evaluate_every=2,
            checkpoint_every=2, evaluation_windows=4,
        )  # fmt: skip
        sizes = {"layers": 1, "heads": 2, "width": 16, "chains": 4, "local_window": 4}
        seeds, rows = 2, rows_for((0.4,))
    else:
        training = Training(
            steps=options.steps,
            batch=16,
            block=256,
            steps_per_call=STEPS_PER_CALL,
            dtype=options.dtype,
        )
        sizes = {"layers": 4, "heads": 4, "width": 128, "chains": 16, "local_window": 8}
        seeds, rows = options.seeds, rows_for(SHARES)
    text = read_text(options.cache, quick=options.quick, block=training.block)
    report = provenance("sparsity", training, seeds) | {"dtype": training.dtype, "text": text.name}
    report["overhead"] = "time of a gate's decision / of dense attention's forward pass, on CPU"
    report["afterwards"] = "nats of the dense model with the mask put on it after training"
    sections = {
        title: Section(
            BKCoreConfig(len(text.characters), mixer=mixer, **sizes), training, seeds, rows
        )
        for title, mixer in list(SECTIONS.items())[: 1 if options.quick else None]
    }
    ready = {title: prepare(section, text) for title, section in sections.items()}
    start = time.perf_counter()
    compiled = compile_all({
        (title, name): function
        for title, prepared in ready.items()
        for name, function in prepared.functions.items()
    })  # fmt: skip
    print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)
    for title, section in sections.items():
        start = time.perf_counter()
        programs = {name: program for (t, name), program in compiled.items() if t == title}
        report[title] = run_section(section, ready[title], programs)
        show(f"{title} ({time.perf_counter() - start:.0f} s)", report[title])
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
