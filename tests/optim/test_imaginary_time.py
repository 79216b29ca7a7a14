"""Steps of imaginary time against dense least squares: solvers, forms of the Jacobian, options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import optim

FEW, MANY = 5, 20  # samples, for 9 parameters (12 real ones where a leaf is complex)


def problem(samples, *, seed=0, rows=float, leaf=float):
    """Parameters, a Jacobian, a residual and gradients, in float64 or complex128."""
    rng = np.random.default_rng(seed)

    def draw(kind, *shape):
        x = rng.normal(size=shape)
        return x + 1j * rng.normal(size=shape) if kind is complex else x

    params = {"a": draw(float, 3), "b": [draw(leaf, 2, 3)]}
    jacobian = {"a": draw(rows, samples, 3), "b": [draw(rows, samples, 2, 3)]}
    grads = {"a": draw(float, 3), "b": [draw(leaf, 2, 3)]}
    arrays = params, jacobian, draw(rows, samples), grads
    return jax.tree.map(jnp.asarray, arrays)


def real(tree):
    leaves = [np.ravel(x) for x in jax.tree.leaves(tree)]
    parts = [np.concatenate([x.real, x.imag]) if np.iscomplexobj(x) else x for x in leaves]
    return np.concatenate(parts)


def real_rows(jacobian, params):
    """Real and imaginary rows, over real and imaginary parameters."""
    columns = []
    for j, p in zip(jax.tree.leaves(jacobian), jax.tree.leaves(params), strict=True):
        j = np.asarray(j).reshape(len(j), -1)
        columns += [j, 1j * j] if np.iscomplexobj(p) else [j]
    flat = np.concatenate(columns, axis=1)
    return np.concatenate([flat.real, flat.imag])


def least_squares(rows, target, gradient, damping, ahead):
    """d by a least-squares solve in which the damping is rows of their own; or by a solve."""
    if target is None:
        metric = rows.T @ rows + damping * np.eye(rows.shape[1])
        return np.linalg.solve(metric, gradient + damping * ahead)
    both = np.concatenate([rows, np.sqrt(damping) * np.eye(rows.shape[1])])
    return np.linalg.lstsq(both, np.concatenate([target, np.sqrt(damping) * ahead]), rcond=None)[0]


@functools.cache
def stepper(**options):
    """Some steps with one problem, all under one jit: what moved, and the state."""
    optimiser = optim.imaginary_time(**options)

    @functools.partial(jax.jit, static_argnames="steps")
    def steps_of(params, jacobian, residual, grads, steps=1):
        state, moved = optimiser.init(params), []
        for _ in range(steps):
            updates, state = optimiser.update(
                grads, state, params, jacobian=jacobian, residual=residual
            )
            moved.append(updates)
        return moved, state

    return steps_of


@pytest.mark.parametrize("solver", ["samples", "parameters", "cg"])
@pytest.mark.parametrize("samples", [FEW, MANY])
@pytest.mark.parametrize("by", ["residual", "grads"])
def test_steps_are_damped_least_squares_whatever_the_solver(solver, samples, by):
    params, jacobian, residual, grads = problem(samples)
    run = stepper(learning_rate=0.5, damping=0.1, momentum=0.8, solver=solver, tolerance=1e-12)
    given = (residual, None) if by == "residual" else (None, grads)
    moved, state = run(params, jacobian, *given, steps=2)
    rows, ahead = real_rows(jacobian, params)[:samples], 0
    for updates in moved:
        target = residual if by == "residual" else None
        ahead = least_squares(rows, target, real(grads), 0.1, 0.8 * np.zeros(9) + 0.8 * ahead)
        np.testing.assert_allclose(real(updates), -0.5 * ahead, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(real(state.direction), ahead, rtol=1e-9)
    assert (state.iterations > 0) == (solver == "cg")
    assert state.count == 2
    assert state.skipped == 0


@pytest.mark.parametrize("samples", [FEW, MANY])
def test_the_smaller_matrix_is_the_one_that_is_solved(samples):
    params, jacobian, residual, _ = problem(samples)
    run = stepper(learning_rate=0.5, damping=0.1)
    text = run.lower(params, jacobian, residual, None).as_text()
    side = min(samples, 9)
    assert "cholesky" in text
    assert f"tensor<{side}x{side}xf64>" in text
    assert f"tensor<{max(samples, 9)}x{max(samples, 9)}xf64>" not in text


@pytest.mark.parametrize("leaf", [float, complex])
@pytest.mark.parametrize("form", ["tree", "matrix", "pair", "cg"])
def test_complex_rows_are_real_and_imaginary_ones(leaf, form):
    params, jacobian, residual, _ = problem(FEW, rows=complex, leaf=leaf)
    flat = jnp.concatenate([x.reshape(FEW, -1) for x in jax.tree.leaves(jacobian)], axis=1)
    solver = "cg" if form == "cg" else None
    optimiser = optim.imaginary_time(1.0, damping=0.1, solver=solver, tolerance=1e-12)
    if form == "matrix":
        jacobian_like = flat
    elif form == "pair":

        def linear(tree):
            parts = [x.ravel().astype(complex) for x in jax.tree.leaves(tree)]
            return flat @ jnp.concatenate(parts)

        back = jax.vjp(linear, params)[1]
        jacobian_like = (linear, back)
    else:
        jacobian_like = jacobian
    updates, _ = jax.jit(
        lambda: optimiser.update(
            None, optimiser.init(params), params, jacobian=jacobian_like, residual=residual
        )
    )()
    rows = real_rows(jacobian, params)
    target = np.concatenate([residual.real, residual.imag])
    expected = -least_squares(rows, target, None, 0.1, np.zeros(rows.shape[1]))
    np.testing.assert_allclose(real(updates), expected, rtol=1e-8)
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)


def test_of_a_complex_residual_over_real_rows_the_real_part_counts():
    params, jacobian, residual, _ = problem(FEW)
    run = stepper(learning_rate=0.5, damping=0.1)
    found = run(params, jacobian, jax.lax.complex(residual, 3 * residual), None)[0]
    np.testing.assert_array_equal(real(found), real(run(params, jacobian, residual, None)[0]))


def test_rates_dampings_and_momenta_may_be_schedules():
    params, jacobian, residual, _ = problem(MANY)
    schedule = lambda *values: lambda count: jnp.asarray(values)[count]  # noqa: E731
    run = stepper(
        learning_rate=schedule(1.0, 0.5),
        damping=schedule(0.1, 0.3),
        momentum=schedule(0.9, 0.4),
    )
    moved, state = run(params, jacobian, residual, None, steps=2)
    rows = real_rows(jacobian, params)[:MANY]
    first = least_squares(rows, residual, None, 0.1, np.zeros(9))
    second = least_squares(rows, residual, None, 0.3, 0.4 * first)
    np.testing.assert_allclose(real(moved[0]), -first, rtol=1e-9)
    np.testing.assert_allclose(real(moved[1]), -0.5 * second, rtol=1e-9)
    assert state.count == 2


@pytest.mark.parametrize("samples", [FEW, MANY])
@pytest.mark.parametrize("by", ["residual", "grads"])
def test_small_eigenvalues_can_be_left_out(samples, by):
    params, jacobian, residual, grads = problem(samples)
    rows = real_rows(jacobian, params)[:samples]
    values = np.linalg.svd(rows, compute_uv=False)
    cut = float(values[2] * values[3]) / values[0] ** 2  # three directions stay
    run = stepper(learning_rate=1.0, damping=0.0, rtol=cut)
    if by == "residual":
        moved, _ = run(params, jacobian, residual, None)
        expected = np.linalg.pinv(rows, rcond=np.sqrt(cut)) @ residual
    else:
        moved, _ = run(params, jacobian, None, grads)
        expected = np.linalg.pinv(rows.T @ rows, rcond=cut, hermitian=True) @ real(grads)
    np.testing.assert_allclose(real(moved[0]), -expected, rtol=1e-8)


def test_steps_can_be_bounded():
    params, jacobian, residual, _ = problem(MANY)
    free, _ = stepper(learning_rate=0.5, damping=0.1)(params, jacobian, residual, None)
    run = stepper(learning_rate=0.5, damping=0.1, momentum=0.5, max_norm=0.01)
    (bound,), state = run(params, jacobian, residual, None)
    np.testing.assert_allclose(np.linalg.norm(real(bound)), 0.01)
    np.testing.assert_allclose(
        real(bound), real(free[0]) * 0.01 / np.linalg.norm(real(free)), rtol=1e-9
    )
    np.testing.assert_allclose(real(state.direction), -2 * real(free[0]))  # before the bound
    (loose,), _ = stepper(learning_rate=0.5, damping=0.1, max_norm=9.0)(
        params, jacobian, residual, None
    )
    np.testing.assert_array_equal(real(loose), real(free[0]))


@pytest.mark.parametrize("solver", ["samples", "parameters", "cg"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["residual", "jacobian"])
def test_what_is_not_finite_moves_nothing_and_is_counted(solver, bad, where):
    params, jacobian, residual, _ = problem(MANY)
    run = stepper(learning_rate=0.5, damping=0.1, momentum=0.8, solver=solver, tolerance=1e-12)
    if where == "residual":
        residual = residual.at[3].set(bad)
    else:
        jacobian["b"][0] = jacobian["b"][0].at[2, 1, 1].set(bad)
    moved, state = run(params, jacobian, residual, None, steps=2)
    np.testing.assert_array_equal(real(moved), 0)
    np.testing.assert_array_equal(real(state.direction), 0)
    assert (int(state.count), int(state.skipped)) == (2, 2)
