"""Experts over 8 devices, in a process of its own: equal to one device, dropped tokens too.

In the form of CPUs, and in that of accelerators where derivatives are asked for.
"""

import pytest

SHARDED = """
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from physnet import moe
from physnet.moe import _experts

rng = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
params = {"in": draw(16, 4, 8), "out": draw(16, 8, 3)}
tokens, centroids = draw(128, 4), draw(16, 4)
mesh = jax.make_mesh((8,), ("experts",), axis_types=(jax.sharding.AxisType.Auto,))


def mlp(p, x):
    return jnp.tanh(x @ p["in"]) @ p["out"]


def mixture(params, tokens, centroids, away, *, factor, axis_name=None):
    routing = moe.route(tokens, centroids, top_k=2)
    # away: all tokens to the experts of one device, and some to none
    expert = jnp.where(away[:, None], jnp.array([[3, 2]]), routing.expert)
    expert = jnp.where(tokens[:, :1] > 2, -1, expert)
    routing = routing._replace(expert=expert)
    return moe.apply(
        tokens, routing, mlp, params, capacity_factor=factor, axis_name=axis_name, return_info=True
    )


run = _experts.run
for factor, loop in ((None, True), (None, False), (0.7, True)):
    _experts.run = lambda *a, loop=loop, **kw: run(*a, **{**kw, "loop": loop})
    one = functools.partial(mixture, factor=factor)
    sharded = jax.shard_map(
        functools.partial(one, axis_name="experts"),
        mesh=mesh,
        in_specs=(P("experts"), P("experts"), P(), P("experts")),
        out_specs=(P("experts"), P()),
    )

    def loss(function, *arguments):
        y, info = function(*arguments)
        return jnp.sum(jnp.sin(y)), (y, info)

    both = [functools.partial(loss, f) for f in (sharded, one)]
    if factor is None:
        both = [jax.value_and_grad(f, (0, 1, 2), has_aux=True) for f in both]
    both = [jax.jit(f) for f in both]
    for away in (jnp.zeros(128, bool), jnp.ones(128, bool)):
        got, want = (f(params, tokens, centroids, away) for f in both)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)
print("equal")
"""


@pytest.mark.slow
def test_equal_to_one_device(on_devices):
    assert on_devices(SHARDED, 8) == "equal"
