"""Isometric levels: against a dense orthonormalisation, exact and well-conditioned decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import holography
from physnet.holography import _bessel

# One program each and a shape: op by op they are dozens.
encode = jax.jit(holography.encode, static_argnums=1, static_argnames=("delta", "width"))
decode = jax.jit(holography.decode, static_argnums=1)
to_boundary = jax.jit(holography.to_boundary, static_argnums=1)


def matrices(n, delta=1.0, **options):
    levels = encode(np.eye(n), holography.all_levels(n), delta=delta, **options)
    return [np.asarray(q) for q in levels]


matern = jax.jit(_bessel.matern, static_argnums=1)


def dense(n, m, delta, width):
    """(A A^T)^{-1/2} A from cosines, the kernel's Fourier form, and an eigendecomposition."""
    k = np.arange(n)
    analysis = np.cos(np.pi * np.outer(k, np.arange(n) + 0.5) / n) * np.where(k, 2, 1)[:, None] / n
    response = matern(np.pi * width * k / m, delta - 0.5)
    synthesis = np.cos(np.pi * np.outer(np.arange(m) + 0.5, k) / m)
    a = (synthesis * np.asarray(response)) @ analysis
    w, v = np.linalg.eigh(a @ a.T)
    return v @ np.diag(w**-0.5) @ v.T @ a


@pytest.mark.parametrize(("n", "delta", "width"), [(20, 1.0, 0.5), (13, 1.7, 0.5), (16, 2.0, 1.0)])
def test_each_level_is_the_symmetric_orthonormalisation_of_the_kernel(n, delta, width):
    for q in matrices(n, delta, width=width):
        np.testing.assert_allclose(q, dense(n, len(q), delta, width), atol=1e-9)
        np.testing.assert_allclose(q @ q.T, np.eye(len(q)), atol=1e-12)


def test_the_kernel_of_the_cosines_is_the_mirrored_propagator():
    """Away from the edges, and before orthonormalising, a row is K at the slot's depth."""
    n, m = 64, 8
    slot, site = 8 * (np.arange(m) + 0.5) - 0.5, np.arange(n)
    images = np.concatenate([q * 2 * n + s for q in range(-300, 300) for s in (site, -1 - site)])
    kernel = jax.jit(lambda x: holography.bulk_to_boundary(jnp.float64(4.0), x, delta=1.5))
    rows = np.asarray(kernel(slot[:, None] - images))
    rows = 4.0**0.5 * rows.reshape(m, 600, 2, n).sum((1, 2))
    q = matrices(n, 1.5)[3]
    # of a smooth field, for which the sites' sum is the integral
    field = np.cos(np.pi * 3 * (site + 0.5) / n)
    seen = rows @ q.T @ (q @ field) + rows @ (field - q.T @ q @ field)
    response = float(matern(np.float64(np.pi * 3 / n * 4.0), 1.0))
    np.testing.assert_allclose(seen, response * np.cos(np.pi * 3 * (slot + 0.5) / n), atol=2e-3)


def test_all_levels_together_are_well_conditioned():
    n, condition = 64, 2.64
    found = np.linalg.svd(np.concatenate(matrices(n)), compute_uv=False)
    np.testing.assert_allclose(found[0] / found[-1], condition, rtol=0.01)
    assert found[-1] > 1 - 1e-12
    assert sum(holography.level_sizes(n, holography.all_levels(n))) == 2 * n - 1


def test_levels_of_several_dtypes_are_decoded_in_the_widest():
    field = np.float32(np.random.default_rng(0).normal(size=(16, 1)))
    first, second = map(np.asarray, encode(field, 2))
    with jax.numpy_dtype_promotion("standard"):
        back = decode([first, second.astype(np.float64)], 16)
        other = to_boundary([first, second.astype(np.float64)], 16)
    assert back.dtype == other.dtype == jnp.float64
    np.testing.assert_allclose(back, field, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 37, 64])
def test_decoding_is_exact_in_float32(n):
    field = np.float32(np.random.default_rng(n).normal(size=(2, n, 3)))
    levels = encode(field, holography.all_levels(n))
    assert [v.shape for v in levels] == [(2, -(-n // 2**l), 3) for l in range(len(levels))]
    back = decode(levels, n)
    assert back.dtype == levels[-1].dtype == jnp.float32
    np.testing.assert_allclose(back, field, atol=1e-5)


def test_disturbed_levels_are_decoded_by_least_squares():
    n, rng = 37, np.random.default_rng(0)
    stack = np.concatenate(matrices(n))
    noise = rng.normal(size=(len(stack), 2))
    sizes = holography.level_sizes(n, holography.all_levels(n))
    levels = np.split(noise, np.cumsum(sizes)[:-1])
    expected = np.linalg.lstsq(stack, noise, rcond=None)[0]
    np.testing.assert_allclose(decode(levels, n), expected, atol=1e-6)
    assert np.linalg.norm(expected) < np.linalg.norm(noise)


def test_fewer_levels_are_a_projection_that_enlarges_no_noise():
    n = 64
    stacked = matrices(n)[2:]
    sizes = [len(q) for q in stacked]
    split = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1])
    back = np.asarray(decode(split, n))
    assert np.linalg.norm(back, 2) < 1.5
    field = np.random.default_rng(1).normal(size=(n, 4))
    seen = np.concatenate(stacked) @ field
    error = np.linalg.norm(back @ seen - field)
    alone = np.linalg.norm(stacked[0].T @ stacked[0] @ field - field)
    best = np.linalg.norm(np.linalg.pinv(np.concatenate(stacked)) @ seen - field)
    assert best <= error <= alone
    single = decode([stacked[0] @ field], n)
    np.testing.assert_allclose(single, stacked[0].T @ stacked[0] @ field, atol=1e-12)


def test_scales_are_separated():
    """A wave passes the levels whose slots are closer than half its wavelength, and no others."""
    n = 256
    place = (np.arange(n) + 0.5) / n
    waves = np.stack([np.cos(np.pi * k * place) for k in (3, 24, 100, 200)], -1)
    levels = encode(waves, 9)
    kept = np.array([np.sum(np.asarray(v) ** 2, 0) for v in levels]) / np.sum(waves**2, 0)
    slots = np.array([len(v) for v in levels])
    for wave, k in enumerate((3, 24, 100, 200)):
        assert np.all(kept[slots > 2 * k, wave] > 0.8)
        assert np.all(kept[slots < 0.4 * k, wave] < 0.1)
    assert np.all(np.diff(kept[:7, 0]) <= 1e-12)


def test_a_slot_belongs_to_the_sites_around_it():
    q = matrices(128)[3]
    centre = (q**2 @ np.arange(128))[1:-1]
    np.testing.assert_allclose(centre, (8 * (np.arange(16) + 0.5) - 0.5)[1:-1], atol=1.0)
    near = np.abs(np.arange(128) - (8 * (7 + 0.5) - 0.5)) < 8
    assert np.sum(q[7, near] ** 2) > 0.9


def test_slow_fields_need_few_slots_and_white_noise_needs_all():
    n, rng = 256, np.random.default_rng(0)
    frequency = np.maximum(np.arange(n), 1.0)
    wave = np.cos(np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n)
    lost, means = [], []
    for power in (0, 1, 2):
        field = ((rng.normal(size=(64, n)) * frequency ** (-power / 2)) @ wave).T
        level = encode(field, 3)[2:]
        error = np.asarray(decode(level, n)) - field
        block = field.reshape(64, 4, -1)
        rest = block - block.mean(1, keepdims=True)
        lost.append(np.sum(error**2) / np.sum(field**2))
        means.append(np.sum(rest**2) / np.sum(field**2))
    np.testing.assert_allclose(lost[0], 0.75, rtol=0.05)  # whatever the basis
    assert lost[1] < 0.95 * means[1]
    assert lost[2] < 0.02


def test_transforms_and_gradients():
    field = np.float32(np.random.default_rng(0).normal(size=(3, 12, 2)))

    def loss(field, delta):
        levels = holography.encode(field, 2, delta=delta)
        back = holography.decode([levels[0] ** 2, levels[1]], 12, delta=delta)
        return jnp.sum(levels[1] ** 4) + jnp.sum(back**2)

    delta = np.float32(1.2)
    value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(field, delta)
    assert value.dtype == slopes[0].dtype == slopes[1].dtype == jnp.float32
    each = jax.jit(jax.vmap(loss, (0, None)))(field, delta)
    np.testing.assert_allclose(np.sum(each), value, rtol=1e-5)
    wide, run = field.astype(np.float64), jax.jit(loss)
    ahead, behind = (run(wide, np.float64(1.2 + s)) for s in (1e-5, -1e-5))
    np.testing.assert_allclose(slopes[1], (ahead - behind) / 2e-5, rtol=2e-4)
    move, at = np.ones_like(wide), lambda f: loss(f, jnp.float64(1.2))
    tangent = jax.jit(lambda f, v: jax.jvp(at, (f,), (v,))[1])(wide, move)
    np.testing.assert_allclose(np.sum(slopes[0]), tangent, rtol=1e-4)
    half = jax.eval_shape(lambda f: holography.encode(f, 2), field.astype(jnp.bfloat16))
    assert half[1].dtype == jnp.float32


def test_errors_name_the_argument(bare_errors):
    field = jnp.ones((10, 2), jnp.float32)
    with pytest.raises(ValueError, match="levels must be <= 5 for n = 10, got 6"):
        holography.encode(field, 6)
    with pytest.raises(ValueError, match=r"field must have shape \(..., N >= 1, d\)"):
        holography.encode(field[0], 1)
    with pytest.raises(ValueError, match="delta must be one number"):
        holography.encode(field, 2, delta=jnp.ones(2, jnp.float32))
    with pytest.raises(ValueError, match=r"delta must be > dim / 2 = 0.5"):
        holography.encode(field, 2, delta=0.5)
    with pytest.raises(ValueError, match=r"delta must be > dim / 2 = 0.5"):
        holography.encode(field, 2, delta=jnp.float32(0.4))
    with pytest.raises(ValueError, match=r"width must be from 0\.1 to 10"):
        holography.encode(field, 2, width=0.0)
    levels = encode(field, 3)
    for wrong in (levels[::-1], [levels[0], levels[0]], [levels[1][:4]], []):
        with pytest.raises(ValueError, match="levels must have numbers of slots from"):
            holography.decode(wrong, 10)
    with pytest.raises(ValueError, match="levels must differ in slots alone"):
        holography.decode([levels[0], levels[1][:, :1]], 10)
    with pytest.raises(TypeError, match="field must be a real floating-point array"):
        holography.encode(jnp.ones((4, 1), jnp.int32), 1)
