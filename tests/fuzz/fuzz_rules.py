"""One call of a public function: how it is drawn, made and judged."""

import dataclasses
import functools
import inspect
import re
import signal
import traceback
from collections.abc import Callable
from typing import Any

import fuzz_arguments as fa
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

DIMS = {"b": (2, 1, 3), "n": (5, 1, 2), "m": (4, 1, 3), "d": (3, 1, 2), "T": (6, 1, 3)}
KINDS = {"real": jnp.floating, "complex": jnp.complexfloating, "inexact": jnp.inexact}
KINDS |= {"int": jnp.integer, "bool": jnp.bool_}
HANG = 120  # seconds


@dataclasses.dataclass
class Entry:
    """A public function, good arguments of it, and what must hold.

    Attributes:
        function: It, or for what returns functions one that calls those too.
        arguments: Kinds by name, handed over by keyword.
        result: Shape and dtype of each leaf, such as "b n real"; None checks dtypes alone.
        check: check(result, **arguments) fails where a finite answer is wrong.
        dims: Sizes of named axes besides DIMS; the first is that of compiled programs.
        host: Runs in Python: its arguments are never traced.
        dear: Takes seconds to compile: in the deep profile alone.
        names: What errors may call an argument besides the names in the signature.
        raises: Documented errors besides ValueError and TypeError.
        infinite: A good call may return infinities.
        wide: Documented to return JAX's default precision.
    """

    function: Callable[..., Any]
    arguments: dict[str, fa.Kind]
    result: tuple[str, ...] | None = None
    check: Callable[..., None] | None = None
    dims: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    host: bool = False
    dear: bool = False
    names: tuple[str, ...] = ()
    raises: tuple[type[Exception], ...] = ()
    infinite: bool = False
    wide: bool = False

    @property
    def quick(self) -> bool:
        """Whether the default profile compiles it."""
        return not self.dear and not self.host

    @functools.cached_property
    def programs(self) -> dict[Any, Any]:
        return {}

    @functools.cached_property
    def home(self) -> dict[str, Any]:
        """Good arguments, the same objects each time: compiled programs are found by them."""
        return self.good(sizes(self, None), np.random.default_rng(0))

    def good(self, dims: fa.Dims, rng: np.random.Generator) -> dict[str, Any]:
        return {name: kind.make(rng, dims) for name, kind in self.arguments.items()}


@dataclasses.dataclass
class Call:
    """One call: its way ("trace", "run", "eager"), arguments, and twists (name, label, must)."""

    way: str
    given: dict[str, Any]
    dims: fa.Dims
    twists: list[tuple[str, str, str]]

    def __repr__(self) -> str:
        shown = {name: _short(value) for name, value in self.given.items()}
        return f"{self.way} {self.twists} of {shown}"


def _short(value: Any) -> str:
    leaves = jax.tree.leaves(value)
    if leaves and all(hasattr(leaf, "dtype") and leaf.ndim for leaf in leaves):
        return ", ".join(f"{leaf.dtype}{leaf.shape}" for leaf in leaves[:4])
    return repr(value)[:60]


def sizes(entry: Entry, draw: Callable[..., Any] | None) -> fa.Dims:
    pool = DIMS | entry.dims
    return {name: draw(st.sampled_from(v)) if draw else v[0] for name, v in pool.items()}


@st.composite
def calls(draw: Callable[..., Any], entry: Entry, ways: tuple[str, ...]) -> Call:
    """A good call, or one with one or two arguments twisted."""
    way = draw(st.sampled_from(ways))
    run = way == "run"
    dims = sizes(entry, None if run else draw)
    rng = np.random.default_rng(0 if run else draw(st.integers(0, 3)))
    given = dict(entry.home) if run else entry.good(dims, rng)
    chosen = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2)))):
        options = _options(entry, way, given, {twist[0] for twist in chosen}, rng)
        if not options:
            break
        name, label, must, value = options[draw(st.integers(0, len(options) - 1))]
        given[name] = fa.as_given(label, value)
        chosen.append((name, label, must))
    return Call(way, given, dims, chosen)


def _options(entry: Entry, way: str, given: dict, but: set[str], rng: Any) -> list[tuple]:
    """All twists of the arguments that are not twisted yet."""
    found = []
    for name, kind in entry.arguments.items():
        if name in but:
            continue
        if way != "run":
            found += [(name, *twist) for twist in kind.twists(given[name], rng)]
        if way != "trace" and (_arraylike(given[name]) or kind.traced):
            found += [(name, *twist) for twist in kind.values(given[name])]
    return found


def _arraylike(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(x, jax.Array | np.ndarray) for x in leaves)


def made(entry: Entry, call: Call) -> Any:
    """The answer; shapes alone where the call is only traced."""
    if call.way == "eager" or entry.host:
        return entry.function(**call.given)
    kinds = entry.arguments
    moved = {k: v for k, v in call.given.items() if kinds[k].traced and _numeric(v)}
    if call.way == "run":  # numbers go in as arrays too, so that all share one program
        moved |= {
            k: jnp.float32(v)
            for k, v in call.given.items()
            if isinstance(kinds[k], fa.NumberKind) and kinds[k].traced and isinstance(v, float)
        }
    still = {k: v for k, v in call.given.items() if k not in moved}
    if call.way == "trace":
        return jax.eval_shape(lambda moved: entry.function(**still, **moved), moved)
    same = (jax.config.jax_enable_x64, repr(sorted((k, id(v)) for k, v in still.items())))
    if same not in entry.programs:
        entry.programs[same] = still, jax.jit(lambda moved: entry.function(**still, **moved))
    return entry.programs[same][1](moved)


def _numeric(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(
        isinstance(leaf, jax.Array | np.ndarray) and leaf.dtype != object for leaf in leaves
    )


def judge(entry: Entry, call: Call) -> None:
    """Fail with a reason where the answer, or the error, is not as it must be."""
    must = {twist[2] for twist in call.twists}
    try:
        with _no_hang():
            result = made(entry, call)
    except Exception as error:
        reason = _fault(entry, call, error)
        if reason is None and must <= {"work"}:
            reason = "a good call raised"
        if reason is not None:
            raise AssertionError(f"{reason}: {call}") from error
        return
    values = call.way != "trace"
    leaves = [leaf for leaf in jax.tree.leaves(result) if hasattr(leaf, "dtype")]
    if must <= {"raise", "work"} and "None" not in {twist[1] for twist in call.twists}:
        assert "raise" not in must, f"no error, but {_short(result)}: {call}"
    assert must != {"raise"}, f"no error, but {_short(result)}: {call}"
    _check_dtypes(entry, call, leaves)
    if must <= {"work"}:
        _check_shapes(entry, call, leaves)
    if values:
        _check_values(entry, call, must, result, leaves)


def _fault(entry: Entry, call: Call, error: Exception) -> str | None:
    """What is wrong with an error, or None."""
    if not isinstance(error, (ValueError, TypeError, NotImplementedError, *entry.raises)):
        return f"{type(error).__name__} ({str(error)[:100]})"
    if isinstance(error, entry.raises):
        return None
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    inside = next((i for i, frame in enumerate(frames) if "/physnet/" in frame), len(frames))
    if inside == len(frames):
        return None  # of the entry's own steps around the function
    if any("/tests/fuzz/" in frame for frame in frames[inside:]):
        return None  # of a function of the user's own
    last = frames[-1]
    if "/physnet/" not in last:
        return f"raised by {last}: {type(error).__name__} ({str(error)[:150]})"
    if isinstance(error, jax.errors.ConcretizationTypeError) and call.way == "trace":
        return None  # a static number that was given as an array
    names = {*entry.arguments, *entry.names}
    names |= set(inspect.signature(entry.function).parameters) - {"kwargs"}
    if not any(re.search(rf"\b{re.escape(name)}\b", str(error)) for name in names):
        return f"no argument is named ({str(error)[:150]})"
    return None


def _check_dtypes(entry: Entry, call: Call, leaves: list[Any]) -> None:
    given = [
        leaf for leaf in jax.tree.leaves(call.given) if isinstance(leaf, jax.Array | np.ndarray)
    ]
    wide = entry.wide or any(g.dtype in (np.float64, np.complex128) for g in given)
    long = wide or any(g.dtype in (np.int64, np.uint64) for g in given)
    for leaf in leaves:
        kind = None if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else np.dtype(leaf.dtype)
        assert wide or kind not in (np.float64, np.complex128), f"{kind} out: {call}"
        assert long or kind not in (np.int64, np.uint64), f"{kind} out: {call}"


def _check_shapes(entry: Entry, call: Call, leaves: list[Any]) -> None:
    if entry.result is None:
        return
    if any(value is None and entry.home[name] is not None for name, value in call.given.items()):
        return  # left out: there may be no such result
    assert len(leaves) == len(entry.result), f"{len(leaves)} leaves: {call}"
    for leaf, text in zip(leaves, entry.result, strict=True):
        *axes, kind = text.split()
        wanted = fa.shape_of(" ".join(axes), call.dims)
        assert leaf.shape == wanted, f"shape {leaf.shape}, not {wanted}: {call}"
        assert jnp.issubdtype(leaf.dtype, KINDS[kind]), f"dtype {leaf.dtype}, not {kind}: {call}"


def _check_values(entry: Entry, call: Call, must: set[str], result: Any, leaves: list[Any]) -> None:
    floats = [np.asarray(leaf) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    floats = [f if f.dtype.kind in "fc" else f.astype(np.float32) for f in floats]
    finite = all(np.isfinite(f).all() for f in floats)
    if "nan" in must and must <= {"nan", "work"}:
        assert any(np.isnan(f).any() for f in floats), f"NaN is hidden: {call}"
        return
    if must <= {"work"} and not entry.infinite:
        assert finite, f"not finite {floats}: {call}"
    if (
        entry.check is not None
        and finite
        and must <= {"work", "open"}
        and _same_shapes(entry, call)
    ):
        try:
            entry.check(result, **call.given)
        except AssertionError as error:
            raise AssertionError(f"wrong, {error}: {call}") from error


def _same_shapes(entry: Entry, call: Call) -> bool:
    """Whether only numbers were twisted: then the entry's own check says something."""
    good = entry.good(call.dims, np.random.default_rng(0))
    for name, value in call.given.items():
        one, other = jax.tree.leaves(value), jax.tree.leaves(good[name])
        if len(one) != len(other) or any(
            np.shape(a) != np.shape(b) for a, b in zip(one, other, strict=True)
        ):
            return False
    return True


class _no_hang:
    """An error in place of an endless loop."""

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._ring)
        signal.alarm(HANG)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self._before)

    @staticmethod
    def _ring(*_: object) -> None:
        raise AssertionError(f"still running after {HANG} s")
