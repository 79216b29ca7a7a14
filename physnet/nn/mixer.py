"""The resolvent mixer: a causal linear recurrence whose decay and phase come from a Hamiltonian.

Shapes: B batch (any leading axes), T time, W width, H chains ("heads"), C complex channels of one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _checks, _dispatch, greens
from physnet.nn.layers import Drop, linear, rms_norm

Params = dict[str, Any]


class Mixed(NamedTuple):
    """What a mixer gives: its output, how open each site is, and the state to go on from.

    Attributes:
        output: (..., T, W).
        openness: (..., T, H) in [0, 1].
        state: Green's function (..., H) and amplitude (..., H, C) of the last site.
    """

    output: Float[Array, "*b T W"]
    openness: Float[Array, "*b T H"]
    state: greens.PropagateState


def init(
    key: jax.Array,
    width: int,
    *,
    heads: int = 16,
    learn_hopping: bool = False,
    output_deviation: float = 0.02,
) -> Params:
    r"""Parameters of a mixer of `width` channels, as float32 arrays.

    The potentials start spread over the band (-2, 2) of a chain with hopping 1, and the
    broadenings eta between 1/2 and 2: memories of about one to several sites.

    Args:
        key: a JAX random key.
        width: W; 2 H must divide it.
        heads: H.
        learn_hopping: give each chain a hopping of its own; otherwise it is 1, the unit of energy.
        output_deviation: of the projection back to the residual stream.

    Returns:
        The parameters of `hamiltonian`, and source, gate and out (W, W) and norm (W,).

    Raises:
        ValueError: width is not a multiple of 2 H, or a number is below 1.
        TypeError: A number is not a static int, or key not a random key.

    Example:
        >>> import jax
        >>> params = init(jax.random.key(0), 32, heads=4)
        >>> {name: leaf.shape for name, leaf in params.items() if leaf.shape != (32, 32)}
        {'potential': (32, 4), 'potential_bias': (4,), 'log_eta': (4,), 'norm': (32,)}
    """
    heads, width = _checks.positive_int("heads", heads), _checks.positive_int("width", width)
    key = _checks.key("key", key)
    if width % (2 * heads):
        raise ValueError(f"width must be a multiple of 2 * heads = {2 * heads}, got {width}")
    keys = jax.random.split(key, 5)

    def normal(index: int, shape: tuple[int, ...], deviation: float) -> jax.Array:
        return deviation * jax.random.normal(keys[index], shape, jnp.float32)

    params = hamiltonian(keys[4], width, heads=heads, learn_hopping=learn_hopping)
    return params | {
        "source": normal(0, (width, width), 0.02),
        "gate": normal(1, (width, width), 0.02),
        "norm": jnp.ones((width,), jnp.float32),
        "out": normal(2, (width, width), output_deviation),
    }


def hamiltonian(
    key: jax.Array, width: int, *, heads: int = 16, learn_hopping: bool = False
) -> Params:
    """Parameters of the chains alone: what a gate needs that has no mixer beside it.

    Args:
        key, width, heads, learn_hopping: as in `init`.

    Returns:
        potential (W, H), potential_bias (H,), log_eta (H,) and, if learned, log_hopping (H,).

    Raises:
        ValueError: A number is below 1.
        TypeError: A number is not a static int, or key not a random key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = hamiltonian(jax.random.key(0), 6, heads=3)
        >>> mixed = apply(params, jnp.ones((5, 6)), groups=1)
        >>> mixed.openness.shape, float(abs(mixed.output).max())
        ((5, 3), 0.0)
    """
    heads, width = _checks.positive_int("heads", heads), _checks.positive_int("width", width)
    spread = jnp.linspace(0.0, 1.0, heads, dtype=jnp.float32)
    weight, order = jax.random.split(_checks.key("key", key))
    params = {
        "potential": width**-0.5 * jax.random.normal(weight, (width, heads), jnp.float32),
        "potential_bias": 4.0 * spread - 2.0,
        "log_eta": jax.random.permutation(order, jnp.log(0.5) + spread * jnp.log(4.0)),
    }
    if learn_hopping:
        params["log_hopping"] = jnp.zeros((heads,), jnp.float32)
    return params


def apply(
    params: Params,
    x: Float[Array, "*b t w"],
    *,
    state: greens.PropagateState | None = None,
    groups: int = 4,
    drop: Drop | None = None,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Mixed:
    r"""Mix a sequence causally through resolvents of its own Hamiltonian.

        a = x W_a + c,   z = i eta,   y_i = gL_i (u_i + b y_{i-1}),   u = x W_u (complex channels)
        output = (norm(y) * silu(x W_g)) W_o,     openness = -eta Im gL

    gL is the causal Green's function of `greens.left`: |gL| <= 1/eta, so the recurrence is stable
    for every potential. A strong potential reflects (short memory), one inside the band transmits
    with a phase.

    Chains may be split over devices: with the columns of the other parameters and the rows of W_o
    for some of them, and their share of the groups, the output is their part of a sum.

    Args:
        params: as `init` returns them; of `hamiltonian` alone, only the openness is computed.
        x: (..., T, W). bfloat16 is mixed in float32.
        state: what an earlier piece of the sequence returned; None at its start.
        groups: the waves are normalised in this many groups of channels.
        drop: a function of `layers.dropout`, used on potentials (site 0) and sources (1).
        axis_name: the mesh axis that the sequence is split over, as in `greens.propagate`.
        implementation: as in `greens.propagate`.

    Returns:
        `Mixed`: output (zeros without a mixer), openness and state.

    Raises:
        ValueError: an empty sequence, a width other than that of the parameters, or one that
            `groups` does not divide; a state of other shapes.
        TypeError: x is not real floating-point, params no dict, state no `PropagateState`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = init(jax.random.key(0), 32, heads=4)
        >>> x = jax.random.normal(jax.random.key(1), (6, 32))
        >>> run = jax.jit(lambda x, state=None: apply(params, x, state=state))
        >>> whole = run(x).output
        >>> first = run(x[:3])
        >>> rest = run(x[3:], first.state).output
        >>> bool(jnp.allclose(jnp.concatenate([first.output, rest]), whole, atol=1e-6))
        True
    """
    _checks.instance("params", params, Mapping)
    x, groups = _checks.real("x", x), _checks.positive_int("groups", groups)
    width, heads = params["potential"].shape
    if x.ndim < 2 or x.shape[-2] == 0 or x.shape[-1] != width:
        raise ValueError(f"x must have shape (..., T >= 1, {width}), got {x.shape}")
    channels = params["source"].shape[1] if "source" in params else width
    if channels % groups:
        raise ValueError(f"groups must divide the width {channels}, got {groups}")
    if state is not None:
        each = channels // (2 * heads) if "source" in params else 0
        _check_state(state, (*x.shape[:-2], heads), each)
    onsite = linear(x, params["potential"]).astype(jnp.float32)
    if drop is not None:
        onsite = drop(onsite, 0)
    onsite = onsite + _row(params["potential_bias"], onsite.ndim)
    onsite = jnp.swapaxes(onsite, -1, -2)  # (..., H, T)
    eta = jnp.exp(params["log_eta"])
    energy = jax.lax.complex(jnp.zeros_like(eta), eta)
    hopping = jnp.exp(params.get("log_hopping", jnp.zeros_like(eta)))
    bonds = onsite.shape[-1] - (state is None and axis_name is None)
    hopping = jnp.broadcast_to(hopping[:, None], (heads, bonds))
    if "source" not in params:
        initial = None if state is None else state.green
        green, last = greens.left(
            onsite,
            hopping,
            energy,
            initial=initial,
            return_state=True,
            axis_name=axis_name,
            implementation=implementation,
        )
        behind = greens.PropagateState(last, jnp.zeros((*last.shape, 0), last.dtype))
        return Mixed(jnp.zeros_like(x), _openness(green, eta), behind)
    source = linear(x, params["source"]).astype(jnp.float32)
    if drop is not None:
        source = drop(source, 1)
    source = source.reshape(*source.shape[:-1], heads, channels // (2 * heads), 2)
    source = jnp.moveaxis(jax.lax.complex(source[..., 0], source[..., 1]), -2, -3)
    wave, green, behind = greens.propagate(
        onsite,
        hopping,
        energy,
        source,
        initial=state,
        return_green=True,
        return_state=True,
        axis_name=axis_name,
        implementation=implementation,
    )
    wave = jnp.moveaxis(wave, -3, -2)  # (..., T, H, C)
    wave = jnp.stack([wave.real, wave.imag], -1).reshape(*x.shape[:-1], groups, channels // groups)
    wave = rms_norm(wave).reshape(*x.shape[:-1], channels) * _row(params["norm"], x.ndim)
    wave = wave.astype(x.dtype) * jax.nn.silu(linear(x, params["gate"]))
    return Mixed(linear(wave, params["out"]), _openness(green, eta), behind)


def _check_state(state: greens.PropagateState, chains: tuple[int, ...], each: int) -> None:
    _checks.instance("state", state, greens.PropagateState)
    shapes = (chains, (*chains, each))
    for name, found, shape in zip(state._fields, state, shapes, strict=True):
        found = _checks.inexact(f"state.{name}", found)
        if found.shape != shape:
            raise ValueError(f"state.{name} must have shape {shape}, got {found.shape}")


def _openness(green: jax.Array, eta: jax.Array) -> jax.Array:
    """-eta Im gL in [0, 1], (..., T, H)."""
    return jnp.clip(jnp.swapaxes(green.imag, -1, -2) * _row(-eta, green.ndim), 0.0, 1.0)


def _row(vector: jax.Array, rank: int) -> jax.Array:
    return vector.reshape((1,) * (rank - 1) + vector.shape)
