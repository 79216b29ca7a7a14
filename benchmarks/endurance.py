"""Kill the main job again and again; take a thousand steps and see that nothing grows.

    python benchmarks/endurance.py                     # some minutes on two cores
    python benchmarks/endurance.py --kills 3 --steps 200 --output endurance.json

kills: `examples/shakespeare.py --preset smoke` with more steps dies by SIGKILL at random moments (a
fifth of them counted from the start of the process, the others from a random step on), each time
the same command goes on, and what it leaves is compared with runs that nothing breaks: every step
logged once with the same loss, the same bits of parameters. "recomputed" are steps that were logged
and taken again; the number of them may not pass --training.checkpoint-every.
seeds: two unbroken runs, the second with an empty cache of programs, give the same bits.
flat: live arrays, their bytes, resident memory and compiled programs after a tenth of the steps and
at the end, of a training step, of `memory.append` and of `path_integral.step`.
"""

import argparse
import contextlib
import functools
import gc
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from physnet.holography import memory
from physnet.models import bk_core
from physnet.superposition import path_integral

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "endurance.json"
ROWS = ("transformer", "bk")
EVERY = 20  # checkpoints
STEPS = 1500  # of each row, so that many kills find work left


class Job:
    """The main job in processes of its own."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.arguments = ["--preset", "smoke", "--rows", *ROWS, "--depths", "1"]
        self.arguments += [
            "--training.steps",
            str(STEPS),
            "--training.checkpoint-every",
            f"{EVERY}",
        ]
        self.arguments += ["--training.evaluate-every", "300"]

    def start(self, folder: Path, *, programs: str = "programs") -> subprocess.Popen:
        """Its output goes to a file beside the folder, which a kill leaves behind."""
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self._scratch / programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "400",
        }
        command = [sys.executable, str(ROOT / "examples" / "shakespeare.py"), *self.arguments]
        with log(folder).open("w") as out:
            return subprocess.Popen(
                [*command, "--directory", str(folder)],
                env=os.environ | cache,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def finish(self, folder: Path, **options: Any) -> dict[str, Any]:
        """Run it to its end; what it leaves."""
        process = self.start(folder, **options)
        if process.wait(timeout=900):
            raise RuntimeError(f"the job failed: {log(folder).read_text()[-2000:]}")
        return left(folder)


def log(folder: Path) -> Path:
    return folder.with_suffix(".log")


def left(folder: Path) -> dict[str, Any]:
    """Digests of the rows' parameters, and their records without times."""
    report = json.loads((folder / "report.json").read_text())
    return {
        "digests": {row["name"]: row["digest"] for row in report["rows"]},
        "records": {row: records(folder / row) for row in ROWS},
    }


def records(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in found]


def steps_of(found: list[dict[str, Any]]) -> list[int]:
    return [record["step"] for record in found if record["kind"] == "train"]


def last(folder: Path) -> dict[str, int]:
    """Steps that each row has logged."""
    return {row: max(steps_of(records(folder / row)), default=0) for row in ROWS}


def resumed(text: str) -> dict[str, int]:
    """The steps after which a run says that its rows resume; a row that is done goes on there."""
    labels = {"transformer": "plain transformer", "bk": "BK-Core"}
    found = {}
    for row, label in labels.items():
        if at := re.search(rf"{label}: resuming after step (\d+)", text):
            found[row] = int(at[1])
        elif f"{label}: trained already" in text:
            found[row] = STEPS
    return found


def lines(folder: Path) -> int:
    """Steps on the disk, counted cheaply (a kill must fall where it was drawn)."""
    paths = [folder / row / "metrics.jsonl" for row in ROWS]
    return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())


def kill(process: subprocess.Popen, folder: Path, chance: random.Random, number: int) -> str | None:
    """SIGKILL at a random moment: how that was drawn, None where the job ended before."""
    if number % 5 == 4:
        wait = chance.uniform(0.2, 8.0)
        drawn = f"{wait:.2f} s after the start"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=wait)
    else:
        more, wait = chance.randint(1, len(ROWS) * STEPS // 10), chance.uniform(0.0, 0.1)
        drawn = f"{1e3 * wait:.0f} ms after {more} more steps"
        target = lines(folder) + more
        while process.poll() is None and lines(folder) < target:
            time.sleep(0.002)
        time.sleep(wait)
    if process.poll() is not None:
        return None
    process.kill()
    process.wait()
    return drawn


def state_of(folder: Path) -> dict[str, Any]:
    """What a kill left half done."""
    files = [path for row in ROWS for path in (folder / row).glob("checkpoints/*")]
    texts = [folder / row / "metrics.jsonl" for row in ROWS]
    return {
        "logged": last(folder),
        "checkpoint_half_written": any("tmp" in path.name for path in files),
        "line_half_written": any(
            path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
            for path in texts
        ),
    }


def kills(job: Job, scratch: Path, whole: dict[str, Any], *, count: int, seed: int) -> list[dict]:
    """`count` kills, over as many jobs as that takes; the last one runs to its end."""
    chance, found, run = random.Random(seed), [], 0
    folder, before = scratch / "killed0", {}
    while True:
        folder.mkdir(exist_ok=True)
        process = job.start(folder)
        drawn = kill(process, folder, chance, len(found)) if len(found) < count else None
        if process.wait(timeout=900) not in (0, -9):
            raise RuntimeError(f"the job failed: {log(folder).read_text()[-2000:]}")
        for row, step in resumed(log(folder).read_text()).items():
            again = before.get(row, 0) - step
            if not 0 <= again <= EVERY:
                raise RuntimeError(f"{row} resumed after step {step} of {before[row]} logged ones")
            if found and run == found[-1]["job"]:
                found[-1]["recomputed"] = max(again, found[-1].get("recomputed", 0))
        if drawn is None:  # it ran to its end: nothing may be lost
            if left(folder) != whole:
                raise RuntimeError(f"{folder} differs from the unbroken run")
            if len(found) == count:
                return found
            run, before = run + 1, {}
            folder = scratch / f"killed{run}"
            continue
        found.append({"job": run, "drawn": drawn, **state_of(folder)})
        before = found[-1]["logged"]
        print(f"kill {len(found)}: {found[-1]}", flush=True)


def model_step() -> tuple[Callable[[Any], Any], Any]:
    """A training step of a small BK-Core, and its first state."""
    config = bk_core.BKCoreConfig(vocab_size=16, layers=1, heads=2, width=16, chains=4)
    tokens = jax.random.randint(jax.random.key(1), (2, 17), 0, 16)
    optimiser = optax.adam(1e-3)

    def loss(params: Any) -> jax.Array:
        logits = bk_core.apply(config, params, tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:
        params, inner = state
        updates, inner = optimiser.update(jax.grad(loss)(params), inner, params)
        return optax.apply_updates(params, updates), inner

    params = bk_core.init(config, jax.random.key(0))
    return step, (params, optimiser.init(params))


def memory_step() -> tuple[Callable[[Any], Any], Any]:
    """A token into a boundary memory."""
    config = memory.Config(window=8, block=4, sinks=1, landmarks=4, per_level=2, levels=4)
    key, value = jax.random.normal(jax.random.key(0), (2, 8))
    append = jax.jit(memory.append)
    return lambda state: append(state, key, value), memory.init(None, 8, config=config)


def particle_step() -> tuple[Callable[[Any], Any], Any]:
    """A step of particles down a bowl, a new key each time."""
    step = jax.jit(path_integral.step, static_argnums=2)

    def bowl(x: jax.Array) -> jax.Array:
        return jnp.sum(x * x)

    def move(state: Any) -> Any:
        return step(jax.random.fold_in(jax.random.key(0), state.count), state, bowl)[0]

    return move, path_integral.init(jnp.ones(4), particles=16, sigma=0.3)


WORK = {"training step": model_step, "memory append": memory_step, "particles": particle_step}


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Programs:
    """Counts the programs that are compiled while it lives."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, *_: Any, **__: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


PROGRAMS = Programs()


def census() -> dict[str, int]:
    gc.collect()
    arrays = jax.live_arrays()
    return {
        "arrays": len(arrays),
        "array_bytes": sum(x.nbytes for x in arrays),
        "resident_bytes": resident(),
        "programs": PROGRAMS.count,
    }


def flat(step: Callable[[Any], Any], state: Any, steps: int) -> dict[str, Any]:
    """The census after a tenth of the steps and after all, and the bits that the steps give."""
    state = jax.tree.map(jnp.copy, state)  # a step may take the place of its argument
    for number in range(steps):
        if number == steps // 10:
            jax.block_until_ready(state)
            early = census()
        state = step(state)
    jax.block_until_ready(state)
    late = census()
    leaves = [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]
    return {"steps": steps, "early": early, "late": late, "bits": b"".join(leaves)}


def grown(row: dict[str, Any]) -> dict[str, int]:
    return {key: row["late"][key] - row["early"][key] for key in row["early"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000, help="of the work that must stay flat")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for name in WORK:
        first, again = (flat(*WORK[name](), options.steps) for _ in range(2))
        same = first["bits"] == again["bits"]
        rows.append({"work": name, **first, "grown": grown(first), "same_bits": same})
        del rows[-1]["bits"]
        print(
            f"{name}: grown by {rows[-1]['grown']}, same bits {rows[-1]['same_bits']}", flush=True
        )
    with tempfile.TemporaryDirectory() as scratch:
        job, began = Job(Path(scratch)), time.perf_counter()
        whole = job.finish(Path(scratch) / "whole")
        for row in ROWS:
            assert steps_of(whole["records"][row]) == list(range(1, STEPS + 1))
        again = job.finish(Path(scratch) / "again", programs="others") == whole
        found = kills(job, Path(scratch), whole, count=options.kills, seed=options.seed)
        seconds = time.perf_counter() - began
    result = {
        "command": f"python benchmarks/endurance.py --kills {options.kills} --steps "
        f"{options.steps} --seed {options.seed}",
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "job": " ".join(job.arguments),
        "checkpoint_every": EVERY,
        "seconds": seconds,
        "kills": found,
        "largest_recomputed": max((one.get("recomputed", 0) for one in found), default=0),
        "each_step_once": True,  # else `kills` has raised
        "same_bits_as_unbroken": True,
        "same_bits_for_a_seed": again,
        "flat": rows,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
