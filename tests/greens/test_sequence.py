"""Chains cut over 8 devices, in a process of its own: equal to one device, derivatives too.

In float64, where the forms differ by rounding alone, against one device and dense inverses; in
float32 once more.
"""

import pytest

SEQUENCE = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec as P

from physnet import greens, scattering
from physnet.greens import PropagateState

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
mesh = jax.make_mesh((4, 2), ("sequence", "batch"), axis_types=(AxisType.Auto,) * 2)
rng = np.random.default_rng(0)


def draw(*shape, complex=False):
    x = rng.normal(size=shape)
    return x + 1j * rng.normal(size=shape) if complex else x


def arguments(n):
    green = 0.3 * draw(2, 3) - 0.2j
    return {
        "onsite": 2 * draw(2, 3, n),
        "hopping": draw(3, n, complex=True),  # of all sequences
        "energy": draw(3) + 0.05j * (1 + np.arange(3)),
        "source": draw(2, 3, n, 2),
        "wave": 2 * draw(2, 1, n, 2, complex=True),  # of all chains
        "green": green,
        "amplitude": draw(2, 3, 2, complex=True),
        "initial": np.stack([green, green - 0.1j, 2 * green, green / 3], -1),
    }


def every(x, axis_name=None):
    # with a state in front, and without one
    own = x["hopping"] if axis_name else x["hopping"][:, 1:]
    chain, started = (x["onsite"], own), (x["onsite"], x["hopping"])
    state = PropagateState(x["green"], x["amplitude"])
    options = dict(axis_name=axis_name, return_state=True)
    window = dict(center=0.2, radius=0.7, order=8, causal=True)
    pairs = (
        greens.left(*chain, x["energy"], **options),
        greens.propagate(*chain, x["energy"], x["wave"], **options),
        greens.propagate(*started, x["energy"], x["source"], initial=state, **options),
        greens.window(*started, **window, initial=x["initial"], **options),
        scattering.score(*chain, kind="ldos", eta=0.4, **options),
    )
    return tuple(zip(*pairs))  # of the sites, behind them


SITES = {"onsite": 2, "hopping": 1, "source": 2, "wave": 2}
ROWS = {"onsite", "source", "wave", "green", "amplitude", "initial"}


def spec(name, rank):
    entries = ["batch" if name in ROWS else None] + [None] * (rank - 1)
    if name in SITES:
        entries[SITES[name]] = "sequence"
    return P(*entries)


def split(x):
    specs = {name: spec(name, array.ndim) for name, array in x.items()}
    sites = P("batch", None, "sequence")
    return jax.shard_map(
        lambda x: every(x, "sequence"), mesh=mesh, in_specs=(specs,), out_specs=(sites, P("batch"))
    )


def like(tree):
    return jax.tree.map(
        lambda a: draw(*a.shape, complex=np.iscomplexobj(a)).astype(a.dtype), tree
    )


def compare(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def halves(x):
    # [(z - H_0..i)^-1]_i,i of every i, by dense inverses
    green = np.zeros(x["onsite"].shape, complex)
    for place in np.ndindex(*x["onsite"].shape):
        i, c = place[2], place[1]
        bonds = x["hopping"][c, 1 : i + 1]
        h = np.diag(x["onsite"][place[0], c, : i + 1].astype(complex))
        h += np.diag(bonds, 1) + np.diag(bonds.conj(), -1)
        green[place] = np.linalg.inv(x["energy"][c] * np.eye(i + 1) - h)[i, i]
    return green


def with_cotangents(function):
    def run(x, cotangents):
        outputs, back = jax.vjp(function, x)
        return outputs, back(cotangents)[0]

    return jax.jit(run)


x = arguments(12)
cotangents = like(jax.eval_shape(every, x))
found = [with_cotangents(f)(x, cotangents) for f in (split(x), every)]
compare(*found, 1e-12)
np.testing.assert_allclose(found[0][0][0][0], halves(x), rtol=1e-11)

tangents = like(x)
pushed = jax.jit(lambda x, t: jax.jvp(split(x), (x,), (t,))[1])(x, tangents)
product = lambda a, b: sum(
    np.sum(np.asarray(u) * np.asarray(v)).real
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
)
np.testing.assert_allclose(
    product(cotangents, pushed), product(found[0][1], tangents), rtol=1e-11
)

# One site a device, in float32.
single = {
    name: a.astype(np.complex64 if np.iscomplexobj(a) else np.float32)
    for name, a in arguments(4).items()
}
single["energy"] = single["energy"] + np.complex64(0.5j)
compare(*(jax.jit(f)(single) for f in (split(single), every)), 1e-6)

# Later sites change no bit, and NaN stays behind where it is.
run = jax.jit(split(x))
before = run(x)[0]
for other in (5.0, np.nan):
    moved = x | {name: x[name].copy() for name in ("onsite", "wave", "source")}
    moved["onsite"][..., 7], moved["wave"][..., 7, :], moved["source"][..., 7, :] = [other] * 3
    for got, want in zip(run(moved)[0], before, strict=True):
        assert (got[:, :, :7] == want[:, :, :7]).all()
        assert np.isnan(got[:, :, 7:]).all() if np.isnan(other) else (got != want).any()

for function in (greens.window, scattering.score):
    try:
        function(np.zeros(3), np.ones(3), causal=False, axis_name="sequence",
                 **({"center": 0.0, "radius": 1.0} if function is greens.window else {}))
    except ValueError as error:
        assert "axis_name needs causal=True" in str(error)
    else:
        raise AssertionError("no error")
print("equal")
"""


@pytest.mark.slow
def test_equal_to_one_device(on_devices):
    assert on_devices(SEQUENCE, 8) == "equal"
