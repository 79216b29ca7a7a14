"""Clusters and trees of the points of a device: loops begin alike everywhere and then differ."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from physnet import hyperbolic

KEY = jax.random.key(0)
CENTROIDS = jnp.linspace(-1.0, 1.0, 160, dtype=jnp.float32).reshape(40, 4)


def tree(points):
    return hyperbolic.tree.build(points, key=KEY)


OF_POINTS = {
    "kmeans": lambda x: hyperbolic.kmeans(x, 4, key=KEY),
    "search": lambda x: hyperbolic.tree.search(tree(x), x, top_k=2),
    "search of common centroids": lambda x: hyperbolic.tree.search(tree(CENTROIDS), x),
}


@pytest.mark.parametrize("name", OF_POINTS)
def test_points_of_a_device_within_shard_map(name):
    function, points = OF_POINTS[name], jax.ShapeDtypeStruct((32, 4), jnp.float32)
    split = jax.shard_map(
        lambda x: jax.tree.map(lambda leaf: leaf[None], function(x)),
        mesh=AbstractMesh((2,), ("a",), axis_types=(AxisType.Auto,)), in_specs=PartitionSpec("a"),
        out_specs=PartitionSpec("a"),
    )  # fmt: skip
    found = jax.eval_shape(split, jax.ShapeDtypeStruct((64, 4), jnp.float32))
    alone = jax.eval_shape(function, points)
    assert jax.tree.map(lambda x: (x.shape[1:], x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), alone
    )
