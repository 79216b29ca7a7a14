"""A bigram model whose table may lie in parts, trained on a toy text: for tests of meshes.

Run by tests in processes of their own, which have several devices or several processes.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from lm import corpus, mesh, scale
from lm.devices import ONE, OneDevice
from lm.evaluation import Evaluator
from lm.rows import Model
from lm.settings import Training
from lm.spread import OnMesh
from lm.training import train
from rich.console import Console

TEXT = "the cat sat on the mat and the dog sat on the log, " * 40
TOY = corpus.split("toy", TEXT, block=8)
ROOM = 16  # rows of the table, more than there are characters
TRAINING = Training(
    steps=6, batch=8, block=8, warmup=2, steps_per_call=3, evaluate_every=3, checkpoint_every=3,
    clip=0.05, weight_decay=0.3,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    layers: int = 1


def init(config, key):
    table = jax.random.normal(key, (ROOM, ROOM), jnp.float32)
    return {"table": table, "bias": jnp.zeros((ROOM,), jnp.float32)}


def apply(
    config, params, tokens, *, key=None, dtype=jnp.float32, return_info=False, axes=None
) -> Any:
    """Logits of the next token; over a tensor axis each device has some rows of the table."""
    table = params["table"]
    if axes is None:
        found = table[tokens]
    else:
        rows = jnp.arange(len(table), dtype=jnp.int32)
        rows = rows + len(table) * lax.axis_index(axes.tensor)
        mine = (tokens[..., None] == rows).astype(table.dtype)
        found = lax.psum(jnp.einsum("btr,rv->btv", mine, table), axes.tensor)
    logits = found + params["bias"][None, None]
    info = {"kept_pairs": jnp.ones((), jnp.float32)}
    return (logits, info) if return_info else logits


def partition(config, params, axes):
    return {"table": P(axes.tensor, None), "bias": P()}


BIGRAM = Model("bigram", "bigram", 0.1, Config(), init, apply, partition=partition)


def spread(**sizes: int) -> OnMesh:
    return OnMesh(mesh.build(scale.Mesh(**sizes)))


def trained(
    model: Model,
    folder: Path,
    devices: OneDevice = ONE,
    *,
    text: corpus.Corpus = TOY,
    training: Training = TRAINING,
    said: list[str] | None = None,
    **options: Any,
) -> Any:
    """The parameters at the end, and what was logged without times."""
    size = {"block": training.block, "dtype": training.dtype}
    evaluator = Evaluator(model, text.validation, devices=devices, batch=8, **size)
    console = Console(quiet=said is None, width=400)
    with console.capture() as heard:
        found = train(
            model, text, training, evaluator, folder, console=console, devices=devices, **options
        )
    if said is not None:
        said.append(heard.get())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return jax.tree.map(np.asarray, found.params), [json.loads(line) for line in lines]


def equal(one: Any, other: Any, *, atol: float = 0.0) -> None:
    """Raise where parameters or metrics differ by more than this."""
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(other[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=0)
    for a, b in zip(one[1], other[1], strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"kind", "seconds"}:
            np.testing.assert_allclose(a[name], b[name], atol=2 * atol, rtol=0, err_msg=name)
