"""`outer_scores`: the two factors of every example's score, through taps at matrix products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import optim


def close(found, want):
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-12)


def log_likelihood(tap, params, x, labels):
    h = jnp.tanh(
        tap("up", x, x @ params["up"] + jnp.broadcast_to(params["bias"], (*x.shape[:-1], 5)))
    )
    logits = tap("down", h, h @ params["down"])
    return jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1))


def test_factors_of_every_example_s_score():
    rng = np.random.default_rng(8)
    shapes = {"up": (3, 5), "bias": (5,), "down": (5, 4)}
    params = {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}
    x, labels = jnp.asarray(rng.normal(size=(2, 3, 3))), jnp.asarray(rng.integers(0, 4, (2, 3)))
    found = jax.jit(functools.partial(optim.outer_scores, log_likelihood))(params, x, labels)

    def plain(params, x, label):
        return log_likelihood(lambda name, x, y: y, params, x, label)

    each = jax.vmap(jax.grad(plain), in_axes=(None, 0, 0))
    want = each(params, x.reshape(6, 1, 3), labels.reshape(6, 1))
    for name in ("up", "down"):
        close(np.sqrt(6) * np.einsum("si,sj->sij", *found[name]), want[name])
    close(np.sqrt(6) * found["up"].outputs, want["bias"])


def test_bad_taps(bare_errors):
    with pytest.raises(ValueError, match="got none"):
        optim.outer_scores(lambda tap, w: jnp.sum(w), jnp.ones(2))
    with pytest.raises(ValueError, match="used once"):
        optim.outer_scores(lambda tap, w: jnp.sum(tap("a", w, w) + tap("a", w, w)), jnp.ones(2))
    with pytest.raises(ValueError, match="one leading shape"):
        optim.outer_scores(lambda tap, w: jnp.sum(tap("a", w, jnp.ones((3, 2)))), jnp.ones((2, 2)))
