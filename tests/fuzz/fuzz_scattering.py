"""Scores, gates, schedules and attention."""

import fuzz_arguments as fa
import numpy as np
from fuzz_greens import CHAIN, in_unit, near, ordinary
from fuzz_rules import Entry

from physnet import attention, scattering


def cleaned(score):
    s = np.asarray(score, np.float64)
    return np.where(s > 0, s, 0)


def gates(name, wanted):
    """A check of a gate against its definition, in the precision in which it compares."""

    def check(found, threshold, **given):
        scores = {k: cleaned(v) for k, v in given.items() if k.startswith("score")}
        values, tau = wanted(*scores.values()), np.asarray(threshold, np.float64)
        # Products round: those next to the threshold may fall on either side.
        sure = np.abs(values - tau) > 1e-5 * np.maximum(np.abs(values), np.abs(tau)) + 1e-30
        assert np.all((np.asarray(found) == (values > tau))[sure & np.isfinite(values)]), name

    return check


def is_density(tau, score, density):
    tau = np.asarray(tau, np.float64)
    assert np.all(tau >= 0)
    s = cleaned(score)
    if ordinary(s) and tau.ndim == s.ndim - 1:
        products = s[..., :, None] * s[..., None, :]
        share = np.mean(products > tau[..., None, None] * (1 + 1e-5) + 1e-30, axis=(-1, -2))
        assert np.all(share <= np.asarray(density) + 1e-6) or not 0 <= np.min(density) <= 1


def is_schedule(plan, /, score, **_):
    n = score.shape[-1]
    for row in np.asarray(plan.query_order).reshape(-1, plan.query_order.shape[-1]):
        assert sorted(row[row < n]) == list(range(n))


def ascending(edges, /, **_):
    assert np.all(np.diff(np.asarray(edges)) >= 0)


def is_class(found, score, edges):
    if not np.isnan(np.asarray(edges, np.float64)).any() and np.all(
        np.diff(np.asarray(edges)) >= 0
    ):
        tiny = np.float32(2) ** -126  # what is smaller, processors may take for 0
        score, edges = (np.where(np.abs(x) < tiny, 0, x) for x in (score, edges))
        wanted = (score[..., None] > edges).sum(-1)
        assert np.array_equal(found, wanted)


def is_order(order, /, token_class, **_):
    n = token_class.shape[-1]
    for row in np.asarray(order).reshape(-1, order.shape[-1]):
        assert sorted(row[row < n]) == list(range(n))


SCORE = fa.real("b T", 0.0, 1.0, nan="work")
THRESHOLD = fa.number(0.2, 0.0, bad=(-1.0,), nan="open")  # NaN is an error where it is known
CHAIN_ONLY = {"onsite": CHAIN["onsite"], "hopping": CHAIN["hopping"]}
ENTRIES = {
    "scattering.score": Entry(
        scattering.score,
        CHAIN_ONLY
        | {
            "kind": fa.choice("window"),
            "radius": fa.number(1.0, bad=(0.0, -1.0), nan="open"),
            "order": fa.size(8, 2, least=2),
            "causal": fa.made(lambda rng, dims: bool(rng.integers(2))),
        },
        ("b n real",),
        in_unit,
    ),
    "scattering.score:ldos": Entry(
        scattering.score,
        CHAIN_ONLY
        | {
            "kind": fa.fixed("ldos"),
            "energy": fa.number(0.0, 0.5, real=False),
            "eta": fa.number(0.3, 1.0, bad=(0.0, -1.0), optional=True),
        },
        ("b n real",),
        in_unit,
    ),
    "scattering.pair_gate": Entry(
        scattering.pair_gate,
        {"score_query": SCORE, "score_key": fa.real("n", 0, 1, nan="work"), "threshold": THRESHOLD},
        ("b T n bool",),
        gates("pairs", lambda s, t: s[..., :, None] * t[..., None, :]),
    ),
    "scattering.token_gate": Entry(
        scattering.token_gate,
        {"score": SCORE, "threshold": THRESHOLD},
        ("b T bool",),
        gates("tokens", lambda s: s),
    ),
    "scattering.head_gate": Entry(
        scattering.head_gate,
        {"score": fa.real("b T n", 0, 1, nan="work"), "threshold": THRESHOLD},
        ("b n bool",),
        gates("heads", lambda s: s.max(-2)),
    ),
    "scattering.block_gate": Entry(
        scattering.block_gate,
        {
            "score": SCORE,
            "threshold": THRESHOLD,
            "block_size": fa.size(1),
            "reduce": fa.choice("max", "sum"),
        },
        ("b T bool",),
        gates("blocks", lambda s: s),
    ),
    "scattering.threshold_for_density": Entry(
        scattering.threshold_for_density,
        {"score": SCORE, "density": fa.number(0.5, 0.25, 1.0, bad=(-1.0, 1.5), nan="open")},
        ("b real",),
        is_density,
    ),
    "scattering.schedule": Entry(
        scattering.schedule,
        {
            "score": SCORE,
            "threshold": THRESHOLD,
            "local_window": fa.size(0, 2, least=0),
            "block_size": fa.size(2, 4),
            "classes": fa.size(4, 2),
            "is_causal": fa.made(lambda rng, dims: bool(rng.integers(2))),
        },
        None,
        is_schedule,
    ),
    "scattering.schedule:edges": Entry(
        scattering.schedule,
        {
            "score": SCORE,
            "threshold": THRESHOLD,
            "edges": fa.real("m", 0.1, 0.2, nan="open", optional=True, ints="open"),
            "query_position": fa.ints("T", 0, 9),
            "key_position": fa.ints("n", 0, 9),
            "key_score": fa.real("b n", 0, 1, nan="work"),
            "block_size": fa.size(2, 4),
        },
        None,
        dims={"m": (1,)},
    ),
    "scattering.class_edges": Entry(
        scattering.class_edges,
        {
            "sample": fa.real("b T", 0, 1, nan="open"),
            "threshold": fa.number(0.2, bad=(-1.0,), nan="open"),
            "length": fa.size(64, 7),
            "block_size": fa.size(4, 16),
            "classes": fa.size(4, 2, least=2),
        },
        None,
        ascending,
        infinite=True,
        dear=True,
    ),
    "scattering.class_of": Entry(
        scattering.class_of,
        {"score": fa.real("b T", 0, 1, nan="open"), "edges": fa.real("m", 0.1, 0.1001, nan="open")},
        ("b T int",),
        is_class,
        dims={"m": (1,)},
    ),
    "scattering.default_edges": Entry(
        scattering.default_edges,
        {
            "threshold": fa.number(0.2, 0.0, bad=(-1.0,), nan="open"),
            "length": fa.size(64, 7),
            "block_size": fa.size(128, 4),
        },
        None,
        ascending,
    ),
    "scattering.block_order": Entry(
        scattering.block_order,
        {
            "token_class": fa.ints("b T", 0, 2),
            "position": fa.ints("T", 0, 9),
            "block_size": fa.size(2, 4),
            "classes": fa.size(2, 3),
        },
        None,
        is_order,
    ),
    "scattering.as_score": Entry(
        scattering.as_score,
        {"name": fa.fixed("score"), "score": SCORE},
        ("b T real",),
        lambda found, score, **_: near(
            np.nan_to_num(found, posinf=0), np.nan_to_num(cleaned(score), posinf=0)
        ),
        infinite=True,
    ),
    "scattering.as_threshold": Entry(
        scattering.as_threshold,
        {
            "threshold": fa.number(0.2, bad=(-1.0,), nan="open"),
            "dtype": fa.fixed(np.dtype("float32")),
        },
        ("real",),
    ),
}


def weights(query, key, allowed, scale):
    q, k = np.asarray(query, np.float64), np.asarray(key, np.float64)
    k = np.repeat(k, q.shape[2] // k.shape[2], axis=2)
    logits = np.einsum("btnh,bsnh->bnts", q, k) * scale
    logits = np.where(allowed, logits, -np.inf)
    most = logits.max(-1, keepdims=True, initial=-np.inf)
    p = np.where(allowed, np.exp(logits - np.where(np.isfinite(most), most, 0)), 0)
    total = p.sum(-1, keepdims=True)
    return p / np.where(total > 0, total, 1)


def is_attention(
    y, /, query, key, value, score, threshold, local_window=0, is_causal=True, **given
):
    if not ordinary(query, key, value) or np.ndim(score) != 2 or np.ndim(threshold):
        return
    s = cleaned(score)
    t = np.arange(query.shape[1])
    pairs = s[:, None, :, None] * s[:, None, None, :]
    if np.any(np.abs(pairs - threshold) < 1e-5):
        return
    allowed = (pairs > threshold) | (np.abs(t[:, None] - t[None]) < local_window)
    if is_causal:
        allowed = allowed & (t[None] <= t[:, None])
    scale = given.get("scale") or query.shape[-1] ** -0.5
    if not np.isfinite(scale) or abs(scale) > 1e3:
        return
    v = np.repeat(np.asarray(value, np.float64), query.shape[2] // value.shape[2], axis=2)
    wanted = np.einsum("bnts,bsnh->btnh", weights(query, key, allowed, scale), v)
    near(y, wanted, 5e-2 if query.dtype.itemsize < 4 else 1e-3)


def is_block_attention(y, /, query, key, value, blocks, is_causal=True, block_size=1, **_):
    if ordinary(query, key, value) and np.ndim(blocks) == 2:
        t = np.arange(query.shape[1])
        allowed = np.asarray(blocks) & ((t[None] <= t[:, None]) | (not is_causal))
        v = np.repeat(np.asarray(value, np.float64), query.shape[2] // value.shape[2], axis=2)
        p = weights(query, key, allowed, query.shape[-1] ** -0.5)
        near(y, np.einsum("bnts,bsnh->btnh", p, v), 5e-2 if query.dtype.itemsize < 4 else 1e-3)


# NaN in a token that no query sees stays there.
TENSORS = {
    "query": fa.real("b T 2 d", alike=True, nan="open"),
    "key": fa.real("b T 1 d", alike=True, nan="open"),
    "value": fa.real("b T 1 d", alike=True, nan="open"),
}
ENTRIES |= {
    "attention.scattering_attention": Entry(
        attention.scattering_attention,
        TENSORS
        | {
            "score": SCORE,
            "threshold": fa.number(0.2, 0.0, bad=(-1.0,), nan="open", optional=True),
            "local_window": fa.size(1, 0, 3, least=0),
            "is_causal": fa.fixed(True),
            "scale": fa.number(1.0, 0.3, optional=True, traced=False),
        },
        ("b T 2 d real",),
        is_attention,
    ),
    "attention.scattering_attention:positions": Entry(
        attention.scattering_attention,
        TENSORS
        | {
            "score": SCORE,
            "threshold": fa.number(0.2, optional=True, nan="open"),
            "query_position": fa.ints("T", 0, 9, optional=True),
            "key_position": fa.ints("T", 0, 9, optional=True),
            "segment_ids": fa.ints("T", 0, 2, optional=True),
            "return_lse": fa.fixed(True),
        },
        ("b T 2 d real", "b T 2 real"),
        infinite=True,
        dear=True,
    ),
    "attention.block_sparse_attention": Entry(
        attention.block_sparse_attention,
        TENSORS
        | {
            "blocks": fa.mask("T T"),
            "is_causal": fa.made(lambda rng, dims: bool(rng.integers(2))),
            "block_size": fa.size(1, optional=True),
        },
        ("b T 2 d real",),
        is_block_attention,
        dims={"T": (6, 3)},
    ),
}
REASONS = {"scattering.Schedule": "holds what `schedule` returns"}
