"""The language models of the gpu preset: a training step and decoding, with and without kernels.

    python benchmarks/language_model_gpu.py                 # minutes on one H100
    python benchmarks/language_model_gpu.py --small         # tiny, on any machine

Rows: BK-Core with the kernels that `implementation=None` takes, BK-Core on "xla", and the plain
transformer with cuDNN's attention. Models, optimiser, step and dtype are those of
`examples/shakespeare.py --preset gpu`, at equal parameters (at the preset's context; a longer one
adds rows to the transformer's table of positions and nothing else). Dropout acts as in the preset,
but for the weights of attention, which cuDNN leaves whole. The text is Python source; gates are
calibrated to the preset's share of pairs at each context, of models that are not trained yet.

training: calls of one step (forward, backward, update), the state donated, dispatched in a row.
decoding: the likeliest tokens behind a prompt that fills the context but for them, all in one call;
`stored` is the share of the prompt's tokens that the cache holds.

`GiB` is what the compiled program needs: arguments, results and temporary memory, what they share
once. `device_peak_GiB` is the device's high-water mark so far, of the whole process.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from lm import corpus as corpora
from lm.rows import Model, models, parameters
from lm.settings import PRESETS, BKCore, Settings, Sizes, Training
from lm.step import batch, calibrated, initial_state, step

from physnet.models import bk_core, transformer

RESULTS = Path(__file__).parent / "results" / "language_model_gpu.json"
VARIANTS = {  # the main job's name of the model, and the implementation that it is asked for
    "bk": ("BK-Core", "bk", None),
    "bk-xla": ("BK-Core, no kernels", "bk", "xla"),
    "transformer": ("transformer, cuDNN", "transformer", "cudnn"),
}
WITH = re.compile(r"jax|jaxlib|jax-triton|triton|nvidia-cudnn-cu\d+")
LOWERING = threading.Lock()  # kernels are lowered one at a time, compiled in parallel
PIECE = 64  # tokens of a prompt that the transformer takes at once: it forms all their pairs


@dataclasses.dataclass(frozen=True)
class Case:
    """A model at one context."""

    label: str
    model: Model
    training: Training
    implementation: str | None
    sequences: int  # decoded at once

    @property
    def new(self) -> int:
        return min(256, self.training.block // 4)  # tokens to decode


def make_case(name: str, context: int, settings: Settings, vocabulary: int, options) -> Case:
    label, row, implementation = VARIANTS[name]
    model = next(m for m in models(settings, vocabulary) if m.name == row)
    if row == "transformer":
        config = dataclasses.replace(model.config, context=context, drop_weights=False)
        model = model._replace(config=config)
        if jax.default_backend() == "cpu":  # for a trial
            label, implementation = "transformer", None
    size = max(1, options.tokens // context)
    training = dataclasses.replace(settings.training, block=context, batch=size)
    return Case(label, model, training, implementation, max(1, options.cached // context))


def start(case: Case) -> Callable[..., Any]:
    """tokens -> state: the main job's, its gates set."""

    def run(tokens):
        state = initial_state(case.model, case.training)
        key = jax.random.key(2)
        params = calibrated(case.model, case.training, state["params"], tokens, key)
        return state | {"params": params}

    return run


def train(case: Case) -> Callable[..., Any]:
    """(state, tokens, number) -> state and metrics: the main job's step."""
    apply = functools.partial(case.model.apply, implementation=case.implementation)
    return step(case.model._replace(apply=apply), case.training)


def prefill(case: Case) -> Callable[..., Any]:
    """(params, tokens) -> last token and cache of a prompt that leaves room for the new tokens."""
    config, dtype = case.model.config, jnp.dtype(case.training.dtype)
    library = bk_core if case.model.name == "bk" else transformer
    length = case.training.block - case.new
    piece = length if case.model.name == "bk" else min(PIECE, case.new)

    def run(params, tokens):
        rows = batch(tokens, jax.random.key(3), size=case.sequences, block=length)
        rows = rows[:, :-1].reshape(case.sequences, -1, piece)

        def one(cache, part):
            logits, cache = library.extend(config, params, part, cache, dtype=dtype)
            return cache, jnp.argmax(logits[:, -1], -1).astype(jnp.int32)

        cache = library.init_cache(config, case.sequences, case.training.block, dtype=dtype)
        cache, last = jax.lax.scan(one, cache, jnp.swapaxes(rows, 0, 1))
        return last[-1], cache

    return run


def decode(case: Case) -> Callable[..., Any]:
    """(params, token, cache) -> the last new token, and the cache wound back for another round."""
    config, dtype = case.model.config, jnp.dtype(case.training.dtype)
    extend = transformer.extend
    if case.model.name == "bk":
        extend = functools.partial(bk_core.extend, implementation=case.implementation)

    def run(params, token, cache):
        def one(carry, _):
            token, cache = carry
            logits, cache = extend(config, params, token[:, None], cache, dtype=dtype)
            return (jnp.argmax(logits[:, 0], -1).astype(jnp.int32), cache), None

        (token, after), _ = jax.lax.scan(one, (token, cache), None, length=case.new)
        if case.model.name == "bk":
            pairs = zip(after.layers, cache.layers, strict=True)
            after = after._replace(layers=tuple(a._replace(count=b.count) for a, b in pairs))
        return token, after._replace(length=cache.length)

    return run


class Program(NamedTuple):
    run: Any
    kernels: str  # what it calls beside XLA's own code


def program(function, *arguments, donate=()) -> Program:
    with LOWERING:
        lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
    calls = " ".join(set(re.findall(r'custom_call @"?([\w$.]+)', lowered.as_text())))
    found = [name for name in ("mosaic_gpu", "triton", "cudnn") if name in calls]
    return Program(lowered.compile(), " ".join(found) or "-")


def compiling(case: Case, tokens: jax.Array, submit) -> dict[str, Any]:
    """Futures of all that a case runs; `submit` makes one of a name, a function and arguments."""
    state = functools.cache(lambda: jax.eval_shape(start(case), tokens))

    def compiled(work):
        if work == "start":
            return program(start(case), tokens)
        if work == "training":
            return program(train(case), state(), tokens, jnp.zeros((), jnp.int32), donate=0)
        if work == "prefill":
            return program(prefill(case), state()["params"], tokens)
        token, cache = jax.eval_shape(prefill(case), state()["params"], tokens)
        return program(decode(case), state()["params"], token, cache, donate=2)

    names = {"start": None, "training": case.implementation}
    names |= {"prefill": None, "decoding": case.implementation}
    key = case.model.name, case.training.block
    return {work: submit((*key, work, name), compiled, work) for work, name in names.items()}


def seconds(call: Callable[[int], Any], *, least: float = 0.4) -> float:
    """Of one call: the median over rounds of calls that are dispatched in a row."""

    def lap(count: int) -> float:
        began = time.perf_counter()
        for index in range(count):
            result = call(index)
        jax.block_until_ready(result)
        return (time.perf_counter() - began) / count

    lap(1)
    count = max(1, min(40, int(least / lap(1))))
    return float(np.median([lap(count) for _ in range(3)]))


def training_row(case: Case, jobs, tokens) -> dict[str, Any]:
    compiled, state = jobs["training"].result(), jobs["start"].result().run(tokens)

    def call(index):
        nonlocal state
        state, measured = compiled.run(state, tokens, np.int32(index))
        return measured

    size = case.training.batch
    return {"batch": size} | figures(compiled, size * case.training.block, 1, seconds(call))


def decoding_row(case: Case, jobs, tokens) -> dict[str, Any]:
    compiled, params = jobs["decoding"].result(), jobs["start"].result().run(tokens)["params"]
    token, cache = jobs["prefill"].result().run(params, tokens)
    row: dict[str, Any] = {"batch": case.sequences, "new": case.new}
    if case.model.name == "bk":
        held = float(np.mean([layer.count for layer in cache.layers]))
        held += case.model.config.local_window - 1
        row["stored"] = round(held / (case.training.block - case.new), 3)

    def call(_):
        nonlocal token, cache
        token, cache = compiled.run(params, token, cache)
        return token

    return row | figures(compiled, case.sequences * case.new, case.new, seconds(call))


def figures(compiled: Program, tokens: int, steps: int, took: float) -> dict[str, Any]:
    need = compiled.run.memory_analysis()
    total = need.argument_size_in_bytes + need.output_size_in_bytes + need.temp_size_in_bytes
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "tokens_per_s": round(tokens / took),
        "ms_per_step": round(took / steps * 1e3, 3),
        "GiB": round((total - need.alias_size_in_bytes) / 2**30, 3),
        "device_peak_GiB": peak and round(peak / 2**30, 3),
        "kernels": compiled.kernels,
    }


def measured(measure: Callable[..., dict[str, Any]], *arguments) -> dict[str, Any]:
    """The figures, or why there are none: no kernel serves the call, or the memory is too small."""
    try:
        return measure(*arguments)
    except NotImplementedError as error:
        return {"why_not": str(error)}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"why_not": "does not fit into the device's memory"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", type=int, nargs="+", help="default 256 2048 16384")
    parser.add_argument("--models", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--tokens", type=int, help="in a training step; default 32768")
    parser.add_argument("--cached", type=int, help="in all caches; default 131072")
    parser.add_argument("--small", action="store_true", help="tiny models: does it run?")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    settings = PRESETS["gpu"]
    if options.small:
        sizes = Sizes(layers=2, heads=2, width=32, dropout=settings.sizes.dropout)
        settings = dataclasses.replace(settings, sizes=sizes, bk=BKCore(chains=8))
    contexts = options.contexts or ([32, 64] if options.small else [256, 2048, 16384])
    options.tokens = options.tokens or (128 if options.small else 2**15)
    options.cached = options.cached or (128 if options.small else 2**17)
    text = corpora.split("argparse.py", corpora.python_source(), block=1)
    tokens = jnp.asarray(text.train)
    result = {
        "device": jax.devices()[0].device_kind,
        "versions": {d.name: d.version for d in distributions() if WITH.fullmatch(d.name.lower())},
        "command": " ".join(sys.argv),
        "dtype": settings.training.dtype,
        "sizes": dataclasses.asdict(settings.sizes) | dataclasses.asdict(settings.bk),
        "rows": [],
    }
    began, made, futures = time.perf_counter(), [], {}
    with concurrent.futures.ThreadPoolExecutor(12) as pool:

        def submit(name, *job):
            return futures.get(name) or futures.setdefault(name, pool.submit(*job))

        for context in sorted(contexts, reverse=True):  # the slowest to compile first
            for name in options.models:
                case = make_case(name, context, settings, len(text.characters), options)
                made.append((case, compiling(case, tokens, submit)))
    print(f"compiled {len(futures)} programs in {time.perf_counter() - began:.0f} s", flush=True)
    for case, jobs in reversed(made):
        for work, measure in (("training", training_row), ("decoding", decoding_row)):
            row = {"work": work, "context": case.training.block, "model": case.label}
            row["parameters"] = parameters(case.model.init, case.model.config)
            row |= measured(measure, case, jobs, tokens)
            result["rows"].append(row)
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
