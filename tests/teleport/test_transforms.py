"""Batches, remat, closures, dtypes, keys, second order, memory, and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jumping import (
    LAYERS,
    PARAMS,
    PROPAGATORS,
    STRENGTH,
    H,
    brute,
    close,
    ghost_path,
    layer,
    readout,
)

from physnet import teleport

MODES = ["dyson", "chain", "ghost"]
RHO = jnp.asarray([0.9, 0.5, -0.3, 0.7, 0.4])


def run(params, h, rho, strength, mode, layer=layer):
    return teleport.scan(layer, params, h, propagator=rho, strength=strength, mode=mode)


def batched(tree, seed=2):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x[None] * rng.normal(1.0, 0.1, size=(2, *x.shape)), tree)


@functools.partial(jax.jit, static_argnums=0)
def gradients_of_one(mode, *arguments):
    return jax.grad(lambda *a: readout(run(*a, mode)), (0, 1))(*arguments)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", range(4), ids=["params", "h", "rho", "strength"])
def test_vmap_of_any_argument_inside_and_outside_of_grad(mode, which):
    arguments = [PARAMS, H, RHO, 0.1 * STRENGTH]
    arguments[which] = batched(arguments[which])
    axes = [0 if i == which else None for i in range(4)]

    def loss(*arguments):
        return readout(run(*arguments, mode))

    inside = jax.vmap(jax.grad(loss, (0, 1)), axes)
    outside = jax.grad(lambda *a: jnp.sum(jax.vmap(loss, axes)(*a)), (0, 1))
    both, summed = jax.jit(lambda *a: (inside(*a), outside(*a)))(*arguments)
    each = []
    for i in range(2):
        own = [*arguments]
        own[which] = jax.tree.map(lambda x, i=i: x[i], own[which])
        each.append(gradients_of_one(mode, *own))
    close(both, jax.tree.map(lambda *x: jnp.stack(x), *each))
    total = jax.tree.map(lambda x: x.sum(0), both)
    for i in range(2):  # what has the batch axis keeps it
        close(summed[i], both[i] if i == which else total[i])


@pytest.mark.parametrize("mode", MODES)
def test_closed_over_arrays_have_teleported_gradients(mode):
    shared = jnp.asarray(np.random.default_rng(3).normal(size=(4, 4)) / 2)
    params, matrix = PARAMS["b"], PROPAGATORS["rho"].matrix

    def with_shared(own, h):
        w, b = own
        return jnp.tanh(h @ w) + 0.5 * h * b[None, :]

    def loss(shared, params):
        out = run(params, H["x"], PROPAGATORS["rho"].given, 0.1 * STRENGTH, mode,
                  lambda b, h: with_shared((shared, b), h))  # fmt: skip
        return jnp.sum(jnp.sin(out))

    found = jax.jit(jax.grad(loss, (0, 1)))(shared, params)
    copies = (jnp.broadcast_to(shared, (LAYERS, 4, 4)), params)
    strength = 0.1 * np.asarray(STRENGTH)
    path = ghost_path(copies, H["x"], matrix, strength * (mode == "ghost"), with_shared)
    of_copies, _ = brute(copies, path, matrix, strength, mode=mode, layer=with_shared,
                         readout=lambda h: jnp.sum(jnp.sin(h)))  # fmt: skip
    close(found, (of_copies[0].sum(0), of_copies[1]))


@pytest.mark.parametrize("mode", MODES)
def test_remat_and_keys_and_integers(mode):
    keys = jax.random.split(jax.random.key(0), LAYERS)

    def noisy(own, h):
        (params, key, index), (state, count) = own, h
        mask = jax.random.bernoulli(key, 0.7, state["x"].shape).astype(state["x"].dtype)
        out = layer(params, state)
        return {"x": out["x"] * mask, "y": out["y"]}, count + index

    @functools.partial(jax.jit, static_argnums=2)
    def gradient(params, h, remat):
        def loss(params, h):
            step = jax.checkpoint(noisy) if remat else noisy
            given = (params, keys, jnp.arange(LAYERS))
            out, count = run(given, (h, jnp.zeros((), int)), RHO, 0.1 * STRENGTH, mode, step)
            return readout(out), count

        return jax.grad(loss, (0, 1), has_aux=True)(params, h)

    found, count = gradient(PARAMS, H, False)
    again, _ = gradient(PARAMS, H, True)
    assert int(count) == 10
    close(again, found)
    assert float(jnp.abs(found[0]["w"]).max()) > 0


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_sums_in_float32(mode):
    layers = 64
    narrow = functools.partial(run, jnp.zeros((layers, 2), jnp.bfloat16), rho=jnp.ones(layers))

    def loss(h):
        out = narrow(h=h, strength=1e-4, mode=mode, layer=lambda b, h: h + b)
        assert out.dtype == jnp.bfloat16
        return jnp.sum(out.astype(jnp.float32))

    found = jax.jit(jax.grad(loss))(jnp.ones(2, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    # One jump adds 1e-4 (1 + ... + 64) = .208, or 0 if each bfloat16 total swallowed its own.
    if mode == "chain":
        np.testing.assert_allclose(np.float32(found), 1 + 64e-4, rtol=0.01)
    assert (np.float32(found) < 1.3).all()


def test_float32_stays_under_x64():
    single = jax.tree.map(lambda x: x.astype(jnp.float32), (PARAMS, H))
    for mode in MODES:
        found = jax.eval_shape(
            jax.grad(lambda p, h, m=mode: readout(run(p, h, RHO, 0.1, m)), (0, 1)), *single
        )
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_second_order_in_reverse_and_no_forward_mode():
    def norm(w, mode):
        def loss(w):
            return jnp.sum(run(w, 0.7, RHO, 0.1, mode, lambda w, h: jnp.tanh(w * h)))

        return jnp.sum(jax.grad(loss)(w) ** 2)

    w = jnp.asarray([0.9, 1.1, 0.8, 1.2, 1.0])
    for mode in MODES:
        f = jax.jit(functools.partial(norm, mode=mode))
        slope = jax.jit(jax.grad(f))(w)
        e = 1e-6 * jnp.eye(LAYERS)[1]
        np.testing.assert_allclose((f(w + e) - f(w - e)) / 2e-6, slope[1], rtol=1e-7)
    for mode in ("dyson", "chain"):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(lambda w, m=mode: run(w, 0.7, RHO, 0.1, m, lambda w, h: w * h), (w,), (w,))


def temporary(mode, layers, propagator, rows=256, width=32):
    shape = jax.ShapeDtypeStruct((layers, width, width), jnp.float32)
    h = jax.ShapeDtypeStruct((rows, width), jnp.float32)

    def dense(w, h):
        return jnp.tanh(h @ w)

    def loss(w, h):
        if mode is None:
            return jnp.sum(jax.lax.scan(lambda h, w: (dense(w, h), None), h, w)[0])
        return jnp.sum(run(w, h, propagator(layers), 0.1, mode, dense))

    compiled = jax.jit(jax.grad(loss)).lower(shape, h).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (rows * width * 4)


@pytest.mark.slow
def test_memory_beside_a_plain_scan():
    """Temporary memory in units of one h: rho costs a few whatever the depth, "ghost" none more."""
    rho = functools.partial(jnp.full, fill_value=0.5, dtype=jnp.float32)
    for layers in (16, 256):
        base = temporary(None, layers, rho)
        for mode, most in (("dyson", 4), ("chain", 6), ("ghost", 4)):
            extra = temporary(mode, layers, rho) - base
            assert extra <= most, (mode, layers, extra, base)


@pytest.mark.parametrize("mode", MODES)
def test_no_layers_and_one_layer(mode):
    for layers, slope in ((0, 1.0), (1, 3.5)):
        few = functools.partial(
            run, jnp.full(layers, 3.0), rho=jnp.ones(layers), strength=0.5, mode=mode
        )
        assert jax.grad(lambda h, few=few: few(h=h, layer=lambda w, h: w * h))(2.0) == slope


def test_gradients_apart():
    def loss(params, strength, mode="dyson"):
        return readout(run(params, H, RHO, strength, mode))

    strength = 0.1 * STRENGTH
    value, (local, teleported) = jax.jit(
        lambda p: teleport.gradients(loss, p, strength=strength, return_value=True)
    )(PARAMS)
    plain, total = (jax.jit(jax.grad(loss))(PARAMS, s) for s in (0 * strength, strength))
    close(local, plain)
    close(jax.tree.map(jnp.add, local, teleported), total)
    np.testing.assert_allclose(value, loss(PARAMS, 0.0), rtol=1e-12)
    np.testing.assert_array_equal(teleported["w"][-1], 0 * teleported["w"][-1])
    assert float(jnp.abs(teleported["w"][0]).max()) > 1e-3


def test_errors_name_what_is_wrong(bare_errors):
    w = jnp.ones(3)
    scan = functools.partial(teleport.scan, lambda w, h: w * h)
    with pytest.raises(ValueError, match=r"propagator must be rho \(3,\).*got shape \(2,\)"):
        scan(w, 1.0, propagator=jnp.ones(2), strength=0.1)
    with pytest.raises(ValueError, match=r"two arrays \(3, r\) or \(4, r\).*\(3, 2\) and \(3, 1\)"):
        scan(w, 1.0, propagator=(jnp.ones((3, 2)), jnp.ones((3, 1))), strength=0.1)
    with pytest.raises(TypeError, match="propagator must be a real floating"):
        scan(w, 1.0, propagator=jnp.ones(3, int), strength=0.1)
    with pytest.raises(ValueError, match=r"strength must be a number or \(3,\), got shape \(2,\)"):
        scan(w, 1.0, propagator=w, strength=jnp.ones(2))
    with pytest.raises(ValueError, match="mode must be one of"):
        scan(w, 1.0, propagator=w, strength=0.1, mode="born")
    with pytest.raises(ValueError, match=r"needs measured \(3,\).*got measured=None"):
        scan(w, 1.0, propagator=jnp.ones((3, 3)), strength=0.1, mode="gated")
    with pytest.raises(ValueError, match="measured belongs to mode='gated', got mode='dyson'"):
        scan(w, 1.0, propagator=w, strength=0.1, measured=w)
    with pytest.raises(ValueError, match=r"params must hold arrays .* first axis, layers"):
        scan((w, jnp.ones(2)), 1.0, propagator=w, strength=0.1)
    with pytest.raises(TypeError, match=r"must return the tree.*float64\(\).*got.*float64\(2,\)"):
        teleport.scan(lambda w, h: jnp.stack([h, h]), w, 1.0, propagator=w, strength=0.1)
