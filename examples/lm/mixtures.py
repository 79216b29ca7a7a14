"""BK-Core with its feed-forward as a mixture of experts that one of several rules chooses.

All but the rule is that of `models.bk_core` with one expert a token, and so is all of it where the
rule is "hyperbolic".

Shapes: B batch, T time, n = B T tokens, W width, V vocabulary, L layers, E experts, R coordinates.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet import hyperbolic, moe
from physnet.hyperbolic import polar
from physnet.models import bk_core
from physnet.nn import attention, mixer
from physnet.nn.layers import linear, rms_norm

Params = dict[str, Any]
Rule = Literal[
    "hyperbolic",
    "euclidean",
    "hyperbolic-balanced",
    "euclidean-balanced",
    "linear",
    "hash",
    "dense",
]

RULES: dict[Rule, str] = {
    "hyperbolic": "hyperbolic centroids",
    "euclidean": "Euclidean centroids",
    "hyperbolic-balanced": "hyperbolic, balance loss",
    "euclidean-balanced": "Euclidean, balance loss",
    "linear": "linear router, balance loss",
    "hash": "hash of the token",
    "dense": "one feed-forward",
}
FLAT = 1e-6
"""A curvature at which distances of a few units are Euclidean to 1e-5."""


class Passed(NamedTuple):
    """What a forward pass gives.

    Attributes:
        logits: (B, T, V).
        expert: (L, B, T) int32, or None without experts.
        balance: the mean over layers of E sum_e (share of tokens)_e (mean gate)_e, 1 at even loads;
            0 for rules without a balance loss.
        params: those that went in, with calibrated gates and placed centroids.
    """

    logits: Any
    expert: Any
    balance: Any
    params: Any


def curvature(rule: Rule) -> float:
    """That of the space in which the rule's centroids lie."""
    return FLAT if rule.startswith("euclidean") else 1.0


def init(rule: Rule, config: bk_core.BKCoreConfig, key: jax.Array) -> Params:
    """Parameters at the start, as `bk_core.init` has them but for what the rule needs.

    Args:
        rule: of routing; "dense" has a feed-forward of an expert's width instead of the mixture.
        config: sizes, with experts.
        key: of random numbers. What two rules share starts equal.
    """
    if rule == "dense":
        return bk_core.init(dataclasses.replace(config, experts=0), key)
    params = bk_core.init(config, key)
    layers, key = params["layers"], jax.random.fold_in(key, 1)
    if rule == "linear":
        shape = (config.layers, config.width, config.experts)
        layers["route"] = {"router": 0.02 * jax.random.normal(key, shape, jnp.float32)}
    if rule == "hash":  # a number in [0, 1) for each word, another one in each layer
        shape = (config.layers, config.vocab_size)
        layers["route"] = {"table": jax.random.uniform(key, shape, jnp.float32)}
    return params


def apply(
    rule: Rule,
    config: bk_core.BKCoreConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    calibrate: bool = False,
    place: jax.Array | None = None,
    due: ArrayLike = True,
) -> Passed:
    """Logits of the next token, with the experts that each position went through.

    Args:
        rule, config: as in `init`.
        params: as `init` returns them.
        tokens: (B, T).
        calibrate: set the gates of attention by these tokens on the way, as `bk_core.calibrate`.
        place: a key: move centroids to the clusters of these tokens on the way, if `due`.
        due: a boolean, may be traced.
    """
    x = params["token"][tokens]
    experts, balances, layers = [], [], []
    for index in range(config.layers):
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], params["layers"])
        h = rms_norm(x, scale=layer["norm_mixer"])
        mixed = mixer.apply(layer["mixer"], h, groups=config.heads)
        if calibrate:
            layer["attention"] = attention.calibrate(
                layer["attention"],
                mixed.openness,
                density=config.density,
                local_window=config.local_window,
            )
        score = attention.score(layer["attention"], mixed.openness)
        attended = attention.apply(
            layer["attention"],
            h,
            score,
            local_window=config.local_window,
            rotary_base=config.rotary_base,
        )
        x = x + mixed.output + attended
        h = rms_norm(x, scale=layer["norm_mlp"]).reshape(-1, config.width)
        if place is not None and "centroids" in layer.get("route", {}):
            found = _placed(rule, layer, h, jax.random.fold_in(place, index))
            found = jnp.where(due, found, layer["route"]["centroids"])
            layer["route"] |= {"centroids": found}
        layers.append(layer)
        if rule == "dense":
            x = x + expert_fn(layer["mlp"], h).reshape(x.shape)
            continue
        routing, balance = route(rule, config, layer["route"], h, tokens.reshape(-1))
        x = x + moe.apply(h, routing, expert_fn, layer["mlp"]).reshape(x.shape)
        experts.append(routing.expert[:, 0].reshape(tokens.shape))
        balances.append(balance)
    logits = jnp.einsum("btw,vw->btv", rms_norm(x, scale=params["norm"]), params["token"])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return Passed(
        logits,
        jnp.stack(experts) if experts else None,
        jnp.mean(jnp.stack(balances)) if balances else jnp.zeros(()),
        params | {"layers": stacked},
    )


def route(
    rule: Rule,
    config: bk_core.BKCoreConfig,
    params: Params,
    x: Float[Array, "n W"],
    tokens: Int[Array, " n"],
) -> tuple[moe.Routing, jax.Array]:
    """One expert for each token with its gate, and how uneven loads are where that is a loss.

    The rules with centroids take the nearest one, with e^{-d} over its sum with that of the second
    nearest as the gate, as BK-Core does. Euclidean distance is 2 |u - v|, as the hyperbolic one is
    near the origin. "linear" takes the largest of E softmax gates, "hash" an expert that was drawn
    for the word. A balance loss is that of the Switch transformer; of distances with the gates
    softmax(-d) over all experts.
    """
    if rule == "hash":
        expert = (params["table"][tokens] * config.experts).astype(jnp.int32)[:, None]
        return _routing(expert, jnp.ones(expert.shape, x.dtype)), jnp.zeros(())
    if rule == "linear":
        gates = jax.nn.softmax(x @ params["router"])
        expert = jnp.argmax(gates, axis=-1).astype(jnp.int32)[:, None]
        gate = jnp.take_along_axis(gates, expert, axis=-1)
        return _routing(expert, gate), _balance(expert, gates)
    points, centroids = linear(x, params["project"]), params["centroids"]
    if curvature(rule) == 1.0:
        found = moe.route(points, centroids, top_k=2, normalise=True)
        expert, gate = found.expert[:, :1], found.gate[:, :1]
        distance = polar.distance(points[:, None], centroids[None])
    else:
        apart = jnp.sum(jnp.square(points[:, None] - centroids[None]), axis=-1)
        distance = 2 * jnp.sqrt(jnp.maximum(apart, 1e-12))
        nearest, expert = jax.lax.top_k(-distance, 2)
        expert = expert[:, :1].astype(jnp.int32)
        gate = moe.gate(-nearest, normalise=True)[:, :1]
    if not rule.endswith("balanced"):
        return _routing(expert, gate), jnp.zeros(())
    return _routing(expert, gate), _balance(expert, moe.gate(distance, normalise=True))


def expert_fn(params: Params, x: Float[Array, "*b W"]) -> Float[Array, "*b W"]:
    """Two matrices and a squared ReLU, as in BK-Core."""
    return linear(jnp.square(jax.nn.relu(linear(x, params["up"]))), params["down"])


def _balance(expert: Array, gates: Float[Array, "n E"]) -> jax.Array:
    share = jnp.mean(jax.nn.one_hot(expert[:, 0], gates.shape[1]), axis=0)
    return gates.shape[1] * jnp.sum(share * jnp.mean(gates, axis=0))


def _routing(expert: Array, gate: Array) -> moe.Routing:
    return moe.Routing(expert, gate, None, None, None)


def _placed(rule: Rule, layer: Params, x: Float[Array, "n W"], key: jax.Array) -> jax.Array:
    """Centroids of the clusters of these tokens, in the rule's geometry."""
    points, centroids = linear(x, layer["route"]["project"]), layer["route"]["centroids"]
    found = hyperbolic.kmeans(
        points, len(centroids), key=key, curvature=curvature(rule), coordinates="tangent"
    )
    return found.centroids.astype(centroids.dtype)
