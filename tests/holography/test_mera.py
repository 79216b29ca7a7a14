"""The MERA of signals: isometry, inverse, Daubechies' wavelets, light cones, a dense reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.holography import mera

SHAPES = [  # dim, up, layers, sites, boundary, each place's own matrices
    (2, None, 1, 16, "open", False),
    (3, (4, 2, 3), 2, 13, "open", False),
    (2, (3, 5, 1), 3, 8, "periodic", False),
    (2, None, 1, 11, "periodic", True),
    (1, (2, 2, 2), 2, 9, "open", True),
    (2, 2, 0, 5, "open", False),
]


def random(shape, layers=1, complements=True, dtype=np.float64):
    dim, up, layers, sites, boundary, own = shape
    levels = mera.init(
        jax.random.key(1),
        dim,
        levels=3,
        up=up,
        layers=layers,
        start="random",
        sites=sites if own else None,
        complements=complements,
        dtype=dtype,
    )
    return levels, {"boundary": boundary}


def flat(bulk):
    parts = [bulk.top, *bulk.details]
    return jnp.concatenate([p.reshape(*p.shape[:-2], -1) for p in parts], -1)


def dense(levels, dim, sites, boundary):
    """The same map as one matrix, element by element in NumPy: columns are unit signals."""
    state, count, details = np.eye(sites * dim).reshape(sites, dim, -1), sites, []
    state = list(state)  # one (features, columns) a site
    for level in levels:
        w, us = np.asarray(level.isometry), np.asarray(level.disentanglers)
        if len(state) % 2:
            state.append(np.zeros_like(state[0]))
        count = len(state)
        for index, u in enumerate(us):
            straddles = (len(us) - 1 - index) % 2 == 0
            for pair in range(count // 2):
                a, b = (2 * pair + straddles), (2 * pair + 1 + straddles)
                if b >= count and boundary == "open":
                    continue
                b %= count
                here = u[pair] if u.ndim == 3 else u
                both = here.T @ np.concatenate([state[a], state[b]])
                state[a], state[b] = np.split(both, 2)
        above = []
        for pair in range(count // 2):
            here = w[pair] if w.ndim == 3 else w
            both = here.T @ np.concatenate([state[2 * pair], state[2 * pair + 1]])
            above.append(both[: level.up])
            details.append(both[level.up :])
        state = above
    return np.concatenate([*state, *details])


@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_dense_isometry_and_its_transpose(shape):
    dim, _, _, sites, boundary, _ = shape
    levels, options = random(shape)
    matrix = dense(levels, dim, sites, boundary)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(sites * dim), atol=1e-13)
    x = np.random.default_rng(0).normal(size=(3, sites, dim))
    encode = jax.jit(lambda x: mera.encode(levels, x, **options))
    bulk = encode(jnp.asarray(x))
    np.testing.assert_allclose(flat(bulk), x.reshape(3, -1) @ matrix.T, atol=1e-13)

    @jax.jit
    def decode(bulk):
        return mera.decode(levels, bulk, sites=sites, **options)

    np.testing.assert_allclose(decode(bulk), x, atol=1e-13)
    np.testing.assert_allclose(jnp.sum(flat(bulk) ** 2, -1), (x**2).sum((1, 2)), rtol=1e-13)
    # Adjoint on any bulk, not only on those that a signal has.
    some = jax.tree.map(lambda p: jax.random.normal(jax.random.key(2), p.shape, p.dtype), bulk)
    found = decode(some).reshape(3, -1)
    np.testing.assert_allclose(found, np.asarray(flat(some)) @ matrix, atol=1e-13)


def test_without_complements_the_error_is_what_was_left_out():
    levels, options = random(SHAPES[1], complements=False)
    assert [level.isometry.shape for level in levels] == [(6, 4), (8, 2), (4, 3)]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 13, 3)))
    bulk = mera.encode(levels, x, **options)
    assert [d.shape for d in bulk.details] == [(2, 7, 0), (2, 4, 0), (2, 2, 0)]
    found = mera.decode(levels, bulk._replace(details=(None,) * 3), sites=13, **options)
    lost = jnp.sum((x - found) ** 2, (1, 2))
    left_out = jnp.sum(x**2, (1, 2)) - jnp.sum(bulk.top**2, (1, 2))
    assert (lost < left_out).all()  # part of it lies on the sites that were added
    assert (lost > 0.5 * left_out).all()

    levels, options = random((3, (4, 2, 3), 2, 16, "open", False), complements=False)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 3)))
    bulk = mera.encode(levels, x, **options)
    signal = mera.decode(levels, bulk, **options)
    lost, kept = jnp.sum((x - signal) ** 2, (1, 2)), jnp.sum(bulk.top**2, (1, 2))
    np.testing.assert_allclose(lost, jnp.sum(x**2, (1, 2)) - kept)
    np.testing.assert_allclose(mera.encode(levels, signal, **options).top, bulk.top, atol=1e-13)


def test_float32_to_rounding_and_narrow_dtypes():
    levels, options = random(SHAPES[0], dtype=np.float32)
    x = jax.random.normal(jax.random.key(0), (4, 16, 2), jnp.float32)
    bulk = mera.encode(levels, x, **options)
    assert {p.dtype for p in jax.tree.leaves(bulk)} == {jnp.dtype("float32")}
    assert jnp.max(jnp.abs(mera.decode(levels, bulk, **options) - x)) < 3e-6
    narrow = mera.encode(levels, x.astype(jnp.bfloat16), **options)
    assert narrow.top.dtype == jnp.bfloat16
    back = mera.decode(levels, narrow, **options)
    assert back.dtype == jnp.bfloat16
    assert jnp.max(jnp.abs(back.astype(jnp.float32) - x)) < 0.1


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_two_angles_make_daubechies_wavelets():
    """Their low-pass filter as published, on every second place, level after level."""
    r = np.sqrt(3)
    taps = np.array([1 + r, 3 + r, 3 - r, 1 - r]) / (4 * np.sqrt(2))
    # The coarse site of the block (2, 3), that the pairs (1, 2) and (3, 4) were mixed into.
    best = None
    for first in np.arange(0, 2 * np.pi, np.pi / 12):
        for second in np.arange(0, 2 * np.pi, np.pi / 12):
            u, w = rotation(first), rotation(second)
            row = np.zeros(6)
            row[1:3] = u[:, 1] * w[0, 0]  # the block's left site is the second of its pair
            row[3:5] = u[:, 0] * w[1, 0]
            if np.abs(row[1:5] - taps).max() < 1e-12:
                best = (u, w)
    assert best is not None
    u, w = (jnp.asarray(m) for m in best)
    levels = tuple(mera.Level(u[None], w, 1) for _ in range(2))
    x = np.random.default_rng(0).normal(size=16)
    bulk = mera.encode(levels, jnp.asarray(x)[:, None], boundary="periodic")
    high = taps[::-1] * np.array([1, -1, 1, -1])
    low = x
    for detail in bulk.details:
        windows = np.array([[low[(2 * i - 1 + k) % len(low)] for k in range(4)]
                            for i in range(len(low) // 2)])  # fmt: skip
        low, lost = windows @ taps, windows @ high
        np.testing.assert_allclose(np.abs(detail[:, 0]), np.abs(lost), atol=1e-12)
    np.testing.assert_allclose(bulk.top[:, 0], low, atol=1e-12)
    # Two vanishing moments: no detail in a straight line, away from the seam.
    line = mera.encode(levels, jnp.arange(32.0)[:, None], boundary="periodic")
    assert np.abs(line.details[0][1:-1]).max() < 1e-11


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[2], SHAPES[3], SHAPES[5]])
def test_light_cone_is_the_pattern_of_the_derivative(shape):
    dim, _, layers, sites, boundary, _ = shape
    levels, options = random(shape)
    units = jnp.eye(sites * dim).reshape(sites, dim, sites, dim)
    bulk = jax.jit(lambda x: mera.encode(levels, x, **options))(units)
    found = [np.abs(np.asarray(d)).max((1, 3)).T > 1e-12 for d in (*bulk.details, bulk.top)]
    for region in (np.array([0]), np.array([sites // 2]), np.array([2, 3, sites - 1])):
        cone = mera.light_cone(region, sites=sites, levels=3, layers=layers, boundary=boundary)
        np.testing.assert_array_equal(cone[0], region)
        seen = [np.flatnonzero(pattern[:, region].any(1)) for pattern in found]
        for level, sites_seen in enumerate(seen[:-1]):
            np.testing.assert_array_equal(cone[level + 1], sites_seen)
        np.testing.assert_array_equal(cone[-1], seen[-1])


@pytest.mark.parametrize(("layers", "most"), [(0, 2), (1, 3), (2, 5), (3, 7)])
def test_causal_width_is_bounded(layers, most):
    widest = 0
    for site in range(0, 4096, 111):
        cone = mera.light_cone(
            np.array([site, min(site + 1, 4095)]), sites=4096, levels=9, layers=layers
        )
        widest = max(widest, *map(len, cone[1:]))
    assert widest == most


def test_principal_axes_are_the_best_tree_level_by_level():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 8, 3)) @ rng.normal(size=(3, 3))
    x = np.cumsum(x, 1)
    levels = mera.principal(jnp.asarray(x), levels=2, up=(2, 1), layers=1)
    blocks = x.reshape(-1, 6)
    _, _, axes = np.linalg.svd(blocks, full_matrices=False)
    w = np.asarray(levels[0].isometry)
    np.testing.assert_allclose(np.abs(axes @ w), np.eye(6), atol=1e-10)
    above = (blocks @ w[:, :2]).reshape(-1, 4)
    _, values, axes = np.linalg.svd(above, full_matrices=False)
    np.testing.assert_allclose(np.abs(axes @ np.asarray(levels[1].isometry)), np.eye(4), atol=1e-10)
    bulk = mera.encode(levels, jnp.asarray(x))
    np.testing.assert_allclose(np.linalg.norm(bulk.top), values[0])


def test_starts():
    key, x = jax.random.key(0), jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))
    mean = mera.encode(mera.init(key, 2, levels=1, dtype=np.float64), x)
    np.testing.assert_allclose(mean.top, (x[::2] + x[1::2]) / np.sqrt(2))
    np.testing.assert_allclose(mean.details[0], (x[::2] - x[1::2]) / np.sqrt(2))
    left = mera.encode(mera.init(key, 2, levels=1, start="identity", dtype=np.float64), x)
    np.testing.assert_array_equal(left.top, x[::2])
    uniform = jnp.stack([
        level.isometry
        for seed in range(400)
        for level in mera.init(jax.random.key(seed), 1, levels=1, start="random")
    ])  # fmt: skip
    angles = np.arctan2(uniform[:, 1, 0], uniform[:, 0, 0])
    assert abs(np.mean(np.exp(1j * angles))) < 0.15
    assert abs(np.linalg.det(uniform).mean()) < 0.15


def test_transforms_and_training_step():
    levels, _ = random(SHAPES[0], complements=False)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 16, 2)))
    whole = mera.encode(levels, x)
    each = jax.vmap(jax.vmap(lambda x: mera.encode(levels, x)))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), whole, each)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[..., ::-1]]), levels)
    both = jax.jit(jax.vmap(lambda levels: mera.encode(levels, x[0]).top))(many)
    np.testing.assert_allclose(both[0], whole.top[0], atol=1e-13)

    @jax.jit
    def loss(levels):
        return jnp.sum((mera.decode(levels, mera.encode(levels, x[0, 0])) - x[0, 0]) ** 2)

    slope = jax.jit(jax.grad(loss))(levels)
    way = jax.tree.map(lambda leaf: jnp.cos(3 * leaf), levels)
    up, down = (jax.tree.map(lambda a, b, s=s: a + s * b, levels, way) for s in (1e-6, -1e-6))
    exact = sum(map(jnp.vdot, jax.tree.leaves(slope), jax.tree.leaves(way)))
    np.testing.assert_allclose((loss(up) - loss(down)) / 2e-6, exact, rtol=1e-6)


def test_errors_name_what_is_wrong(bare_errors):
    key = jax.random.key(0)
    levels = mera.init(key, 2, levels=2)
    with pytest.raises(ValueError, match=r"signal must have shape \(..., N, 2\), got \(8, 3\)"):
        mera.encode(levels, jnp.ones((8, 3)))
    with pytest.raises(TypeError, match="signal must be a real floating"):
        mera.encode(levels, jnp.ones((8, 2), int))
    with pytest.raises(ValueError, match="boundary must be one of"):
        mera.encode(levels, jnp.ones((8, 2)), boundary="mirror")
    with pytest.raises(ValueError, match="at least one Level, got none"):
        mera.encode((), jnp.ones((8, 2)))
    with pytest.raises(ValueError, match=r"levels\[1\] takes 3 features a site, .* gives 2"):
        mera.encode((levels[0], *mera.init(key, 3, levels=1)), jnp.ones((8, 2)))
    broken = mera.Level(levels[0].disentanglers[..., :2], levels[0].isometry, 2)
    with pytest.raises(ValueError, match=r"levels\[0\] must have disentanglers \(..., 4, 4\)"):
        mera.encode((broken,), jnp.ones((8, 2)))
    with pytest.raises(ValueError, match=r"levels\[0\] must have an isometry .* up=5"):
        mera.encode((mera.Level(levels[0].disentanglers, levels[0].isometry, 5),), jnp.ones((8, 2)))
    own = mera.init(key, 2, levels=2, sites=8)
    for sites in (16, 2):
        with pytest.raises(ValueError, match=r"levels must have a matrix of its own for each of"):
            mera.encode(own, jnp.ones((sites, 2)))
    bulk = mera.encode(levels, jnp.ones((8, 2)))
    with pytest.raises(ValueError, match="top of 3 sites and 2 details for 9 sites, got 2 and 2"):
        mera.decode(levels, bulk, sites=9)
    with pytest.raises(ValueError, match=r"bulk.details\[0\] must have shape \(4, 2\)"):
        mera.decode(levels, bulk._replace(details=(bulk.details[1], None)))
    with pytest.raises(ValueError, match=r"up must be at most twice the features below, 2"):
        mera.init(key, 2, levels=1, up=5)
    with pytest.raises(ValueError, match="up must have one size a level, 2"):
        mera.init(key, 2, levels=2, up=(2,))
    with pytest.raises(ValueError, match="start must be one of"):
        mera.init(key, 2, levels=2, start="haar")
    with pytest.raises(TypeError, match="dtype must be real floating"):
        mera.init(key, 2, levels=2, dtype=np.int32)
    with pytest.raises(ValueError, match="signals must have shape"):
        mera.principal(jnp.ones((3,)), levels=1)
    with pytest.raises(ValueError, match=r"region must lie in 0..7, got \[8\]"):
        mera.light_cone(np.array([8]), sites=8, levels=1)
