"""Whether a force is a gradient, which every echo needs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from physnet import _checks
from physnet.symplectic import _arguments
from physnet.symplectic.echo import _problem


def check_conservative(
    force: _arguments.Force,
    params: Any,
    position: Any,
    input: Any,
    *,
    key: Key[Array, ""],
    probes: int = 4,
    tolerance: ArrayLike | Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    r"""How far a force is from being the gradient of a potential, by random probes.

    A force is a gradient (on a region without holes) just where its Jacobian J is symmetric. With
    independent Gaussian u and v,

        E (v.J u - u.J v)^2 = |J - J^T|^2 (Frobenius),     E |J u|^2 = |J|^2

    and the measure is the square root of the ratio of their means over the probes: 0 for a
    gradient, at most 2, about sqrt 2 for a matrix without any symmetry. An echo of a force that is
    none has no reason to be its gradient: an antisymmetric part of 0.01 costs percents of it.

    Args:
        force: force(params, position, input) -> like position.
        params: A tree, handed to the force.
        position: An array or a tree of arrays; where to look.
        input: One step's input, or None, handed to the force.
        key: Of the probes.
        probes: Number of pairs (u, v), each two derivatives of the force. Static.
        tolerance: The largest measure that passes; None is the square root of the rounding unit.

    Returns:
        The measure, a scalar, float32 at least. 0 where J vanishes.

    Raises:
        ValueError: Outside `jit`, a measure above the tolerance (or NaN). Under `jit` it is only
            returned.
        TypeError: A position that is not floating, or a force that is not like it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> shear = jnp.array([[1.0, 0.1], [0.0, 1.0]])
        >>> linear = lambda w, q, _: w @ q
        >>> key = jax.random.key(0)
        >>> bool(check_conservative(linear, shear + shear.T, jnp.ones(2), None, key=key) < 1e-6)
        True
        >>> try:
        ...     check_conservative(linear, shear, jnp.ones(2), None, key=key)
        ... except ValueError as error:
        ...     print(str(error)[:41])
        force must be the gradient of a potential
    """
    probes, key = _checks.positive_int("probes", probes), _checks.key("key", key)
    most = None if tolerance is None else _checks.known("tolerance", tolerance)
    position = jax.tree.map(lambda x: _arguments.strong(_checks.real("position", x)), position)
    force = _arguments.checked(force)
    leaves, tree = jax.tree.flatten(position)
    if not leaves:
        raise ValueError("position must hold at least one array, got none")
    wide = _problem.wide(leaves)

    def normal(key: Any) -> Any:
        keys = jax.random.split(key, len(leaves))
        drawn = [
            jax.random.normal(k, x.shape, wide).astype(x.dtype)
            for k, x in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, drawn)

    def dot(x: Any, y: Any) -> Array:
        products = jax.tree.map(lambda a, b: jnp.sum(a.astype(wide) * b.astype(wide)), x, y)
        return sum(jax.tree.leaves(products), jnp.zeros((), wide))

    def probe(key: Any) -> tuple[Array, Array]:
        u, v = (normal(k) for k in jax.random.split(key))
        _, slope = jax.linearize(lambda q: force(params, q, input), position)
        ju, jv = slope(u), slope(v)
        return jnp.square(dot(v, ju) - dot(u, jv)), (dot(ju, ju) + dot(jv, jv)) / 2

    odd, whole = (jnp.sum(x) for x in jax.vmap(probe)(jax.random.split(key, probes)))
    measure = jnp.sqrt(odd / jnp.where(whole > 0, whole, 1))
    if tolerance is None:
        coarse = max(float(jnp.finfo(x.dtype).eps) for x in leaves)
        most = np.asarray(coarse**0.5)
    found = _checks.concrete(measure)
    if found is not None and most is not None and not found <= most:
        raise ValueError(
            "force must be the gradient of a potential (its Jacobian symmetric): the antisymmetric "
            f"part measures {found:.3g} of it, more than the tolerance {most:.3g}"
        )
    return measure
