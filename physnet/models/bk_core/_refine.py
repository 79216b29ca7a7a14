"""Thresholds of a trained model by path integrals: what no gradient reaches.

Shapes: L layers, N heads, B batch, T time, G generations.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from physnet import _checks
from physnet.models.bk_core import _gates
from physnet.models.bk_core._block import Params
from physnet.models.bk_core._config import BKCoreConfig
from physnet.superposition import path_integral

_NARROW = 0.02  # shares start at least so far from none and from all, where log-odds are finite


class Search(NamedTuple):
    """Where a refinement stands; what `refine` needs to go on.

    Attributes:
        state: of `path_integral`, over log-odds (L, N).
        average: (L, N), of the cloud's means so far, the later ones with more weight.
        start: (L, N), where it began.
    """

    state: path_integral.State
    average: Array
    start: Array


class Refined(NamedTuple):
    """What `refine` found.

    Attributes:
        params: with the new thresholds, or those of the start where these are better.
        shares: (L, N), the share of the pairs beyond the local window that each head keeps of the
            sample.
        before: objective where the search began.
        after: objective of `params`, with the same key.
        history: (G,) mean objective of the particles of each generation of this call.
        search: to go on from.
    """

    params: Params
    shares: Array
    before: Array
    after: Array
    history: Array
    search: Search


def refine(
    config: BKCoreConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    objective: Callable[[Params, jax.Array], Any],
    *,
    key: jax.Array,
    density: ArrayLike | None = None,
    generations: int = 40,
    particles: int = 16,
    sigma: float = 1.0,
    search: Search | None = None,
    covariance: Literal["none", "diagonal", "full", "low_rank"] | None = None,
    chunk: int | None = None,
    dtype: Any = jnp.float32,
) -> Refined:
    r"""Give each head of each layer a threshold of its own, so that an objective falls.

    The hard gate has no gradient in its threshold, and kept pairs are a count; so a cloud of
    particles (`superposition.path_integral`) moves through the log-odds x of the shares that the
    heads keep of the pairs beyond the local window. Shares become thresholds by
    `gate_quantiles`, under which all heads have one scale.

        share_ln = sigmoid(x_ln),  with `density`  sigmoid(x_ln + c),  c as in `allot`:
        mean_ln share_ln = the share beyond the window that makes `density` of the causal pairs

    so that with a density only its allotment among heads is searched. What comes out is the average
    of the cloud's means, the t-th with weight t.

    Args:
        config: the sizes, with attention and without a memory.
        params: of a trained model, gates set by `calibrate`; where the search begins (where a head
            keeps nearly none or all, at a share of 0.02 or 0.98).
        tokens: (B, T), a sample from which shares become thresholds.
        objective: (params, key) -> a number to be made small; any pure JAX function. The key is the
            same for all particles of a generation and a new one in the next, for an objective on
            random windows of text: best of text that has not trained the model, and as much of it
            as there is, since few windows are soon learned by heart. NaN counts as worst.
        key: a random key.
        density: share of the causal pairs of T tokens to keep, local window included, in [0, 1];
            None leaves it to the objective. May be traced.
        generations: G; 0 only reads out a search.
        particles: how many sets of thresholds each generation tries, at least 4.
        sigma: of the cloud at the start, in log-odds.
        search: of an earlier call with the same arguments, to go on with G more generations: two
            calls give what one of their sum gives.
        covariance: what is learned of the shape of the cloud, as in `path_integral.init`; None is
            full up to 64 heads.
        chunk: particles evaluated at once, to bound memory; None evaluates all.
        dtype: in which the scores of the sample are computed, as in `apply`.

    Returns:
        `Refined`.

    Raises:
        ValueError, TypeError: as `gate_quantiles`; ValueError for a density that is not one number
            in [0, 1], fewer than 4 particles, an objective that is not one number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.models import bk_core
        >>> config = bk_core.BKCoreConfig(
        ...     vocab_size=7, layers=1, heads=2, width=16, chains=4, local_window=2
        ... )
        >>> tokens = jax.random.randint(jax.random.key(1), (4, 16), 0, 7)
        >>> params = jax.jit(bk_core.init, static_argnums=0)(config, jax.random.key(0))
        >>> def unlike_a_half(params, key):  # any function, here of the kept pairs alone
        ...     info = bk_core.apply(config, params, tokens, return_info=True)[1]
        ...     return jnp.abs(info["kept_pairs"] - 0.5)
        >>> @jax.jit
        ... def refined(params, key):
        ...     params = bk_core.calibrate(config, params, tokens)
        ...     return bk_core.refine(
        ...         config, params, tokens, unlike_a_half, key=key, generations=16
        ...     )
        >>> found = refined(params, jax.random.key(2))
        >>> bool(found.before > 0.05), bool(found.after < 0.02)
        (True, True)
    """
    if density is not None:
        known = _checks.known("density", density)
        outside = known is not None and not np.all((known >= 0) & (known <= 1))
        if np.shape(density) != () or outside:
            raise ValueError(f"density must be one number in [0, 1], got {density}")
    key = _checks.key("key", key)
    generations = _checks.positive_int("generations", generations, minimum=0)
    particles = _checks.positive_int("particles", particles, minimum=4)
    quantiles = _gates.gate_quantiles(config, params, tokens, dtype=dtype)
    target = None if density is None else _gates.beyond(config, density, tokens.shape[1])

    def shares(odds: Array) -> Array:
        return jax.nn.sigmoid(odds) if target is None else _gates.allot(odds, target)

    def value(odds: Array, key: jax.Array) -> Array:
        moved = _gates.with_shares(params, quantiles, shares(odds))
        found = jnp.asarray(objective(moved, key))
        if found.shape != ():
            raise ValueError(f"objective must return one number, got shape {found.shape}")
        return found

    if search is None:
        kept = _gates.shares_of(params, quantiles)
        odds = jax.scipy.special.logit(jnp.clip(kept, _NARROW, 1.0 - _NARROW))
        state = path_integral.init(
            odds, particles=particles, sigma=sigma, covariance=covariance, chunk=chunk
        )
        search = Search(state, odds, odds)

    def generation(search: Search, _: None) -> tuple[Search, Array]:
        noise, draw = jax.random.split(jax.random.fold_in(key, search.state.count))
        state, info = path_integral.step(noise, search.state, value, draw)
        count = state.count.astype(odds_type)
        average = search.average + (state.params - search.average) * (2.0 / (count + 1.0))
        return Search(state, average, search.start), jnp.mean(info.losses)

    odds_type = search.average.dtype
    search, history = jax.lax.scan(generation, search, None, length=generations)
    last = jax.random.fold_in(key, 2**31)  # beyond every generation
    before, after = (value(odds, last) for odds in (search.start, search.average))
    better = (after < before) | (jnp.isnan(before) & ~jnp.isnan(after))
    kept = shares(jnp.where(better, search.average, search.start))
    found = _gates.with_shares(params, quantiles, kept)
    return Refined(found, kept, before, jnp.where(better, after, before), history, search)
