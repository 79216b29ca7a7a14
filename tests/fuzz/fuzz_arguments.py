"""What public functions take: good values, and twists of them with the outcome that each demands.

A twist is (label, must, value): "work", a right answer as documented; "raise", an error that names
the argument; "nan", that or a NaN in the answer; "open", that or an answer of the right dtypes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Twist = tuple[str, str, Any]
Dims = dict[str, int]

WRONG = {"text": "two", "object": object(), "dict": {"a": 1.0}}
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
        wrongs = ((label, "raise", wrong) for label, wrong in WRONG.items() if label != "dict")
        yield from (*wrongs, ("dict", self.dicts, WRONG["dict"]))
        yield from self.nothing()
        yield "another axis", "open", value[None]
        yield "NumPy", "work", np.asarray(value)
        if value.ndim:
            yield "an axis less", "open", value[0] if len(value) else jnp.zeros((), value.dtype)
            yield "scalar", "open", jnp.ones((), value.dtype)
            yield "empty", "open", value[:0]
            yield "one longer", "open", jnp.concatenate([value, value[:1]])
        if value.ndim > 1:
            yield "last empty", "open", value[..., :0]
            yield "last longer", "open", jnp.concatenate([value, value[..., :1]], -1)
        yield from self._dtypes(value)

    def _dtypes(self, value: Any) -> Iterator[Twist]:
        floats = {"float16": jnp.float16, "bfloat16": jnp.bfloat16}
        if self.dtype in ("real", "inexact"):
            real = jnp.real(value)
            must = "open" if self.alike else "work"
            yield from ((label, must, real.astype(kind)) for label, kind in floats.items())
            yield "NumPy float64", must, np.asarray(real, np.float64)
            ones = {kind: jnp.ones(value.shape, kind) for kind in ("int32", "bool")}
            yield from ((kind, self.ints, other) for kind, other in ones.items())
        if self.dtype == "real":
            yield "complex", "raise", value.astype(jnp.complex64)
        elif self.dtype == "inexact":
            yield "complex", must, value.astype(jnp.complex64)
        elif self.dtype == "int":
            yield "NumPy int64", "work", np.asarray(value, np.int64)
            yield "uint8", "open", jnp.abs(value).astype(jnp.uint8)
            yield "float", "raise", value.astype(jnp.float32)
            yield "bool", "raise", value.astype(bool)
        elif self.dtype == "bool":
            yield "float", "raise", value.astype(jnp.float32)
            yield "int32", "raise", value.astype(jnp.int32)

    def values(self, value: Any) -> Iterator[Twist]:
        if self.dtype not in ("real", "inexact") or not value.size:
            return
        for label, number in EXTREME.items():
            yield label, "open", _with(value, number)
        yield "all huge", "open", jnp.full_like(value, 1e30)
        yield "zero", self.zero, jnp.zeros_like(value)
        yield "equal", "open", jnp.full_like(value, value.ravel()[0])
        yield "nan", self.nan, _with(value, np.nan)
        yield "all nan", self.nan, jnp.full_like(value, np.nan)


def _with(value: Any, number: float) -> jax.Array:
    """`value` with one entry, the middle one, replaced."""
    array = np.array(value)
    array.ravel()[array.size // 2] = number
    return jnp.asarray(array)


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
                changed = [*leaves[:i], _with(leaf, np.nan), *leaves[i + 1 :]]
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
        yield "array", "open", jnp.float32(value)
        yield "pair", "open", jnp.full((2,), value, jnp.float32)
        yield from ((label, "open", number) for label, number in EXTREME.items())
        yield from ((f"{number}", "open", number) for number in (0.0, -1.0, 0))

    def values(self, value: Any) -> Iterator[Twist]:
        if self.traced:
            numbers = EXTREME | {"0": 0.0, "-1": -1.0}
            yield from ((k, "open", jnp.float32(number)) for k, number in numbers.items())
            yield "nan", self.nan, jnp.float32(np.nan)


def number(*values: float, traced: bool = True, **options: Any) -> NumberKind:
    return NumberKind(lambda rng, dims: values[rng.integers(len(values))], traced, **options)


@dataclasses.dataclass(frozen=True)
class SizeKind(Kind):
    least: int = 1

    def twists(self, value: Any, rng: np.random.Generator) -> Iterator[Twist]:
        yield from self.nothing()
        if isinstance(value, int):
            yield "NumPy int64", "work", np.int64(value)
            yield "NumPy uint16", "work", np.uint16(value)
        wrong = WRONG | {"bool": True, "half": 2.5, "complex": 1j, "too small": self.least - 1}
        yield from ((label, "raise", other) for label, other in wrong.items())
        yield "negative", "raise" if self.least > -3 else "open", -3
        yield "array", "open", jnp.int32(2)


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
        yield "old", "work", jax.random.PRNGKey(1)
        yield from self.nothing()
        wrong = {"int": 3, "text": "two", "keys": jax.random.split(jax.random.key(0), 2)}
        wrong |= {"floats": jnp.ones(2), "old keys": jax.random.split(jax.random.PRNGKey(0), 3)}
        yield from ((label, "raise", other) for label, other in wrong.items())


def key(**options: Any) -> KeyKind:
    return KeyKind(lambda rng, dims: jax.random.key(int(rng.integers(9))), True, **options)


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
        yield "pair", "open", jnp.array([0.1 + 0.5j, 0.2j])
        yield "tiny", "open", 0.3 + 1e-30j
        yield "huge", "open", 1e30 + 1e30j

    def values(self, value: Any) -> Iterator[Twist]:
        yield "nan", "nan", jnp.full_like(value, complex(np.nan, 1.0))
        yield from ((f"{z}", "open", jnp.full_like(value, z)) for z in (1e-30j, -1j, 1.0, 1e30j))


def energy(shape: str = "") -> EnergyKind:
    def make(rng: np.random.Generator, dims: Dims) -> Any:
        where = rng.uniform(-1, 1, shape_of(shape, dims))
        return jnp.asarray(where + 0.5j, jnp.complex64)

    return EnergyKind(make, True)
