"""Time reversal as a constraint and as data: consistency losses and reversed trajectories.

A loss of consistency says something only of models that are not reversible by construction: a
forward and a backward head, or dynamics with friction. On an exactly reversible map (`symplectic`)
it is zero, up to rounding, whatever the parameters, and so are its gradients.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.hyperbolic import polar

Trajectory = Float[Array, "..."] | Any  # or a pytree of such arrays


def reverse_trajectory(
    positions: Trajectory, momenta: Trajectory, *, axis: int = 0
) -> tuple[Trajectory, Trajectory]:
    r"""The same motion backwards: (q_T, -p_T), ..., (q_0, -p_0).

    Of a system whose energy is even in the momenta it is a trajectory again; with friction it is
    none, and to train on it hurts.

    Args:
        positions: an array, or a pytree of arrays, with time on `axis`.
        momenta: the same.
        axis: of time.

    Returns:
        Positions and momenta with the order of `axis` reversed and momenta negated.

    Raises:
        ValueError: A `positions` or `momenta` without that axis, or with another number of times.

    Example:
        >>> import jax.numpy as jnp
        >>> q, p = reverse_trajectory(jnp.array([0.0, 1.0, 4.0]), jnp.array([1.0, 2.0, 3.0]))
        >>> q.tolist(), p.tolist()
        ([4.0, 1.0, 0.0], [-3.0, -2.0, -1.0])
    """
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"axis must be a static Python int, got {axis!r}")
    named = {"positions": positions, "momenta": momenta}
    for name, value in named.items():
        named[name] = jax.tree.map(functools.partial(_checks.array, name), value)
        if not jax.tree.leaves(value):
            raise ValueError(f"{name} must hold at least one array, got none")
    positions, momenta = named.values()
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves((positions, momenta))]
    if any(not -len(shape) <= axis < len(shape) for shape in shapes):
        raise ValueError(f"axis must be one of every array, got axis {axis} and shapes {shapes}")
    if len({shape[axis] for shape in shapes}) > 1:
        raise ValueError(
            f"positions and momenta must have the same number of times, got shapes {shapes}"
        )
    if any(jnp.issubdtype(jnp.result_type(leaf), jnp.bool_) for leaf in jax.tree.leaves(momenta)):
        raise TypeError("momenta must be numbers, got dtype bool")
    back = jax.tree.map(lambda x: jnp.flip(x, axis), (positions, momenta))
    return back[0], jax.tree.map(jnp.negative, back[1])


def reverse_sequence(
    tokens: Int[Array, "*b T"],
    *,
    direction: int | None = None,
    lengths: Int[Array, "*b"] | None = None,
) -> Int[Array, "*b n"]:
    """Tokens from the last to the first, behind a token of their direction.

    Language has an arrow: a model that is to read both ways must be told which way it reads, and
    its losses of both are to be reported apart.

    Args:
        tokens: (..., T) integers.
        direction: a token that is put in front and means "backwards"; None puts none.
        lengths: (...): tokens of each sequence that count; those behind stay where they are.

    Returns:
        (..., T), or (..., T + 1) with a direction.

    Raises:
        TypeError: Tokens or lengths that are not integers.
        ValueError: No axis of time; lengths of another shape than the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> reverse_sequence(jnp.array([1, 2, 3, 0]), direction=9, lengths=jnp.array(3)).tolist()
        [9, 3, 2, 1, 0]

    References:
        Papadopoulos, Wenger and Hongler, "Arrows of time for large language models" (2024).
    """
    tokens = _checks.at_least_1d("tokens", _integers("tokens", tokens))
    if lengths is None:
        back = jnp.flip(tokens, -1)
    else:
        lengths = _integers("lengths", lengths)
        if lengths.shape != tokens.shape[:-1]:
            raise ValueError(
                f"lengths must have the batch's shape {tokens.shape[:-1]}, got {lengths.shape}"
            )
        place = jnp.arange(tokens.shape[-1], dtype=jnp.int32)
        count = jnp.clip(lengths.astype(jnp.int32), 0, tokens.shape[-1])[..., None]
        place = place.reshape((1,) * lengths.ndim + place.shape)
        back = jnp.take_along_axis(tokens, jnp.where(place < count, count - 1 - place, place), -1)
    if direction is None:
        return back
    token = _checks.integer("direction", direction)
    if token.ndim:
        raise ValueError(f"direction must be one token, got shape {token.shape}")
    front = jnp.full((*tokens.shape[:-1], 1), token, tokens.dtype)
    return jnp.concatenate([front, back], -1)


def consistency_loss(
    forward: Float[Array, "*#a d"],
    backward: Float[Array, "*#b d"],
    *,
    metric: Literal["hyperbolic", "euclidean"] = "hyperbolic",
    curvature: ArrayLike = 1.0,
    squared: bool = False,
) -> Float[Array, ""]:
    r"""Mean distance between states of a forward and of a backward pass at the same times.

        L = mean_t d(h_t^fwd, h_t^bwd)

    On an exactly reversible map (`symplectic`) this is 0 whatever the parameters, and so is its
    gradient: it is for a forward and a backward head, or for dynamics with friction.

    Args:
        forward: (..., d), for "hyperbolic" tangent coordinates at the origin (`hyperbolic.polar`):
            every vector is a state, and nothing has to stay inside a ball.
        backward: (..., d), in the order of `forward`: state t beside state t.
        metric: "hyperbolic" or "euclidean".
        curvature: c > 0 of the hyperbolic space -c; as c goes to 0 its distance is twice the
            Euclidean one.
        squared: the mean of d^2, which is smooth where states meet. There the gradient of d itself
            is taken for 0.

    Returns:
        A number >= 0, at least float32.

    Raises:
        ValueError: Shapes that do not broadcast, an unknown metric, a curvature that is known not
            to be positive.
        TypeError: States that are not real floating-point arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> there, back = jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 0.5], [1.0, 0.0]])
        >>> print(f"{consistency_loss(there, back):.2f}")
        0.50
        >>> print(f"{consistency_loss(there, back, metric='euclidean'):.2f}")
        0.25
    """
    _checks.one_of("metric", metric, ("hyperbolic", "euclidean"))
    forward, backward = _checks.real("forward", forward), _checks.real("backward", backward)
    for name, states in (("forward", forward), ("backward", backward)):
        if _checks.at_least_1d(name, states).size == 0:
            raise ValueError(f"{name} must hold at least one state, got shape {states.shape}")
    shape = _checks.broadcast(forward=forward.shape, backward=backward.shape)
    if metric == "hyperbolic":
        if forward.shape[-1] != backward.shape[-1]:
            raise ValueError(
                f"forward and backward must have one last axis, got {forward.shape} and "
                f"{backward.shape}"
            )
        distance = _wide(polar.distance(forward, backward, curvature=curvature))
        return jnp.mean(distance**2 if squared else distance)
    dtype = np.result_type(forward.dtype, backward.dtype)
    forward, backward = (
        _wide(jnp.broadcast_to(x, shape).astype(dtype)) for x in (forward, backward)
    )
    square = jnp.sum((forward - backward) ** 2, -1)
    if squared:
        return jnp.mean(square)
    apart = square > 0
    return jnp.mean(jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0))


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _integers(name: str, value: Any) -> jax.Array:
    return _checks.integer(name, value)
