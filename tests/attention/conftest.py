"""The contract's reference, in NumPy float64, and the implementations that must meet it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from physnet.attention import _over_blocks

NO_TOKEN = 2**31 - 1


def gate(score_query, score_key, threshold):
    """s_i s_j > tau, one head, in the dtype of the scores."""
    query, key = (np.where(s > 0, s, 0).astype(s.dtype) for s in (score_query, score_key))
    return query[:, None] * key[None, :] > np.asarray(threshold, query.dtype)


def reference(query, key, value, mask, scale, d_output, d_lse):
    """Masked softmax attention and its closed-form gradients, one head at a time.

    query (B, T, N, H), key and value (B, S, K, H), mask (B, N, T, S), cotangents like the results.
    """
    q, k, v, w, u = (np.asarray(a, np.float64) for a in (query, key, value, d_output, d_lse))
    output, lse = np.zeros_like(q), np.full(q.shape[:3], -np.inf)
    d_query, d_key, d_value = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    group = q.shape[2] // k.shape[2]
    for b in range(q.shape[0]):
        for n in range(q.shape[2]):
            h = n // group
            for i in range(q.shape[1]):
                seen = np.flatnonzero(mask[b, n, i])
                if not len(seen):
                    continue
                logits = scale * (k[b, seen, h] @ q[b, i, n])
                p = np.exp(logits - logits.max())
                lse[b, i, n] = logits.max() + np.log(p.sum())
                p /= p.sum()
                output[b, i, n] = p @ v[b, seen, h]
                dp = v[b, seen, h] @ w[b, i, n]
                ds = scale * p * (dp - p @ dp + u[b, i, n])
                d_query[b, i, n] = ds @ k[b, seen, h]
                d_key[b, seen, h] += ds[:, None] * q[b, i, n]
                d_value[b, seen, h] += p[:, None] * w[b, i, n]
    return output, lse, d_query, d_key, d_value


@dataclasses.dataclass(frozen=True)
class Implementation:
    """What the contract runs: a name, the dtypes it serves, and a limit on shapes."""

    name: str
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16", "float16")
    tolerance: float = 1e-5  # float32, of the largest entry
    in_blocks: bool = True  # whether a schedule makes a difference

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return function(*args, implementation=self.name, **options)


def _kernel(name: str) -> Implementation:
    dtypes = ("bfloat16", "float16") + (("float32",) if name == "triton" else ())
    return Implementation(name, dtypes=dtypes, tolerance=1e-2)


KERNELS = [pytest.param(name, marks=pytest.mark.gpu) for name in ("mosaic_gpu", "triton")]


def _made(name: str, monkeypatch: pytest.MonkeyPatch) -> Implementation:
    if name == "dense":
        return Implementation("xla", in_blocks=False)
    if name == "blocks":
        _no_dense_form(monkeypatch)
        return Implementation("xla")
    return _kernel(name)


def _no_dense_form(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("DENSE_PAIRS", "ACCELERATOR_PAIRS", "DENSE_QUERIES"):
        monkeypatch.setattr(_over_blocks, limit, 0)


@pytest.fixture(params=["dense", "blocks", *KERNELS])
def implementation(request, monkeypatch):
    """Each implementation; "dense" and "blocks" are the two forms of "xla"."""
    return _made(request.param, monkeypatch)


@pytest.fixture(params=["dense", "blocks"])
def xla(request, monkeypatch):
    """The two forms of "xla"."""
    return _made(request.param, monkeypatch)


@pytest.fixture(params=["blocks", *KERNELS])
def over_blocks(request, monkeypatch):
    """Each implementation that visits blocks."""
    return _made(request.param, monkeypatch)


@pytest.fixture(params=KERNELS)
def kernel(request):
    """Each implementation that is a kernel."""
    return _kernel(request.param)


@pytest.fixture
def blocks(monkeypatch):
    """The block form of "xla" at any length."""
    _no_dense_form(monkeypatch)


@pytest.fixture(scope="session")
def contract():
    """(gate, reference): the independent NumPy forms."""
    return gate, reference
