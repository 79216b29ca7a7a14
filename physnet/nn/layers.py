"""Small pieces that the layers share: products, norms, rotary positions, dropout."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet._dtypes import accurate

Drop = Callable[[Float[Array, "*b"], int], Float[Array, "*b"]]


def linear(x: Float[Array, "*b i"], weight: Float[Array, "i o"]) -> Float[Array, "*b o"]:
    """x W as one product of matrices, on CPUs faster than one with batch axes.

    It also keeps the gradient of W in float32 until all is added: with two axes to add over, XLA's
    compiler for CPUs in JAX 0.12 adds products of bfloat16 in bfloat16.

    Args:
        x: (..., I).
        weight: W (I, O), taken in the dtype of x.

    Returns:
        (..., O), in the dtype of x.

    Raises:
        ValueError: x is a scalar, or weight has other rows than x has channels.
        TypeError: x or weight is not real floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(6.0).reshape(1, 3, 2)
        >>> print(linear(x, jnp.array([[1.0], [10.0]]))[..., 0])
        [[10. 32. 54.]]
    """
    x, weight = _checks.real("x", x), _checks.real("weight", weight)
    if x.ndim < 1 or weight.ndim != 2 or weight.shape[0] != x.shape[-1]:
        raise ValueError(
            f"x and weight must have shapes (..., I) and (I, O), got {x.shape} and {weight.shape}"
        )
    y = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ weight.astype(x.dtype)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def rms_norm(
    x: Float[Array, "*b w"], *, scale: Float[Array, " w"] | None = None
) -> Float[Array, "*b w"]:
    """x over its root mean square along the last axis, times a scale if there is one.

        x / sqrt(mean(x^2) + 1e-5) * scale

    Computed in float32 at least.

    Args:
        x: (..., W).
        scale: (W,).

    Returns:
        (..., W), in the dtype of x.

    Raises:
        ValueError: x is a scalar, or the scale has another shape.
        TypeError: x or scale is not real floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> [f"{share:.3f}" for share in rms_norm(jnp.array([1.0, -1.0, 7.0, 7.0]))]
        ['0.200', '-0.200', '1.400', '1.400']
    """
    x = _checks.real("x", x)
    _checks.at_least_1d("x", x)
    y = x.astype(accurate(x.dtype))
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)
    if scale is not None:
        scale = _checks.real("scale", scale)
        if scale.shape != x.shape[-1:]:
            raise ValueError(f"scale must have shape {x.shape[-1:]}, got {scale.shape}")
        y = y * scale.astype(y.dtype).reshape((1,) * (y.ndim - 1) + scale.shape)
    return y.astype(x.dtype)


def rotary(
    x: Float[Array, "*b t n d"], position: Int[Array, " t"], *, base: float = 1000.0
) -> Float[Array, "*b t n d"]:
    r"""Rotate pairs of channels by the angles position * base^{-2k/d}.

    Products of rotated queries and keys depend on the difference of their positions alone. Channel
    k goes with channel k + d/2.

    Args:
        x: (..., T, N, D), D even.
        position: (T,) integers.
        base: ratio of the slowest wavelength to the fastest. Static.

    Returns:
        (..., T, N, D), in the dtype of x.

    Raises:
        ValueError: shapes that do not fit, an odd D, a base that is not positive and finite.
        TypeError: x is not real floating-point, position not integers, base not a static number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 8))
        >>> place = lambda x, t: rotary(x, jnp.array([t]))
        >>> one, other = jnp.sum(place(q, 11) * place(k, 4)), jnp.sum(place(q, 9) * place(k, 2))
        >>> bool(jnp.allclose(one, other, atol=1e-5))
        True

    References:
        Su et al. 2021, RoFormer.
    """
    x, position = _checks.real("x", x), _checks.integer("position", position)
    if x.ndim < 3 or x.shape[-1] % 2 or not x.shape[-1]:
        raise ValueError(f"x must have shape (..., T, N, D) with an even D >= 2, got {x.shape}")
    if position.shape != x.shape[-3:-2]:
        raise ValueError(f"position must have shape {x.shape[-3:-2]}, got {position.shape}")
    base = _checks.number("base", base)
    if not 0 < base < math.inf:
        raise ValueError(f"base must be positive and finite, got {base}")
    half = x.shape[-1] // 2
    wide = accurate(x.dtype)
    rate = jnp.exp(jnp.arange(half, dtype=wide) * (-math.log(base) / half))
    angle = position.astype(wide)[:, None] * rate[None]
    lead = (1,) * (x.ndim - 3)
    cos, sin = (f(angle).reshape(*lead, -1, 1, half) for f in (jnp.cos, jnp.sin))
    first, second = x[..., :half].astype(wide), x[..., half:].astype(wide)
    turned = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1)
    return turned.astype(x.dtype)


def dropout(rate: float, key: jax.Array | None) -> Drop:
    """drop(x, site): inverted dropout, an independent mask a site; without a key the identity.

    Args:
        rate: share of entries that become 0, in [0, 1); the others are divided by 1 - rate. Static.
        key: a JAX random key, or None where nothing is dropped, as in evaluation.

    Returns:
        A function of an array and a site's number, that gives an array of the same shape and dtype.
        The same site has the same mask.

    Raises:
        ValueError: rate is outside [0, 1).
        TypeError: rate is not a static number, key not a random key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> drop = dropout(0.25, jax.random.key(0))
        >>> x = jnp.ones((4000,))
        >>> one, other = drop(x, 0), drop(x, 1)
        >>> f"{one.mean():.1f}, {jnp.mean((one > 0) & (other > 0)):.1f}"  # 0.75^2 have both
        '1.0, 0.6'
    """
    rate = _checks.number("rate", rate)
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    if key is not None:
        key = _checks.key("key", key)
    if key is None or rate == 0.0:
        return lambda x, site: x

    def drop(x: jax.Array, site: int) -> jax.Array:
        x = _checks.real("x", x)
        keep = jax.random.bernoulli(jax.random.fold_in(key, site), 1.0 - rate, x.shape)
        return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))

    return drop
