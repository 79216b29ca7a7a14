"""teleport.scan against the O(L^2) sums written out, and against plain scans."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jumping import (
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

NAMES = list(PROPAGATORS)


@functools.cache
def compiled(mode):
    def loss(params, h, propagator, strength):
        return readout(
            teleport.scan(layer, params, h, propagator=propagator, strength=strength, mode=mode)
        )

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


@functools.cache
def plain():
    def loss(params, h):
        return readout(jax.lax.scan(lambda h, own: (layer(own, h), None), h, params)[0])

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["dyson", "chain", "ghost"])
def test_equals_the_sum_written_out(mode, name):
    given, matrix = PROPAGATORS[name]
    strength = 0.2 * STRENGTH
    path = ghost_path(PARAMS, H, matrix, strength if mode == "ghost" else 0 * strength)
    value, found = compiled(mode)(PARAMS, H, given, strength)
    np.testing.assert_allclose(value, readout(path[-1]), rtol=1e-12)
    close(found, brute(PARAMS, path, matrix, strength, mode=mode))


@pytest.mark.parametrize("mode", ["dyson", "chain"])
def test_one_strength_for_all_layers(mode):
    given, matrix = PROPAGATORS["rho"]
    path = ghost_path(PARAMS, H, matrix, 0 * STRENGTH)
    found = compiled(mode)(PARAMS, H, given, 0.3)[1]
    close(found, brute(PARAMS, path, matrix, np.full(len(STRENGTH), 0.3), mode=mode))
    dyson = compiled("dyson")(PARAMS, H, given, 0.3)[1]
    assert (mode == "dyson") == bool((dyson[1]["x"] == found[1]["x"]).all())  # they do differ


@pytest.mark.parametrize("mode", ["dyson", "chain", "ghost"])
def test_strength_zero_is_plain_backpropagation(mode, optimized):
    value, expected = plain()(PARAMS, H)
    given = jnp.full(5, 1e200)  # its sums overflow; strength 0 adds nothing all the same
    given = jnp.ones(5) if mode == "ghost" else given
    found_value, found = compiled(mode)(PARAMS, H, given, 0.0)
    np.testing.assert_array_equal(found_value, value)
    close(found, expected)


def test_gate_closes_where_layers_are_no_multiple_of_the_identity():
    rho = jnp.asarray([0.9, 0.1, -0.8, jnp.nan, 0.5])
    propagator, matrix = PROPAGATORS["pair with input"]
    path = ghost_path(PARAMS, H, matrix, 0 * STRENGTH)

    @jax.jit
    def gated(params, h, gate):
        return readout(
            teleport.scan(
                layer,
                params,
                h,
                propagator=propagator,
                strength=STRENGTH,
                mode="gated",
                measured=rho,
                gate=gate,
            )
        )

    for gate, open_ in ((0.5, [1, 0, 1, 0, 1]), (0.85, [1, 0, 0, 0, 0]), (2.0, [0] * 5)):
        found = jax.grad(gated, (0, 1))(PARAMS, H, gate)
        close(found, brute(PARAMS, path, matrix, STRENGTH * np.array(open_, float), mode="dyson"))


def test_gate_reads_rho_where_nothing_else_is_measured():
    rho = jnp.asarray([0.9, 0.3, -0.8, 0.6, 0.2])
    strength = 0.3 * STRENGTH
    found = compiled("gated")(PARAMS, H, rho, strength)[1]
    shut = jnp.where(jnp.abs(rho) >= 0.5, strength, 0.0)
    close(found, compiled("dyson")(PARAMS, H, rho, shut)[1])


def test_annealing_compiles_once():
    count = 0

    @jax.jit
    def loss(params, strength):
        nonlocal count
        count += 1
        out = teleport.scan(
            layer, params, H, propagator=PROPAGATORS["rho"].given, strength=strength
        )
        return readout(out)

    for strength in (0.5, 0.1, 0.0):
        loss(PARAMS, strength)
    assert count == 1


def test_totals_of_identity_layers_grow_as_the_docstring_says():
    def growth(strength, layers):
        run = functools.partial(
            teleport.scan,
            lambda p, h: h + p,
            np.zeros(layers),
            propagator=np.ones(layers),
            strength=strength,
        )
        return float(jax.jit(jax.grad(run))(1.0))

    assert np.log(growth(0.01, 200)) == pytest.approx(200 * 0.1, rel=0.05)
    assert growth(200.0**-2, 200) < 3


def test_ghost_has_gradients_by_rho_and_strength():
    def loss(rho, strength):
        return readout(
            teleport.scan(layer, PARAMS, H, propagator=rho, strength=strength, mode="ghost")
        )

    rho = jnp.asarray([0.9, 0.5, -0.3, 0.7, 0.4])
    forward = jax.jit(jax.jacfwd(loss, (0, 1)))(rho, 0.1 * STRENGTH)
    close(jax.jit(jax.grad(loss, (0, 1)))(rho, 0.1 * STRENGTH), forward)
    assert float(jnp.abs(forward[0][1:]).min()) > 0

    def one(rho):
        return loss(rho, 0.1 * STRENGTH)

    e = 1e-6 * jnp.eye(5)[2]
    np.testing.assert_allclose((one(rho + e) - one(rho - e)) / 2e-6, forward[0][2], rtol=1e-6)
