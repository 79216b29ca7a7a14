"""physnet: a sequence model treated as a quantum many-body system, in pure JAX functions.

Convention: G(z) = (z - H)^{-1} with H tridiagonal and Hermitian, Im z > 0.

The mechanisms need jax alone and come with `import physnet`; `physnet.nn` and `physnet.models`
need Flax and `physnet.optim` needs optax, which are slow to import, and `physnet.holography` and
`physnet.superposition` have many modules: loaded at their first use.
"""

import importlib as _importlib
import types as _types
import typing as _typing

from physnet import attention as attention
from physnet import birman_schwinger as birman_schwinger
from physnet import dyson as dyson
from physnet import greens as greens
from physnet import hyperbolic as hyperbolic
from physnet import moe as moe
from physnet import scattering as scattering
from physnet import symplectic as symplectic
from physnet import teleport as teleport
from physnet import time_reversal as time_reversal

if _typing.TYPE_CHECKING:
    from physnet import holography as holography
    from physnet import models as models
    from physnet import nn as nn
    from physnet import optim as optim
    from physnet import superposition as superposition

__version__ = "0.1.0"

_ON_FIRST_USE = ("holography", "models", "nn", "optim", "superposition")


def __getattr__(name: str) -> _types.ModuleType:
    if name in _ON_FIRST_USE:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
