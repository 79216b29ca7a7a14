"""What public functions take: good values, and twists of them with the outcome that each demands.

A twist is (label, must, value): "work", a right answer as documented; "raise", an error that names
the argument; "nan", that or a NaN in the answer; "open", that or an answer of the right dtypes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Twist = tuple[str, str, Any]
Dims = dict[str, int]

WRONG = {"text": "two", "object": object(), "dict": {"a": np.float32(1)}}
EXTREME = {"huge": 1e30, "subnormal": 1e-40, "inf": np.inf, "-inf": -np.inf, "-huge": -1e30}


def shape_of(text: str, dims: Dims) -> tuple[int, ...]:
    """ "b n-1" with b = 2, n = 5: (2, 4)."""
    sizes = []
    for word in text.split():
        name, sign, offset = word.partition("-") if "-" in word else word.partition("+")
        base = dims[name] if name in dims else int(name)
        sizes.append(base + int(sign + offset) if sign else base)
    return tuple(sizes)


@dataclasses.dataclass(frozen=True)
class Kind:
    """An argument that is handed over as it is."""

    make: Callable[[np.random.Generator, Dims], Any] = lambda rng, dims: None
    traced: bool = False  # may be an argument of the compiled program
    optional: bool = False

    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        yield from ()

    def values(self, value: Any) -> Iterator[Twist]:
        """Twists of the numbers alone, which need no other program."""
        yield from ()

    def nothing(self) -> Iterator[Twist]:
        yield "None", "work" if self.optional else "raise", None


@dataclasses.dataclass(frozen=True)
class ArrayKind(Kind):
    dtype: str = "real"
    nan: str = "nan"  # what one NaN must lead to
    zero: str = "work"
    alike: bool = False  # must be of the dtype of another argument
    ints: str = "raise"
    dicts: str = "raise"  # of what may be a tree

    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        value = np.asarray(value)
        wrongs = ((label, "raise", wrong) for label, wrong in WRONG.items() if label != "dict")
        yield from (*wrongs, ("dict", self.dicts, WRONG["dict"]))
        yield from self.nothing()
        yield "another axis", "open", value[None]
        yield "NumPy", "work", value
        if value.ndim:
            yield "an axis less", "open", value[0] if len(value) else np.zeros((), value.dtype)
            yield "scalar", "open", np.ones((), value.dtype)
            yield "empty", "open", value[:0]
            yield "one longer", "open", np.concatenate([value, value[:1]])
        if value.ndim > 1:
            yield "last empty", "open", value[..., :0]
            yield "last longer", "open", np.concatenate([value, value[..., :1]], -1)
        yield from self._dtypes(value)

    def _dtypes(self, value: np.ndarray) -> Iterator[Twist]:
        floats = {"float16": np.float16, "bfloat16": jnp.bfloat16}
        if self.dtype in ("real", "inexact"):
            real = np.real(value)
            must = "open" if self.alike else "work"
            yield from ((label, must, real.astype(kind)) for label, kind in floats.items())
            yield "NumPy float64", must, np.asarray(real, np.float64)
            ones = {kind: np.ones(value.shape, kind) for kind in ("int32", "bool")}
            yield from ((kind, self.ints, other) for kind, other in ones.items())
        if self.dtype == "real":
            yield "complex", "raise", value.astype(np.complex64)
        elif self.dtype == "inexact":
            yield "complex", must, value.astype(np.complex64)
        elif self.dtype == "int":
            yield "NumPy int64", "work", np.asarray(value, np.int64)
            yield "uint8", "open", np.abs(value).astype(np.uint8)
            yield "float", "raise", value.astype(np.float32)
            yield "bool", "raise", value.astype(bool)
        elif self.dtype == "bool":
            yield "float", "raise", value.astype(np.float32)
            yield "int32", "raise", value.astype(np.int32)

    def values(self, value: Any) -> Iterator[Twist]:
        value = np.asarray(value)
        if self.dtype not in ("real", "inexact") or not value.size:
            return
        for label, number in EXTREME.items():
            yield label, "open", _with(value, number)
        yield "all huge", "open", np.full_like(value, 1e30)
        yield "zero", self.zero, np.zeros_like(value)
        yield "equal", "open", np.full_like(value, value.ravel()[0])
        yield "nan", self.nan, _with(value, np.nan)
        yield "all nan", self.nan, np.full_like(value, np.nan)


def _with(value: Any, number: float) -> np.ndarray:
    """`value` with one entry, the last one, replaced."""
    array = np.array(value)
    array.reshape(-1)[-1] = number
    return array


def as_given(label: str, value: Any) -> Any:
    """A twisted value as JAX's array, where its label does not say that it is NumPy's."""
    leaves = jax.tree.leaves(value)
    array = bool(leaves) and all(isinstance(leaf, np.ndarray) for leaf in leaves)
    return jax.tree.map(jnp.asarray, value) if array and "NumPy" not in label else value


def real(shape: str, low: float = -1.0, high: float = 1.0, **options: Any) -> ArrayKind:
    def make(rng: np.random.Generator, dims: Dims) -> Any:
        return jnp.asarray(rng.uniform(low, high, shape_of(shape, dims)), jnp.float32)

    return ArrayKind(make, True, dtype="real", **options)


def inexact(shape: str, low: float = -1.0, high: float = 1.0, **options: Any) -> ArrayKind:
    return dataclasses.replace(real(shape, low, high, **options), dtype="inexact")


def ints(shape: str, low: int, high: int, **options: Any) -> ArrayKind:
    def make(rng: np.random.Generator, dims: Dims) -> Any:
        return jnp.asarray(rng.integers(low, high, shape_of(shape, dims)), jnp.int32)

    return ArrayKind(make, True, dtype="int", **options)


def mask(shape: str, **options: Any) -> ArrayKind:
    def make(rng: np.random.Generator, dims: Dims) -> Any:
        return jnp.asarray(rng.uniform(size=shape_of(shape, dims)) < 0.5)

    return ArrayKind(make, True, dtype="bool", **options)


@dataclasses.dataclass(frozen=True)
class TreeKind(Kind):
    """A tree of arrays: parameters, a state."""

    nan: str = "open"
    wrong: str = "raise"

    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        yield "None", "open" if self.optional else self.wrong, None
        yield "text", self.wrong, "two"

    def values(self, value: Any) -> Iterator[Twist]:
        leaves, structure = jax.tree.flatten(value)
        for i, leaf in enumerate(leaves):
            if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size:
                changed = [*leaves[:i], jnp.asarray(_with(leaf, np.nan)), *leaves[i + 1 :]]
                yield f"leaf {i} nan", self.nan, jax.tree.unflatten(structure, changed)


def tree(make: Callable[[np.random.Generator, Dims], Any], **options: Any) -> TreeKind:
    return TreeKind(make, True, **options)


@dataclasses.dataclass(frozen=True)
class NumberKind(Kind):
    bad: tuple[float, ...] = ()
    nan: str = "nan"
    real: bool = True

    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        yield from ((label, "raise", wrong) for label, wrong in WRONG.items())
        yield "complex", "raise" if self.real else "open", 1.0 + 1.0j
        yield from self.nothing()
        yield from ((f"{number}", "raise", number) for number in self.bad)
        yield "nan", self.nan, float("nan")
        yield "NumPy float64", "work", np.float64(value)
        yield "NumPy float32", "work", np.float32(value)
        yield "NumPy int64", "open", np.int64(1)
        yield "int", "open", 1
        yield "bool", "open", True
        yield "array", "open", np.full((), value, np.float32)
        yield "pair", "open", np.full((2,), value, np.float32)
        yield from ((label, "open", number) for label, number in EXTREME.items())
        yield from ((f"{number}", "open", number) for number in (0.0, -1.0, 0))

    def values(self, value: Any) -> Iterator[Twist]:
        if self.traced:
            numbers = EXTREME | {"0": 0.0, "-1": -1.0}
            yield from ((k, "open", _single(number)) for k, number in numbers.items())
            yield "nan", "nan" if self.nan == "raise" else self.nan, _single(np.nan)


def _single(number: float) -> np.ndarray:
    return np.full((), number, np.float32)


def number(*values: float, traced: bool = True, **options: Any) -> NumberKind:
    return NumberKind(lambda rng, dims: values[rng.integers(len(values))], traced, **options)


@dataclasses.dataclass(frozen=True)
class SizeKind(Kind):
    least: int = 1

    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        yield from self.nothing()
        if isinstance(value, int):
            yield "NumPy int64", "work", np.int64(value)
            yield "NumPy int16", "work", np.int16(min(value, 2**15 - 1))
        wrong = WRONG | {"bool": True, "half": 2.5, "complex": 1j}
        if self.least > -3:
            wrong["too small"] = self.least - 1
        yield from ((label, "raise", other) for label, other in wrong.items())
        yield "negative", "raise" if self.least > -3 else "open", -3
        yield "array", "open", np.full((), 2, np.int32)


def size(*values: Any, **options: Any) -> SizeKind:
    return SizeKind(lambda rng, dims: values[rng.integers(len(values))], **options)


@dataclasses.dataclass(frozen=True)
class ChoiceKind(Kind):
    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        yield from self.nothing()
        yield from ((str(other), "raise", other) for other in ("other", 3, np.ones(2), ["a"]))


def choice(*values: Any, **options: Any) -> ChoiceKind:
    return ChoiceKind(lambda rng, dims: values[rng.integers(len(values))], **options)


@dataclasses.dataclass(frozen=True)
class KeyKind(Kind):
    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        yield "old", "work", np.array([0, 1], np.uint32)
        yield from self.nothing()
        wrong = {"int": 3, "text": "two", "keys": _keys()}
        wrong |= {"floats": np.ones(2), "old keys": np.ones((3, 2), np.uint32)}
        yield from ((label, "raise", other) for label, other in wrong.items())


@functools.cache
def _keys() -> jax.Array:
    return jax.random.split(jax.random.key(0), 2)


@functools.cache
def _key(seed: int) -> jax.Array:
    return jax.random.key(seed)


def key(**options: Any) -> KeyKind:
    return KeyKind(lambda rng, dims: _key(int(rng.integers(2))), True, **options)


@dataclasses.dataclass(frozen=True)
class FunctionKind(Kind):
    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        yield from self.nothing()
        yield from (
            (label, "raise", other) for label, other in {"number": 2.0, "text": "f"}.items()
        )


def function(value: Any, **options: Any) -> FunctionKind:
    return FunctionKind(lambda rng, dims: value, **options)


def fixed(value: Any) -> Kind:
    return Kind(lambda rng, dims: value)


def made(make: Callable[[np.random.Generator, Dims], Any], *, traced: bool = False) -> Kind:
    """A good value, made for the sizes at hand, without twists."""
    return Kind(make, traced)


@dataclasses.dataclass(frozen=True)
class EnergyKind(ArrayKind):
    """A complex energy above the real axis: a number or an array."""

    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        yield from ((label, "raise", wrong) for label, wrong in WRONG.items())
        yield from self.nothing()
        yield from ((f"{z}", "raise", z) for z in (1.0, 0.0, 2, -1j, 1 + 0j, complex(0, np.nan)))
        yield "NumPy", "work", np.complex128(0.1 + 0.5j)
        yield "Python", "work", 0.1 + 0.5j
        yield "pair", "open", np.array([0.1 + 0.5j, 0.2j], np.complex64)
        yield "tiny", "open", 0.3 + 1e-30j
        yield "huge", "open", 1e30 + 1e30j

    def values(self, value: Any) -> Iterator[Twist]:
        yield "nan", "nan", np.full(value.shape, complex(np.nan, 1.0), np.complex64)
        some = {f"{z}": np.full(value.shape, z, np.complex64) for z in (1e-30j, -1j, 1.0, 1e30j)}
        yield from ((label, "open", z) for label, z in some.items())


def energy(shape: str = "") -> EnergyKind:
    def make(rng: np.random.Generator, dims: Dims) -> Any:
        where = rng.uniform(-1, 1, shape_of(shape, dims))
        return jnp.asarray(where + 0.5j, jnp.complex64)

    return EnergyKind(make, True)
