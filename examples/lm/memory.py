"""Temporary memory of a training step, exactly: from the compiled program, which does not run."""

import time

from lm.devices import ONE, OneDevice
from lm.rows import Model
from lm.settings import Training
from lm.step import read_by


def of_a_step(
    model: Model, training: Training, *, text: int | None, devices: OneDevice = ONE
) -> int:
    """Bytes that one training step needs beside arguments and results, on each device.

    The step draws from a text of so many tokens, or is given batches where `text` is None.
    """
    state = devices.shapes(model, training)
    count = training.steps_per_call
    tokens = devices.batches_shape(training, count) if text is None else devices.text_shape(text)
    first = devices.text_shape()
    step = devices.program(model, training, count, given=text is None)
    # Buffers are assigned before machine code is made, so cheap code shows the same memory.
    options = {"xla_backend_optimization_level": 0}
    compiled = step.lower(state, read_by(model, tokens), first).compile(compiler_options=options)
    return compiled.memory_analysis().temp_size_in_bytes


def at_other_depths(
    model: Model,
    training: Training,
    depths: tuple[int, ...],
    *,
    text: int | None,
    seconds: float = 60.0,
    devices: OneDevice = ONE,
) -> dict[int, int]:
    """Bytes at other numbers of layers than the model's, upwards as long as time remains.

    Compiling takes about as long a layer, so twice the depth takes as long as everything before:
    past half of `seconds` no further one begins.
    """
    began, found = time.perf_counter(), {}
    for depth in sorted(set(depths) - {model.config.layers}):
        if time.perf_counter() - began > seconds / 2:
            break
        found[depth] = of_a_step(model.deeper(depth), training, text=text, devices=devices)
    return found
