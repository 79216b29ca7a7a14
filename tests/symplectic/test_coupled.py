"""Reversible residual networks against plain loops over their layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import symplectic

DEPTH, WIDTH = 9, 5


def kick(scale, position, own):
    index, weights, key = own
    kept = jax.random.bernoulli(key, 0.8, position.shape)
    return scale * jnp.where(kept, jnp.tanh(position @ weights["in"]), 0) / (1 + index)


def drift(scale, momentum, own):
    return scale**2 * jnp.sin(momentum @ own[1]["out"])


def operands(dtype):
    r = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(r.normal(size=shape), dtype)  # noqa: E731
    weights = {name: draw(DEPTH, WIDTH, WIDTH) for name in ("in", "out")}
    layers = (
        jnp.arange(DEPTH).astype(dtype),
        weights,
        jax.random.split(jax.random.key(1), DEPTH),
    )
    return jnp.asarray(0.7, dtype), (draw(3, WIDTH), draw(3, WIDTH)), layers


def plainly(scale, state, layers):
    position, momentum = state
    for k in range(DEPTH):
        own = jax.tree.map(lambda x, k=k: x[k], layers)
        momentum = momentum + kick(scale, position, own)
        position = position + drift(scale, momentum, own)
    return position, momentum


def scanned(scale, state, layers, **options):
    return symplectic.coupled_scan(kick, drift, state, scale, layers, steps=DEPTH, **options)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(run, scale, state, layers):
    def loss(scale, state, index, weights):
        q, p = run(scale, state, (index, weights, layers[2]))
        return jnp.sum(q**2) + jnp.sum(jnp.sin(p)), (q, p)

    return jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)(scale, state, *layers[:2])


def close(found, wanted, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, wanted
    )


def test_values_and_gradients_are_those_of_a_loop():
    close(
        value_and_gradients(scanned, *operands(jnp.float64)),
        value_and_gradients(plainly, *operands(jnp.float64)),
        1e-11,
    )


@pytest.mark.parametrize("dtype", ["int32", "float32", "int64"])
def test_gradients_on_a_lattice_are_those_of_the_smooth_map(dtype):
    lattice = symplectic.Lattice(dtype=dtype)
    wide = jnp.float64 if dtype == "int64" else jnp.float32
    run = functools.partial(scanned, lattice=lattice)
    found = value_and_gradients(run, *operands(wide))
    assert {str(x.dtype) for x in jax.tree.leaves(found)} == {np.dtype(wide).name}
    wanted = value_and_gradients(plainly, *operands(jnp.float64))
    close(found, wanted, {"int32": 2e-5, "float32": 2e-4, "int64": 1e-9}[dtype])


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_the_way_back_ends_at_the_same_bits(dtype):
    scale, state, layers = operands(jnp.float32)
    lattice = symplectic.Lattice(dtype=dtype)

    @jax.jit
    def there_and_back(state):
        there, info = scanned(scale, state, layers, lattice=lattice, return_info=True)
        back, ended = scanned(
            scale, there, layers, lattice=lattice, backwards=True, return_info=True
        )
        return there, back, info, ended

    start = lattice.quantise(state)
    there, back, info, ended = there_and_back(start)
    jax.tree.map(np.testing.assert_array_equal, back.bits, start.bits)
    assert any((a != b).any() for a, b in zip(there.bits, start.bits, strict=True))
    symplectic.check(info, back=ended)


def test_vmap_is_a_loop_over_the_batch():
    scale, (q, p), layers = operands(jnp.float64)
    batched = jax.jit(jax.vmap(scanned, (None, 0, None)))(scale, (q, p), layers)
    batched, q, p = jax.tree.map(np.asarray, (batched, q, p))
    alone = jax.jit(scanned)
    for i in range(len(q)):
        one = jax.tree.map(lambda x, i=i: x[i], batched)
        close(one, alone(scale, (q[i], p[i]), layers), 1e-12)


def test_memory_of_a_gradient_does_not_grow_with_depth():
    def temporary(depth):
        weights = jnp.zeros((depth, 64, 64), jnp.float32)
        x = jnp.zeros((256, 64), jnp.float32)
        layer = lambda _, x, own: jnp.tanh(x @ own)  # noqa: E731

        def loss(weights, x):
            state = symplectic.coupled_scan(
                layer, layer, (x, x), None, weights, steps=depth, lattice=symplectic.Lattice()
            )
            return jnp.sum(state[0] ** 2)

        program = jax.jit(jax.grad(loss)).lower(weights, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(64) < 1.05 * temporary(4)


@pytest.mark.usefixtures("bare_errors")
def test_errors_name_the_function():
    x = jnp.ones(3)
    wide = lambda _, x, own: jnp.concatenate([x, x])  # noqa: E731
    fine = lambda _, x, own: x  # noqa: E731
    for functions, name in (((wide, fine), "kick"), ((fine, wide), "drift")):
        with pytest.raises(ValueError, match=rf"{name}\(params, .*must have the shapes"):
            symplectic.coupled_scan(*functions, (x, x), None, steps=2)
    with pytest.raises(ValueError, match="leading axis steps = 3"):
        symplectic.coupled_scan(fine, fine, (x, x), None, jnp.ones(2), steps=3)
