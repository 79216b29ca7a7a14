"""jit, nested vmap, scan and shard_map; dtypes; the state of the NaNs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens


def everything(onsite, hopping, energy, source):
    """All functions of a chain, as one pytree."""
    return {
        "diagonal": greens.diagonal(onsite, hopping, energy),
        "left": greens.left(onsite, hopping, energy),
        "ldos": greens.ldos(onsite, hopping, energy),
        "window": greens.window(onsite, hopping, center=0.0, radius=1.0, order=4),
        "causal": greens.window(onsite, hopping, center=0.0, radius=1.0, order=4, causal=True),
        "propagate": greens.propagate(onsite, hopping, energy, source),
        "solve": greens.solve(onsite, hopping, energy, source),
    }


compiled = jax.jit(everything)


def total(onsite, hopping, energy, source):
    """A number that depends on the two-sided and the propagated."""
    waves = greens.propagate(onsite, hopping, energy, source)
    return jnp.sum(greens.ldos(onsite, hopping, energy) ** 2) + jnp.sum(jnp.abs(waves) ** 2)


@pytest.fixture
def arguments(random_chain):
    onsite, hopping, energy = random_chain(24, (3, 2), (3, 1), (2,))
    return onsite, hopping, energy, jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 24, 2)))


def assert_trees_close(ours, expected, rtol=1e-11):
    for value, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(value, other, rtol=rtol, atol=1e-13)


def test_jit_and_nested_vmap(arguments):
    onsite, hopping, energy, source = arguments
    whole = compiled(*arguments)
    assert_trees_close(greens.propagate(*arguments), whole["propagate"])  # without jit
    inner = jax.vmap(everything, in_axes=(0, None, 0, 0))
    outer = jax.jit(jax.vmap(inner, in_axes=(0, 0, None, 0)))
    assert_trees_close(outer(onsite, hopping[:, 0], energy, source), whole)


@pytest.mark.slow
def test_gradients_of_vmap_and_vmap_of_gradients(arguments):
    onsite, hopping, energy, source = arguments
    whole = jax.jit(jax.grad(total, (0, 1, 2, 3)))(onsite, hopping, energy, source)
    inner = jax.vmap(total, in_axes=(0, None, 0, 0))
    outer = jax.vmap(inner, in_axes=(0, 0, None, 0))
    mapped = jax.jit(jax.grad(lambda *a: outer(*a).sum(), (0, 1, 2, 3)))
    result = mapped(onsite, hopping[:, 0], energy, source)
    assert_trees_close((result[0], result[1][:, None], *result[2:]), whole)
    each = jax.jit(jax.vmap(jax.grad(total), in_axes=(0, 0, None, 0)))(*arguments)
    assert_trees_close(each, whole[0])


def test_inside_a_scan(arguments):
    onsite, hopping, energy, source = arguments
    step = jax.jit(lambda *a: jax.lax.scan(lambda c, x: (c, everything(*x, energy, c)), *a)[1])
    rows = step(source[0], (onsite, hopping))
    for i in range(3):
        row = jax.tree.map(lambda x, i=i: x[i], rows)
        assert_trees_close(row, compiled(onsite[i], hopping[i], energy, source[0]))


def test_float32_stays_float32_under_x64(arguments):
    onsite, hopping, energy, source = (
        jnp.asarray(x, jnp.complex64 if jnp.iscomplexobj(x) else jnp.float32) for x in arguments
    )
    for z in (
        0.3 + 0.1j,
        np.complex128(0.3 + 0.1j),
        np.full(2, 0.3 + 0.1j),
        energy,
        energy.astype(complex),
    ):
        shapes = jax.eval_shape(
            lambda *a, z=z: everything(*a[:2], z, a[2]), onsite, hopping, source
        )
        for name, value in shapes.items():
            real = name in ("ldos", "window", "causal")
            assert value.dtype == (jnp.float32 if real else jnp.complex64), name
    gradients = jax.eval_shape(jax.grad(total, (0, 1, 2, 3)), onsite, hopping, energy, source)
    assert [g.dtype for g in gradients] == [x.dtype for x in (onsite, hopping, energy, source)]
    wide = greens.window(onsite, hopping, center=np.float64(0.1), radius=np.float64(1.0))
    assert wide.dtype == greens.diagonal(onsite, hopping, 1j).real.dtype == jnp.float32


def test_half_precision_is_computed_in_float32(arguments):
    dtype = jnp.bfloat16
    onsite, _, energy, source = arguments
    low = onsite.astype(dtype), jnp.ones(23, dtype), energy, source.astype(dtype)
    wide = tuple(x.astype(jnp.float32) for x in low[:2]), low[3].astype(jnp.float32)
    ours, expected = compiled(*low), compiled(*wide[0], energy, wide[1])
    for name, value in ours.items():
        assert value.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(value, expected[name])
    assert jax.eval_shape(jax.grad(total), *low).dtype == dtype


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from physnet import greens

assert jax.device_count() == 2
mesh = jax.make_mesh((2,), ("chains",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)
onsite, source = rng.normal(size=(4, 150)), rng.normal(size=(4, 150, 2))
arguments = (
    jnp.asarray(onsite, jnp.float32), jnp.ones(149), jnp.complex64(0.1 + 0.2j),
    jnp.asarray(source, jnp.float32),
)

def total(onsite, hopping, energy, source):
    values = (
        greens.ldos(onsite, hopping, energy),
        greens.window(onsite, hopping, center=0.0, radius=1.0, causal=True),
        jnp.abs(greens.propagate(onsite, hopping, energy, source)).sum(-1),
        jnp.abs(greens.solve(onsite, hopping, energy, source)).sum(-1),
    )
    return sum((value ** 2).sum(-1) for value in values)

specs = (P("chains"), P(), P(), P("chains"))
sharded = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=P("chains"))
def gradients(f):
    return jax.jit(jax.value_and_grad(lambda *a: f(*a).sum(), (0, 1, 2, 3)))(*arguments)
for a, b in zip(jax.tree.leaves(gradients(sharded)), jax.tree.leaves(gradients(total))):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_under_shard_map_on_two_devices(on_devices):
    assert on_devices(SHARDED, 2) == "equal"
