"""A matrix plus factors behaves as their sum, and never builds it where it says so."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.superposition.path_integral._perturbed import Perturbed

RNG = np.random.default_rng(0)


def normal(*shape):
    return jax.device_put(np.float32(RNG.normal(size=shape)))


W = Perturbed(normal(6, 5), normal(6, 2), normal(5, 2))
STACK = Perturbed(normal(3, 6, 5), normal(3, 6, 1), normal(3, 5, 1))
DENSE = np.asarray(W.weight, np.float64) + np.asarray(W.left, np.float64) @ np.asarray(W.right).T
LEFT, RIGHT = normal(4, 6), normal(5, 4)
TOKENS = jax.device_put(np.array([[0, 5, 5], [1, 2, -1]]))


def as_array(x):
    return x.dense() if isinstance(x, Perturbed) else x


USES = {
    "LEFT @ w": lambda w: LEFT @ w,
    "LEFT[0] @ w": lambda w: LEFT[0] @ w,
    "LEFT[None] @ w": lambda w: LEFT[None] @ w,
    "np.asarray(LEFT) @ w": lambda w: np.asarray(LEFT) @ w,
    "w @ RIGHT": lambda w: w @ RIGHT,
    "w @ RIGHT[:, 0]": lambda w: w @ RIGHT[:, 0],
    "LEFT @ w @ w.T": lambda w: LEFT @ w @ w.T,
    "RIGHT.T @ w.T": lambda w: RIGHT.T @ w.T,
    "RIGHT.T @ w.mT": lambda w: RIGHT.T @ w.mT,
    "w[TOKENS]": lambda w: w[TOKENS],
    "w[2]": lambda w: w[2],
    "w[jnp.int32(2)]": lambda w: w[jnp.int32(2)],
    "w[1:3]": lambda w: w[1:3],
    "w[:, 1]": lambda w: w[:, 1],
    "w[2, 3]": lambda w: w[2, 3],
    "w[None]": lambda w: w[None],
    "w * jnp.float32(2.0)": lambda w: w * jnp.float32(2.0),
    "3.0 * w": lambda w: 3.0 * w,
    "LEFT @ (w / 2.0)": lambda w: LEFT @ (w / 2.0),
    "w * jnp.ones((6, 5), jnp.float32) + 1.0": lambda w: w * jnp.ones((6, 5), jnp.float32) + 1.0,
    "2.0 - w": lambda w: 2.0 - w,
    "jnp.ones((6, 5), jnp.float32) - w": lambda w: jnp.ones((6, 5), jnp.float32) - w,
    "-w": lambda w: -w,
    "w**2": lambda w: w**2,
    "abs(w)": lambda w: abs(w),
    "w + w": lambda w: w + w,
    "w > 0.5": lambda w: (w > 0.5).astype(jnp.float32),
    "w >= 0.5": lambda w: (w >= 0.5).astype(jnp.float32),
    "w < 0.5": lambda w: (w < 0.5).astype(jnp.float32),
    "w <= 0.5": lambda w: (w <= 0.5).astype(jnp.float32),
    "w == 9.0": lambda w: (w == 9.0).astype(jnp.float32),
    "w != 9.0": lambda w: (w != 9.0).astype(jnp.float32),
    "stack(rows)": lambda w: jnp.stack(list(w)),
    "w - w / 2.0": lambda w: w - w / 2.0,
    "(w @ w.T).T @ w": lambda w: (w @ w.T).T @ w,
}


@pytest.fixture(scope="module")
def results():
    """All uses of the matrix with its perturbation, and of their sum."""
    every = lambda w: {name: as_array(use(w)) for name, use in USES.items()}  # noqa: E731
    return jax.jit(every)(W), jax.jit(every)(jnp.asarray(DENSE, jnp.float32))


@pytest.mark.parametrize("use", USES)
def test_it_is_the_sum(use, results):
    ours, dense = (found[use] for found in results)
    assert ours.shape == dense.shape
    np.testing.assert_allclose(ours, dense, rtol=1e-5, atol=2e-5)


def test_it_looks_like_the_sum():
    assert (W.shape, W.ndim, W.size, len(W), W.dtype) == ((6, 5), 2, 30, 6, jnp.float32)
    assert W.T.shape == (5, 6)
    low = W.astype(jnp.bfloat16)
    assert isinstance(low, Perturbed)
    assert low.dtype == jnp.bfloat16
    assert (LEFT.astype(jnp.bfloat16) @ low).dtype == jnp.bfloat16


def test_stacks_multiply_slice_and_scan():
    x, v, u = normal(3, 4, 6), normal(6), normal(5)

    def layer(h, w):
        return jnp.tanh(h @ w) @ jnp.ones((5, 6), jnp.float32), None

    def every(w):
        return {
            "rows": x @ w,
            "vector": v @ w,
            "columns": w @ u,
            "slice": x[0] @ w[1],
            "transpose": w.T,
            "scan": jax.lax.scan(layer, x[0], w)[0],
        }

    assert isinstance(STACK[1], Perturbed)
    ours, dense = jax.jit(every)(STACK), jax.jit(every)(STACK.dense())
    for name in ours:
        np.testing.assert_allclose(ours[name], dense[name], rtol=1e-5, atol=5e-5, err_msg=name)


def test_gradients_are_those_of_the_sum():
    def loss(w, x):
        return jnp.sum(jnp.sin(x @ w)) + jnp.sum(w[TOKENS] ** 3) + jnp.sum((w @ RIGHT) ** 2)

    def through(weight, left, right, x):
        return loss(weight + left @ right.T, x)

    ours, x_ours = jax.jit(jax.grad(loss, (0, 1)))(W, LEFT)
    *want, x_want = jax.jit(jax.grad(through, (0, 1, 2, 3)))(W.weight, W.left, W.right, LEFT)
    for name, value in zip(("weight", "left", "right"), want, strict=True):
        np.testing.assert_allclose(getattr(ours, name), value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(x_ours, x_want, rtol=1e-4, atol=1e-4)


def test_no_particle_has_a_matrix_of_its_own():
    """64 particles, two layers and an embedding: no array of 64 matrices in the program."""
    left, right = normal(64, 6, 1), normal(64, 5, 1)

    def one(weight, left, right):
        w = Perturbed(weight, left, right)
        return jnp.sum(jnp.tanh(LEFT @ (2.0 * w)) @ w.T.astype(jnp.float32)) + jnp.sum(w[TOKENS])

    many = jax.vmap(one, (None, 0, 0))
    text = str(jax.make_jaxpr(many)(W.weight, left, right))
    assert "64,6,5" not in text
    assert "64,5,6" not in text
    nothing = jnp.zeros_like(left), jnp.zeros_like(right)
    whole = W.weight[None] + left @ jnp.matrix_transpose(right)
    want = jax.jit(jax.vmap(one))(whole, *nothing)
    np.testing.assert_allclose(jax.jit(many)(W.weight, left, right), want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("use", [lambda w: jnp.dot(LEFT, w), lambda w: jnp.einsum("ij->ji", w)])
def test_what_needs_an_array_says_so(use):
    with pytest.raises(TypeError, match="Perturbed"):
        use(W)
    use(W.dense())


def test_a_missing_method_names_the_way_out():
    with pytest.raises(AttributeError, match=r"no 'reshape'.*\.dense\(\)"):
        operator.attrgetter("reshape")(W)
