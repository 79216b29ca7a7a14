"""Bad input is named, with what was expected and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import dyson

KEY = jax.random.key(0)
ONE, W, H = jax.device_put((np.eye(3), np.ones((2, 3, 3)), np.ones(3)))


def layer(w, h):
    return w @ h


def probe(layer=layer, params=W, h=H, **options):
    return dyson.probe_layers(layer, params, h, key=KEY, **options)


def penalty(layer=layer, params=W, h=H, **options):
    return dyson.isometry_penalty(layer, params, h, key=KEY, **options)


BAD_VALUES = [
    (lambda: dyson.solve(ONE[:2], ONE), r"free must be square, .*got shape \(2, 3\)"),
    (lambda: dyson.solve(ONE, jnp.ones(3)), r"self_energy must be square, .*got shape \(3,\)"),
    (lambda: dyson.solve(ONE[:0, :0], ONE), "free must be square, .*n >= 1"),
    (lambda: dyson.solve(ONE, jnp.eye(2)), r"same number of sites, .*\(3, 3\) and \(2, 2\)"),
    (
        lambda: dyson.solve(jnp.ones((2, 3, 3)), jnp.ones((4, 3, 3))),
        r"do not broadcast: free \(2,\), self_energy \(4,\)",
    ),
    (lambda: dyson.solve(ONE, ONE, triangular="left"), "triangular must be one of .*got 'left'"),
    (lambda: dyson.born_series(ONE, ONE, order=-1), "order must be >= 0, got -1"),
    (lambda: dyson.born_series(ONE, ONE, order=3, tolerance=-1.0), "tolerance must be .*got -1.0"),
    (lambda: dyson.born_series(ONE, ONE, order=3, tolerance=float("nan")), "tolerance .*got nan"),
    (lambda: dyson.as_propagator(jnp.ones((3, 2))), r"propagator must be .*shape \(3, 2\)"),
    (lambda: dyson.as_propagator(jnp.ones(0)), r"propagator must be .*shape \(0,\)"),
    (lambda: dyson.as_propagator((ONE, ONE, ONE)), r"a pair \(U, V\) .*got 3 entries"),
    (lambda: dyson.as_propagator((ONE, ONE[:2])), r"U of propagator, V .*\(3, 3\), \(2, 3\)"),
    (
        lambda: dyson.as_propagator(dyson.Propagator(ONE, ONE, H)),
        r"propagator.write must share one shape \(L, r\), got .*\(3,\)",
    ),
    (lambda: dyson.apply(H, jnp.ones((2, 3))), r"source must have .* 3 layers .*shape \(2, 3\)"),
    (lambda: dyson.apply(H, jnp.ones(())), "source must have at least one axis"),
    (lambda: dyson.chain_propagator(ONE, H[1:], 1j), "onsite must have no batch axes"),
    (lambda: dyson.chain_propagator(H, H[1:], jnp.full(2, 1j)), "energy must have no batch axes"),
    (lambda: dyson.chain_propagator(H, H, 1j), "hopping must have 2 bonds"),
    (lambda: dyson.chain_propagator(H, H[1:], -1j), "positive imaginary part"),
    (lambda: probe(probes=1), "probes must be >= 2, got 1"),
    (lambda: penalty(probes=0), "probes must be >= 1, got 0"),
    (lambda: probe(params={}), "params must hold arrays .*got shapes"),
    (
        lambda: probe(params=(W, W[:1])),
        r"common first axis, layers.*\(2, 3, 3\), \(1, 3, 3\)",
    ),
    (lambda: penalty(params=jnp.ones(())), r"params must hold arrays .*got shapes \[\(\)\]"),
    (lambda: penalty(layer=lambda w, h: h[:2]), r"layer must keep .*float64\(3,\), got float64\(2"),
    (lambda: probe(layer=lambda w, h: h.astype(jnp.float32)), "layer must keep .*got float32"),
    (lambda: probe(layer=lambda w, h: (h, h)), "layer must keep .*got a tuple"),
    (
        lambda: dyson.gradient_norms(layer, W, H, ONE),
        r"cotangent must have the shape of h \(3,\), got \(3, 3\)",
    ),
    (lambda: dyson.spectrum(H, jnp.ones(2)), r"norms must have shape \(3,\), got \(2,\)"),
]
BAD_TYPES = [
    (lambda: dyson.solve(ONE.astype(int), ONE), "free must be .*got dtype int64"),
    (lambda: dyson.born_series(ONE, ONE.astype(int), order=1), "self_energy must be .*int64"),
    (lambda: dyson.born_series(ONE, ONE, order=1.5), "order must be a static Python int, got 1.5"),
    (lambda: dyson.as_propagator(H.astype(int)), "propagator must be .*got dtype int64"),
    (lambda: dyson.apply(H, H.astype(int)), "source must be .*got dtype int64"),
    (lambda: probe(h=H.astype(complex)), "h must be a real .*complex128"),
    (lambda: probe(probes=2.0), "probes must be a static Python int"),
    (lambda: dyson.gradient_norms(layer, W, H, H.astype(int)), "cotangent must be a real"),
    (lambda: dyson.spectrum(H, H.astype(int)), "norms must be a real"),
]


@pytest.mark.parametrize(("call", "message"), BAD_VALUES)
def test_a_bad_value_is_named(call, message, bare_errors):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), BAD_TYPES)
def test_a_bad_type_is_named(call, message, bare_errors):
    with pytest.raises(TypeError, match=message):
        call()
