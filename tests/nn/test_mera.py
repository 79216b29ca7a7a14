"""The MERA module is its functions, and trains on its manifold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from physnet import nn, optim
from physnet.holography import mera


@pytest.fixture(autouse=True)
def promotion_as_flax_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_module_is_its_functions():
    options = {"levels": 2, "up": (4, 2), "layers": 2, "start": "random"}
    layer = nn.mera.MERA(3, boundary="periodic", rngs=nnx.Rngs(0), **options)
    levels = mera.init(nnx.Rngs(0).params(), 3, **options)
    x = np.float32(np.random.default_rng(0).normal(size=(2, 7, 3)))
    bulk = nnx.jit(lambda layer, x: layer(x))(layer, x)
    expected = jax.jit(lambda l, x: mera.encode(l, x, boundary="periodic"))(levels, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), bulk, expected)
    back = nnx.jit(lambda layer, bulk: layer.decode(bulk, sites=7))(layer, bulk)
    np.testing.assert_allclose(back, x, atol=3e-6)
    assert len(jax.tree.leaves(nnx.state(layer, nnx.Param))) == 4


def test_training_keeps_the_manifold_and_lowers_the_error():
    layer = nn.mera.MERA(2, levels=2, complements=False, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x = jax.device_put(np.float32(np.cumsum(rng.normal(size=(32, 16, 2)), 1)))
    optimiser = nnx.Optimizer(layer, optim.stiefel_adam(0.03), wrt=nnx.Param)

    @nnx.jit
    def step(layer, optimiser):
        value, slope = nnx.value_and_grad(lambda m: jnp.mean((m.decode(m(x)) - x) ** 2))(layer)
        optimiser.update(layer, slope)
        return value

    values = [float(step(layer, optimiser)) for _ in range(40)]
    assert values[-1] < 0.95 * values[0]
    for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)):
        leaf = np.asarray(leaf)
        inner = np.float64(leaf.mT @ leaf)
        assert np.abs(inner - np.eye(inner.shape[-1])).max() < 1e-5
