"""Imaginary-time evolution: SR, minSR and SPRING as one optax transformation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.optim import _charts, _leaves
from physnet.optim._imaginary_time import _cg, _direction


class ImaginaryTimeState(NamedTuple):
    """State of `imaginary_time`.

    Attributes:
        count: Calls of update so far.
        skipped: How many of them met NaN or infinity and moved nothing.
        iterations: Products with the metric that the last solve took ("cg", else 0).
        direction: The last direction d, a tree like the parameters (float32 at least); None
            without momentum and without a warm start.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    iterations: Int[Array, ""]
    direction: Any


def imaginary_time(
    learning_rate: float | Float[Array, ""] | optax.Schedule,
    *,
    damping: float | Float[Array, ""] | optax.Schedule,
    momentum: float | Float[Array, ""] | optax.Schedule = 0.0,
    max_norm: ArrayLike | None = None,
    solver: _direction.Solver | None = None,
    rtol: ArrayLike | None = None,
    tolerance: ArrayLike = 1e-5,
    iterations: int = 100,
    warm_start: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Natural gradient descent by rows of a Jacobian: SR, minSR and SPRING, for optax.

    With the rows J (samples, parameters) and the residual e (samples,), both scaled by the roots of
    the samples' weights, so that S = J^T J is the metric and J^T e the gradient:

        d <- argmin_d |J d - e|^2 + damping |d - m|^2,                 m = momentum * (last d)
           = m + (S + damping)^-1 J^T (e - J m)                        parameters x parameters
           = m + J^T (J J^T + damping)^-1 (e - J m)                    samples x samples
        W <- W - lr d min(1, max_norm / |lr d|)

    Without momentum the second line is stochastic reconfiguration (SR) and the third minSR; with it
    both are SPRING. For a neural quantum state, J the centred log-derivatives and e the centred
    local energies, one step is a step of length lr in imaginary time, projected to the ansatz:
    psi -> exp(-lr H) psi + O(lr^2). For a likelihood it is a natural gradient step.
    `wavefunction_rows`, `likelihood_rows` and `categorical_rows` make both arguments.

    With residual=None, `grads` take the place of J^T e (for complex leaves the conjugates of what
    `jax.grad` gives, as in all of optax): d = m + (S + damping)^-1 (grads - S m). With a residual
    `grads` are not read, and may be None.

    Leaves may be real or complex. Complex rows of real leaves count as their real and imaginary
    parts, S = Re J^dagger J. For a complex leaf the Jacobian holds the holomorphic derivative, and
    the metric is that of its real and imaginary parts; an ansatz that is not holomorphic needs
    `Products`, or two real leaves. All leaves move together: `optax.masked` and `optax.partition`
    would hide leaves that the Jacobian has.

    Where a NaN or an infinity in the Jacobian, the residual, the gradients or the damped metric's
    factor (damping too small for the dtype) reaches d or the updates, the step is left out: zero
    updates, the old direction, and `skipped` counts it. The solve runs in the Jacobian's dtype,
    "cg" in that of the parameters, float32 at least; there the solve over the samples with
    residual=None (Woodbury's identity) loses the digits of |S| / damping.

    Args:
        learning_rate: A number, or a schedule of the step's number.
        damping: Added to the metric, > 0 unless `rtol` is given or the solver is "cg" (which at 0
            diverges for grads that S cannot reach); a number or a schedule.
        momentum: In [0, 1), a number or a schedule; 0.0 keeps no direction.
        max_norm: Bound on the Euclidean norm of each step (SPRING's norm constraint is its square).
        solver: "samples", "parameters", or "cg" for conjugate gradients with products only. None
            takes the smaller matrix, and "cg" for products.
        rtol: None solves by Cholesky. A number takes eigenvectors, and d = m in those whose
            eigenvalue is less than this share of the largest (the pseudo-inverse of minSR). Not
            for "cg".
        tolerance: "cg" ends at this norm of the residual, relative to the right-hand side's,
        iterations: or after so many products with the metric (a static argument, and so to be named
            to `optax.inject_hyperparams`).
        warm_start: "cg" starts at the last direction, and not at m.

    Returns:
        A transformation with update(grads, state, params, *, jacobian, residual=None). `jacobian`
        is a tree like params with a leading axis (samples,) on all leaves, a matrix (samples,
        parameters) in the order of `jax.flatten_util.ravel_pytree`, or a pair (jvp, vjp) of
        callables, see `Products`.

    Raises:
        ValueError: An option out of range where it is known; from update, arguments whose shapes do
            not fit, no params, no jacobian, or neither residual nor grads.
        TypeError: From init and update, leaves or arguments that are not floating.

    Example:
        Four weights e^x of a two-spin state, exactly summed, cool to the ground state, -sqrt(5).

        >>> import jax, jax.numpy as jnp, optax
        >>> from physnet import optim
        >>> h = jnp.diag(-jnp.array([1.0, -1.0, -1.0, 1.0]))
        >>> h -= jnp.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]], h.dtype)
        >>> optimiser = optim.imaginary_time(0.1, damping=1e-4)
        >>> def step(_, carry):
        ...     x, state = carry
        ...     psi = jnp.exp(x)
        ...     rows = optim.wavefunction_rows(
        ...         lambda x, site: x[site], x, jnp.arange(4), h @ psi / psi, weights=psi**2)
        ...     updates, state = optimiser.update(None, state, x, **rows._asdict())
        ...     return optax.apply_updates(x, updates), state
        >>> x = jnp.zeros(4)
        >>> x, _ = jax.lax.fori_loop(0, 100, step, (x, optimiser.init(x)))
        >>> psi = jnp.exp(x) / jnp.linalg.norm(jnp.exp(x))
        >>> print(f"{psi @ h @ psi:.4f}")
        -2.2361

    References:
        Sorella, "Green function Monte Carlo with stochastic reconfiguration", Phys. Rev. Lett. 80
        (1998), 4558.
        Chen and Heyl, "Empowering deep neural quantum states through efficient optimization",
        arXiv 2302.01941 (minSR).
        Goldshlager, Abrahamsen and Lin, "A Kaczmarz-inspired approach to accelerate the
        optimization of neural network wavefunctions", arXiv 2401.10190 (SPRING).
        Amari, "Natural gradient works efficiently in learning", Neural Comput. 10 (1998), 251.
    """
    _checks.one_of("solver", solver, (None, "samples", "parameters", "cg"))
    iterations = _checks.positive_int("iterations", iterations)
    options = _direction.Options(solver, rtol, tolerance, iterations)
    top = float("inf")
    _charts.one_number(learning_rate=learning_rate, damping=damping, momentum=momentum)
    if rtol is not None and solver == "cg":
        raise ValueError(f"rtol must be None with solver='cg', got {rtol!r}")
    if not callable(damping):
        _charts.in_range("damping", damping, 0.0, top, open_below=rtol is None and solver != "cg")
    if not callable(momentum):
        _charts.in_range("momentum", momentum, 0.0, 1.0)
    if max_norm is not None:
        _charts.in_range("max_norm", max_norm, 0.0, top, open_below=True)
    if rtol is not None:
        _charts.in_range("rtol", rtol, 0.0, 1.0)
    _charts.in_range("tolerance", tolerance, 0.0, 1.0)
    still = not callable(momentum) and _checks.concrete(momentum) == 0
    keeps = warm_start or not still

    def init(params: Any) -> ImaginaryTimeState:
        params = _checked(params)
        zero = jnp.zeros([], jnp.int32)
        direction = jax.tree.map(lambda x: jnp.zeros_like(_leaves.wide(x)), params)
        return ImaginaryTimeState(zero, zero, zero, direction if keeps else None)

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        jacobian: Any = None,
        residual: Any = None,
        **others: Any,
    ) -> tuple[Any, ImaginaryTimeState]:
        del others  # those of other transformations in a chain
        _leaves.needs_params("imaginary_time", params, None)
        if jacobian is None or (residual is None and updates is None):
            raise ValueError(
                "imaginary_time needs rows of the metric, and a residual or gradients: call "
                "update(grads, state, params, jacobian=..., residual=...), got jacobian="
                f"{type(jacobian).__name__}, residual={type(residual).__name__}, grads="
                f"{type(updates).__name__}"
            )
        params = _checked(params)
        now = lambda value: jnp.asarray(_leaves.rate(value, state.count))  # noqa: E731
        zeros = jax.tree.map(lambda x: jnp.zeros_like(_leaves.wide(x)), params)
        last = state.direction if keeps else zeros
        carried = zeros if still else _cg.add(zeros, now(momentum), last)
        found, taken = _direction.direction(
            jacobian,
            residual,
            None if residual is not None else _like(updates, params),
            params,
            carried,
            last if warm_start else carried,
            now(damping),
            options,
        )
        found = jax.tree.map(lambda x, zero: x.astype(zero.dtype), found, zeros)
        size = now(learning_rate)
        if max_norm is not None:
            length = jnp.sqrt(_cg.inner(found, found))
            bound = jnp.asarray(max_norm, length.dtype)
            size = size.astype(length.dtype)
            length = jnp.abs(size) * length
            size = size * jnp.where(length > bound, bound / length, 1)
        steps = _cg.add(zeros, -size, found)
        steps = jax.tree.map(lambda s, p: s.astype(p.dtype), steps, params)
        finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((found, steps))]
        good = jnp.all(jnp.stack(finite))
        steps = jax.tree.map(lambda s: jnp.where(good, s, 0), steps)
        if keeps:
            last = jax.tree.map(lambda new, old: jnp.where(good, new, old), found, last)
        return steps, ImaginaryTimeState(
            jnp.asarray(optax.safe_increment(state.count)),
            state.skipped + jnp.where(good, 0, 1).astype(jnp.int32),
            taken,
            last if keeps else None,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _checked(params: Any) -> Any:
    """The parameters as arrays, or a TypeError where a leaf is not floating."""
    return jax.tree.map(lambda x: _checks.inexact("params", x), params)


def _like(grads: Any, params: Any) -> Any:
    """The gradients in the directions' dtypes, or a ValueError where they are not like params."""
    shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (grads, params)]
    if jax.tree.structure(grads) != jax.tree.structure(params) or shapes[0] != shapes[1]:
        raise ValueError(
            f"grads must be a tree like params, of shapes {shapes[1]}, got {shapes[0]} in "
            f"{jax.tree.structure(grads)}"
        )
    for g, p in zip(jax.tree.leaves(grads), jax.tree.leaves(params), strict=True):
        if jnp.iscomplexobj(g) and not jnp.iscomplexobj(p):
            raise TypeError(f"grads must be real where params are, got dtype {jnp.result_type(g)}")
    return jax.tree.map(lambda g, p: jnp.asarray(g).astype(_leaves.wide(p).dtype), grads, params)
