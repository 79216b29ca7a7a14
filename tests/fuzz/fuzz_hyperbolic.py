"""Hyperbolic spaces and mixtures of experts."""

import fuzz_arguments as fa
import jax.numpy as jnp
import numpy as np
from fuzz_greens import near, ordinary
from fuzz_rules import Entry

from physnet import hyperbolic, moe
from physnet.hyperbolic import klein, lorentz, poincare, polar, tree

CURVATURE = {"curvature": fa.number(1.0, 0.5, bad=(0.0, -1.0), nan="raise")}
TRACED = {"curvature": fa.number(1.0, 0.5, bad=(0.0, -1.0))}  # under a trace NaN comes out
BALL = ("b d", -0.4, 0.4)


def not_negative(x, /, **_):
    assert np.all(np.asarray(x) >= 0)


def in_ball(x, /, curvature=1.0, **_):
    x = np.asarray(x, np.float64)
    c = float(np.max(curvature))
    if 0 < c < 1e30:
        assert np.all(c**0.5 * np.linalg.norm(x, axis=-1) <= 1 + 1e-3)


def ball_distance(x, y, c):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    square = c * np.sum((x - y) ** 2, -1)
    g = (1 - c * np.sum(x * x, -1)) * (1 - c * np.sum(y * y, -1))
    return 2 / c**0.5 * np.arcsinh(np.sqrt(square / g))


def is_distance(d, x, y, curvature):
    not_negative(d)
    c = float(np.asarray(curvature).ravel()[0])
    inside = all(
        np.all(c * np.sum(np.square(np.asarray(p, np.float64)), -1) < 0.99) for p in (x, y)
    )
    if np.ndim(curvature) == 0 and inside and 1e-3 < c < 1e3 and ordinary(x, y):
        near(
            d,
            ball_distance(x, y, c),
            2e-2 if x.dtype.itemsize < 4 or y.dtype.itemsize < 4 else 1e-4,
        )


def hyperboloid(rng, dims):
    space = rng.uniform(-1, 1, (dims["b"], dims["d"]))
    return jnp.asarray(
        np.concatenate([np.sqrt(1 + (space**2).sum(-1, keepdims=True)), space], -1), jnp.float32
    )


def on_hyperboloid(**options):
    kind = fa.real("b d+1", 0.1, 1.0, **options)
    return type(kind)(hyperboloid, True, dtype="real", **options)


def on_shell(x, /, curvature, **_):
    x = np.asarray(x, np.float64)
    c = float(np.asarray(curvature).ravel()[0])
    if ordinary(x) and 1e-2 < c < 1e2 and np.ndim(curvature) == 0:
        near(c * (x[..., 0] ** 2 - np.sum(x[..., 1:] ** 2, -1)), 1.0, 1e-2)


def maps(module, arguments, **results):
    """Entries of functions of points: name = (names of points, result, check)."""
    found = {}
    for name, (points, result, check) in results.items():
        given = {point: arguments[point] for point in points.split()}
        found[name] = Entry(getattr(module, name), given | TRACED, (result,), check)
    return found


def midpoints(points):
    return {
        "points": points,
        "weights": fa.real("n", 0.1, 1.0, optional=True, zero="open"),
    } | TRACED


X, Y, V = fa.real(*BALL), fa.real("d", -0.4, 0.4), fa.real("b d", -2.0, 2.0)
PARTS = {
    "poincare": (
        maps(
            poincare,
            {"x": X, "y": Y, "v": V},
            distance=("x y", "b real", is_distance),
            expmap=("x v", "b d real", in_ball),
            logmap=("x y", "b d real", None),
            expmap0=("v", "b d real", in_ball),
            logmap0=("x", "b d real", None),
            mobius_add=("x y", "b d real", in_ball),
            transport=("x y v", "b d real", None),
            project=("x", "b d real", in_ball),
        )
        | {
            "midpoint": Entry(
                poincare.midpoint, midpoints(fa.real("b n d", -0.4, 0.4)), ("b d real",), in_ball
            )
        }
    ),
    "klein": (
        maps(
            klein,
            {"k": X, "m": Y, "x": X, "v": V},
            distance=("k m", "b real", not_negative),
            project=("k", "b d real", in_ball),
            from_poincare=("x", "b d real", in_ball),
            to_poincare=("k", "b d real", in_ball),
            from_tangent=("v", "b d real", in_ball),
            to_tangent=("k", "b d real", None),
        )
        | {
            "midpoint": Entry(
                klein.midpoint, midpoints(fa.real("b n d", -0.4, 0.4)), ("b d real",), in_ball
            )
        }
    ),
    "lorentz": (
        maps(
            lorentz,
            {"x": on_hyperboloid(), "y": on_hyperboloid(), "v": fa.real("b d+1", 0.0, 1.0)},
            distance=("x y", "b real", not_negative),
            expmap=("x v", "b d+1 real", on_shell),
            logmap=("x y", "b d+1 real", None),
            expmap0=("v", "b d+1 real", on_shell),
            logmap0=("x", "b d+1 real", None),
            transport=("x y v", "b d+1 real", None),
            project=("x", "b d+1 real", on_shell),
            to_poincare=("x", "b d real", in_ball),
            to_tangent=("x", "b d real", None),
        )
        | maps(
            lorentz,
            {"x": X, "v": V},
            from_poincare=("x", "b d+1 real", on_shell),
            from_tangent=("v", "b d+1 real", on_shell),
        )
        | {
            "inner": Entry(
                lorentz.inner, {"x": fa.real("b d+1"), "y": fa.real("d+1")}, ("b real",)
            ),
            "midpoint": Entry(
                lorentz.midpoint, midpoints(fa.real("b n d+1", 0.0, 1.0)), ("b d+1 real",), on_shell
            ),
        }
    ),
    "polar": (
        maps(
            polar,
            {"u": V, "v": fa.real("d", -2.0, 2.0), "x": X},
            distance=("u v", "b real", not_negative),
            from_poincare=("x", "b d real", None),
        )
        | maps(polar, {"v": V}, to_poincare=("v", "b d real", in_ball))
        | {
            "pairwise": Entry(
                polar.pairwise,
                {"u": fa.real("n d", -2, 2), "v": fa.real("m d", -2, 2)} | TRACED,
                ("n m real",),
                not_negative,
            ),
            "midpoint": Entry(
                polar.midpoint, midpoints(fa.real("b n d", -2.0, 2.0)), ("b d real",)
            ),
        }
    ),
}
ENTRIES = {
    f"hyperbolic.{part}.{name}": entry
    for part, table in PARTS.items()
    for name, entry in table.items()
}


def inside_hull(mean, /, points, **_):
    if ordinary(points):
        assert np.all(np.abs(np.asarray(mean)) <= np.abs(np.asarray(points)).max() + 1e-3)


def are_clusters(found, /, points, k, **_):
    labels, distance = np.asarray(found.labels), np.asarray(found.distance)
    assert np.all((labels >= 0) & (labels < k))
    assert np.all(distance >= 0)


def search(points, centroids, key, curvature, top_k, limit, rows):
    built = tree.build(centroids, key=key, curvature=curvature)
    return tree.search(built, points, top_k=top_k, limit=limit, rows=rows)


def is_found(found, /, points, centroids, top_k, curvature, **_):
    index = np.asarray(found.index)
    assert np.all((index >= 0) & (index < len(centroids)))
    near_by = max(np.abs(centroids).max(), np.abs(points).max()) < 5
    if near_by and np.ndim(curvature) == 0 and 0.1 < curvature < 10:
        d = np.asarray(polar.pairwise(points, centroids, curvature=curvature))
        if found.distance.dtype == d.dtype:
            near(np.sort(d, -1)[:, :top_k], found.distance, 2e-2)


ENTRIES |= {
    "hyperbolic.frechet_mean": Entry(
        hyperbolic.frechet_mean,
        midpoints(fa.real("b n d", -0.4, 0.4))
        | {
            "coordinates": fa.choice("ball", "tangent"),
            "steps": fa.size(10, 3),
            "tolerance": fa.number(1e-3, optional=True, traced=False, nan="open"),
        },
        ("b d real",),
        inside_hull,
        dear=True,
    ),
    "hyperbolic.kmeans": Entry(
        hyperbolic.kmeans,
        {
            "points": fa.real("n d", -0.4, 0.4, nan="open"),
            "k": fa.size(2),
            "key": fa.key(),
            "coordinates": fa.choice("ball", "tangent"),
            "steps": fa.size(3, 1, least=0),
        }
        | CURVATURE,
        ("k d real", "n int", "n real"),
        are_clusters,
        dims={"n": (5, 7), "k": (2,)},
        dear=True,
    ),
    "hyperbolic.tree.build": Entry(
        tree.build,
        {"centroids": fa.real("n d", nan="open"), "key": fa.key()} | TRACED,
        None,
        dear=True,
    ),
    "hyperbolic.tree.search": Entry(
        search,
        {
            "points": fa.real("m d"),
            "centroids": fa.real("n d", nan="open"),
            "key": fa.key(),
            "top_k": fa.size(1),
            "limit": fa.size(48, 3),
            "rows": fa.size(256, 2),
        }
        | TRACED,
        ("m 1 int", "m 1 real", "m int", "m bool"),
        is_found,
        dear=True,
    ),
}


def is_routing(found, /, tokens, centroids, top_k, curvature, **_):
    expert, gate, distance = (np.asarray(x) for x in found[:3])
    assert np.all((expert >= 0) & (expert < len(centroids)))
    assert np.all((gate >= 0) & (gate <= 1))
    assert np.all(distance >= 0)
    single = tokens.dtype == centroids.dtype == jnp.float32 and np.ndim(curvature) == 0
    if single and max(np.abs(tokens).max(), np.abs(centroids).max()) < 9:
        d = np.asarray(polar.pairwise(tokens, centroids, curvature=curvature))
        near(distance, np.sort(d, -1)[:, :top_k], 1e-3)


def expert(p, x):
    return jnp.tanh(x @ p)


def routed(tokens, experts, gates, expert_fn, expert_params, capacity_factor):
    routing = moe.Routing(experts, gates, None, None, None)
    return moe.apply(tokens, routing, expert_fn, expert_params, capacity_factor=capacity_factor)


def is_applied(y, /, tokens, experts, gates, expert_params, **given):
    if given["capacity_factor"] is None and ordinary(tokens, gates):
        wanted = np.zeros(y.shape)
        for i, chosen in enumerate(np.asarray(experts)):
            for j, e in enumerate(chosen):
                if 0 <= e < len(expert_params):
                    x = np.tanh(
                        np.asarray(tokens[i], np.float64) @ np.asarray(expert_params[e], np.float64)
                    )
                    wanted[i] += np.float64(gates[i, j]) * x
        near(y, wanted, 3e-2 if tokens.dtype.itemsize < 4 else 1e-3)


def are_gates(g, distance, normalise):
    if np.all(np.asarray(distance) >= 0):
        g = np.asarray(g, np.float64)
        assert np.all((g >= 0) & (g <= 1.001))
        if normalise and g.size:
            near(g.sum(-1), 1.0, 2e-2)


def is_load(found, expert, experts):
    count = np.asarray(found.count)
    wanted = [(np.asarray(expert, np.int64) == e).sum() for e in range(experts)]
    assert count.tolist() == wanted
    assert 0 <= float(found.dropped) <= 1


ENTRIES |= {
    "moe.route": Entry(
        moe.route,
        {
            "tokens": fa.real("T d", -2, 2),
            "centroids": fa.real("n d", -2, 2, nan="open"),
            "top_k": fa.size(1),
            "search": fa.choice("dense"),
            "normalise": fa.fixed(False),
        }
        | CURVATURE,
        ("T 1 int", "T 1 real", "T 1 real", "T int", "T bool"),
        is_routing,
        dear=True,
    ),
    "moe.route:tree": Entry(
        moe.route,
        {
            "tokens": fa.real("T d", -2, 2),
            "centroids": fa.real("n d", -2, 2, nan="open"),
            "top_k": fa.size(2),
            "search": fa.choice("tree"),
            "normalise": fa.fixed(True),
        }
        | CURVATURE,
        ("T 2 int", "T 2 real", "T 2 real", "T int", "T bool"),
        is_routing,
        dims={"n": (5, 3, 2)},
        dear=True,
    ),
    "moe.gate": Entry(
        moe.gate,
        {
            "distance": fa.real("b n", 0, 3),
            "normalise": fa.made(lambda rng, _: bool(rng.integers(2))),
        },
        ("b n real",),
        are_gates,
    ),
    "moe.apply": Entry(
        routed,
        {
            "tokens": fa.real("T d", nan="open"),
            "experts": fa.ints("T 2", -1, 4),
            "gates": fa.real("T 2", 0, 1, nan="open"),
            "expert_fn": fa.function(expert),
            "expert_params": fa.inexact("m d d", nan="open", alike=True, ints="open"),
            "capacity_factor": fa.number(
                1.0, 2.0, bad=(0.0, -1.0), optional=True, nan="raise", traced=False
            ),
        },
        ("T d real",),
        is_applied,
        dims={"m": (4,)},
        names=("routing",),
        dear=True,
    ),
    "moe.ball_expert": Entry(
        moe.ball_expert,
        {
            "x": fa.real("m d", -2, 2),
            "centroid": fa.real("d"),
            "network": fa.function(jnp.tanh),
        }
        | CURVATURE,
        ("m d real",),
    ),
    "moe.load": Entry(
        moe.load,
        {"expert": fa.ints("b n", -1, 6), "experts": fa.size(4, 1)},
        None,
        is_load,
    ),
}
REASONS = {
    "hyperbolic.Clusters": "holds what `kmeans` returns",
    "hyperbolic.tree.Tree": "holds what `build` returns",
    "hyperbolic.tree.Found": "holds what `search` returns",
    "moe.Routing": "holds what `route` returns",
    "moe.Load": "holds what `load` returns",
}
