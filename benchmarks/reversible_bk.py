"""Memory and time of BK-Core's training step over depth: stored, recomputed and rebuilt blocks.

    python benchmarks/reversible_bk.py                        # some minutes on two cores
    python benchmarks/reversible_bk.py --depths 4 16 --picture memory.png

"stored" is BK-Core as it is; "recomputed" the same blocks in a scan with `jax.checkpoint` around
each, which keeps the stream between blocks; "reversible" is `BKCoreConfig(reversible=True)`, which
keeps none of it. Temporary memory is that of the compiled gradient; a time is the least of some.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from physnet.models import bk_core
from physnet.models._tokens import embed
from physnet.models.bk_core import _block, _model
from physnet.nn.layers import dropout

RESULTS = Path(__file__).parent / "results" / "reversible_bk.json"
WAYS = ("stored", "recomputed", "reversible")


def logits(way: str, config: bk_core.BKCoreConfig, params: Any, tokens: jax.Array) -> jax.Array:
    if way != "recomputed":
        return bk_core.apply(config, params, tokens)

    @jax.checkpoint
    def one(x, layer):
        return _block.block(config, layer, x, dropout(0.0, None), None).x, None

    x = embed(params["token"], tokens, jnp.float32)
    return _model.readout(params, lax.scan(one, x, params["layers"])[0])


def measured(way: str, layers: int, options: argparse.Namespace) -> dict[str, Any]:
    config = bk_core.BKCoreConfig(
        vocab_size=65, layers=layers, width=options.width, reversible=way == "reversible"
    )
    params = jax.jit(bk_core.init, static_argnums=0)(config, jax.random.key(0))
    shape = (options.batch, options.block + 1)
    tokens = jax.random.randint(jax.random.key(1), shape, 0, 65, jnp.int32)

    def loss(params, tokens):
        log_p = jax.nn.log_softmax(logits(way, config, params, tokens[:, :-1]))
        return -jnp.mean(jnp.take_along_axis(log_p, tokens[:, 1:, None], -1))

    begun = time.perf_counter()
    program = jax.jit(jax.value_and_grad(loss)).lower(params, tokens).compile()
    compilation = time.perf_counter() - begun
    times = []
    for _ in range(options.repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(program(params, tokens))
        times.append(time.perf_counter() - start)
    return {
        "way": way,
        "layers": layers,
        "MiB": program.memory_analysis().temp_size_in_bytes / 2**20,
        "ms": 1e3 * min(times[1:]),
        "compilation": compilation,
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, name, title in zip(
        axes, ("MiB", "ms"), ("Temporary memory of a step, MiB", "Time of a step, ms"), strict=True
    ):
        for way, marker in zip(WAYS, "vxo", strict=True):
            own = [(row["layers"], row[name]) for row in rows if row["way"] == way]
            axis.plot(*zip(*own, strict=True), marker=marker, label=way)
        axis.set(title=title, xlabel="layers", xscale="log", yscale="log")
        ticks = sorted({row["layers"] for row in rows})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "jax": jax.__version__,
        "command": " ".join(["benchmarks/reversible_bk.py", *sys.argv[1:]]),
        "sizes": {name: getattr(options, name) for name in ("width", "batch", "block")},
        "rows": [],
    }
    for layers in options.depths:
        for way in WAYS:
            row = measured(way, layers, options)
            result["rows"].append(row)
            print(
                "  ".join(
                    f"{k} {v:.1f}" if isinstance(v, float) else f"{v}" for k, v in row.items()
                )
            )
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    if options.picture:
        draw(result["rows"], options.picture)


if __name__ == "__main__":
    main()
