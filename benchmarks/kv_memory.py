"""Bytes of a KV cache against recall and bits per character: the boundary memory and its peers.

    python benchmarks/kv_memory.py --preset smoke      # seconds, on any machine
    python benchmarks/kv_memory.py --preset cpu        # minutes: a few rows at a context of 512
    python benchmarks/kv_memory.py --preset long --data text --seeds 2  # an hour: text at 2048
    python benchmarks/kv_memory.py --preset gpu        # one GPU: everything at 2048
    python benchmarks/kv_memory.py --preset gpu --shard 0/2 --output kv0.json      # half of it
    python benchmarks/kv_memory.py --merge kv0.json kv1.json --output all.json --picture kv.png

Small transformers learn recall (pairs, copying, needles, tables without filler) or Shakespeare with
all tokens in reach, the same for every row, and then at the full length with the row's memory in
the training loop; "post hoc" rows compress the cache of the model that trained with the full one.
Bytes are those of one head of one layer for one sequence, with scales, zeros, masses and positions.
Rows come seed by seed on the same batches. Also: what is left when entries of the memory get lost.

Results go to benchmarks/results/kv_memory.json row by row; rows that are there are not run again.
"""

import argparse
import dataclasses
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from kv import dense, losses, methods, plan, results, sources, summary, tasks, training
from kv.methods import Method

RESULTS = Path(__file__).parent / "results" / "kv_memory.json"
DATA = ("recall", "text")
HELD = 64  # characters of text behind the hand-over that losses are measured on


class Data:
    """One kind of data: batches, what to examine on, the model before any memory."""

    def __init__(self, kind: str, options: argparse.Namespace):
        self.kind, self.plan = kind, getattr(plan, kind)(options.preset)
        self.seeds = jnp.arange(options.seeds, dtype=jnp.int32)
        stage, self.text = self.plan.stage, None
        if kind == "recall":
            made = tasks.sequences(stage.task, jax.random.key(2**20), self.plan.tests)
            self.tokens, self.wanted = map(np.asarray, made)
            if len(self.tokens) % self.plan.chunk:
                raise ValueError(f"chunk must divide the {len(self.tokens)} sequences")
        else:
            corpus = sources.text(options.text, options.cache, stage.task.context)
            sized = dataclasses.replace(self.plan.model, vocab_size=len(corpus.characters))
            self.plan = dataclasses.replace(self.plan, model=sized)
            self.text = jnp.asarray(corpus.train)
            made = tasks.windows(corpus.validation, stage.task.context)
            self.tokens, self.wanted = (x[: self.plan.tests] for x in made)

    def none(self) -> list[jax.Array]:
        model = self.plan.model
        return [jnp.zeros((len(self.seeds), model.heads, 0), jnp.float32)] * model.layers

    def pretrained(self) -> tuple[Any, list[list[float]]]:
        """Parameters of all seeds after the stages before, and the ends of their curves."""
        model = self.plan.model
        params, ends = training.starts(model)(self.seeds), []
        for stage in self.plan.before:
            run = training.trainer(model, dense.taught, stage, self.text, teach=True)
            (params, _), curve = run(params, self.none(), self.seeds)
            ends.append(np.asarray(curve)[:, -20:].mean(-1).tolist())
            print(f"  before, {stage.task.context}: {np.round(ends[-1], 3)}", flush=True)
        return params, ends

    def own(self, method: Method, params: Any) -> Any:
        """A method's own parameters, from a few sequences."""
        return methods.parameters(
            method, self.plan.model, params, jnp.asarray(self.tokens[::7][:6])
        )

    def scores(self, found: dict[str, jax.Array]) -> dict[str, Any]:
        """What a row says of `training.examiner`'s or `losses.examiner`'s output."""
        if self.kind == "recall":
            kinds = training.by_kind(found["right"])
            return {**kinds, "mean": np.mean(list(kinds.values()), 0).tolist()}
        return {"bits": (np.asarray(found["nats"]).mean(-1) / math.log(2)).tolist()}


def compiled(data: Data, method: Method, params: Any) -> tuple[Any, Any]:
    """Programs to train with a method and to examine it."""
    model, stage = data.plan.model, data.plan.stage
    shapes = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)  # noqa: E731
    own = jax.eval_shape(lambda p: data.own(method, p), params)
    train = None
    if method.loop:
        with_it = method.train or method.attend
        train = training.trainer(model, with_it, stage, data.text, teach=method.teach)
        train = train.lower(shapes(params), own, shapes(data.seeds)).compile()
    examine = training.examiner(model, method.attend, data.plan.chunk)
    tests = (jnp.asarray(data.tokens), jnp.asarray(data.wanted))
    return train, examine.lower(shapes(params), own, *map(shapes, tests)).compile()


def run_row(data: Data, method: Method, programs: tuple[Any, Any], params: Any) -> tuple[Any, Any]:
    """A row, and the parameters that it was measured with."""
    began = time.perf_counter()
    train, examine = programs
    own, curve = data.own(method, params), None
    if train is not None:
        (params, own), curve = train(params, own, data.seeds)
        curve = np.asarray(curve)[:, -20:].mean(-1).tolist()
    found = examine(params, own, jnp.asarray(data.tokens), jnp.asarray(data.wanted))
    row = {
        "data": data.kind,
        "method": method.name,
        "loop": method.loop,
        "ratio": method.ratio,
        "bytes": method.nbytes,
        **data.scores(found),
        "training": curve,
        "config": None if method.config is None else dataclasses.asdict(method.config),
    }
    return {**row, "seconds": time.perf_counter() - began}, params


def run_losses(data: Data, method: Method, params: Any, *, half: bool) -> list[dict[str, Any]]:
    """Rows of losses; `half`: of the ways that send every entry twice."""
    prompt, wanted = data.plan.stage.task.prompt, data.wanted
    if data.kind == "text":
        wanted = np.where(np.arange(wanted.shape[1]) < prompt + HELD, wanted, -1)
    assert method.config is not None
    found = []
    for way in losses.WAYS if half else losses.WAYS[:1]:
        examine = losses.examiner(data.plan.model, method, way, prompt, data.plan.chunk)
        nbytes = method.nbytes * (1 if way == "unprotected" else 2)
        for share in losses.SHARES:
            maps = losses.operators(way, losses.entries_of(method.config), share)
            out = examine(params, maps, jnp.asarray(data.tokens), jnp.asarray(wanted))
            row = {"data": data.kind, "method": method.name, "loop": True, "ratio": method.ratio}
            row |= {"way": way, "lost": share, "bytes": nbytes, **data.scores(out)}
            found.append(row)
            print(f"  {way:12} {share:4.0%} lost {show(row)}", flush=True)
    return found


def show(row: dict[str, Any]) -> str:
    names = ("bits",) if "bits" in row else (*tasks.KINDS, "mean")
    pairs = ((name, results.mean_error(row[name])) for name in names)
    return "  ".join(f"{name} {m:.3f}±{e:.3f}" for name, (m, e) in pairs)


def measure(kind: str, options: argparse.Namespace, settings: dict[str, Any], began: float) -> None:
    """All rows of one kind of data that this shard has, until the budget is spent."""
    rows = results.load(options.output, settings, DATA)
    done = set(map(results.identity, rows))
    data = Data(kind, options)
    full, *others = plan.rows(kind, options.preset)
    part, parts = map(int, options.shard.split("/"))
    others = [m for i, m in enumerate(others) if i % parts == part]
    others = [m for m in others if any(word in m.name for word in options.only)]

    def name(method: Method) -> tuple[Any, ...]:
        return (kind, method.name, method.loop, method.ratio, None, None)

    def add(*new: dict[str, Any]) -> None:
        nonlocal rows
        rows = [*rows, *(row for row in new if results.identity(row) not in done)]
        done.update(map(results.identity, new))
        about = {"command": f"benchmarks/kv_memory.py {options.line}", **results.environment()}
        results.save(options.output, {**about, "settings": settings, "rows": rows})

    others = [m for m in others if name(m) not in done]
    if not others and name(full) in done:
        return
    print(f"{kind}: {len(others) + 1} rows", flush=True)
    params, ends = data.pretrained()
    print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    with ThreadPoolExecutor(options.compilers) as pool:
        work = [pool.submit(compiled, data, m, params) for m in (full, *others)]
        whole = None
        for method, programs in zip((full, *others), work, strict=True):
            if time.perf_counter() - began > options.budget and whole is not None:
                print("the budget is spent; the rows that are missing will be run next time")
                for waiting in work:
                    waiting.cancel()
                return
            given = params if method.loop or whole is None else whole
            try:
                row, trained = run_row(data, method, programs.result(), given)
            except Exception as error:  # a row that fails must not cost the others
                if whole is None:
                    raise
                print(f"  {method.name} {method.ratio}x failed: {error!r}"[:500], flush=True)
                continue
            row["before"] = ends
            whole = trained if whole is None else whole
            print(
                f"  {method.name:28}{'' if method.loop else 'post hoc':9}{method.ratio:5.1f}x"
                f"{method.nbytes:8} B  {show(row)}  {row['seconds']:.1f} s  "
                f"(at {time.perf_counter() - began:.0f} s)",
                flush=True,
            )
            add(row)
            if method.name == "boundary, scored bf16" and method.ratio in options.losses:
                half = method.ratio == max(options.losses)
                add(*run_losses(data, method, trained, half=half))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("smoke", "cpu", "long", "gpu"), default="cpu")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th row from the i-th on")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="rows with one of these words in their name"
    )
    parser.add_argument(
        "--budget", type=float, default=math.inf, help="seconds, after which no row begins"
    )
    parser.add_argument("--compilers", type=int, default=4, help="threads that compile ahead")
    parser.add_argument("--text", type=Path, help="a text of your own instead of the plays")
    parser.add_argument("--cache", type=Path, help="folder with, or for, the wheel of the plays")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--merge", type=Path, nargs="+", help="reports to merge instead of running")
    parser.add_argument("--picture", type=Path, help="draw the results here")
    options = parser.parse_args()
    options.line = " ".join(sys.argv[1:])
    options.losses = (4.0, 8.0) if options.preset == "cpu" else (8.0, 16.0)
    options.losses = (4.0,) if options.preset == "smoke" else options.losses
    began = time.perf_counter()
    if options.merge:
        report = results.merge(options.merge)
        results.save(options.output, report)
        print(summary.write(report))
    else:
        settings = {"preset": options.preset, "seeds": options.seeds}
        settings |= {kind: dataclasses.asdict(getattr(plan, kind)(options.preset)) for kind in DATA}
        settings["text_file"] = None if options.text is None else options.text.name
        print(results.environment(), flush=True)
        for kind in options.data:
            measure(kind, options, settings, began)
    if options.picture:
        from kv import picture

        picture.draw(results.merge([options.output]), options.picture)


if __name__ == "__main__":
    main()
