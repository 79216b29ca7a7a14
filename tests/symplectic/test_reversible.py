"""Gradients of reversible_scan against those of the stored trajectory, and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forces import FORCES, problem

from physnet import symplectic

LATTICES = {None: None} | {
    name: symplectic.Lattice(dtype=name) for name in ("int32", "int64", "float32")
}
STEPS = 12


def assert_close(found, want, tolerance):
    """Within a tolerance of the largest entry of each array."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())
        assert np.abs(b).max() > 1e-3


def gradients(run, scheme="drift-kick-drift", order=2, lattice=None):
    """Of a loss by params, state, inputs, step size (and friction); compiled once for all tests."""
    return _gradients(run, scheme, order, lattice)


@functools.cache
def _gradients(run, scheme, order, lattice):
    options = {"scheme": scheme, "order": order}
    if lattice is not None:
        options["lattice"] = lattice

    def loss(params, state, inputs, h, friction=0.0):
        q, p = run(FORCES["mlp"], state, params, inputs, steps=STEPS, step_size=h,
                   friction=friction, **options)  # fmt: skip
        return jnp.sum(jnp.sin(q) * p) + jnp.sum(p**2)

    number = 5 if lattice is None else 4
    return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(number))))


def arguments(dtype, friction=0.3):
    params, state = problem(dtype)
    del params["key"]
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(STEPS, 3, 4)), dtype)
    return params, state, inputs, jnp.asarray(0.2, dtype), jnp.asarray(friction, dtype)


@pytest.mark.parametrize("scheme", ["drift-kick-drift", "kick-drift-kick"])
@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 5e-5), (np.float64, 1e-12)])
def test_equal_to_automatic_differentiation(scheme, order, dtype, tolerance):
    options = {"scheme": scheme, "order": order}
    given = arguments(dtype)
    want = gradients(symplectic.leapfrog, **options)(*given)
    assert_close(gradients(symplectic.reversible_scan, **options)(*given), want, tolerance)


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize(
    ("lattice", "dtype", "tolerance"),
    [
        ("int32", np.float32, 1e-5),
        ("int32", np.float64, 1e-5),
        ("int64", np.float64, 1e-10),
        ("float32", np.float32, 1e-4),
    ],
)
def test_on_a_lattice_that_of_the_smooth_map(lattice, dtype, tolerance, order):
    """As near as its points are dense: 2^-24, 2^-40, 2^-20."""
    given = arguments(dtype)[:4]
    want = gradients(symplectic.leapfrog, order=order)(*given, 0.0)
    want = (want[0], want[1][:4])
    found = gradients(symplectic.reversible_scan, lattice=LATTICES[lattice], order=order)
    assert_close(found(*given), want, tolerance)


def stored(lattice, params, state, inputs, h):
    """The loss along the states of a lattice, all stored: straight through the rounding."""

    def snap(x):
        return x + jax.lax.stop_gradient(jnp.rint(x * lattice.scale) / lattice.scale - x)

    q, p = map(snap, state)
    for u in inputs:
        q = q + snap(h / 2 * p)
        p = p + snap(h * FORCES["mlp"](params, q, u))
        q = q + snap(h / 2 * p)
    return jnp.sum(jnp.sin(q) * p) + jnp.sum(p**2)


@pytest.mark.parametrize("name", ["int32", "int64"])
def test_on_a_lattice_that_of_its_own_trajectory(name):
    """To float64's rounding, though the lattice parts from the smooth trajectory by 1e-7."""
    coarse = symplectic.Lattice(2**10, name)
    params, state, inputs, h, _ = arguments(np.float64)
    found = gradients(symplectic.reversible_scan, lattice=coarse)(params, state, inputs, h)
    want = jax.jit(jax.value_and_grad(functools.partial(stored, coarse), argnums=(0, 1, 2, 3)))(
        params, state, inputs, h
    )
    assert_close(found, want, 1e-12)
    smooth = gradients(symplectic.leapfrog)(params, state, inputs, h, 0.0)
    assert abs(smooth[0] - want[0]) > 1e-6


@pytest.mark.parametrize("lattice", [None, "int32"])
def test_inverse_has_gradients_too(lattice):
    params, state = problem(np.float64)
    inputs = arguments(np.float64)[2]
    options = {"steps": STEPS, "step_size": 0.2}

    def flipped(params, u):
        start = (state[0], -state[1])
        return symplectic.leapfrog(FORCES["mlp"], start, params, u[::-1], **options)

    def back(params, u):
        return symplectic.inverse(
            FORCES["mlp"], state, params, u, lattice=LATTICES[lattice], **options
        )

    def of(run):
        loss = jax.grad(lambda params, u: jnp.sum(run(params, u)[0] ** 2), argnums=(0, 1))
        return jax.jit(loss)({name: params[name] for name in ("in", "out")}, inputs)

    found, want = of(back), of(flipped)
    assert_close(found, want, 1e-12 if lattice is None else 1e-5)


def test_memory_does_not_grow_with_the_steps():
    params, state = problem(rows=16, size=32)

    def temporary(run, steps, **options):
        def loss(params, state, h):
            q, p = run(FORCES["mlp"], state, params, steps=steps, step_size=h, **options)
            return jnp.sum(q * p)

        program = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        compiled = program.lower(params, state, jnp.float32(0.1)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    stored = temporary(symplectic.leapfrog, 64)
    for lattice in (None, LATTICES["int32"]):
        run = functools.partial(temporary, symplectic.reversible_scan, lattice=lattice)
        short, long = run(16), run(4096)
        assert long <= 1.02 * short
        assert long < stored / 10


def drop(params, q, u):
    """A layer with dropout: a key for each step."""
    key, scale, which = u
    kept = jax.random.bernoulli(key, 0.6, q.shape)
    weights = params["in"] * params["gain"][which]
    return jnp.where(kept, jnp.tanh(q @ weights), jnp.zeros_like(q)) * scale - q


@pytest.mark.parametrize("lattice", [None, "int32"])
@pytest.mark.parametrize("typed", [True, False])
def test_dropout_sees_the_same_key_on_the_way_back(lattice, typed):
    params, state = problem(np.float64)
    params = {"in": params["in"], "gain": jnp.array([1.0, 0.5, 2.0])}
    keys = jax.random.split(jax.random.key(1) if typed else jax.random.PRNGKey(1), STEPS)
    which = jnp.arange(STEPS, dtype=jnp.int32) % 3

    def loss(run, params, state, scale):
        q, p = run(drop, state, params, (keys, scale, which), steps=STEPS, step_size=0.2)
        return jnp.sum(q**2) + jnp.sum(p)

    run = functools.partial(symplectic.reversible_scan, lattice=LATTICES[lattice])
    found, want = (
        jax.jit(jax.grad(functools.partial(loss, run), argnums=(0, 1, 2)))(
            params, state, jnp.linspace(0.5, 1.5, STEPS)
        )
        for run in (run, symplectic.leapfrog)
    )
    assert_close(found, want, 1e-12 if lattice is None else 1e-5)


def test_keys_and_integers_as_arguments_of_the_gradient():
    params, state = problem(np.float64)
    keys = jax.random.split(jax.random.key(1), STEPS)

    def loss(inputs):
        q, _ = symplectic.reversible_scan(
            drop, state, {"in": params["in"], "gain": jnp.ones(1)}, inputs, steps=STEPS,
            step_size=0.2,
        )  # fmt: skip
        return jnp.sum(q**2)

    inputs = (keys, jnp.ones(STEPS), jnp.zeros(STEPS, jnp.int32))
    of_keys, of_scale, of_which = jax.grad(loss, allow_int=True)(inputs)
    assert of_keys.dtype == of_which.dtype == jax.dtypes.float0
    assert of_scale.dtype == jnp.float64


@pytest.mark.parametrize("lattice", [None, "int32"])
def test_a_stack_of_trajectories_and_arrays_closed_over(lattice):
    params, state = problem(np.float64)

    def model(run, params, shift, state):
        def force(w, q, u):
            return jnp.tanh(q @ w) - shift * q  # a tracer of grad and vmap

        for name in ("in", "out", "key"):
            state = run(force, state, params[name], steps=5, step_size=0.2)
            state = (state[1], -state[0])
        return jnp.sum(state[0] * state[1])

    run = functools.partial(symplectic.reversible_scan, lattice=LATTICES[lattice])
    shifts = jnp.array([0.5, 1.5])
    found, want = (
        jax.jit(jax.vmap(jax.value_and_grad(functools.partial(model, run), argnums=(0, 1, 2)),
                         in_axes=(None, 0, None)))(params, shifts, state)
        for run in (run, symplectic.leapfrog)
    )  # fmt: skip
    assert_close(found, want, 1e-12 if lattice is None else 1e-5)


def test_a_stack_that_stays_on_the_lattice():
    """LatticeStates pass from one trajectory to the next; their values carry the gradients."""
    params, state = problem(np.float64)
    lattice = LATTICES["int64"]

    def loss(run, taken, params, state):
        state = taken(state)
        for name in ("in", "out"):
            state = run(lambda w, q, u: jnp.tanh(q @ w) - q, state, params[name], steps=5,
                        step_size=0.2)  # fmt: skip
        q, p = getattr(state, "value", state)
        return jnp.sum(q**2 * p)

    found, want = (
        jax.jit(jax.grad(functools.partial(loss, run, taken), argnums=(0, 1)))(
            {name: params[name] for name in ("in", "out")}, state
        )
        for run, taken in (
            (functools.partial(symplectic.reversible_scan, lattice=lattice), lattice.quantise),
            (symplectic.leapfrog, lambda state: state),
        )
    )
    assert_close(found, want, 1e-10)


@pytest.mark.parametrize("lattice", [None, "int32"])
def test_vmap_of_gradients_and_gradients_of_vmap(lattice):
    params, state = problem(np.float64)
    h = jnp.array([0.1, 0.2])

    def loss(params, state, h):
        q, p = symplectic.reversible_scan(
            FORCES["mlp"], state, params, steps=6, step_size=h, lattice=LATTICES[lattice]
        )
        return jnp.sum(q * p)

    of = jax.grad(loss, argnums=(0, 1, 2))
    params = {name: params[name] for name in ("in", "out")}
    batched = jax.jit(jax.vmap(of, in_axes=(None, None, 0)))(params, state, h)
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], batched)
        assert_close(jax.jit(of)(params, state, h[i]), one, 1e-12)

    def total(params, state):
        each = jax.vmap(jax.vmap(loss, in_axes=(None, 0, None)), in_axes=(None, None, 0))
        return jnp.sum(each(params, state, h))

    found = jax.jit(jax.grad(total))(params, state)
    want = jax.tree.map(lambda x: jnp.sum(x, 0), batched[0])
    assert_close(found, want, 1e-12)


def test_second_derivatives_without_a_lattice_alone():
    params, state = problem(np.float64)

    def loss(run, state, h):
        q, p = run(FORCES["mlp"], state, params, steps=4, step_size=h)
        return jnp.sum(q) + jnp.sum(p)

    def twice(run):
        first = jax.grad(functools.partial(loss, run), argnums=1)
        return jax.jit(jax.grad(first, argnums=(0, 1)))(state, 0.2)

    assert_close(twice(symplectic.reversible_scan), twice(symplectic.leapfrog), 1e-10)
    run = functools.partial(symplectic.reversible_scan, lattice=LATTICES["int32"])
    for argument in (0, 1):
        of = jax.grad(functools.partial(loss, run), argnums=argument)
        total = lambda *a, of=of: sum(jnp.sum(x) for x in jax.tree.leaves(of(*a)))  # noqa: E731
        with pytest.raises(NotImplementedError, match="first derivatives alone"):
            jax.eval_shape(jax.grad(total, argnums=argument), state, 0.2)


def test_bfloat16_parameters_sum_their_cotangents_in_float32():
    """400 steps with cotangents near 1: sums in bfloat16 stand still at 256."""
    force = lambda b, q, u: b.astype(jnp.float32) + 0 * q  # noqa: E731
    state = (jnp.zeros(1, jnp.float32), jnp.zeros(1, jnp.float32))

    def loss(b):
        return symplectic.reversible_scan(force, state, b, steps=400, step_size=1.0)[1][0]

    found = jax.grad(loss)(jnp.zeros((1,), jnp.bfloat16))
    assert (found.dtype, float(found[0])) == (jnp.bfloat16, 400)


def test_friction_undone_by_division_loses_digits():
    """exp(gamma t) of them: 1e-16 becomes 1e-7 at gamma t = 20, and everything is lost by 40."""
    state = tuple(jnp.asarray(np.random.default_rng(0).normal(size=5)) for _ in range(2))
    falling = lambda g, q, u: g + jnp.zeros_like(q)  # noqa: E731

    @jax.jit
    def error(gamma):
        options = {"steps": 200, "step_size": 0.1, "friction": gamma}
        there = symplectic.leapfrog(falling, state, 1.0, **options)
        _, p = symplectic.inverse(falling, there, 1.0, **options)
        return jnp.max(jnp.abs(p - state[1]))

    for gamma in (0.1, 0.5, 1.0):
        assert 1e-17 < error(gamma) / np.exp(gamma * 20) < 1e-12
    assert error(2.0) > 1e-2


def test_gradients_are_nan_where_the_way_back_goes_astray():
    """A force that differs from call to call, as one with atomic sums would."""
    calls = iter(range(1000))

    @jax.custom_jvp
    def noise(q):
        def draw(q):
            return np.full(q.shape, 1e-3 * next(calls), q.dtype)

        return jax.pure_callback(draw, jax.ShapeDtypeStruct(q.shape, q.dtype), q)

    noise.defjvp(lambda primals, tangents: (noise(*primals), jnp.zeros_like(tangents[0])))

    def loss(params, noisy):
        force = lambda k, q, u: -k * q + (noise(q) if noisy else 0)  # noqa: E731
        state = (jnp.ones(2), jnp.ones(2))
        return jnp.sum(
            symplectic.reversible_scan(
                force, state, params, steps=3, step_size=0.1, lattice=LATTICES["int32"]
            )[0]
        )

    assert np.isfinite(jax.grad(loss)(1.0, False))
    assert np.isnan(jax.grad(loss)(1.0, True))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from physnet import symplectic

rng = np.random.default_rng(0)
w, q, p, u = (jnp.asarray(rng.normal(size=s), jnp.float32)
              for s in ((3, 3), (4, 3), (4, 3), (5, 3)))
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))

def force(w, q, u):
    return jnp.tanh(q @ w + u) - q

def losses(lattice):
    def loss(w, q, p, u, h):
        q, p = symplectic.reversible_scan(
            force, (q, p), w, u, steps=5, step_size=h, lattice=lattice)
        return jnp.sum(q * p, axis=1)
    return loss

for lattice in (None, symplectic.Lattice()):
    loss = losses(lattice)
    specs = (P(), P("examples"), P("examples"), P(), P())
    sharded = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P("examples"))
    found, want = (
        jax.jit(jax.grad(lambda *a, f=f: jnp.sum(f(*a)), argnums=(0, 1, 2, 3, 4)))(
            w, q, p, u, jnp.float32(0.1))
        for f in (sharded, loss)
    )
    for a, b in zip(found, want):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)
print("equal")
"""


def test_under_shard_map_on_two_devices(on_devices):
    assert on_devices(SHARDED, 2) == "equal"
