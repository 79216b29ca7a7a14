"""Symplectic maps, echoes, time reversal, teleportation."""

import fuzz_arguments as fa
import jax.numpy as jnp
import numpy as np
from fuzz_greens import near, ordinary
from fuzz_rules import Entry

from physnet import symplectic, teleport, time_reversal
from physnet.symplectic import echo


def spring(k, q, _):
    return -k * q


def well(k, q, _):
    return k * jnp.sum(q * q) / 2


def moving(rng, dims):
    return tuple(jnp.asarray(rng.uniform(-1, 1, dims["d"]), jnp.float32) for _ in range(2))


STATE = fa.tree(moving, nan="nan")
STEPS = {
    "params": fa.number(1.0, 0.5, nan="open"),
    "steps": fa.size(3, 1),
    "step_size": fa.number(0.1, -0.2),
    "scheme": fa.choice("drift-kick-drift", "kick-drift-kick"),
    "order": fa.choice(2, 4),
    "friction": fa.number(0.0, 0.1),
}
STEPS["params"] = fa.fixed(jnp.float32(1.0))
FORCE = {"force": fa.function(spring), "state": STATE} | STEPS
POTENTIAL = {
    "potential": fa.function(well),
    "state": STATE,
    "final_cotangent": fa.tree(moving, nan="nan"),
} | STEPS


def on_lattice(state, scale, dtype, force, steps, step_size):
    lattice = symplectic.Lattice(scale=scale, dtype=dtype)
    start = lattice.quantise(state)
    options = {"steps": steps, "step_size": step_size, "lattice": lattice}
    there = symplectic.reversible_scan(force, start, 1.0, **options)
    back = symplectic.inverse(force, there, 1.0, **options)
    return start.bits, back.bits


def same_bits(found, /, state, **_):
    if ordinary(*state):
        assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def went(rng, dims):
    bits = jnp.zeros(2, jnp.uint32)
    return symplectic.Info(jnp.full(2, 0.5, jnp.float32), jnp.ones(2, jnp.float32), bits, bits)


def is_reversed(found, positions, momenta, axis):
    q, p = found
    assert np.array_equal(q, np.flip(np.asarray(positions), axis), equal_nan=True)
    assert np.array_equal(p, -np.flip(np.asarray(momenta), axis), equal_nan=True)


def reversed_tokens(found, /, tokens, direction, **_):
    if direction is None:
        assert np.array_equal(found, np.asarray(tokens)[..., ::-1])


def not_negative(loss, /, **_):
    assert float(loss) >= 0


def layer(weight, h):
    return jnp.tanh(weight * h)


def linear(w, q, _):
    return w @ q


SYMMETRIC = fa.fixed(jnp.asarray(np.diag([1.0, 2.0, 3.0]), jnp.float32))
ENTRIES = {
    "symplectic.energy": Entry(
        symplectic.energy,
        {"potential": fa.function(well), "state": STATE, "params": fa.fixed(1.0)},
        ("real",),
        lambda e, state, **_: (
            near(e, sum(np.sum(np.square(np.asarray(x, np.float64))) for x in state) / 2, 1e-3)
            if ordinary(*state)
            else None
        ),
    ),
    "symplectic.leapfrog": Entry(symplectic.leapfrog, FORCE, ("d real",) * 2),
    "symplectic.inverse": Entry(symplectic.inverse, FORCE, ("d real",) * 2, dear=True),
    "symplectic.reversible_scan": Entry(
        symplectic.reversible_scan, FORCE, ("d real",) * 2, dear=True
    ),
    "symplectic.Lattice": Entry(
        on_lattice,
        {
            "state": STATE,
            "scale": fa.number(
                2.0**20, bad=(1000.0, 0.0, -1.0), nan="raise", optional=True, traced=False
            ),
            "dtype": fa.choice("int32", "float32", "int64"),
            "force": fa.function(spring),
            "steps": fa.size(3, 1),
            "step_size": fa.number(0.1, -0.2),
        },
        None,
        same_bits,
        wide=True,
        dear=True,
        names=("value",),
    ),
    "symplectic.coupled_scan": Entry(
        symplectic.coupled_scan,
        {
            "kick": fa.function(spring),
            "drift": fa.function(spring),
            "state": STATE,
            "params": fa.fixed(0.5),
            "steps": fa.size(3, 1),
            "backwards": fa.made(lambda rng, dims: bool(rng.integers(2))),
        },
        ("d real",) * 2,
        dear=True,
    ),
    "symplectic.check": Entry(
        symplectic.check,
        {"info": fa.tree(went), "back": fa.fixed(None)},
        raises=(FloatingPointError, OverflowError, RuntimeError),
        host=True,
    ),
    "symplectic.echo.check_conservative": Entry(
        echo.check_conservative,
        {
            "force": fa.function(linear),
            "params": SYMMETRIC,
            "position": fa.real("3", alike=True, nan="open"),
            "input": fa.fixed(None),
            "key": fa.key(),
            "probes": fa.size(2, 1),
            "tolerance": fa.number(0.1, optional=True, traced=False, nan="open"),
        },
        ("real",),
        not_negative,
        raises=(ValueError,),
    ),
    "symplectic.echo.gradient": Entry(echo.gradient, POTENTIAL, dear=True),
    "symplectic.echo.finite_gradient": Entry(
        echo.finite_gradient,
        POTENTIAL | {"epsilon": fa.number(1e-2, optional=True)},
        dear=True,
    ),
    "time_reversal.reverse_trajectory": Entry(
        time_reversal.reverse_trajectory,
        {
            "positions": fa.inexact("T d", ints="open", dicts="open"),
            "momenta": fa.inexact("T d", ints="open", dicts="open"),
            "axis": fa.size(0, 1, least=-9),
        },
        None,
        is_reversed,
    ),
    "time_reversal.reverse_sequence": Entry(
        time_reversal.reverse_sequence,
        {
            "tokens": fa.ints("b T", 0, 9),
            "direction": fa.size(9, least=-99, optional=True),
            "lengths": fa.ints("b", 0, 3, optional=True),
        },
        None,
    ),
    "time_reversal.consistency_loss": Entry(
        time_reversal.consistency_loss,
        {
            "forward": fa.real("b T d"),
            "backward": fa.real("T d"),
            "metric": fa.choice("hyperbolic"),
            "curvature": fa.number(1.0, 0.5, bad=(0.0, -1.0)),
        },
        ("real",),
        not_negative,
    ),
    "teleport.scan": Entry(
        teleport.scan,
        {
            "layer": fa.function(layer),
            "params": fa.inexact("m d", alike=True, ints="open"),
            "h": fa.inexact("d", alike=True, ints="open", dicts="open"),
            "propagator": fa.real("m", 0.5, 1.0, nan="open"),
            "strength": fa.number(0.1, 0.0, nan="open"),
            "mode": fa.choice("dyson", "chain", "ghost", "gated"),
        },
        ("d real",),
    ),
    "teleport.gradients": Entry(
        teleport.gradients,
        {
            "loss": fa.function(
                lambda params, strength: jnp.sum(
                    teleport.scan(
                        layer,
                        params,
                        jnp.ones(3, jnp.float32),
                        propagator=jnp.ones(4, jnp.float32),
                        strength=strength,
                    )
                )
            ),
            "params": fa.inexact("4 3", alike=True),
            "strength": fa.number(0.1, 0.0, nan="open"),
            "return_value": fa.fixed(True),
        },
        ("real", "4 3 real", "4 3 real"),
    ),
}
REASONS = {
    "symplectic.Info": "holds what scans return",
    "symplectic.LatticeState": "holds what `Lattice.quantise` returns",
}
