"""The feed-forward of BK-Core as a mixture of experts that hyperbolic distance chooses.

Shapes: n tokens, W width, F expert width, E experts, R routing dimension, k experts of a token.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import hyperbolic, moe
from physnet._dtypes import accurate
from physnet.models import _sharding
from physnet.models.bk_core._config import BKCoreConfig
from physnet.nn.layers import linear

Params = dict[str, Any]


def init(config: BKCoreConfig, keys: jax.Array, *, output_deviation: float) -> dict[str, Params]:
    """`mlp`, experts on axis 0, and `route`, where they lie and how tokens get there.

    Of a normed stream the points are at |v| about 1 to begin with, a distance of 2 from the origin:
    there space is curved enough for a hierarchy (a circle is 1.8 times as long as a flat one), and
    two random points are some 3 apart, so that gates e^{-d} of several experts still compare.
    Centroids are drawn as the points are: none is out of reach of all tokens.
    """
    experts, width, dims = config.experts, config.width, config.route_dim
    hidden = config.hidden if config.expert_width is None else config.expert_width
    up, down = keys
    project, place = jax.random.split(jax.random.fold_in(up, 1))

    def normal(key, deviation, *shape):
        return deviation * jax.random.normal(key, shape, jnp.float32)

    return {
        "mlp": {
            "up": normal(up, 0.02, experts, width, hidden),
            "down": normal(down, output_deviation, experts, hidden, width),
        },
        "route": {
            "project": normal(project, (width * dims) ** -0.5, width, dims),
            "centroids": normal(place, dims**-0.5, experts, dims),
        },
    }


def mlp(params: Params, x: Float[Array, "*b w"]) -> Float[Array, "*b w"]:
    """Two matrices and a squared ReLU: the plain feed-forward, and one expert."""
    return linear(jnp.square(jax.nn.relu(linear(x, params["up"]))), params["down"])


def points(layer: Params, x: Float[Array, "n w"]) -> Float[Array, "n r"]:
    """Tangent coordinates of normed tokens, at least float32: bfloat16 would move the borders."""
    return linear(x.astype(accurate(x.dtype)), layer["route"]["project"])


def routing(config: BKCoreConfig, layer: Params, x: Float[Array, "n w"]) -> moe.Routing:
    """The top_k nearest experts, with the gates that train where tokens and experts lie.

    Gates are e^{-d} over their sum for the top_k and the next one, which is not computed. Over the
    top_k alone a single gate would be 1 and teach nothing; e^{-d} itself would shrink an output
    by a factor that depends on how far out the token is. So the gates of a token sum to at least
    k / (k + 1), half for one expert at the border, and follow the margin to the next one.
    """
    found = moe.route(
        points(layer, x),
        layer["route"]["centroids"],
        top_k=min(config.expert_top_k + 1, config.experts),
        normalise=True,
    )
    expert, gate, distance = (part[:, : config.expert_top_k] for part in found[:3])
    return found._replace(expert=expert, gate=gate, distance=distance)


def apply(
    config: BKCoreConfig,
    layer: Params,
    x: Float[Array, "b t w"],
    *,
    axis_name: str | None = None,
) -> tuple[Float[Array, "b t w"], jax.Array]:
    """Outputs for the normed stream, and the experts (B, T, k) that made them. Drops no token.

    Experts may be split over a mesh axis, as in `moe.apply`.
    """
    flat = x.reshape(-1, x.shape[-1])
    found = routing(config, layer, flat)
    y = moe.apply(flat, found, mlp, layer["mlp"], axis_name=axis_name)
    assert isinstance(y, jax.Array)  # no info was asked for
    return y.reshape(x.shape), found.expert.reshape(*x.shape[:2], -1)


def place(layer: Params, x: Float[Array, "b t w"], key: jax.Array) -> Float[Array, "e r"]:
    """Centroids of the clusters that the points of a sample form."""
    centroids = layer["route"]["centroids"]
    sample = points(layer, x.reshape(-1, x.shape[-1]))
    found = hyperbolic.kmeans(sample, len(centroids), key=key, coordinates="tangent")
    return found.centroids.astype(centroids.dtype)


def load(
    config: BKCoreConfig, expert: jax.Array, axis_name: str | None = None
) -> dict[str, jax.Array]:
    """How evenly the experts (L, B, T, k) of all layers are used, over all pieces of a sequence."""
    every = _sharding.gathered(expert, axis_name, axis=2)
    found = jax.vmap(lambda one: moe.load(one, experts=config.experts))(every)
    share = found.count.astype(jnp.float32) / (every.size // every.shape[0])
    return {
        "expert": expert,
        "expert_load": share,
        "effective_experts": found.effective,
        "expert_imbalance": found.imbalance,
    }
