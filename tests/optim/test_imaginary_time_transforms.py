"""Imaginary time under scan, vmap and optax's wrappers; precision, large models, bad arguments."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet import optim

SAMPLES = 6


def problem(seed=0, dtype=jnp.float64, steps=3):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    params = {"a": draw(3), "b": draw(2, 3)}
    jacobians = {"a": draw(steps, SAMPLES, 3), "b": draw(steps, SAMPLES, 2, 3)}
    return params, jacobians, draw(steps, SAMPLES)


def scan(optimiser):
    """All steps: the parameters after each, and the last state."""

    def run(params, jacobians, residuals):
        def step(carry, rows):
            params, state = carry
            jacobian, residual = rows
            updates, state = optimiser.update(
                None, state, params, jacobian=jacobian, residual=residual
            )
            params = jax.tree.map(jnp.add, params, updates)
            return (params, state), params

        start = params, optimiser.init(params)
        (_, state), trace = jax.lax.scan(step, start, (jacobians, residuals))
        return trace, state

    return run


def equal(found, expected, **tolerances):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), found, expected)


@pytest.mark.parametrize("solver", [None, "cg"])
def test_vmap_of_a_scan_is_a_loop(solver):
    # A schedule of momenta too: an ensemble that differs in its learning rates.
    problems = [problem(seed) for seed in range(2)]
    rates = jnp.array([0.5, 0.1])

    def run(rate, *arguments):
        optimiser = optim.imaginary_time(
            rate, damping=0.1, momentum=0.5, solver=solver, tolerance=1e-10, warm_start=True
        )
        return scan(optimiser)(*arguments)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *problems)
    found = jax.jit(jax.vmap(run))(rates, *stacked)
    alone = jax.jit(run)
    for i, arguments in enumerate(problems):
        expected = alone(rates[i], *arguments)
        equal(jax.tree.map(lambda x, i=i: x[i], found), expected, rtol=1e-6, atol=1e-9)


def test_a_bad_step_leaves_point_and_momentum_as_they_were():
    params, jacobians, residuals = problem()
    run = jax.jit(scan(optim.imaginary_time(0.5, damping=0.1, momentum=0.8)))
    trace, state = run(params, jacobians, residuals.at[1, 2].set(jnp.nan))
    padded = jax.tree.map(lambda x: x[jnp.array([0, 2, 2])], (jacobians, residuals))
    expected, _ = run(params, *padded)
    equal(jax.tree.map(lambda x: x[2], trace), jax.tree.map(lambda x: x[1], expected))
    equal(jax.tree.map(lambda x: x[1], trace), jax.tree.map(lambda x: x[0], trace))
    assert (int(state.count), int(state.skipped)) == (3, 1)


def test_an_update_that_the_dtype_cannot_hold_is_left_out():
    params, jacobians, residuals = problem(steps=1)
    rough = jax.tree.map(lambda x: x.astype(jnp.float16), params)
    trace, state = jax.jit(scan(optim.imaginary_time(1e6, damping=0.1)))(
        rough, jacobians, residuals
    )
    equal(jax.tree.map(lambda x: x[0], trace), rough)
    assert int(state.skipped) == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision_stays_and_is_solved_in_float32(dtype):
    params, jacobians, residuals = problem(dtype=dtype, steps=1)
    optimiser = optim.imaginary_time(0.5, damping=0.1, momentum=0.9)
    step = jax.jit(
        lambda params, *rows: optimiser.update(
            None, optimiser.init(params), params, jacobian=rows[0], residual=rows[1]
        )
    )
    rows = jax.tree.map(lambda x: x[0], (jacobians, residuals))
    updates, state = step(params, *rows)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(state.direction)} == {jnp.dtype(jnp.float32)}
    exact, _ = step(*jax.tree.map(lambda x: x.astype(jnp.float64), (params, *rows)))
    tolerance = 1e-4 if dtype is jnp.float32 else 1e-2
    equal(jax.tree.map(lambda x: x.astype(jnp.float64), updates), exact, rtol=tolerance)
    finer, state = step(params, *jax.tree.map(lambda x: x.astype(jnp.float64), rows))
    assert {x.dtype for x in jax.tree.leaves(finer)} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(state.direction)} == {jnp.dtype(jnp.float32)}


def test_conjugate_gradients_end_at_their_tolerance_or_after_so_many_products():
    params, jacobians, residuals = problem(steps=1)
    jacobian, residual = jax.tree.map(lambda x: x[0], (jacobians, residuals))
    rows = np.concatenate([jacobian["a"], jacobian["b"].reshape(SAMPLES, 6)], axis=1)

    def left(**options):
        optimiser = optim.imaginary_time(-1.0, damping=0.1, solver="cg", **options)
        found, state = jax.jit(
            lambda: optimiser.update(
                None, optimiser.init(params), params, jacobian=jacobian, residual=residual
            )
        )()
        found = np.concatenate([found["a"], found["b"].ravel()])
        rhs = rows.T @ residual
        rest = np.linalg.norm(rhs - rows.T @ (rows @ found) - 0.1 * found) / np.linalg.norm(rhs)
        return rest, int(state.iterations)

    rest, taken = left(tolerance=0.1)
    assert rest < 0.1
    assert taken < SAMPLES
    assert left(tolerance=0.0, iterations=2)[1] == 2
    assert left(tolerance=0.1, iterations=taken - 1)[0] > 0.1  # no product more than it needs


def test_products_at_low_precision_are_solved_in_float32():
    weights, residual = jnp.ones(3, jnp.bfloat16), jnp.ones(4, jnp.bfloat16)
    inputs = jnp.asarray(np.random.default_rng(0).integers(-2, 3, (4, 3)), jnp.bfloat16)
    _, jvp = jax.linearize(lambda w: inputs @ w, weights)
    pair = optim.Products(jvp, jax.linear_transpose(jvp, weights))
    optimiser = optim.imaginary_time(1.0, damping=1.0)
    found = jax.jit(
        lambda w: optimiser.update(None, optimiser.init(w), w, jacobian=pair, residual=residual)[0]
    )(weights)
    x = np.asarray(inputs, float)
    expected = -np.linalg.solve(x.T @ x + np.eye(3), x.T @ np.ones(4))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, float), expected, rtol=0.03, atol=0.01)


@pytest.mark.parametrize("solver", [None, "cg"])
def test_leaves_may_differ_in_precision(solver):
    params, jacobians, residuals = problem(steps=1)
    jacobian, residual = jax.tree.map(lambda x: x[0], (jacobians, residuals))
    rough = lambda tree: tree | {"a": tree["a"].astype(jnp.float32)}  # noqa: E731
    optimiser = optim.imaginary_time(0.5, damping=0.1, solver=solver, tolerance=1e-10)
    step = jax.jit(
        lambda params, jacobian: optimiser.update(
            None, optimiser.init(params), params, jacobian=jacobian, residual=residual
        )[0]
    )
    found = step(rough(params), rough(jacobian))
    assert {name: str(x.dtype) for name, x in found.items()} == {"a": "float32", "b": "float64"}
    expected = step(params, jacobian)
    equal(found, expected, rtol=2e-5)


def test_products_need_no_matrix_and_a_warm_start_saves_products():
    width = 3000  # a matrix (width, width) of the metric would take 72 MB
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=width))
    inputs = jnp.asarray(rng.normal(size=(SAMPLES, width)) / width**0.5)
    residual = jnp.asarray(rng.normal(size=SAMPLES))
    values = lambda w: jnp.tanh(inputs @ w)  # noqa: E731

    def run(warm):
        optimiser = optim.imaginary_time(
            0.1, damping=1e-3, tolerance=1e-8, iterations=50, warm_start=warm
        )

        def all_of_it(params, residual):
            _, jvp = jax.linearize(values, params)
            rows = optim.Rows(optim.Products(jvp, jax.vjp(values, params)[1]), residual)
            state, taken = optimiser.init(params), []
            for _ in range(2):
                updates, state = optimiser.update(None, state, params, **rows._asdict())
                taken.append(state.iterations)
            return updates, jnp.stack(taken)

        compiled = jax.jit(all_of_it).lower(params, residual).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 2e6
        return compiled(params, residual)

    updates, cold = run(False)
    again, warm = run(True)
    np.testing.assert_allclose(again, updates, rtol=1e-5, atol=1e-9)
    assert cold[0] == cold[1] == warm[0] <= SAMPLES + 1  # as many eigenvalues differ from damping
    assert warm[1] == 0
    jacobian = np.asarray(jax.jacobian(values)(params))
    inner = np.linalg.solve(jacobian @ jacobian.T + 1e-3 * np.eye(SAMPLES), residual)
    np.testing.assert_allclose(updates, -0.1 * jacobian.T @ inner, rtol=1e-5, atol=1e-9)


def test_it_composes_with_optax():
    params, jacobians, residuals = problem(steps=1)
    rows = {
        "jacobian": jax.tree.map(lambda x: x[0], jacobians),
        "residual": residuals[0],
    }
    inner = optax.inject_hyperparams(optim.imaginary_time, static_args=("iterations",))(
        learning_rate=optax.constant_schedule(0.5), damping=0.1
    )
    chain = optax.chain(inner, optax.add_decayed_weights(-0.01), optax.scale(2.0))
    plain = optim.imaginary_time(0.5, damping=0.1)
    grads = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def both(params):
        chained, _ = chain.update(grads, chain.init(params), params, **rows)
        return chained, plain.update(None, plain.init(params), params, other=0, **rows)[0]

    with jax.numpy_dtype_promotion("standard"):
        updates, alone = both(params)
    expected = jax.tree.map(lambda u, p: 2 * (u - 0.01 * p), alone, params)
    equal(updates, expected, rtol=1e-5)


def test_options_out_of_range_are_named(bare_errors):
    with pytest.raises(ValueError, match=r"damping must be in \(0, inf\), got 0.0"):
        optim.imaginary_time(0.1, damping=0.0)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        optim.imaginary_time(0.1, damping=0.1, momentum=1.0)
    with pytest.raises(ValueError, match="solver must be one of"):
        optim.imaginary_time(0.1, damping=0.1, solver="lu")
    with pytest.raises(ValueError, match="max_norm must be in"):
        optim.imaginary_time(0.1, damping=0.1, max_norm=0.0)
    with pytest.raises(ValueError, match="rtol must be in"):
        optim.imaginary_time(0.1, damping=0.1, rtol=1.0)
    with pytest.raises(ValueError, match="tolerance must be in"):
        optim.imaginary_time(0.1, damping=0.1, tolerance=-1.0)
    with pytest.raises(ValueError, match="iterations must be >= 1, got 0"):
        optim.imaginary_time(0.1, damping=0.1, iterations=0)
    with pytest.raises(ValueError, match="rtol must be None with solver='cg'"):
        optim.imaginary_time(0.1, damping=0.1, solver="cg", rtol=0.1)
    with pytest.raises(ValueError, match=r"damping must be one number, got shape \(3,\)"):
        optim.imaginary_time(0.1, damping=jnp.ones(3))


def test_arguments_that_do_not_fit_are_named(bare_errors):
    params, jacobians, residuals = problem(steps=1)
    jacobian, residual = jax.tree.map(lambda x: x[0], (jacobians, residuals))
    optimiser = optim.imaginary_time(0.1, damping=0.1, solver="samples")
    state = optimiser.init(params)

    def refused(message, grads=None, params=params, error=ValueError, **rows):
        with pytest.raises(error, match=re.escape(message)):
            optimiser.update(grads, state, params, **rows)

    with pytest.raises(TypeError, match="params must be a real or complex floating-point array"):
        optimiser.init({"a": jnp.arange(3)})
    both = {"jacobian": jacobian, "residual": residual}
    refused("imaginary_time needs the current points", params=None, **both)
    refused("got jacobian=NoneType", residual=residual)
    refused("residual=NoneType, grads=NoneType", jacobian=jacobian)
    refused("a matrix (samples, 9)", jacobian=jnp.zeros((6, 8)), residual=residual)
    refused(
        "one common first axis", jacobian=jacobian | {"a": jnp.zeros((5, 3))}, residual=residual
    )
    refused("over those of params, got (6, 4)", jacobian=jacobian | {"a": jnp.zeros((6, 4))},
            residual=residual)  # fmt: skip
    refused("one number a sample of jacobian, (6,), got (5,)", jacobian=jacobian,
            residual=residual[:5])  # fmt: skip
    refused("grads must be a tree like params", grads={"a": params["a"]}, jacobian=jacobian)
    refused("residual must be a real or complex", error=TypeError, jacobian=jacobian,
            residual=jnp.arange(6))  # fmt: skip
    pair = (lambda tree: tree["a"], lambda row: {"a": row, "b": jnp.zeros((2, 3))})
    refused("solver must be 'cg' or None for a jacobian of products, got 'samples'",
            jacobian=pair, residual=residual)  # fmt: skip
    refused("grads must be real where params are", error=TypeError, jacobian=jacobian,
            grads=jax.tree.map(lambda x: x.astype(complex), params))  # fmt: skip
    refused("got (0, 9) for params", jacobian=jnp.zeros((0, 9)), residual=residual[:0])
    optimiser = optim.imaginary_time(0.1, damping=0.1, rtol=0.1)
    refused("rtol must be None for a jacobian of products", jacobian=pair, residual=residual)
    optimiser = optim.imaginary_time(0.1, damping=0.1)
    refused("the shape of jvp's results, (3,), got (6,)", jacobian=pair, residual=residual)
