"""States on a lattice: rounding, 0 wrong bits on the way back, and the guards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forces import FORCES, differ, problem
from jax.experimental import checkify

from physnet import symplectic
from physnet.symplectic import _lattice

LATTICES = [symplectic.Lattice(dtype=dtype) for dtype in ("int32", "int64", "float32")]
lattices = pytest.mark.parametrize("lattice", LATTICES, ids=lambda lattice: lattice.dtype)


def spring(k, q, _):
    return -k * q


def pushed(_, q, u):
    return 0.01 * jnp.sin(q)


@lattices
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_quantise_rounds_to_the_nearest_point(lattice, dtype):
    x = np.random.default_rng(0).uniform(-7, 7, 1000)
    state = jax.jit(lattice.quantise)({"x": x.astype(dtype)})
    bits, value = state.bits["x"], state.value["x"]
    assert (bits.dtype, value.dtype) == (jnp.dtype(lattice.dtype), jnp.dtype(dtype))
    given = np.asarray(x.astype(dtype), np.float64)
    points = np.rint(given * lattice.scale)
    steps = np.asarray(bits, np.float64) * (lattice.scale if lattice.dtype == "float32" else 1)
    lost = 2.0**-24 * 7 * lattice.scale if dtype == jnp.float32 else 0  # x * scale in float32
    assert np.abs(steps - points).max() <= lost
    assert np.abs(np.asarray(value, np.float64) - given).max() <= (
        1 / lattice.scale + 7 * float(jnp.finfo(dtype).eps)
    )
    np.testing.assert_array_equal(lattice.dequantise(state)["x"], value)


@lattices
def test_rounding_is_odd_and_saturates_evenly(lattice):
    x = np.array([0.5, 1.5, 2.5, 1e30, np.inf, np.nan, 0.0], np.float32)
    x[:3] /= np.float32(lattice.scale)
    if lattice.dtype == "float32":
        x = x[np.array([0, 1, 2, 6])]
    counts = jax.jit(functools.partial(_lattice.counts, lattice))
    plus, minus = np.asarray(counts(x)), np.asarray(counts(-x))
    np.testing.assert_array_equal(plus, -minus)
    unit = lattice.scale if lattice.dtype == "float32" else 1
    np.testing.assert_array_equal(np.asarray(plus[:3], np.float64) * unit, [0, 2, 2])
    assert not np.signbit(np.asarray(minus, np.float64)[-1])


def test_gradients_pass_through_rounding():
    lattice = LATTICES[0]
    x = np.array([0.3, -1.2])
    found = jax.jit(jax.grad(lambda x: jnp.sum(lattice.dequantise(lattice.quantise(x)) ** 2)))(x)
    value = np.asarray(jax.jit(lattice.quantise)(x).value)
    np.testing.assert_allclose(found, 2 * value, rtol=1e-15)


def journeys(name, dtype, lattice, scheme="drift-kick-drift", order=2, steps=2000):
    """start, (there, back) in one program, the infos, a function for (there, back) in two."""
    params, state = problem(params_dtype=dtype)
    start = jax.jit(lattice.quantise)(state)
    options = {"steps": steps, "step_size": 0.1, "lattice": lattice, "return_info": True}
    options |= {"scheme": scheme, "order": order}
    forward = functools.partial(symplectic.reversible_scan, FORCES[name], **options)
    inverse = functools.partial(symplectic.inverse, FORCES[name], **options)

    @jax.jit
    def both(start, params):
        there, info = forward(start, params)
        back, info_back = inverse(there, params)
        return there, back, info, info_back

    there, back, *infos = both(start, params)

    def apart():
        alone, _ = jax.jit(forward)(start, params)
        return alone, jax.jit(inverse)(alone, params)[0]

    return start, (there, back), infos, apart


@pytest.mark.parametrize("name", FORCES)
@pytest.mark.parametrize(
    ("dtype", "lattice"),
    [
        ("float32", LATTICES[0]),
        ("bfloat16", LATTICES[0]),
        ("float32", symplectic.Lattice(2**17, "float32")),  # |x| <= 128
    ],
)
def test_no_wrong_bits(name, dtype, lattice, optimized):
    start, one, (info, info_back), apart = journeys(name, dtype, lattice)
    two = apart()
    assert differ(one[1].bits, start.bits) == 0
    assert differ(one[1].value, start.value) == 0
    assert differ(two[0].bits, one[0].bits) == 0  # on this device the programs agree
    assert differ(two[1].bits, start.bits) == 0
    moved = differ(one[0].bits, start.bits)
    assert moved == 2 * 3 * 4
    symplectic.check(info, back=info_back)


@lattices
@pytest.mark.parametrize("scheme", ["drift-kick-drift", "kick-drift-kick"])
@pytest.mark.parametrize("order", [2, 4])
def test_no_wrong_bits_in_any_scheme(lattice, scheme, order):
    start, one, (info, info_back), _ = journeys("mlp", "float32", lattice, scheme, order, 200)
    assert differ(one[1].bits, start.bits) == 0
    symplectic.check(info, back=info_back)


def energy_gradient(w, q, _):
    def potential(q):
        inner = 0.1 * jnp.sum(jnp.cos(q[1:] * q[:-1])) + jnp.sum(q * q) / 2
        return inner + 0.1 * jnp.sum(jax.nn.softplus(q @ w) ** 1.5)

    return -jax.grad(potential)(q)


def chain(w, q, _):
    pulls = w[0] * jnp.sin(jnp.roll(q, -1) - q)
    return pulls - jnp.roll(pulls, 1) - 0.1 * q


def products(w, q, _):
    a = w[0] * q
    b = jnp.roll(a, 1) * q
    return a * b - b * jnp.where(q > 0, a, 0.3 * b) - q - 0.05 * q**3


def looked_up(w, q, _):
    """By an operation that some versions of JAX expand no earlier than they must."""
    place = jnp.searchsorted(jnp.linspace(-1, 1, len(w) - 1, dtype=q.dtype), q)
    return w[0, place] - q


@pytest.mark.parametrize("force", [energy_gradient, chain, products, looked_up])
@pytest.mark.parametrize("size", [7, 32])
def test_the_force_has_the_same_bits_wherever_it_stands(force, size, optimized):
    """Loops of one step vanish, and their bodies lie open to the compiler, each way in its own."""
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=(size, size)) / 2 / size**0.5, jnp.float32)
    state = tuple(jnp.asarray(0.3 * rng.normal(size=size), jnp.float32) for _ in range(2))
    lattice = symplectic.Lattice(2**26)

    def loss(w, state):
        def one(state, _):
            options = {"steps": 1, "step_size": 0.05, "lattice": lattice}
            return symplectic.reversible_scan(force, state, w, **options), None

        state, _ = jax.lax.scan(one, lattice.quantise(state), length=200)
        return jnp.sum(state.value[0])

    program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(w, state).compile()
    for g in jax.tree.leaves(program(w, state)):  # NaN unless the bits of every step come back
        assert np.all(np.isfinite(g))
    if jax.default_backend() == "cpu":
        assert program.as_text().count('inlineable="false"') >= 2


def test_floats_do_not_come_back_from_chaos(optimized):
    params, state = problem()
    options = {"steps": 2000, "step_size": 0.1}
    there = symplectic.leapfrog(FORCES["mlp"], state, params, **options)
    back = symplectic.inverse(FORCES["mlp"], there, params, **options)
    assert differ(back, state) > 12


def test_inputs_come_in_reverse():
    params, state = problem()
    inputs = jnp.asarray(np.random.default_rng(2).normal(size=(50, 3, 4)), jnp.float32)
    options = {"steps": 50, "step_size": 0.1, "lattice": LATTICES[0]}

    @jax.jit
    def both(state, inputs):
        there = symplectic.reversible_scan(FORCES["mlp"], state, params, inputs, **options)
        return [symplectic.inverse(FORCES["mlp"], there, params, u, **options)
                for u in (inputs, inputs[::-1])]  # fmt: skip

    start = LATTICES[0].quantise(state)
    right, wrong = both(start, inputs)
    assert differ(right.bits, start.bits) == 0
    assert differ(wrong.bits, start.bits) > 12


def test_states_keep_their_form():
    lattice, state = LATTICES[0], (jnp.ones(2, jnp.float32), jnp.zeros(2, jnp.float32))
    run = functools.partial(
        symplectic.reversible_scan, spring, params=1.0, steps=3, step_size=0.5, lattice=lattice
    )
    whole = run(state=lattice.quantise(state))
    parts = run(state=tuple(lattice.quantise(x) for x in state))
    floats = run(state=state)
    assert isinstance(whole, symplectic.LatticeState)
    for i in range(2):
        assert isinstance(parts[i], symplectic.LatticeState)
        np.testing.assert_array_equal(parts[i].bits, whole.bits[i])
        np.testing.assert_array_equal(floats[i], whole.value[i])
        assert floats[i].dtype == jnp.float32


def test_wrapping_is_undone_and_noticed(bare_errors):
    """Past 128 the integers go on at -128: exactly reversible, and not the physics."""
    lattice, state = LATTICES[0], (jnp.array([120.0]), jnp.array([3.0]))
    start = lattice.quantise(state)
    free = lambda _, q, u: jnp.zeros_like(q)  # noqa: E731
    options = {"steps": 10, "step_size": 1.0, "lattice": lattice, "return_info": True}
    there, info = symplectic.reversible_scan(free, start, None, **options)
    assert there.value[0] == 150 - 256
    back, _ = symplectic.inverse(free, there, None, **options)
    assert differ(back.bits, start.bits) == 0
    assert info.largest == 129.0
    with pytest.raises(OverflowError, match="reached 129, and must stay below 128"):
        symplectic.check(info)
    _, info = symplectic.reversible_scan(free, start, None, **options | {"steps": 2})
    assert symplectic.check(info) is None


def test_a_start_off_the_lattice_is_noticed():
    state = (jnp.array([200.0], jnp.float32), jnp.zeros(1, jnp.float32))
    _, info = symplectic.reversible_scan(
        spring, state, 0.0, steps=1, step_size=0.1, lattice=LATTICES[0], return_info=True
    )
    with pytest.raises(OverflowError):
        symplectic.check(info)


def test_sums_of_floats_out_of_range_do_not_come_back_and_are_noticed():
    lattice = LATTICES[2]
    start = lattice.quantise((jnp.array([15.0, 0.1]), jnp.array([3.0, 0.7])))
    options = {"steps": 300, "step_size": 1.1, "lattice": lattice, "return_info": True}

    @jax.jit
    def both(start):
        there, info = symplectic.reversible_scan(pushed, start, None, **options)
        return *symplectic.inverse(pushed, there, None, **options), info

    back, info_back, info = both(start)
    assert differ(back.bits, start.bits) > 0
    with pytest.raises(OverflowError):
        symplectic.check(info)
    with pytest.raises(RuntimeError, match="does not end at the bits of the start"):
        symplectic.check(info._replace(limit=jnp.inf), back=info_back)


def test_a_force_that_is_not_finite_is_noticed():
    root = lambda _, q, u: jnp.sqrt(q)  # noqa: E731
    for lattice in (*LATTICES, None):
        _, info = symplectic.reversible_scan(
            root, (jnp.full(2, -1.0), jnp.ones(2)), None, steps=2, step_size=0.1, lattice=lattice,
            return_info=True,
        )  # fmt: skip
        with pytest.raises(FloatingPointError, match="was not finite"):
            symplectic.check(info)


def test_check_under_checkify_and_vmap():
    lattice = LATTICES[0]

    def run(q):
        there, info = jax.vmap(lambda q: symplectic.reversible_scan(
            lambda _, q, u: jnp.zeros_like(q), (q, jnp.ones_like(q)), None, steps=3, step_size=1.0,
            lattice=lattice, return_info=True))(q)  # fmt: skip
        symplectic.check(info)
        return there[0]

    checked = jax.jit(checkify.checkify(run))
    error, out = checked(jnp.array([[1.0], [2.0]]))
    error.throw()
    np.testing.assert_array_equal(out, [[4.0], [5.0]])
    error, _ = checked(jnp.array([[1.0], [126.0]]))
    with pytest.raises(checkify.JaxRuntimeError, match="reached 128"):
        error.throw()


@lattices
def test_nan_at_the_start_is_not_forgotten(lattice):
    state = (jnp.array([1.0, jnp.nan]), jnp.zeros(2))
    assert jnp.isnan(lattice.quantise(state).value[0]).tolist() == [False, True]
    options = {"steps": 2, "step_size": 0.1, "lattice": lattice, "return_info": True}
    _, info = symplectic.reversible_scan(spring, state, 1.0, **options)
    with pytest.raises(FloatingPointError):
        symplectic.check(info)


def test_checksums_see_one_bit_and_the_order():
    lattice = LATTICES[0]
    start = lattice.quantise((jnp.arange(4.0), jnp.ones(4)))

    def of(bits):
        state = start._replace(bits=bits)
        free = lambda _, q, u: jnp.zeros_like(q)  # noqa: E731
        options = {"steps": 1, "step_size": 0.0, "lattice": lattice, "return_info": True}
        _, info = symplectic.reversible_scan(free, state, None, **options)
        assert info.start == info.end
        return int(info.start)

    q, p = start.bits
    seen = [of(bits) for bits in ((q, p), (q.at[2].add(1), p), (q, p.at[0].add(-1)), (p, q),
                                  (q[::-1], p), (q.at[0].add(1).at[1].add(-1), p))]  # fmt: skip
    assert len(set(seen)) == len(seen)
    assert of((q, p)) == seen[0]
