"""The MERA of signals: isometry, inverse, Daubechies' wavelets, light cones, a dense reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.holography import mera

# One program a shape: op by op each is dozens.
start = jax.jit(
    mera.init,
    static_argnums=1,
    static_argnames=("levels", "up", "complements", "layers", "start", "sites", "dtype"),
)
encode = jax.jit(mera.encode, static_argnames="boundary")
decode = jax.jit(mera.decode, static_argnames=("sites", "boundary"))

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
    levels = start(
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
    parts = map(np.asarray, [bulk.top, *bulk.details])
    return np.concatenate([p.reshape(*p.shape[:-2], -1) for p in parts], -1)


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
    bulk = encode(levels, x, **options)
    np.testing.assert_allclose(flat(bulk), x.reshape(3, -1) @ matrix.T, atol=1e-13)
    back = decode(levels, bulk, sites=sites, **options)
    np.testing.assert_allclose(back, x, atol=1e-13)
    np.testing.assert_allclose(np.sum(flat(bulk) ** 2, -1), (x**2).sum((1, 2)), rtol=1e-13)
    # Adjoint on any bulk, not only on those that a signal has.
    some = jax.tree.map(lambda p: np.random.default_rng(2).normal(size=p.shape), bulk)
    found = np.asarray(decode(levels, some, sites=sites, **options)).reshape(3, -1)
    np.testing.assert_allclose(found, flat(some) @ matrix, atol=1e-13)


def test_without_complements_the_error_is_what_was_left_out():
    levels, options = random(SHAPES[1], complements=False)
    assert [level.isometry.shape for level in levels] == [(6, 4), (8, 2), (4, 3)]
    x = np.random.default_rng(0).normal(size=(2, 13, 3))
    bulk = encode(levels, x, **options)
    assert [d.shape for d in bulk.details] == [(2, 7, 0), (2, 4, 0), (2, 2, 0)]
    found = decode(levels, bulk._replace(details=(None,) * 3), sites=13, **options)
    lost = np.sum((x - np.asarray(found)) ** 2, (1, 2))
    left_out = np.sum(x**2, (1, 2)) - np.sum(np.asarray(bulk.top) ** 2, (1, 2))
    assert (lost < left_out).all()  # part of it lies on the sites that were added
    assert (lost > 0.5 * left_out).all()

    levels, options = random((3, (4, 2, 3), 2, 16, "open", False), complements=False)
    x = np.random.default_rng(0).normal(size=(2, 16, 3))
    bulk = encode(levels, x, **options)
    signal = np.asarray(decode(levels, bulk, **options))
    lost, kept = np.sum((x - signal) ** 2, (1, 2)), np.sum(np.asarray(bulk.top) ** 2, (1, 2))
    np.testing.assert_allclose(lost, np.sum(x**2, (1, 2)) - kept)
    np.testing.assert_allclose(encode(levels, signal, **options).top, bulk.top, atol=1e-13)


def test_float32_to_rounding_and_narrow_dtypes():
    levels, options = random(SHAPES[0], dtype=np.float32)
    x = np.random.default_rng(0).normal(size=(4, 16, 2)).astype(np.float32)
    bulk = encode(levels, x, **options)
    assert {p.dtype for p in jax.tree.leaves(bulk)} == {jnp.dtype("float32")}
    assert np.max(np.abs(decode(levels, bulk, **options) - x)) < 3e-6
    narrow = encode(levels, x.astype(jnp.bfloat16), **options)
    assert narrow.top.dtype == jnp.bfloat16
    back = decode(levels, narrow, **options)
    assert back.dtype == jnp.bfloat16
    assert np.max(np.abs(np.asarray(back, np.float32) - x)) < 0.1


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
    u, w = best
    levels = tuple(mera.Level(u[None], w, 1) for _ in range(2))
    x = np.random.default_rng(0).normal(size=16)
    bulk = jax.tree.map(np.asarray, encode(levels, x[:, None], boundary="periodic"))
    high = taps[::-1] * np.array([1, -1, 1, -1])
    low = x
    for detail in bulk.details:
        windows = np.array([[low[(2 * i - 1 + k) % len(low)] for k in range(4)]
                            for i in range(len(low) // 2)])  # fmt: skip
        low, lost = windows @ taps, windows @ high
        np.testing.assert_allclose(np.abs(detail[:, 0]), np.abs(lost), atol=1e-12)
    np.testing.assert_allclose(bulk.top[:, 0], low, atol=1e-12)
    # Two vanishing moments: no detail in a straight line, away from the seam.
    line = encode(levels, np.arange(32.0)[:, None], boundary="periodic")
    assert np.abs(np.asarray(line.details[0])[1:-1]).max() < 1e-11


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[2], SHAPES[3], SHAPES[5]])
def test_light_cone_is_the_pattern_of_the_derivative(shape):
    dim, _, layers, sites, boundary, _ = shape
    levels, options = random(shape)
    units = np.eye(sites * dim).reshape(sites, dim, sites, dim)
    bulk = encode(levels, units, **options)
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
    axes_of = jax.jit(lambda x: mera.principal(x, levels=2, up=(2, 1), layers=1))
    levels = axes_of(x)
    blocks = x.reshape(-1, 6)
    _, _, axes = np.linalg.svd(blocks, full_matrices=False)
    w = np.asarray(levels[0].isometry)
    np.testing.assert_allclose(np.abs(axes @ w), np.eye(6), atol=1e-10)
    above = (blocks @ w[:, :2]).reshape(-1, 4)
    _, values, axes = np.linalg.svd(above, full_matrices=False)
    np.testing.assert_allclose(np.abs(axes @ np.asarray(levels[1].isometry)), np.eye(4), atol=1e-10)
    bulk = encode(levels, x)
    np.testing.assert_allclose(np.linalg.norm(bulk.top), values[0])


def test_starts():
    key, x = jax.random.key(0), np.random.default_rng(0).normal(size=(8, 2))
    mean = encode(start(key, 2, levels=1, dtype=np.float64), x)
    np.testing.assert_allclose(mean.top, (x[::2] + x[1::2]) / np.sqrt(2))
    np.testing.assert_allclose(mean.details[0], (x[::2] - x[1::2]) / np.sqrt(2))
    left = encode(start(key, 2, levels=1, start="identity", dtype=np.float64), x)
    np.testing.assert_array_equal(left.top, x[::2])

    @jax.jit
    @jax.vmap
    def isometries(seed):
        return mera.init(jax.random.key(seed), 1, levels=1, start="random")[0].isometry

    uniform = np.asarray(isometries(np.arange(400)))
    angles = np.arctan2(uniform[:, 1, 0], uniform[:, 0, 0])
    assert abs(np.mean(np.exp(1j * angles))) < 0.15
    assert abs(np.linalg.det(uniform).mean()) < 0.15


def test_transforms_and_training_step():
    levels, _ = random(SHAPES[0], complements=False)
    x = np.random.default_rng(0).normal(size=(2, 3, 16, 2))
    whole = encode(levels, x)
    each = jax.jit(jax.vmap(jax.vmap(lambda x: mera.encode(levels, x))))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), whole, each)
    leaves = jax.tree.map(np.asarray, levels)
    many = jax.tree.map(lambda leaf: np.stack([leaf, leaf[..., ::-1]]), leaves)
    both = jax.jit(jax.vmap(lambda l, x: mera.encode(l, x).top, (0, None)))(many, x[0])
    np.testing.assert_allclose(np.asarray(both)[0], np.asarray(whole.top)[0], atol=1e-13)

    @jax.jit
    def loss(levels):
        one = jnp.asarray(x[0, 0])
        return jnp.sum((mera.decode(levels, mera.encode(levels, one)) - one) ** 2)

    slope = jax.jit(jax.grad(loss))(levels)
    way = jax.tree.map(lambda leaf: np.cos(3 * leaf), leaves)
    up, down = (jax.tree.map(lambda a, b, s=s: a + s * b, leaves, way) for s in (1e-6, -1e-6))
    exact = sum(map(np.vdot, jax.tree.leaves(slope), jax.tree.leaves(way)))
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
    bulk = encode(levels, jnp.ones((8, 2)))
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
