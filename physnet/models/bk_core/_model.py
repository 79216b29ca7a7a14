"""The forward pass and the calibration of BK-Core.

Each block reads a potential from the stream. The chain with that potential is a resolvent mixer
(an O(T) causal recurrence), and its causal local density of states gates scattering attention:
pairs of open tokens attend to each other, and every token to a few nearest ones.

Shapes: B batch, T time, V vocabulary, W width, N heads, L layers, F hidden, H chains of a layer.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from physnet import _checks, _dispatch, scattering
from physnet._dtypes import accurate
from physnet.models import _memory, _sharding
from physnet.models._axes import Axes
from physnet.models._tokens import check_tokens, embed, replace
from physnet.models.bk_core import _block, _depth, _experts, _reversible
from physnet.models.bk_core._block import Params
from physnet.models.bk_core._config import BKCoreConfig
from physnet.models.bk_core._partition import check_parts
from physnet.nn import attention as gated
from physnet.nn import mixer
from physnet.nn.layers import dropout, rms_norm


def init(config: BKCoreConfig, key: jax.Array) -> Params:
    """Parameters at the start, float32; those of the layers are stacked on axis 0 (L).

    The token embedding is also the output projection; there are no position parameters. Until
    `calibrate` has set the gates, every causal pair passes.

    Args:
        config: the sizes.
        key: a JAX random key.

    Returns:
        A nested dict of arrays.

    Example:
        >>> import jax
        >>> params = jax.jit(init, static_argnums=0)(BKCoreConfig(vocab_size=64), jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        804640
    """
    token, layers = jax.random.split(_checks.key("key", key))
    stacked = jax.vmap(lambda k: _init_layer(config, k))(jax.random.split(layers, config.layers))
    shape = (config.vocab_size, config.width)
    return {
        "token": 0.02 * jax.random.normal(token, shape, jnp.float32),
        "layers": stacked,
        "norm": jnp.ones((config.width,), jnp.float32),
    }


def _init_layer(config: BKCoreConfig, key: jax.Array) -> Params:
    width, hidden = config.width, config.hidden
    assert hidden is not None  # set by __post_init__
    narrow = 0.02 / (2.0 * config.layers) ** 0.5
    keys = jax.random.split(key, 4)
    if config.mixer:
        chain = mixer.init(
            keys[0],
            width,
            heads=config.chains,
            learn_hopping=config.learn_hopping,
            output_deviation=narrow,
        )
    else:
        chain = mixer.hamiltonian(
            keys[0], width, heads=config.chains, learn_hopping=config.learn_hopping
        )
    layer = {
        "norm_mixer": jnp.ones((width,), jnp.float32),
        "mixer": chain,
        "norm_mlp": jnp.ones((width,), jnp.float32),
    }
    if config.experts:
        layer |= _experts.init(config, keys[2:], output_deviation=narrow)
    else:
        layer["mlp"] = {
            "up": 0.02 * jax.random.normal(keys[2], (width, hidden), jnp.float32),
            "down": narrow * jax.random.normal(keys[3], (hidden, width), jnp.float32),
        }
    if config.attention:
        layer["attention"] = gated.init(
            keys[1],
            width,
            heads=config.heads,
            soft_gate=config.soft_gate,
            output_deviation=narrow,
        )
    return layer


def apply(
    config: BKCoreConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
    return_info: bool = False,
    teleport: ArrayLike | None = None,
    axes: Axes | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Any:
    """Logits of the next token at every position. No logit depends on a later token.

    Each layer is x += mixer(norm(x)) + attention(norm(x)), x += mlp(norm(x)) with squared ReLU, or
    with experts in its place. With `config.teleport` gradients also jump over blocks, as
    `teleport.scan` has it; logits are the same up to rounding. With `config.reversible` no block
    keeps activations; with `return_info` they do, and logits differ by the lattice's 2^-22, which
    blocks amplify.

    Within `jax.shard_map`, `axes` says over which mesh axes the model is split: parameters as
    `partition` has them, and this device's piece of the tokens. The logits are those of the piece,
    the same over the tensor axis; they and all gradients equal those of one device up to rounding.
    Over the tensor axis each block adds up its outputs twice; over the sequence the recurrence
    exchanges its states, and attention gathers the keys and values that the gate may use; over the
    expert axis tokens travel to their experts. The tensor axis changes no dropout mask, but each
    piece of a sequence draws masks of its own, and for the axes of the batch it is the caller who
    folds the device's index into the key.

    Args:
        config: the sizes.
        params: as `init` returns them, gates set by `calibrate`.
        tokens: (B, T) integers in [0, V); the logits from a token outside on are NaN.
        key: a random key that switches dropout on: `config.dropout` on potentials, sources and the
            outputs of the three parts, and replaces `config.token_dropout` of the tokens.
        dtype: of activations and matrix products; the recurrence, norms, softmax and logits are
            at least float32.
        return_info: also return what the model reports about itself; costs O(T^2) booleans. Has no
            gradient where others jump.
        teleport: a strength in place of `config.teleport`, a number or (L,) as in `teleport.scan`.
            May be traced: to anneal it, or for `teleport.gradients`.
        axes: the mesh axes that split the model, for use within `jax.shard_map`, as above.
        implementation: of the recurrence and of attention; None for the fastest of each.

    Returns:
        Logits (B, T, V); with `return_info` a pair of them and a dict that holds `kept_pairs`, the
        share of causal pairs that attention computes (mean over layers and heads; 0 without
        attention; with a memory the entries that it has room for, over the tokens so far), and
        `score`, the gates' scores (L, B, T, N). With experts also `expert`, those of each token
        (L, B, T, k), the nearest first; `expert_load`, the share of all assignments
        that each takes (L, E); `effective_experts` and `expert_imbalance` (L,), as in `moe.Load`.
        Of a split model scores are those of this device's heads; shares and loads are of the whole
        sequences of the device's batch.

    Raises:
        ValueError: tokens are not (B, T), or T is 0; axes that tokens are not split over as `Axes`
            says or parameters as `partition` does, that heads cannot be shared out over, or a
            sequence axis with a memory or with `teleport_mode="gated"`.
        TypeError: tokens are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = BKCoreConfig(vocab_size=7, layers=2, heads=2, width=16, chains=4)
        >>> params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
        >>> run = jax.jit(lambda tokens: apply(config, params, tokens))
        >>> tokens = jnp.array([[1, 2, 3, 4]])
        >>> later = run(tokens.at[0, 3].set(6))
        >>> bool((run(tokens) == later)[:, :3].all())
        True
    """
    tokens = check_tokens(params, tokens)
    axes = _split(config, params, tokens, axes)
    key = _sharding.own_key(None if key is None else _checks.key("key", key), axes.sequence)
    tokens = replace(config.token_dropout, key, tokens, config.vocab_size)
    x = embed(params["token"], tokens, dtype)
    x = _block.begin(config, x)
    strength = config.teleport if teleport is None else teleport
    options: Any = {"key": key, "implementation": implementation, "axes": axes}
    reports: Any = (None, None)
    if not _depth.still(strength):
        x, reports = _depth.jumping(config, params, x, strength, report=return_info, **options)
    elif config.reversible and not return_info:
        x = _reversible.stream(config, params, x, **options)
    else:
        x, reports = _in_turn(config, params, x, report=return_info, **options)
    logits = readout(params, _sharding.settled(_block.end(config, x), axes.tensor))
    if not return_info:
        return logits
    score, expert = reports
    info = {"kept_pairs": jnp.zeros((), jnp.float32)}
    if score is not None:
        info = {"kept_pairs": _share(config, params, score, axes), "score": score}
    if config.experts:
        info |= _experts.load(config, _sharding.settled(expert, axes.tensor), axes.sequence)
    return logits, info


def calibrate(
    config: BKCoreConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
    implementation: _dispatch.Implementation | None = None,
) -> Params:
    """The parameters with gates that keep `config.density` of the causal pairs of a sample.

    The constants are the model's own from then on: a gate that took a statistic of the sequence
    it gates would leak later tokens into earlier outputs. Call it now and then while training.

    Args:
        config: the sizes.
        params: as `init` returns them.
        tokens: (B, T), a sample of the kind and length that the model is for.
        key: a random key that also moves the experts' centroids, to hyperbolic k-means of the
            sample: for the start, since trained experts would be given other tokens. None leaves
            them.
        dtype, implementation: as in `apply`.

    Returns:
        New parameters; only ceilings and thresholds differ, and with a key centroids.

    Raises:
        ValueError, TypeError: As `apply`; ValueError for fewer tokens than centroids to place, or
            for a part of the parameters: only `apply` takes a model that is split.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = BKCoreConfig(
        ...     vocab_size=7, layers=1, heads=2, width=16, chains=4, attention=False, experts=3
        ... )
        >>> params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
        >>> tokens = jnp.arange(24, dtype=jnp.int32).reshape(2, 12) % 7
        >>> @jax.jit
        ... def shares(params):
        ...     params = calibrate(config, params, tokens, key=jax.random.key(1))
        ...     return apply(config, params, tokens, return_info=True)[1]["expert_load"]
        >>> load = shares(params)
        >>> load.shape, bool((load > 0).all()), f"{load.sum():.2f}"
        ((1, 3), True, '1.00')
    """
    tokens = check_tokens(params, tokens)
    key = None if key is None else _checks.key("key", key)
    check_parts(config, params)
    place = key if config.experts else None
    if not config.attention and place is None:
        return params
    x = _block.begin(config, embed(params["token"], tokens, dtype))
    found = []
    for index in range(config.layers):
        layer, new = _block.layer_params(params, index), {}
        if config.attention:
            openness = mixer.apply(
                layer["mixer"],
                rms_norm(_block.read(config, x), scale=layer["norm_mixer"]),
                groups=config.heads,
                implementation=implementation,
            ).openness
            layer["attention"] = gated.calibrate(
                layer["attention"],
                openness,
                density=config.density,
                local_window=config.local_window,
            )
            names = ("ceiling", "threshold")
            new["attention"] = {name: layer["attention"][name] for name in names}
        seen, silent = _block.read(config, x), dropout(0.0, None)
        _, y = _block.tokens_mixed(config, layer, seen, silent, implementation)
        x = _block.kicked(config, x, y)
        if place is not None:
            h = rms_norm(_block.moving(config, x), scale=layer["norm_mlp"])
            new["route"] = {"centroids": _experts.place(layer, h, jax.random.fold_in(place, index))}
            layer["route"] |= new["route"]
        x, _ = _block.fed(config, layer, x, silent)
        found.append(new)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    layers = params["layers"]
    return params | {
        "layers": layers | {part: layers[part] | values for part, values in stacked.items()}
    }


def pairs(
    config: BKCoreConfig, params: Params, tokens: Int[Array, "B T"]
) -> Bool[Array, "L B N T T"]:
    """The causal pairs that each head of each layer computes.

    Args:
        config: the sizes.
        params: as `init` returns them, gates set by `calibrate`.
        tokens: (B, T) integers.

    Returns:
        (L, B, N, T, T) booleans: query by key.

    Raises:
        ValueError, TypeError: As `apply`; ValueError for a model without attention, or with a
            memory in its place.
    """
    if not config.attention:
        raise ValueError("config.attention must be True: without attention there are no pairs")
    if config.memory is not None:
        raise ValueError("config.memory must be None: queries see its entries, and not tokens")
    score = apply(config, params, tokens, return_info=True, teleport=0.0)[1]["score"]
    return jnp.stack(
        [_pairs(config, _block.layer_params(params, i), s) for i, s in enumerate(score)]
    )


def readout(params: Params, x: Float[Array, "B T W"]) -> Float[Array, "B T V"]:
    """Logits of the last stream, at least float32."""
    x = rms_norm(x, scale=params["norm"])
    embedding = params["token"].astype(x.dtype)
    return jnp.einsum("btw,vw->btv", x, embedding, preferred_element_type=accurate(x.dtype))


def _in_turn(
    config: BKCoreConfig,
    params: Params,
    x: _block.Stream,
    *,
    key: jax.Array | None,
    implementation: _dispatch.Implementation | None,
    axes: Axes,
    report: bool,
) -> tuple[_block.Stream, Any]:
    """The stream after all blocks, and their (score, expert) with layers on axis 0."""
    reports = []
    for index in range(config.layers):  # unrolled: faster than a scan over the layers on CPU
        layer, number = _block.layer_params(params, index), jnp.asarray(index, jnp.int32)
        options: Any = {"implementation": implementation, "axes": axes}
        x, *reported = _one(config, layer, x, number, key, **options)
        reports.append(reported)
    if not report:
        return x, None
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *reports)


@functools.partial(jax.jit, static_argnames=("config", "implementation", "axes"))
def _one(
    config: BKCoreConfig,
    layer: Params,
    x: _block.Stream,
    index: jax.Array,
    key: jax.Array | None,
    *,
    implementation: _dispatch.Implementation | None,
    axes: Axes,
) -> _block.Passed:
    """A block. All of them are one function, which a program is traced and lowered for once."""
    drop = _depth.dropout_at(config.dropout, key, index)
    return _block.block(config, layer, x, drop, implementation, axes)


def _split(config: BKCoreConfig, params: Params, tokens: jax.Array, axes: Axes | None) -> Axes:
    """The axes, where this model can be split over them."""
    if axes is None:
        check_parts(config, params)
        return _sharding.NONE
    _sharding.check(axes, tokens)
    _sharding.share(axes, heads=config.heads)
    check_parts(config, params, axes)
    if axes.sequence is not None and config.memory is not None:
        raise ValueError(
            "axes.sequence must be None with config.memory, which takes tokens one after another, "
            f"got {axes.sequence!r}"
        )
    if axes.expert is not None and not config.experts:
        raise ValueError(f"axes.expert must be None without experts, got {axes.expert!r}")
    return axes


def _share(config: BKCoreConfig, params: Params, score: jax.Array, axes: Axes) -> jax.Array:
    """Of causal pairs, those that attention computes (mean over layers and heads)."""
    time = score.shape[2] * _sharding.size(axes.sequence)
    if config.memory is not None:
        return jnp.asarray(_memory.share(config.memory, time), jnp.float32)
    shares = []
    for index, of_layer in enumerate(score):
        kept = _pairs(config, _block.layer_params(params, index), of_layer, axes.sequence)
        shares.append(jnp.mean(jnp.sum(kept, (-1, -2), jnp.float32)) / (time * (time + 1) / 2))
    found = _sharding.summed(jnp.mean(jnp.stack(shares)), axes.sequence)
    return found if axes.tensor is None else jax.lax.pmean(found, axes.tensor)


def _pairs(
    config: BKCoreConfig, layer: Params, score: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """(B, N, T, S): of the queries of this piece of the sequence, with the keys of all of them."""
    query = key = jnp.moveaxis(score, -1, -2)  # (B, N, T)
    if axis_name is not None:
        key = jax.lax.all_gather(query, axis_name, axis=2, tiled=True)
    threshold = layer["attention"]["threshold"][None]
    i = jnp.arange(query.shape[-1], dtype=jnp.int32)
    i = i + _sharding.offset(axis_name, query.shape[-1])
    j = jnp.arange(key.shape[-1], dtype=jnp.int32)
    distance = (i[:, None] - j[None])[None, None]
    gate = scattering.pair_gate(query, key, threshold)
    return (gate | (distance < config.local_window)) & (distance >= 0)
