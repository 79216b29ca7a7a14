"""Temporary memory of a training step, exactly: from the compiled program, which does not run."""

import time

import jax
import jax.numpy as jnp

from lm.rows import Model
from lm.settings import Training
from lm.step import begin, program, read_by


def of_a_step(model: Model, training: Training, *, text: int) -> int:
    """Bytes that one training step on a text of so many tokens needs beside arguments, results."""
    state = jax.eval_shape(lambda: begin(model, training))
    tokens = read_by(model, jax.ShapeDtypeStruct((text,), jnp.int32))
    first = jax.ShapeDtypeStruct((), jnp.int32)
    step = jax.jit(program(model, training, training.steps_per_call), donate_argnums=0)
    # Buffers are assigned before machine code is made, so cheap code shows the same memory.
    options = {"xla_backend_optimization_level": 0}
    compiled = step.lower(state, tokens, first).compile(compiler_options=options)
    return compiled.memory_analysis().temp_size_in_bytes


def at_other_depths(
    model: Model, training: Training, depths: tuple[int, ...], *, text: int, seconds: float = 60.0
) -> dict[int, int]:
    """Bytes at other numbers of layers than the model's, upwards as long as time remains.

    Compiling takes about as long a layer, so twice the depth takes as long as everything before:
    past half of `seconds` no further one begins.
    """
    began, found = time.perf_counter(), {}
    for depth in sorted(set(depths) - {model.config.layers}):
        if time.perf_counter() - began > seconds / 2:
            break
        found[depth] = of_a_step(model.deeper(depth), training, text=text)
    return found
