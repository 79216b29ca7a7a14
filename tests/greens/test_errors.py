"""Bad input is named, with what was expected and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens

A, B, X = jnp.zeros(4), jnp.ones(3), jnp.ones((4, 2))
STATE = greens.PropagateState(jnp.zeros((), complex), jnp.zeros(2, complex))

BAD_VALUES = [
    (lambda: greens.diagonal(A, jnp.ones(4), 1j), r"hopping must have 3 bonds .*shape \(4,\)"),
    (lambda: greens.diagonal(A[:0], B[:0], 1j), "onsite must have at least one site, got n = 0"),
    (lambda: greens.diagonal(jnp.zeros(()), B, 1j), "onsite must have at least one axis"),
    (lambda: greens.diagonal(A, B, 0.5), "energy must be complex .*got dtype float64"),
    (lambda: greens.left(A, B, 0.5 + 0j), "positive imaginary part .*got min Im = 0.0"),
    (lambda: greens.ldos(A, B, np.array([1j, -1j])), "got min Im = -1.0"),
    (lambda: greens.left(A, B, jnp.array([1j, complex(0, np.nan)])), "got min Im = nan"),
    (lambda: greens.left(A.astype(jnp.float32), B.astype(jnp.float32), 1e-50j), "in float32"),
    (
        lambda: greens.left(jnp.zeros((2, 4)), B, jnp.full(3, 1j)),
        r"shapes do not broadcast: onsite \(2,\), hopping \(\), energy \(3,\)",
    ),
    (
        lambda: greens.left(A, B, 1j, initial=jnp.zeros((), complex)),
        "hopping must have 4 bonds .* and an initial state",
    ),
    (lambda: greens.window(A, B, center=0.0, radius=1.0, order=5), "order must be even .*got 5"),
    (lambda: greens.window(A, B, center=0.0, radius=1.0, order=0), "order must be >= 2, got 0"),
    (lambda: greens.window(A, B, center=0.0, radius=0.0), "radius must be positive, got min 0.0"),
    (
        lambda: greens.window(A, B, center=0.0, radius=1.0, return_state=True),
        "initial and return_state need causal=True",
    ),
    (
        lambda: greens.window(
            A, jnp.ones(4), center=0.0, radius=1.0, causal=True, initial=jnp.zeros(3, complex)
        ),
        r"initial must hold 4 Green's functions .*got shape \(3,\)",
    ),
    (lambda: greens.propagate(A, B, 1j, X[:3]), r"source must have shape \(..., n=4, d\)"),
    (lambda: greens.solve(A, B, 1j, X[:, 0]), r"source must have shape .*got \(4,\)"),
    (
        lambda: greens.propagate(A, jnp.ones(4), 1j, X[:, :1], initial=STATE),
        r"initial.amplitude must have d=1 channels .*got shape \(2,\)",
    ),
    (
        lambda: greens.resolvent(jnp.ones((2, 3)), 1j),
        r"matrix must be square, .*got shape \(2, 3\)",
    ),
]
BAD_TYPES = [
    (lambda: greens.diagonal(A.astype(complex), B, 1j), "onsite must be a real floating-point"),
    (lambda: greens.diagonal(A.astype(int), B, 1j), "onsite must be .*got dtype int64"),
    (lambda: greens.left(A, B.astype(int), 1j), "hopping must be a real or complex"),
    (lambda: greens.solve(A, B, 1j, X.astype(int)), "source must be a real or complex"),
    (lambda: greens.window(A, B, center=1j, radius=1.0), "center must be real, got dtype complex"),
    (lambda: greens.window(A, B, center=0.0, radius=1.0, order=2.0), "order must be a static"),
    (lambda: greens.resolvent(jnp.ones((2, 2), int), 1j), "matrix must be a real or complex"),
]


@pytest.mark.parametrize(("call", "message"), BAD_VALUES)
def test_a_bad_value_is_named(call, message, bare_errors):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), BAD_TYPES)
def test_a_bad_type_is_named(call, message, bare_errors):
    with pytest.raises(TypeError, match=message):
        call()


def test_a_known_energy_is_checked_under_jit_too(bare_errors):
    with pytest.raises(ValueError, match="positive imaginary part"):
        jax.jit(lambda a: greens.left(a, B, -1j))(A)


@pytest.mark.parametrize("name", ["diagonal", "left", "window", "propagate"])
def test_an_unknown_implementation_says_what_there_is(name, bare_errors):
    options = {"center": 0.0, "radius": 1.0} if name == "window" else {}
    arguments = {"window": (A, B), "propagate": (A, B, 1j, X)}.get(name, (A, B, 1j))
    with pytest.raises(NotImplementedError, match=f"greens.{name} has no .*'cuda'.*'xla'"):
        getattr(greens, name)(*arguments, **options, implementation="cuda")
    getattr(greens, name)(*arguments, **options, implementation="xla")
