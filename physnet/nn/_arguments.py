"""Checks of what attention layers take, shared by those with and without a memory."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array

from physnet import _checks


def sequence(params: Any, x: Any) -> Array:
    """x as (B, T, W) of the parameters' width, or an error that says what it is instead."""
    _checks.instance("params", params, Mapping)
    x, width = _checks.real("x", x), params["qkv"].shape[0]
    if x.ndim != 3 or 0 in x.shape or x.shape[2] != width:
        raise ValueError(f"x must have shape (B, T, {width}) with B, T >= 1, got {x.shape}")
    return x


def scored(params: Any, x: Any, score: Any) -> tuple[Array, Array]:
    """x (B, T, W) and its scores (B, T, N), or an error."""
    x, score = sequence(params, x), _checks.real("score", score)
    wanted = (*x.shape[:2], params["ceiling"].shape[0])
    if score.shape != wanted:
        raise ValueError(f"score must have shape {wanted}, got {score.shape}")
    return x, score
