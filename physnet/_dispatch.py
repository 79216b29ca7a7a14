"""The only place that chooses an implementation, and the only one that names the kernels.

`None` takes the fastest implementation that is installed and serves the call; a named one runs or
raises `NotImplementedError` that says why not. Nothing falls back from a name in silence.
"""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Implementation = Literal["xla", "mosaic_gpu", "triton", "cudnn"]
Facts = dict[str, Any]
Requirement = Callable[[Facts], str | None]  # why a call is not served, or None


def _hopper(facts: Facts) -> str | None:
    return None if _capability(facts) == (9, 0) else "a GPU of compute capability 9.0 (Hopper)"


def _ampere(facts: Facts) -> str | None:
    return (
        None if _capability(facts) >= (8, 0) else "an NVIDIA GPU of compute capability 8.0 or more"
    )


def _triton(facts: Facts) -> str | None:
    missing = [name for name in ("jax_triton", "triton") if not importlib.util.find_spec(name)]
    return f"the package {missing[0]}: pip install 'physnet[triton]'" if missing else None


def _dtypes(*names: str) -> Requirement:
    def check(facts: Facts) -> str | None:
        name = jnp.dtype(facts["dtype"]).name
        return None if name in names else f"dtype {' or '.join(names)}, got {name}"

    return check


def _head_dim(facts: Facts) -> str | None:
    size = facts["head_dim"]
    return None if size <= 256 else f"a head dimension of at most 256, got {size}"


def _block_size(facts: Facts) -> str | None:
    size = facts["block_size"]
    return None if size % 128 == 0 else f"a block size that is a multiple of 128, got {size}"


def _some_pairs(facts: Facts) -> str | None:
    return None if facts["pairs"] else "at least one query and one key"


def _some_points(facts: Facts) -> str | None:
    return None if facts["pairs"] else "at least one pair of points"


def _float32_scores(facts: Facts) -> str | None:
    name = np.dtype(facts["score_dtype"]).name
    return None if name != "float64" else "scores and thresholds of float32, got float64"


def _cudnn_head_dim(facts: Facts) -> str | None:
    size, limit = facts["head_dim"], 256 if _capability(facts) >= (9, 0) else 128
    good = size <= limit and size % 8 == 0
    return None if good else f"a head dimension of at most {limit}, a multiple of 8, got {size}"


def _whole_weights(facts: Facts) -> str | None:
    return "attention weights without dropout" if facts["weight_dropout"] else None


def _few(name: str, limit: int) -> Requirement:
    def check(facts: Facts) -> str | None:
        size = facts[name]
        return None if size <= limit else f"{name} of at most {limit}, got {size}"

    return check


_SHAPES = (_head_dim, _block_size, _float32_scores, _some_pairs)
_ATTENTION: dict[Implementation, tuple[Requirement, ...]] = {
    "mosaic_gpu": (_hopper, _dtypes("bfloat16", "float16"), *_SHAPES),
    "triton": (_ampere, _triton, _dtypes("bfloat16", "float16", "float32"), *_SHAPES),
    "xla": (),
}
_CHAIN: dict[Implementation, tuple[Requirement, ...]] = {
    "triton": (_ampere, _triton, _dtypes("float32")),
    "xla": (),
}

# What each operation has, fastest first, and what each of these needs. "xla" runs everywhere.
_TABLE: dict[str, dict[Implementation, tuple[Requirement, ...]]] = {
    "greens.diagonal": _CHAIN,
    "greens.left": _CHAIN,
    "greens.window": _CHAIN,
    "greens.propagate": _CHAIN,
    "attention.scattering_attention": _ATTENTION,
    "attention.block_sparse_attention": _ATTENTION,
    "moe.route(search='dense')": {
        "triton": (_ampere, _triton, _dtypes("float32"), _few("top_k", 16), _few("d", 256)),
        "xla": (),
    },
    "moe.route(search='tree')": {"xla": ()},
    "hyperbolic.polar.pairwise": {
        "triton": (_ampere, _triton, _dtypes("float32"), _few("d", 128), _some_points),
        "xla": (),
    },
    "models.transformer.apply": {
        "cudnn": (_ampere, _dtypes("bfloat16", "float16"), _cudnn_head_dim, _whole_weights),
        "xla": (),
    },
}


def choose(
    operation: str, implementation: Implementation | None, *, pays: bool = True, **facts: Any
) -> Implementation:
    """Name of the implementation that will run `operation`.

    Args:
        operation: A key of the table above, such as "greens.diagonal".
        implementation: A name, or None for the fastest one.
        pays: Whether a kernel would be faster than "xla" on a call of this size.
        facts: What the requirements look at, such as dtype.

    Returns:
        The name of an implementation that serves the call.

    Raises:
        NotImplementedError: `implementation` names one that this operation does not have, or that
            does not serve the call on this device.
    """
    table = _TABLE[operation]
    if implementation is None:
        if not pays:
            return "xla"
        return next(name for name, needs in table.items() if _unmet(needs, facts) is None)
    if implementation not in table:
        raise NotImplementedError(
            f"{operation} has no implementation={implementation!r}; it has "
            + ", ".join(repr(name) for name in table)
        )
    if (why := _unmet(table[implementation], facts)) is not None:
        raise NotImplementedError(
            f"{operation} with implementation={implementation!r} needs {why}; "
            "implementation=None takes one that serves this call"
        )
    return implementation


def load(folder: str, implementation: Implementation) -> ModuleType:
    """The module of kernels that `implementation` names, imported when first needed."""
    return importlib.import_module(f"physnet_kernels.{folder}.{implementation}")


def _unmet(needs: tuple[Requirement, ...], facts: Facts) -> str | None:
    return next((why for need in needs if (why := need(facts)) is not None), None)


def device(*arrays: Any) -> jax.Device:
    """Where a computation with these arrays runs: where one of them lies, else by default.

    Under `jit` that is not known: jitted for another device than the default one, name "xla".
    """
    for array in arrays:
        if isinstance(array, jax.Array) and not isinstance(array, Tracer):
            return next(iter(array.devices()))
    settings: Any = jax.config
    default = settings.jax_default_device
    if default is None or isinstance(default, str):
        return jax.devices(default)[0]
    return default


def _capability(facts: Facts) -> tuple[int, int]:
    """CUDA's compute capability; (0, 0) of another device."""
    here = device(*facts.get("arrays", ()))
    if here.platform != "gpu":
        return (0, 0)
    major, _, minor = str(getattr(here, "compute_capability", "0.0")).partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() else (0, 0)
