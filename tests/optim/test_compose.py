"""With the rest of optax and JAX: partition, chain, schedules, vmap, shardings; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet import optim


@pytest.fixture(autouse=True)
def promotion_as_optax_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def run(optimiser, params, grads, steps=2):
    @jax.jit
    def all_of_them(params, grads):
        def one(carry, _):
            params, state = carry
            updates, state = optimiser.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(one, (params, optimiser.init(params)), None, length=steps)[0][0]

    return all_of_them(params, grads)


def tree(seed=0, scale=0.2):
    rng = np.random.default_rng(seed)
    make = lambda *shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {"points": make(4, 3), "more": [make(2, 2, 3)]}


def equal(found, expected, **tolerances):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), found, expected)


def test_partition_sends_each_leaf_to_its_optimiser():
    params, grads = tree(), tree(1)
    alone = {
        "points": optim.riemannian_sgd(0.1, momentum=0.9, coordinates="tangent"),
        "more": optax.adam(0.1),
    }
    found = run(optax.partition(alone, {name: name for name in alone}), params, grads)
    for name, optimiser in alone.items():
        equal(found[name], run(optimiser, params[name], grads[name]), rtol=1e-6)


def test_masked_chain_schedule_and_injected_hyperparameters():
    params, grads = tree(), tree(1, scale=3.0)
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    make = optax.inject_hyperparams(optim.riemannian_adam)
    masked = optax.masked(make(schedule, amsgrad=True), {"points": True, "more": False})
    chain = optax.chain(optax.clip_by_global_norm(1.0), masked)
    clipped = jax.tree.map(lambda g: g / optax.tree.norm(grads), grads)
    found = run(chain, params, grads)
    plain = optim.riemannian_adam(schedule, amsgrad=True)
    equal(found["points"], run(plain, params["points"], clipped["points"]), rtol=1e-5)
    equal(found["more"], [params["more"][0] + 2 * clipped["more"][0]], rtol=1e-5)
    injected = make(0.1).init(params).hyperparams
    assert float(injected["b2"]) == pytest.approx(0.999)


def test_ensembles_by_vmap_and_rows_apart():
    rng = np.random.default_rng(0)
    params, grads = 0.3 * rng.normal(size=(2, 3, 4, 2))
    optimiser = optim.riemannian_adam(0.1, coordinates="tangent")
    whole = run(optimiser, params, grads)
    each = jax.vmap(jax.vmap(lambda p, g: run(optimiser, p, g)))(params, grads)
    equal(each, whole, rtol=1e-12)
    state = jax.vmap(optimiser.init)(params)
    assert state.square.shape == (3, 4, 1)
    assert state.count.shape == (3,)


def test_float32_stays_and_half_precision_computes_in_float32():
    params = tree()["points"]
    optimiser = optim.riemannian_adam(optax.constant_schedule(0.1))

    @jax.jit
    def update(params):
        grads = jnp.ones(params.shape, params.dtype)
        return optimiser.update(grads, optimiser.init(params), params)

    (single, state), (half, narrow) = update(params), update(params.astype(jnp.bfloat16))
    assert (single.dtype, half.dtype) == (jnp.float32, jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves((state[1:], narrow[1:]))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(half, single, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(
    "optimiser",
    [
        optim.riemannian_adam(0.1, coordinates="tangent"),
        optim.riemannian_sgd(0.1, momentum=0.9, nesterov=True, coordinates="ball"),
    ],
)
def test_nan_stays_in_its_row_and_still_points_keep_their_bits(optimiser):
    params = tree()["points"]
    grads = jnp.zeros_like(params).at[1, 0].set(jnp.nan).at[3].set(1.0)
    new = np.asarray(run(optimiser, params, grads))
    assert np.isnan(new[1]).all()
    np.testing.assert_array_equal(new[[0, 2]], params[np.asarray([0, 2])])
    assert np.isfinite(new[3]).all()
    assert (new[3] != params[3]).all()


def test_absent_gradients_and_empty_trees():
    params, grads = tree(), tree(1) | {"points": None}
    optimiser = optim.riemannian_adam(0.1, coordinates="tangent")
    state = optimiser.init(params)
    updates, state = jax.jit(optimiser.update)(grads, state, params)
    assert updates["points"] is None
    assert updates["more"][0].shape == (2, 2, 3)
    assert not state.square["points"].any()
    for other in (optimiser, optim.riemannian_sgd(0.1)):
        assert other.update({}, other.init({}), {})[0] == {}


@pytest.mark.parametrize("make", [optim.riemannian_adam, optim.riemannian_sgd])
def test_errors_name_what_is_wrong(make, bare_errors):
    name, x = make.__name__, jnp.ones((2, 2)) / 4
    optimiser = make(0.1)
    with pytest.raises(ValueError, match=rf"{name} needs the current points.*params=None"):
        optimiser.update(x, optimiser.init(x))
    with pytest.raises(TypeError, match=rf"{name}: params\['a'\] must be a real floating"):
        optimiser.init({"a": jnp.ones(3, int)})
    with pytest.raises(ValueError, match="must have at least one axis"):
        optimiser.init(jnp.ones(()))
    for options, message in (
        ({"curvature": 0.0}, r"curvature must be in \(0, inf\), got 0.0"),
        ({"curvature": np.nan}, "curvature must be in"),
        ({"curvature": np.ones(2)}, r"curvature must be one number, got shape \(2,\)"),
        ({"coordinates": "klein"}, "coordinates must be one of"),
        ({"retraction": "qr"}, "retraction must be one of"),
        ({"project_eps": 1.0}, r"project_eps must be in \(0, 1\), got 1.0"),
        ({"coordinates": "tangent", "retraction": "first_order"}, "'exponential' alone"),
        ({"coordinates": "tangent", "project_eps": 0.1}, "no boundary, got project_eps=0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            make(0.1, **options)
    with pytest.raises(ValueError, match=r"b2 must be in \[0, 1\), got 1.0"):
        optim.riemannian_adam(0.1, b2=1.0)
    with pytest.raises(ValueError, match="nesterov=True needs a momentum"):
        optim.riemannian_sgd(0.1, nesterov=True)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from physnet import optim

mesh = jax.make_mesh((2,), ("half",))
params = jnp.asarray(0.1 * np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
optimiser = optim.riemannian_adam(0.1, coordinates="tangent")

@jax.jit
def step(params, grads):
    updates, state = optimiser.update(grads, optimiser.init(params), params)
    return optax.apply_updates(params, updates)

whole = step(params, jnp.cos(params))
for spec in (P("half"), P(None, "half")):  # points apart, then coordinates apart
    placed = jax.device_put(params, NamedSharding(mesh, spec))
    new = step(placed, jnp.cos(placed))
    np.testing.assert_allclose(new, whole, rtol=1e-5, atol=1e-7)
    assert new.sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
print("equal")
"""


@pytest.mark.slow
def test_sharded_parameters_on_two_devices(on_devices):
    assert on_devices(SHARDED, 2) == "equal"
