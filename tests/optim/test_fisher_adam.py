"""`fisher_adam`: closed forms, dense float64 references, invariances, optax's shapes, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet.optim import OuterScores, fisher_adam

SHAPES = {"w": (3, 4), "b": (4,), "stack": (2, 3, 2)}


@pytest.fixture(autouse=True)
def promotion_as_optax_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def tree(seed, examples=None, dtype=np.float64):
    rng = np.random.default_rng(seed)
    lead = () if examples is None else (examples,)
    return {k: jnp.asarray(rng.normal(size=lead + s), dtype) for k, s in SHAPES.items()}


GRADS, JACOBIAN = tree(0), tree(1, examples=5)  # of the Jacobian, the metric is a sum of squares


@functools.partial(jax.jit, static_argnums=0)
def _step(optimiser, grads, jacobian):
    params = jax.tree.map(jnp.zeros_like, grads)
    return optimiser.update(grads, optimiser.init(params), params, jacobian=jacobian)[0]


def step(optimiser, grads=GRADS, jacobian=JACOBIAN):
    return _step(optimiser, grads, jacobian)


def close(found, want, **options):
    options = {"rtol": 1e-10, "atol": 1e-12} | options
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **options), found, want)


def kronecker_inverse(scores, grad, damping, power):
    """(R x C / tr R + damping)^-power of one matrix, the whole matrix by its eigenvectors."""
    rows = np.sum([g @ g.T for g in scores], 0)
    columns = np.sum([g.T @ g for g in scores], 0)
    values, basis = np.linalg.eigh(np.kron(rows, columns) / np.trace(rows))
    inverse = basis @ np.diag((values + damping) ** -power) @ basis.T
    return (inverse @ np.ravel(grad)).reshape(grad.shape)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_first_step_against_dense_matrices(power):
    options = {"b1": 0.0, "damping": 0.3, "power": power}
    diagonal = {k: -0.7 * GRADS[k] / (np.sum(JACOBIAN[k] ** 2, 0) + 0.3) ** power for k in GRADS}
    close(step(fisher_adam(0.7, **options)), diagonal)
    kronecker = {
        "b": diagonal["b"],
        "w": -0.7 * kronecker_inverse(JACOBIAN["w"], GRADS["w"], 0.3, power),
        "stack": -0.7
        * np.stack(
            [
                kronecker_inverse(JACOBIAN["stack"][:, i], GRADS["stack"][i], 0.3, power)
                for i in range(2)
            ]
        ),
    }
    close(step(fisher_adam(0.7, metric="kronecker", **options)), kronecker)


def test_outer_scores_are_kfac_and_their_own_squares():
    rng = np.random.default_rng(2)
    x, d = rng.normal(size=(6, 3)), rng.normal(size=(6, 4))
    pair = {"w": OuterScores(jnp.asarray(x), jnp.asarray(d))}
    grads, full = {"w": GRADS["w"]}, {"w": jnp.asarray(np.einsum("si,sj->sij", x, d))}
    close(step(fisher_adam(1.0, b1=0.0), grads, pair), step(fisher_adam(1.0, b1=0.0), grads, full))
    fisher = np.kron(x.T @ x, d.T @ d) / 6 + 0.2 * np.eye(12)
    want = -np.linalg.solve(fisher, np.ravel(grads["w"])).reshape(3, 4)
    close(step(fisher_adam(1.0, b1=0.0, damping=0.2, metric="kronecker"), grads, pair), {"w": want})


@pytest.mark.parametrize("labels", ["model", "data"])
def test_logistic_regression_has_its_closed_fisher(labels):
    """F = E[p (1 - p) x x^T] of the model; at labels y, E[(y - p)^2 x x^T]."""
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(40, 3)), rng.normal(size=3)
    y = (rng.uniform(size=40) < 0.5).astype(float)
    p = 1 / (1 + np.exp(-x @ w))
    grad = -jnp.asarray((y - p) @ x / 40)

    def score(x, y):
        return jax.grad(lambda w: y * (z := x @ w) - jnp.log1p(jnp.exp(z)))(jnp.asarray(w))

    if labels == "data":
        scores = jax.vmap(score)(x, y) / np.sqrt(40)
        fisher = np.mean((y - p)[:, None] ** 2 * x**2, 0)
    else:  # both labels of each example, by their probabilities
        both = [jax.vmap(score)(x, np.full(40, label)) for label in (1.0, 0.0)]
        root = np.sqrt(np.stack([p, 1 - p]) / 40)[..., None]
        scores = jnp.concatenate([r * s for r, s in zip(root, both, strict=True)])
        fisher = np.mean((p * (1 - p))[:, None] * x**2, 0)
    found = step(fisher_adam(0.5, b1=0.0, damping=0.1), {"w": grad}, {"w": scores})
    close(found, {"w": -0.5 * np.asarray(grad) / (fisher + 0.1)})


def test_a_drawn_gradient_has_the_fisher_information_as_its_mean_square():
    """sqrt(B) times the mean gradient at drawn labels; all 2^B labels weighted exactly."""
    rng = np.random.default_rng(4)
    x, p = rng.normal(size=(4, 3)), rng.uniform(0.1, 0.9, 4)
    draws = (np.arange(16)[:, None] >> np.arange(4)) & 1
    chance = np.prod(np.where(draws, p, 1 - p), axis=1)
    gradients = np.sqrt(4) * (draws - p) @ x / 4 * np.sqrt(chance)[:, None]
    fisher = np.mean((p * (1 - p))[:, None] * x**2, 0)
    ones = {"w": jnp.ones(3)}
    found = step(fisher_adam(1.0, b1=0.0, damping=0.0), ones, {"w": jnp.asarray(gradients)})
    close(found, {"w": -1 / fisher})


def test_power_one_half_of_gradients_is_adam():
    ours = fisher_adam(0.1, source="gradients", power=0.5, damping=1e-3, b1=0.8, b2=0.95)
    peer = optax.adam(0.1, b1=0.8, b2=0.95, eps=0.0, eps_root=1e-3)
    states = [ours.init(GRADS), peer.init(GRADS)]
    updates = [jax.jit(ours.update), jax.jit(peer.update)]
    for seed in range(4):
        grads = tree(seed)
        found, states[0] = updates[0](grads, states[0])
        want, states[1] = updates[1](grads, states[1])
        close(found, want)


def test_moments_of_several_steps_against_a_loop():
    """Momentum, bias corrections, a metric that is kept at some steps, schedules of both rates."""
    optimiser = fisher_adam(
        lambda t: 0.1 / (t + 1), damping=lambda t: 0.5 / (t + 1), b1=0.7, b2=0.6, metric="kronecker"
    )
    state, update = optimiser.init(GRADS), jax.jit(optimiser.update)
    mean, rows, columns, square, seen = 0.0, 0.0, 0.0, 0.0, 0
    for t in range(5):
        grads, jacobian = tree(t), tree(9 + t, examples=4)
        if t in (1, 3):
            jacobian = None
        found, state = update(grads, state, jacobian=jacobian)
        mean = 0.7 * mean + 0.3 * grads["w"]
        if jacobian is not None:
            seen += 1
            g = np.asarray(jacobian["w"])
            rows = 0.6 * rows + 0.4 * np.sum(g @ g.swapaxes(1, 2), 0)
            columns = 0.6 * columns + 0.4 * np.sum(g.swapaxes(1, 2) @ g, 0)
            square = 0.6 * square + 0.4 * np.sum(jacobian["b"] ** 2, 0)
        share = 1 - 0.6**seen
        fisher = np.kron(rows, columns) / np.trace(rows) / share + 0.5 / (t + 1) * np.eye(12)
        moved = np.linalg.solve(fisher, np.ravel(mean) / (1 - 0.7 ** (t + 1)))
        close(found["w"], -0.1 / (t + 1) * moved.reshape(3, 4))
    close(state.metric["b"].square, square)
    assert (int(state.count), int(state.seen)) == (5, 3)


def test_a_leaf_left_out_keeps_its_metric_and_bias_correction():
    optimiser = fisher_adam(1.0, b1=0.0, damping=0.1)
    state, update = optimiser.init(GRADS), jax.jit(optimiser.update)
    _, state = update(GRADS, state, jacobian=JACOBIAN)
    found, state = update(GRADS, state, jacobian=tree(7, examples=2) | {"w": None})
    close(found["w"], step(optimiser)["w"])
    assert np.abs(found["b"] - step(optimiser)["b"]).max() > 1e-3


def test_bases_are_renewed_at_every_third_time():
    lazy, eager = (fisher_adam(1.0, b1=0.0, metric="kronecker", every=n) for n in (3, 1))
    states = [lazy.init(GRADS), eager.init(GRADS)]
    updates = []
    run = [jax.jit(o.update) for o in (lazy, eager)]
    for t in range(4):
        found, states[0] = run[0](GRADS, states[0], jacobian=tree(t, examples=3))
        want, states[1] = run[1](GRADS, states[1], jacobian=tree(t, examples=3))
        updates.append((found["w"], want["w"]))
    close(*updates[0])
    close(updates[1][0], updates[0][0])
    assert np.abs(updates[2][0] - updates[2][1]).max() > 1e-3
    close(*updates[3])


def test_steps_follow_scaled_coordinates():
    """Scaled entry by entry, w' = c w, gives steps scaled by c: of a metric, not of Adam."""
    scale = jax.tree.map(lambda x: jnp.exp(x), tree(5))
    grads, jacobian = (
        jax.tree.map(lambda x, c: x / jnp.broadcast_to(c, x.shape), t, scale)
        for t in (GRADS, JACOBIAN)
    )
    metric = fisher_adam(1.0, b1=0.0, damping=0.0)
    want = jax.tree.map(lambda x, c: x * c, step(metric), scale)
    close(step(metric, grads, jacobian), want)
    adam = fisher_adam(1.0, b1=0.0, damping=0.0, power=0.5)
    assert np.abs(step(adam, grads, jacobian)["w"] - (step(adam)["w"] * scale["w"])).max() > 0.1


def test_kfac_steps_follow_any_linear_change_of_inputs_and_outputs():
    """y = x W with x' = x P^-1, y' = y Q: W' = P W Q."""
    rng = np.random.default_rng(6)
    p, q = (np.eye(n) + 0.3 * rng.normal(size=(n, n)) for n in (3, 4))
    x, d, g = (rng.normal(size=s) for s in ((9, 3), (9, 4), (3, 4)))
    optimiser = fisher_adam(1.0, b1=0.0, damping=0.0, metric="kronecker")

    def one(x, d, g):
        scores = OuterScores(jnp.asarray(x), jnp.asarray(d))
        return step(optimiser, {"w": jnp.asarray(g)}, {"w": scores})["w"]

    back = np.linalg.inv(q).T
    found = one(x @ np.linalg.inv(p), d @ back, np.linalg.inv(p).T @ g @ back)
    close(found, p @ one(x, d, g) @ q, rtol=1e-8, atol=1e-8)


def test_trust_bounds_the_length_of_a_step_in_the_metric():
    free = fisher_adam(3.0, b1=0.0, damping=0.2)
    bound = fisher_adam(3.0, b1=0.0, damping=0.2, trust=0.5)
    updates, short = step(free), step(bound)

    def length(u):
        parts = [np.sum(u[k] ** 2 * (np.sum(JACOBIAN[k] ** 2, 0) + 0.2)) for k in u]
        return np.sqrt(sum(parts))

    np.testing.assert_allclose(length(short), 0.5, rtol=1e-10)
    factor = 0.5 / length(updates)
    close(short, jax.tree.map(lambda u: factor * u, updates))
    loose = fisher_adam(3.0, b1=0.0, damping=0.2, trust=1e3)
    close(step(loose), updates)
    still = jax.tree.map(jnp.zeros_like, GRADS)
    close(step(bound, still), still)


def test_complex_scores_count_as_two_real_ones():
    re, im = tree(1, examples=3), tree(2, examples=3)
    both = jax.tree.map(lambda x, y: x + 1j * y, re, im)
    stacked = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), re, im)
    for metric in ("diagonal", "kronecker"):
        optimiser = fisher_adam(1.0, metric=metric)
        close(step(optimiser, jacobian=both), step(optimiser, jacobian=stacked))


@pytest.mark.parametrize("metric", ["diagonal", "kronecker"])
def test_float32_stays_and_follows_float64_under_jit_and_vmap(metric):
    optimiser = fisher_adam(0.1, metric=metric, trust=2.0)
    low = jax.tree.map(lambda x: x.astype(jnp.float32), (GRADS, JACOBIAN))
    low[0]["b"] = low[0]["b"].astype(jnp.bfloat16)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), low)
    found = jax.jit(jax.vmap(functools.partial(step, optimiser)))(*many)
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in low[0].items()}
    state = optimiser.init(low[0])
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((state.mean, state.metric)))
    for i, factor in enumerate((1, 2)):
        scaled = jax.tree.map(lambda x, f=factor: f * x, (GRADS, JACOBIAN))
        want = step(optimiser, *scaled)
        np.testing.assert_allclose(found["w"][i], want["w"], rtol=3e-4, atol=1e-5)
        np.testing.assert_allclose(found["b"][i].astype(float), want["b"], rtol=2e-2, atol=1e-2)


def test_nan_stays_where_it_came():
    bad = {k: v.copy() for k, v in JACOBIAN.items()}
    bad["b"] = bad["b"].at[0, 1].set(jnp.nan)
    bad["stack"] = bad["stack"].at[0, 1, 0, 0].set(jnp.nan)
    found = step(fisher_adam(1.0), jacobian=bad)
    assert np.isnan(found["b"]).tolist() == [False, True, False, False]
    assert np.isnan(found["stack"]).sum() == 1
    assert np.isfinite(found["w"]).all()
    found = step(fisher_adam(1.0, metric="kronecker"), jacobian=bad)
    assert np.isfinite(found["w"]).all()
    assert np.isfinite(found["stack"][0]).all()
    assert np.isnan(found["stack"][1]).all()
    grads = GRADS | {"w": GRADS["w"].at[0, 0].set(jnp.nan)}
    found = step(fisher_adam(1.0, trust=1.0), grads)
    assert all(np.isnan(v).all() for v in found.values())  # the length of the step is unknown


def test_without_damping_what_no_score_has_moved_stays():
    jacobian = JACOBIAN | {"b": JACOBIAN["b"].at[:, 2].set(0)}
    found = step(fisher_adam(1.0, damping=0.0), jacobian=jacobian)
    assert np.flatnonzero(found["b"] == 0).tolist() == [2]
    for metric in ("diagonal", "kronecker"):
        still = step(fisher_adam(1.0, damping=0.0, metric=metric), jacobian=None)
        assert all(not v.any() for v in still.values())


def test_without_damping_a_kronecker_metric_is_a_pseudo_inverse():
    """Three examples of a matrix 6 x 5, in float32: what rounding leaves of 0 counts as 0."""
    rng = np.random.default_rng(11)
    x, d = rng.normal(size=(3, 6)), rng.normal(size=(3, 5))
    grad = x.T @ d
    low = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), (x, d, grad))
    found = step(fisher_adam(1.0, b1=0.0, damping=0.0, metric="kronecker"), {"w": low[2]},
                 {"w": OuterScores(*low[:2])})  # fmt: skip
    inverse = np.linalg.pinv(np.kron(x.T @ x, d.T @ d) / 3, rcond=1e-9, hermitian=True)
    close(found["w"], -(inverse @ grad.ravel()).reshape(6, 5), rtol=1e-4, atol=1e-5)


def test_matrices_are_chosen_by_mask_and_size():
    options = {"metric": "kronecker", "b1": 0.0}
    mask = {"w": False, "b": False, "stack": True}
    diagonal, kronecker = step(fisher_adam(1.0, b1=0.0)), step(fisher_adam(1.0, **options))
    for chosen in (mask, lambda params: jax.tree.map(lambda p: p.ndim == 3, params)):
        found = step(fisher_adam(1.0, matrices=chosen, **options))
        close(found, {**diagonal, "stack": kronecker["stack"]})
    close(step(fisher_adam(1.0, largest=3, **options)), {**diagonal, "stack": kronecker["stack"]})


def test_in_optax_masks_partitions_and_chains():
    inner = fisher_adam(0.1, b1=0.0)
    want = step(inner)
    masked = optax.masked(inner, {"w": True, "b": False, "stack": True})
    close(step(masked), {**want, "b": GRADS["b"]})
    chosen = fisher_adam(0.1, b1=0.0, metric="kronecker", matrices={"w": 0, "b": 0, "stack": 0})
    close(step(optax.masked(chosen, {"w": True, "b": False, "stack": True}))["w"], want["w"])
    parts = optax.partition(
        {"sgd": optax.sgd(1.0), "fisher": inner}, {"w": "fisher", "b": "sgd", "stack": "fisher"}
    )
    close(step(parts), {**want, "b": -GRADS["b"]})
    chain = optax.chain(optax.scale(2.0), inner, optax.scale(0.5))
    close(step(chain), want)
    grads = GRADS | {"b": None}
    state = inner.init(GRADS)
    found, state = inner.update(grads, state, jacobian=JACOBIAN)
    assert found["b"] is None
    assert not state.metric["b"].square.any()


def test_a_quadratic_of_bad_condition_is_solved_under_scan():
    """Gaussian likelihood with standard deviations 1e-3 to 1e3: every direction at one rate."""
    deviation = jnp.asarray([1e-3, 1.0, 1e3])
    optimiser = fisher_adam(0.5, b1=0.5, damping=0.0)
    scores = jnp.diag(1 / deviation)

    @jax.jit
    def run(w):
        def one(carry, _):
            w, state = carry
            updates, state = optimiser.update(w / deviation**2, state, w, jacobian=scores)
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(one, (w, optimiser.init(w)), None, length=60)[0][0]

    assert np.abs(run(jnp.ones(3))).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "full"}, "metric must be one of"),
        ({"source": "drawn"}, "source must be one of"),
        ({"b2": 1.0}, "b2 must be in"),
        ({"power": 0.0}, "power must be in"),
        ({"damping": -1.0}, "damping must be in"),
        ({"damping": np.ones(3)}, r"damping must be one number, got shape \(3,\)"),
        ({"trust": 0.0}, "trust must be in"),
        ({"every": 0}, "every must be >= 1"),
    ],
)
def test_bad_options(options, message, bare_errors):
    with pytest.raises(ValueError, match=message):
        fisher_adam(0.1, **options)


def test_bad_scores(bare_errors):
    optimiser = fisher_adam(0.1)
    state = optimiser.init(GRADS)
    with pytest.raises(ValueError, match="needs scores"):
        optimiser.update(GRADS, state)
    with pytest.raises(ValueError, match="tree like the gradients"):
        optimiser.update(GRADS, state, jacobian={"w": JACOBIAN["w"]})
    with pytest.raises(ValueError, match=r"leaf 2, must have shape \(S, 3, 4\).*got \(3, 4\)"):
        optimiser.update(GRADS, state, jacobian=JACOBIAN | {"w": GRADS["w"]})
    pair = OuterScores(jnp.ones((5, 3)), jnp.ones((6, 4)))
    with pytest.raises(ValueError, match="OuterScores of shapes"):
        optimiser.update(GRADS, state, jacobian=JACOBIAN | {"w": pair})
    pair = OuterScores(jnp.ones((5, 3)), jnp.ones((5, 4), complex))
    with pytest.raises(TypeError, match="OuterScores must be a real"):
        optimiser.update(GRADS, state, jacobian=JACOBIAN | {"w": pair})
    with pytest.raises(TypeError, match="params"):
        optimiser.init({"n": jnp.ones(3, int)})
