"""Propagators over depth against their definitions, as matrices and applied in O(L)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from physnet import dyson, greens

LAYERS = 7


def random(*shape, seed=0):
    return jax.device_put(np.random.default_rng(seed).normal(size=shape))


def products(rho):
    """G(l, k) = prod_{m=l+1..k} rho_m, by its definition."""
    n, rho = len(rho), np.asarray(rho)
    return np.array([[np.prod(rho[l + 1 : k + 1]) * (k > l) for k in range(n)] for l in range(n)])


def chain():
    rng = np.random.default_rng(5)
    hopping = rng.normal(size=LAYERS - 1) + 1j * rng.normal(size=LAYERS - 1)
    return *jax.device_put((rng.normal(size=LAYERS), hopping)), 0.2 + 0.3j


def chain_matrix():
    onsite, hopping, energy = chain()
    h = np.diag(onsite).astype(complex) + np.diag(hopping, 1) + np.diag(np.conj(hopping), -1)
    return np.asarray(jax.jit(greens.resolvent)(h, energy))


RHO = random(LAYERS)
U, V = jax.device_put(tuple(np.asarray(random(2, LAYERS, 3, seed=1))))
MATRIX = random(LAYERS, LAYERS, seed=2)
ZEROS = np.where(np.arange(LAYERS) == 3, 0, RHO)
FORMS = {
    "scalars": (RHO, products(RHO)),
    "zeros": (jax.device_put(ZEROS), products(ZEROS)),
    "factors": ((U, V), np.asarray(U) @ np.asarray(V).T),
    "dense": (MATRIX, np.asarray(MATRIX)),
    "chain": (jax.jit(dyson.chain_propagator)(*chain()), chain_matrix()),
    "general": (
        dyson.Propagator(U, jax.device_put(np.repeat(np.asarray(RHO)[:, None], 3, 1)), V),
        products(RHO) * (np.asarray(U) @ np.asarray(V).T),
    ),
}
forms = pytest.mark.parametrize("name", FORMS)


@forms
def test_matrix_is_the_definition_above_the_diagonal(name):
    propagator, expected = FORMS[name]
    ours = jax.jit(dyson.dense)(propagator)
    np.testing.assert_allclose(ours, np.triu(expected, 1), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(np.tril(ours), 0)


@forms
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_applied_it_is_the_sum_over_later_layers(name, shape):
    propagator, matrix = FORMS[name]
    source = random(LAYERS, *shape, seed=4)
    expected = np.tensordot(np.triu(matrix, 1), source, 1)
    ours = jax.jit(dyson.apply)(propagator, source)
    assert ours.shape == source.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
    as_any = jax.jit(dyson.apply)(dyson.as_propagator(propagator), source)
    np.testing.assert_allclose(as_any, expected, rtol=1e-12, atol=1e-12)


def test_scalars_solve_the_dyson_equation_over_depth():
    identity, sigma = jnp.eye(LAYERS), jnp.diag(RHO[1:], 1)
    full = dyson.solve(identity, sigma, triangular="upper")
    np.testing.assert_allclose(full, identity + dyson.dense(RHO), rtol=1e-13, atol=1e-13)


def test_a_chain_whose_last_column_is_the_product_of_scalars():
    # z - H = (1 - N)^T (1 - N) at z = 1, N = rho above the diagonal: G = (1 - N)^{-1} (1 - N)^{-T}.
    rho = 0.5 + jnp.abs(RHO)
    onsite = -(jnp.where(jnp.arange(LAYERS) > 0, rho, 0) ** 2)
    p = dyson.chain_propagator(onsite, rho[1:], 1 + 1e-12j)
    column = dyson.dense(p)[:-1, -1]
    np.testing.assert_allclose(column, dyson.dense(rho)[:-1, -1], rtol=1e-9, atol=1e-9)


def test_the_chain_applied_is_the_upper_part_of_its_solve():
    onsite, hopping, energy = chain()
    source = random(LAYERS, 2, seed=4)
    whole = greens.solve(onsite, hopping, energy, source)
    causal = greens.propagate(onsite, hopping, energy, source)
    half = greens.left(onsite, hopping, energy)
    # psi_l - y_l = gL_l b_l psi_{l+1} counts later sources in full, and earlier ones once reflected
    again = half[:-1, None] * hopping[:, None] * whole[1:]
    np.testing.assert_allclose(whole[:-1] - causal[:-1], again, rtol=1e-12, atol=1e-12)
    later = dyson.apply(dyson.chain_propagator(onsite, hopping, energy), source)
    np.testing.assert_allclose(later[0], again[0] - (whole[0] - later[0] - causal[0]), atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_thousand_layers_neither_divide_nor_overflow_where_the_product_does_not(scale):
    # Ups and downs of the running product beyond float32, with every G(l, k) that counts inside.
    rho = np.where(np.arange(1000) % 2 == 0, scale, 1 / scale).astype(np.float32)
    apply = jax.jit(dyson.apply)
    ours = apply(rho, np.ones(1000, np.float32))
    exact = apply(rho.astype(np.float64), np.ones(1000))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, exact, rtol=1e-4)
    rho[500] = 0
    dead = np.asarray(apply(rho, np.ones(1000, np.float32)))
    assert dead[499] == 0
    assert np.isfinite(dead).all()


@forms
def test_derivatives_are_those_of_the_matrix(name):
    propagator, _ = FORMS[name]
    source = random(LAYERS, 2, seed=4)

    def loss(how):
        return lambda p, s: jnp.sum(jnp.abs(jnp.sin(how(p, s))) ** 2)

    def by_matrix(p, s):
        matrix = dyson.dense(p)
        return matrix @ s.astype(matrix.dtype)

    ours = jax.jit(jax.grad(loss(dyson.apply), (0, 1)))(propagator, source)
    expected = jax.jit(jax.grad(loss(by_matrix), (0, 1)))(propagator, source)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_derivatives_through_scalars_and_chains():
    def of_scalars(rho, source):
        return dyson.apply(rho, source)

    def of_chain(onsite, hopping):
        p = dyson.chain_propagator(onsite, hopping, 0.2 + 0.3j)
        return jnp.abs(dyson.apply(p, jnp.ones(4)))[:-1]

    check_grads(jax.jit(of_scalars), (RHO[:4], random(4, 2)), order=2, rtol=1e-6, atol=1e-6)
    check_grads(jax.jit(of_chain), (RHO[:4], RHO[4:]), order=1, rtol=1e-6, atol=1e-6)


def test_vmap():
    rho = np.asarray(random(3, LAYERS, seed=8))
    source = np.asarray(random(2, 3, LAYERS, 4, seed=9))
    ours = np.asarray(jax.jit(jax.vmap(jax.vmap(dyson.apply), (None, 0)))(rho, source))
    apply = jax.jit(dyson.apply)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(ours[i, j], apply(rho[j], source[i, j]), rtol=1e-13)
    run = lambda a: dyson.chain_propagator(a, *chain()[1:]).decay  # noqa: E731
    chains = np.asarray(jax.jit(jax.vmap(run))(rho))
    np.testing.assert_allclose(chains[1], jax.jit(run)(rho[1]), rtol=1e-13)


@pytest.mark.parametrize(
    ("propagator", "source", "out"),
    [
        ("float32", "float32", "float32"),
        ("float32", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("complex64", "float32", "complex64"),
        ("float32", "float64", "float64"),
    ],
)
def test_precision_is_that_of_the_input(propagator, source, out):
    rho, delta = jnp.ones(3).astype(propagator), jnp.ones((3, 2)).astype(source)
    for form in (rho, (rho[:, None], rho[:, None]), jnp.eye(3).astype(propagator)):
        assert jax.eval_shape(dyson.apply, form, delta).dtype == out
    onsite = jnp.ones(3, jnp.float32)
    assert dyson.chain_propagator(onsite, onsite[1:], 1j).decay.dtype == jnp.complex64


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from physnet import dyson

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))
rho, source = jnp.linspace(0.5, 1.0, 5), jnp.arange(20.0).reshape(5, 4)
w = jnp.stack([jnp.eye(3), 0.5 * jnp.ones((3, 3))])
layer = lambda w, h: jnp.tanh(w @ h)
h, keys = jnp.arange(12.0).reshape(4, 3) / 12, jax.random.split(jax.random.key(0), 4)

def everything(rho, source, w, h, keys):
    one = lambda h, key: (
        dyson.isometry_penalty(layer, w, h, key=key),
        dyson.probe_layers(layer, w, h, key=key),
        dyson.gradient_norms(layer, w, h, h),
    )
    return dyson.apply(rho, source).T, jax.vmap(one)(h, keys)

specs = (P(), P(None, "examples"), P(), P("examples"), P("examples"))
sharded = jax.shard_map(everything, mesh=mesh, in_specs=specs, out_specs=P("examples"))
arguments = (rho, source, w, h, keys)
ours, expected = jax.jit(sharded)(*arguments), jax.jit(everything)(*arguments)
for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
print("equal")
"""


@pytest.mark.slow
def test_under_shard_map_on_two_devices(on_devices):
    assert on_devices(SHARDED, 2) == "equal"
