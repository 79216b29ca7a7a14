"""What is refused, and in which words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import symplectic

STATE = (jnp.ones(3), jnp.ones(3))
LATTICE = symplectic.Lattice()


def spring(k, q, _):
    return -k * q


def call(function, **changed):
    arguments = {"force": spring, "state": STATE, "params": 1.0, "steps": 2, "step_size": 0.1}
    return function(**arguments | changed)


@pytest.mark.parametrize(
    "function", [symplectic.leapfrog, symplectic.reversible_scan, symplectic.inverse]
)
@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"state": jnp.ones(3)}, TypeError, "state must be a pair"),
        ({"state": (jnp.ones(3), jnp.ones(2))}, ValueError, r"momentum .* float64\[2\]"),
        ({"state": (jnp.ones(3), jnp.ones(3, jnp.float32))}, TypeError, "momentum .* dtypes"),
        ({"state": (jnp.ones(3), [jnp.ones(3)])}, TypeError, "momentum must be like position"),
        ({"state": ((), ())}, ValueError, "position must hold at least one array"),
        ({"state": (jnp.ones(3, int), jnp.ones(3, int))}, TypeError, "position .* int64"),
        ({"state": LATTICE.quantise(STATE)}, TypeError, "got a LatticeState: pass its lattice"),
        (
            {"state": tuple(map(LATTICE.quantise, STATE))},
            TypeError,
            "got a LatticeState: pass its lattice",
        ),
        ({"steps": 0}, ValueError, "steps must be >= 1, got 0"),
        ({"steps": 2.0}, TypeError, "steps must be a static Python int"),
        ({"inputs": jnp.ones((3, 3))}, ValueError, r"leading axis steps = 2, got float64\[3,3\]"),
        ({"inputs": jnp.ones(())}, ValueError, "leading axis steps = 2"),
        ({"step_size": np.nan}, ValueError, "step_size must be finite, got nan"),
        ({"step_size": jnp.inf}, ValueError, "step_size must be finite, got inf"),
        ({"step_size": jnp.ones(3)}, ValueError, r"step_size must be a scalar, got shape \(3,\)"),
        ({"friction": np.inf}, ValueError, "friction must be finite"),
        ({"scheme": "euler"}, ValueError, "scheme must be one of"),
        ({"order": 3}, ValueError, r"order must be one of \(2, 4\), got 3"),
        ({"force": lambda k, q, _: q[:2]}, ValueError, r"force\(.*position.* float64\[2\]"),
        ({"force": lambda k, q, _: (q, q)}, TypeError, "must be like position"),
        ({"force": lambda k, q, _: q > 0}, TypeError, "real floating-point array, got dtype bool"),
    ],
)
def test_arguments_that_do_not_fit(function, changed, error, words, bare_errors):
    with pytest.raises(error, match=words):
        jax.eval_shape(lambda: call(function, **changed))


@pytest.mark.parametrize("function", [symplectic.reversible_scan, symplectic.inverse])
@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"friction": 0.1}, ValueError, "friction must be 0 on a lattice"),
        (
            {"state": symplectic.Lattice(dtype="int64").quantise(STATE)},
            TypeError,
            r"state.bits must be int32 on this lattice, got \['int64'\]",
        ),
        (
            {"state": (LATTICE.quantise(STATE[0]), STATE[1])},
            TypeError,
            "state must be a LatticeState",
        ),
        (
            {"state": LATTICE.quantise(STATE[0])},
            TypeError,
            "state must be a pair",
        ),
        (
            {"state": LATTICE.quantise(STATE)._replace(bits=(jnp.ones(3, jnp.int32),) * 3)},
            TypeError,
            "state.bits must be like state.value",
        ),
    ],
)
def test_lattice_states_that_do_not_fit(function, changed, error, words, bare_errors):
    with pytest.raises(error, match=words):
        jax.eval_shape(lambda: call(function, **{"lattice": LATTICE} | changed))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 1000}, "scale must be a power of two, got 1000"),
        ({"scale": -2}, "scale must be a power of two"),
        ({"scale": 0}, "scale must be a power of two"),
        ({"dtype": "int16"}, "dtype must be one of"),
    ],
)
def test_lattices_that_are_none(options, words, bare_errors):
    with pytest.raises(ValueError, match=words):
        symplectic.Lattice(**options)


def test_int64_needs_64_bit_types():
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"int64.*jax_enable_x64"):
        symplectic.Lattice(dtype="int64")


def test_what_is_quantised_are_floats(bare_errors):
    with pytest.raises(TypeError, match="value must be a real floating-point array"):
        LATTICE.quantise(jnp.arange(3))
    with pytest.raises(TypeError, match="got a LatticeState"):
        LATTICE.quantise(LATTICE.quantise(STATE))
    with pytest.raises(TypeError, match="must be a LatticeState"):
        LATTICE.dequantise(STATE)


def test_forward_mode_is_refused():
    run = functools.partial(call, symplectic.reversible_scan)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda h: run(step_size=h)[0], (0.1,), (1.0,))
