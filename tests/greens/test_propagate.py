"""propagate and solve against dense solves; continuation; causality."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens

propagate, solve = map(jax.jit, (greens.propagate, greens.solve))
SHAPES = [  # n, batch axes of onsite, hopping, energy, source
    (1, (), (), (), ()),
    (9, (2, 1), (), (3,), (3,)),
    (150, (2,), (2,), (), (2,)),
]


def sources(n, batch, d=4, seed=1):
    rng = np.random.default_rng(seed)
    shape = (*batch, n, d)
    return jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_solve_is_the_dense_solve(shape, random_chain, inverse):
    chain, x = random_chain(*shape[:4]), sources(shape[0], shape[4])
    expected = inverse(*chain) @ np.asarray(x)
    psi = solve(*chain, x)
    assert psi.shape == expected.shape
    assert np.abs(psi - expected).max() < 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_propagate_takes_the_last_row_of_each_shorter_chain(shape, random_chain, half_line):
    chain, x = random_chain(*shape[:4]), sources(shape[0], shape[4])
    expected = half_line(*chain) @ np.asarray(x)
    y = propagate(*chain, x)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() < 1e-12 * np.abs(expected).max()


def test_real_sources_of_float32_stay_single(random_chain):
    onsite, _, energy = random_chain(12, (3,))
    onsite, x = onsite.astype(jnp.float32), sources(12, (3,)).real.astype(jnp.float32)
    hopping = jnp.ones(11, jnp.float32)
    for function in (propagate, solve):
        y = function(onsite, hopping, energy, x)
        assert y.dtype == jnp.complex64
        wide = function(
            *(v.astype(jnp.float64) for v in (onsite, hopping)), energy, x.astype(float)
        )
        np.testing.assert_allclose(y, wide, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [greens.propagate, greens.solve])
def test_gradients_equal_those_of_the_dense_solve(function, random_chain, inverse, half_line):
    arguments = (*random_chain(12, (2, 1), (), (3,)), sources(12, (2, 3), 2))
    weight = sources(12, (2, 3), 2, seed=5)

    matrix = inverse if function is greens.solve else half_line

    def dense(onsite, hopping, energy, x):
        return matrix(onsite, hopping, energy) @ x

    def loss(f, *arguments):
        return jnp.real(jnp.sum(weight * f(*arguments) ** 2))

    def gradients(f):
        return jax.jit(jax.grad(functools.partial(loss, f), (0, 1, 2, 3)))(*arguments)

    for ours, expected in zip(gradients(function), gradients(dense), strict=True):
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() < 1e-10 * np.abs(expected).max()


@pytest.mark.slow
def test_second_order_equals_that_of_the_dense_solve(random_chain, half_line):
    onsite, hopping, energy = random_chain(5)
    x, weight = sources(5, (), 2).real, sources(5, (), 2, seed=5)

    def loss(f, onsite, x):
        return jnp.real(jnp.sum(weight * f(onsite, hopping, energy, x) ** 2))

    def dense(onsite, hopping, energy, x):
        return half_line(onsite, hopping, energy) @ x.astype(complex)

    ours, expected = (
        jax.jit(jax.hessian(functools.partial(loss, f), (0, 1)))(onsite, x)
        for f in (greens.propagate, dense)
    )
    for value, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert np.abs(value - other).max() < 1e-10 * np.abs(other).max()


@pytest.mark.parametrize("function", [greens.propagate, greens.solve])
def test_each_argument_alone_has_a_derivative(function, random_chain):
    """Constants beside it are symbolic zeros in JAX's rules, which not all of them take."""
    arguments = (*random_chain(8, (2,)), sources(8, (2,)).real)
    for i, argument in enumerate(arguments):

        def only(value, i=i):
            return function(*arguments[:i], value, *arguments[i + 1 :])

        gradient = jax.eval_shape(jax.grad(lambda v, f=only: jnp.abs(f(v)).sum()), argument)
        assert (gradient.shape, gradient.dtype) == (argument.shape, argument.dtype)
        assert jax.eval_shape(lambda v, f=only: jax.jvp(f, (v,), (v,)), argument)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("n", [9, 400])
def test_later_sites_and_sources_change_no_bit_of_propagate(n, random_chain):
    onsite, hopping, energy = random_chain(n, (2,), (), (2,))
    x = sources(n, (2,))
    before = propagate(onsite, hopping, energy, x)
    for j in (n - 1, n // 2, 3):
        changed = propagate(
            onsite.at[:, j:].multiply(-3.0),
            hopping.at[j - 1 :].add(0.7),
            energy,
            x.at[:, j:].add(2.0),
        )
        np.testing.assert_array_equal(changed[:, :j], before[:, :j])
        assert not np.array_equal(changed[:, j], before[:, j])


def test_waves_continue_from_their_state(random_chain):
    onsite, hopping, energy = random_chain(30, (2,), (), (2,))
    x = sources(30, (2,))
    whole = propagate(onsite, hopping, energy, x)
    run = jax.jit(functools.partial(greens.propagate, return_state=True))
    parts, state = [], None
    for start, stop in [(0, 11), (11, 12), (12, 30)]:
        bonds = hopping[max(start - 1, 0) : stop - 1]
        y, state = run(onsite[:, start:stop], bonds, energy, x[:, start:stop], initial=state)
        parts.append(y)
    np.testing.assert_allclose(jnp.concatenate(parts, -2), whole, rtol=1e-12)
    assert isinstance(state, greens.PropagateState)
    np.testing.assert_array_equal(state.amplitude, parts[-1][:, -1])
    run = jax.jit(functools.partial(greens.propagate, return_green=True, return_state=True))
    y, green, again = run(onsite, hopping, energy, x)
    np.testing.assert_array_equal(y, whole)
    left = jax.jit(greens.left)(onsite, hopping, energy)
    np.testing.assert_allclose(green, left, rtol=1e-12)
    np.testing.assert_allclose(again.green, state.green, rtol=1e-12)


def test_a_gradient_flows_through_the_state(random_chain):
    onsite, hopping, energy = random_chain(20)
    x = sources(20, ())

    def whole(onsite, hopping, x):
        return jnp.abs(greens.propagate(onsite, hopping, energy, x)[-1]).sum()

    def halves(onsite, hopping, x):
        _, state = greens.propagate(onsite[:9], hopping[:8], energy, x[:9], return_state=True)
        y = greens.propagate(onsite[9:], hopping[8:], energy, x[9:], initial=state)
        return jnp.abs(y[-1]).sum()

    for ours, expected in zip(
        jax.jit(jax.grad(halves, (0, 1, 2)))(onsite, hopping, x),
        jax.jit(jax.grad(whole, (0, 1, 2)))(onsite, hopping, x),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-13)
