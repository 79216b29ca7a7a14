"""The plain scan and the chunked form give the same numbers; accuracy, memory and compile time."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens
from physnet.greens import _recurrence, _riccati, _waves
from physnet.greens._planes import Planes, join, split


@functools.partial(jax.jit, static_argnums=0)
def half_line(length, onsite, weight, energy, initial=0j):
    """(n, *b) by the form of this chunk length; 0 is the plain scan."""
    lane = onsite.dtype.type(0) + jnp.zeros((1, *onsite.shape[1:]), onsite.dtype)
    z = Planes(lane + energy.real, lane + energy.imag)
    start = Planes(lane + initial.real, lane + initial.imag)
    return join(_riccati._run(length, onsite, weight, z, start))


def relative(value, expected):
    value, expected = np.asarray(value, complex), np.asarray(expected)
    return np.max(np.abs(value - expected) / np.abs(expected))


@pytest.mark.parametrize(("n", "length"), [(64, 8), (200, 16), (129, 32), (17, 32)])
def test_chunks_equal_the_plain_continued_fraction(n, length):
    rng = np.random.default_rng(n)
    onsite, weight = jnp.asarray(rng.normal(size=(n, 3))), jnp.asarray(rng.exponential(size=(n, 3)))
    weight = weight.at[length % n, 1].set(0.0)  # a cut at the border of two chunks
    for energy in (0.3 + 1e-3j, 0.1 + 1j):
        plain, chunks = (half_line(c, onsite, weight, energy, 0.2 - 0.7j) for c in (0, length))
        assert relative(chunks, plain) < 1e-12
        assert np.all(chunks.imag <= 0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("n", "length"), [(64, 8), (131, 16)])
def test_chunks_equal_the_plain_recurrence(n, length, reverse):
    rng = np.random.default_rng(n)
    factor = jnp.asarray(rng.normal(size=(n, 1, 3)) + 1j * rng.normal(size=(n, 1, 3))) * 0.6
    source = jnp.asarray(rng.normal(size=(n, 4, 3)) + 1j * rng.normal(size=(n, 4, 3)))
    run = _recurrence._backward if reverse else _recurrence._forward
    run = jax.jit(run, static_argnums=0)
    plain, chunks = (join(run(c, split(factor), split(source))) for c in (0, length))
    assert np.abs(chunks - plain).max() < 1e-13 * np.abs(plain).max()
    step, y = (-1 if reverse else 1), np.zeros((4, 3), complex)
    sites = zip(*(np.asarray(x) for x in (factor, source, plain)), strict=True)
    for a, s, expected in list(sites)[::step]:
        y = a * y + s
        np.testing.assert_allclose(expected, y, rtol=1e-12, atol=1e-12)


def test_waves_together_equal_waves_apart():
    """One pass (CPUs) and one recursion after the other (accelerators), forward and backward."""
    rng = np.random.default_rng(2)

    def planes(*shape):
        return Planes(*(jnp.asarray(0.4 * rng.normal(size=shape)) for _ in range(2)))

    z = Planes(planes(1, 1, 3).real, 1 + planes(1, 1, 3).imag ** 2)
    chain = planes(40, 2, 3).real, planes(40, 1, 3), z
    state = planes(1, 1, 3), planes(1, 2, 1, 3)
    system = planes(40, 2, 3), planes(40, 2, 3), planes(40, 2, 2, 3)
    right = planes(40, 2, 3), planes(40, 2, 2, 3)
    for together, apart, operands in [
        (_waves._together, _waves._apart, (*chain, planes(40, 2, 2, 3), *state)),
        (_waves._together, _waves._apart, (*chain, planes(40, 2, 2, 3).real, *state)),
        (_waves._forward_together, _waves._forward_apart, (*system, right)),
        (_waves._backward_together, _waves._backward_apart, (*system, right)),
    ]:
        for one, other in zip(
            jax.tree.leaves(jax.jit(together)(*operands)),
            jax.tree.leaves(jax.jit(apart)(*operands)),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12 * np.abs(other).max())


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("length", [0, 16])
def test_no_form_lets_a_later_site_change_a_bit(length):
    rng = np.random.default_rng(0)
    onsite, weight = jnp.asarray(rng.normal(size=(100, 2))), jnp.asarray(rng.random((100, 2)))
    factor = Planes(jnp.asarray(rng.normal(size=(100, 2))), jnp.asarray(rng.normal(size=(100, 2))))
    source = Planes(onsite, weight)
    g = half_line(length, onsite, weight, 0.1 + 0.01j)
    forward = jax.jit(functools.partial(_recurrence._forward, length))
    y = join(forward(factor, source))
    for j in (1, 15, 16, 50, 99):
        for bad in (7.0, jnp.nan):
            changed = half_line(length, onsite.at[j:].set(bad), weight.at[j:].set(bad), 0.1 + 0.01j)
            np.testing.assert_array_equal(changed[:j], g[:j])
            later = (Planes(*(p.at[j:].set(bad) for p in x)) for x in (factor, source))
            np.testing.assert_array_equal(join(forward(*later))[:j], y[:j])


DISORDERS = (0.0, 0.5, 2.0, 10.0)


@pytest.fixture(scope="module")
def long_chains():
    """65536 sites under four strengths of disorder, in float32, and their energies."""
    rng = np.random.default_rng(7)
    onsite = np.stack([w * rng.uniform(-0.5, 0.5, 65536) for w in DISORDERS])
    return jnp.asarray(onsite, jnp.float32), jnp.ones(65535, jnp.float32)


@pytest.mark.parametrize("length", [0, 64, 256])
def test_float32_accuracy_of_each_form(length, long_chains):
    onsite, weight = long_chains[0].T, jnp.ones((65536, 4), jnp.float32).at[0].set(0.0)
    for eta, tolerance in [(1e-3, 2e-4), (1e-2, 2e-5)]:
        z = np.complex64(0.3 + 1j * eta)
        single = half_line(length, onsite, weight, z)
        double = half_line(0, onsite.astype(float), weight.astype(float), complex(z))
        assert relative(single, double) < tolerance


def loss(onsite, hopping):
    return jnp.sum(greens.ldos(onsite, hopping, 0.3 + 0.01j) ** 2)


def lowered(function, *shape):
    onsite = jax.ShapeDtypeStruct(shape, jnp.float32)
    hopping = jax.ShapeDtypeStruct((shape[-1] - 1,), jnp.float32)
    return jax.jit(function).lower(onsite, hopping)


@pytest.mark.parametrize("lanes", [1, 4])  # the plain scan and chunks
def test_long_chains_take_linear_memory_and_programs_no_longer_than_short_ones(lanes):
    function = jax.value_and_grad(loss, (0, 1))
    # buffers are assigned before machine code is made: cheap code shows the same memory
    cheap = {"xla_backend_optimization_level": 0}
    operations, memory = [], []
    for length in (8192, 65536):
        program = lowered(function, lanes, length)
        operations.append(program.as_text().count("stablehlo."))
        compiled = program.compile(compiler_options=cheap)
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    assert operations[1] <= 1.1 * operations[0] < 3000
    assert 4 * memory[0] < memory[1] < 10 * memory[0]  # 8 times the sites
    assert memory[1] < 64 * 4 * 65536 * lanes


def wave_loss(onsite, hopping):
    source = onsite[:, None]
    y, psi = (f(onsite, hopping, 1j, source) for f in (greens.propagate, greens.solve))
    return jnp.sum(jnp.abs(y) ** 2) + jnp.sum(jnp.abs(psi) ** 2)


@pytest.mark.parametrize("function", [loss, wave_loss])
def test_accelerators_get_short_loops(function):
    """No loop over all sites in a program for a GPU; on the CPU a single lane has one."""
    shapes = (
        jax.ShapeDtypeStruct((4096,), jnp.float32),
        jax.ShapeDtypeStruct((4095,), jnp.float32),
    )
    gradient = jax.jit(jax.grad(function, (0, 1)))
    text = {
        platform: jax.export.export(gradient, platforms=[platform])(*shapes).mlir_module()
        for platform in ("cpu", "cuda")
    }
    trips = {
        platform: {
            int(t) for t in re.findall(r"stablehlo.constant dense<(\d+)> : tensor<i", module)
        }
        for platform, module in text.items()
    }
    assert 4096 in trips["cpu"]
    assert 16 <= max(trips["cuda"]) <= 128
