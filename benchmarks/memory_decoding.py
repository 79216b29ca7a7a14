"""Bytes and time of a token while decoding: full cache, window, boundary memory.

    python benchmarks/memory_decoding.py                     # some minutes on two cores
    python benchmarks/memory_decoding.py --preset smoke      # some seconds, prints alone

One head of 64 channels in float32 decodes one token after another behind N of them, N from 1e3 to
1e6, all of which went through the same functions. "bytes" are those of all arrays of the state,
"temporary" what the compiled step needs beside it, "us" the median time of a token: its key and
value go in, its query attends. The window has as many bytes as the memory without quantisation.
"entries" is what a query sees of the tokens. Rows "bk_core" are the caches of a whole model of 4
layers and 4 heads of 32 channels, counted from their shapes: the cache with room for all tokens,
and with a memory in its place.
"""

import argparse
import functools
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from physnet.holography import memory
from physnet.models import bk_core

RESULTS = Path(__file__).parent / "results" / "memory_decoding.json"
D = 64
PIECE = 200  # divides every length
LENGTHS = {"smoke": (200, 1_000), "full": (1_000, 10_000, 100_000, 1_000_000)}
BOUNDARY = memory.Config(window=64, block=16, sinks=4, landmarks=64, per_level=4, levels=16)


class Full(NamedTuple):
    """All keys and values, and how many there are."""

    key: jax.Array
    value: jax.Array
    count: jax.Array


def full(state: Full, query: jax.Array, key: jax.Array, value: jax.Array):
    """A token more, and attention over all so far."""
    keys = jax.lax.dynamic_update_slice_in_dim(state.key, key[None], state.count, 0)
    values = jax.lax.dynamic_update_slice_in_dim(state.value, value[None], state.count, 0)
    logits = keys @ query * D**-0.5
    seen = jnp.arange(len(keys), dtype=jnp.int32) <= state.count
    weight = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf))
    return weight @ values, Full(keys, values, state.count + 1)


def bounded(state: memory.Memory, query: jax.Array, key: jax.Array, value: jax.Array, score):
    """The same through a memory."""
    state = memory.append(state, key, value, score)
    return memory.attend(query, state), state


extend = jax.jit(memory.extend)
steps = {way: jax.jit(way, donate_argnums=0) for way in (full, bounded)}


def window_alone(config: memory.Config) -> memory.Config:
    """As many bytes in a window and its sinks."""
    return memory.configure(config.nbytes(D), D, levels=0, block=config.block, window_share=1.0)


def ways(preset: str) -> dict[str, memory.Config | None]:
    ways: dict[str, memory.Config | None] = {"full": None, "window": window_alone(BOUNDARY)}
    for bits in (None, 4) if preset == "smoke" else (None, 8, 4, 2):
        name = "memory" if bits is None else f"memory, {bits} bits"
        ways[name] = memory.Config(**(vars(BOUNDARY) | {"bits": bits}))
    return ways


def tokens(count: int, seed: int) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    key, value = (rng.standard_normal((count, D), np.float32) for _ in range(2))
    return jnp.asarray(key), jnp.asarray(value), jnp.asarray(rng.random(count, np.float32))


def filled(config: memory.Config | None, length: int, spare: int) -> Any:
    """The state behind so many tokens; the full cache with room for a few more."""
    if config is None:
        key, value, _ = tokens(length + spare, 0)
        return Full(key, value, jnp.asarray(length, jnp.int32))
    state = memory.init(None, D, config=config)
    for n in range(0, length, PIECE):
        state = extend(state, *tokens(PIECE, n))
    return jax.block_until_ready(state)


@functools.cache
def temporaries(step: Any, shapes: Any) -> int:
    return step.lower(*shapes).compile().memory_analysis().temp_size_in_bytes


def measured(config: memory.Config | None, length: int, repeats: int) -> dict[str, Any]:
    """Bytes, temporaries and time of a token behind `length` others."""
    state = filled(config, length, repeats + 8)
    new = tokens(repeats + 8, 1)
    query = tokens(repeats + 8, 2)[0]
    first = (query[0], new[0][0], new[1][0]) + (() if config is None else (new[2][0],))
    step = steps[full if config is None else bounded]
    temporary = temporaries(step, jax.eval_shape(lambda *x: x, state, *first))
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    times = []
    for n in range(repeats + 8):
        given = (query[n], *(x[n] for x in new[: len(first) - 1]))
        jax.block_until_ready(given)
        start = time.perf_counter()
        y, state = step(state, *given)
        jax.block_until_ready(y)
        times.append(time.perf_counter() - start)
        assert bool(jnp.isfinite(y).all())
    entries = length + repeats + 8
    if config is not None:
        entries = int(jnp.sum(memory.slots(state).mass > 0))
    return {
        "bytes": size,
        "temporary": temporary,
        "us": 1e6 * float(np.median(times[8:])),
        "entries": entries,
    }


def model_bytes(length: int) -> dict[str, int]:
    """Bytes of the caches of a model with room for so many tokens."""
    sizes = {"vocab_size": 256, "layers": 4, "heads": 4, "width": 128}
    found = {}
    for name, own in (("bk_core, full", None), ("bk_core, memory", BOUNDARY)):
        config = bk_core.BKCoreConfig(**sizes, memory=own)
        make = functools.partial(bk_core.init_cache, config, 1, length)
        leaves = jax.tree.leaves(jax.eval_shape(make))
        found[name] = sum(x.size * x.dtype.itemsize for x in leaves)
    return found


def run(preset: str) -> list[dict[str, Any]]:
    rows = []
    for length in LENGTHS[preset]:
        for name, config in ways(preset).items():
            row = {"way": name, "tokens": length}
            row |= measured(config, length, 24 if preset == "smoke" else 96)
            rows.append(row)
            print(
                f"{length:>9,} {name:16} {row['bytes']:>13,} bytes {row['us']:>9.1f} us "
                f"{row['entries']:>9,} entries",
                flush=True,
            )
        for name, size in model_bytes(length).items():
            rows.append({"way": name, "tokens": length, "bytes": size})
            print(f"{length:>9,} {name:16} {size:>13,} bytes", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=tuple(LENGTHS), default="full")
    parser.add_argument("--output", type=Path, help="JSON; of the full preset results/ by default")
    options = parser.parse_args()
    rows = run(options.preset)
    output = options.output or (RESULTS if options.preset == "full" else None)
    if output is not None:
        result = {
            "device": jax.devices()[0].device_kind,
            "processor": platform.processor() or platform.machine(),
            "versions": {"jax": jax.__version__, "python": platform.python_version()},
            "command": " ".join(["benchmarks/memory_decoding.py", *sys.argv[1:]]),
            "sizes": {
                "channels": D,
                "memory": vars(BOUNDARY),
                "window": vars(window_alone(BOUNDARY)),
            },
            "rows": rows,
        }
        output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
