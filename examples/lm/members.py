"""Several models of one kind as one row: stacked parameters, the mixture of their predictions."""

from typing import Any

import jax

from lm.rows import Model
from lm.step import members_logits
from physnet.superposition import distill


def together(model: Model, members: int) -> Model:
    """So many of the model, of consecutive seeds, as one row."""
    return model._replace(
        name=f"{model.name}-ensemble", label=f"{model.label}, {members} mixed", members=members
    )


def member(params: Any, index: int) -> Any:
    """The parameters of one of the models."""
    return jax.tree.map(lambda leaf: leaf[index], params)


def mixture(model: Model) -> Model:
    """The row whose logits are log sum_k P_k / K over its members; a row without members as it is.

    Its parameters are the ensemble's. Each member keeps the pairs that its own gates let through:
    `pairs` has the heads of all of them.
    """
    if not model.members:
        return model

    def apply(config: Any, params: Any, tokens: jax.Array, *, dtype: Any, **options: Any) -> Any:
        if not options.get("return_info"):
            return distill.mixture_log_probs(members_logits(model, params, tokens, dtype))
        logits, info = jax.vmap(
            lambda own: model.apply(config, own, tokens, dtype=dtype, **options)
        )(params)
        return distill.mixture_log_probs(logits), {"kept_pairs": info["kept_pairs"].mean()}

    of_one = model.pairs

    def pairs(config: Any, params: Any, tokens: jax.Array) -> jax.Array:
        inner = of_one
        assert inner is not None
        kept = jax.vmap(lambda own: inner(config, own, tokens))(params)  # (M, L, B, N, T, T)
        heads = kept.transpose(1, 2, 0, 3, 4, 5)
        return heads.reshape(*heads.shape[:2], -1, *heads.shape[4:])

    return model._replace(apply=apply, pairs=None if of_one is None else pairs)
