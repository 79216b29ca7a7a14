"""Two texts whose every word has a class: Python's standard library, and glosses of WordNet."""

import functools
import hashlib
import io
import keyword
import re
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm.errors import UserError

Word = tuple[str, str]
"""Class and spelling."""

WORDNET = Path("/usr/share/wordnet")
CODE = ("keyword", "name", "operator", "number", "string", "comment", "layout")
SPEECH = ("noun", "verb", "adjective", "adverb", "other")
LAYOUT = ("NEWLINE", "NL", "INDENT", "DEDENT")
SUFFIXES = {  # WordNet's own rules of detachment
    "noun": (
        "s:", "ses:s", "xes:x", "zes:z", "ches:ch", "shes:sh", "men:man", "ies:y",
    ),
    "verb": ("s:", "ies:y", "es:e", "es:", "ed:e", "ed:", "ing:e", "ing:"),
    "adjective": ("er:", "est:", "er:e", "est:e"),
    "adverb": (),
}  # fmt: skip
FILES = {"noun": "noun", "verb": "verb", "adjective": "adj", "adverb": "adv"}
KINDS = {"1": "noun", "2": "verb", "3": "adjective", "4": "adverb", "5": "adjective"}
# Determiners, pronouns, prepositions, conjunctions, auxiliaries: WordNet has homonyms of some.
GRAMMAR = (
    "a about above across after against all along although am among an and another any anyone "
    "anything are around as at be because been before behind being below beneath beside between "
    "beyond both but by can cannot could did do does doing done down during each either every "
    "few for from had has have having he her hers herself him himself his how i if in inside "
    "into is it its itself like many may me might more most much must my neither no nor not of "
    "off on one onto or other others our out outside over own per several shall she should since "
    "so some someone something such than that the their them themselves then there these they "
    "this those though through throughout to toward towards under until up upon was we were what "
    "when where whereby whether which while who whom whose why will with within without would you "
    "your"
)
FUNCTION = frozenset(GRAMMAR.split())
PIECE = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|[^\w\s]")


class Classed(NamedTuple):
    """A text as numbers of words, cut into one part to train on and one held out.

    Attributes:
        name: for people.
        classes: their names (C,).
        words: spelling of each number (V,); the first C stand for the rare words of each class.
        word_class: class of each number (V,) int32.
        train: (n,) int32.
        held: (m,) int32, other files or glosses than those of `train`.
        documents: files or glosses of both parts.
        sha256: of everything above.
    """

    name: str
    classes: tuple[str, ...]
    words: tuple[str, ...]
    word_class: np.ndarray
    train: np.ndarray
    held: np.ndarray
    documents: int
    sha256: str


def standard_library(*, vocab_size: int, train: int, held: int) -> Classed:
    """Source of the running interpreter's standard library, as `tokenize` cuts it.

    Without tests, and without the tables of `encodings` and `pydoc_data`, which are all strings.

    Args:
        vocab_size: V, numbers of words.
        train, held: how many words of each part at most.

    Raises:
        UserError: the library is too short, or not there as source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    left_out |= {"encodings", "pydoc_data"}
    paths = (p for p in root.rglob("*.py") if not left_out & set(p.relative_to(root).parts))
    documents = (_code(p) for p in _shuffled(paths, lambda p: str(p.relative_to(root))))
    name = f"Python {sys.version_info.major}.{sys.version_info.minor}'s standard library"
    return _classed(name, CODE, documents, vocab_size, train, held)


def glosses(folder: Path = WORDNET, *, vocab_size: int, train: int, held: int) -> Classed:
    """The definitions and examples of WordNet; a word's class is its commonest part of speech.

    Args:
        folder: with data.*, index.*, *.exc and cntlist.rev.
        vocab_size, train, held: as in `standard_library`.

    Raises:
        UserError: a file is missing, or the glosses are too few.
    """
    speech = functools.cache(Speech(folder).label)
    lines = [
        line.partition(" | ")[2].strip().lower()
        for part in FILES.values()
        for line in _read(folder, f"data.{part}").splitlines()
        if not line.startswith("  ")  # the licence
    ]
    documents = (
        [(speech(word), word) for word in PIECE.findall(line)] + [("other", "\n")]
        for line in _shuffled(set(lines), str)
    )
    return _classed("WordNet's glosses", SPEECH, documents, vocab_size, train, held)


class Speech:
    """Parts of speech of English words, as WordNet counts them in tagged texts.

    Args:
        folder: with index.*, *.exc and cntlist.rev.

    Raises:
        UserError: a file is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._senses: dict[str, dict[str, int]] = {}
        self._irregular: dict[str, dict[str, list[str]]] = {}
        self._tagged: Counter[Word] = Counter()
        for part, file in FILES.items():
            rows = (
                row.split() for row in _read(folder, f"index.{file}").splitlines() if row[0] > " "
            )
            self._senses[part] = {row[0]: int(row[2]) for row in rows}
            rows = (row.split() for row in _read(folder, f"{file}.exc").splitlines())
            self._irregular[part] = {row[0]: row[1:] for row in rows}
        for row in _read(folder, "cntlist.rev").splitlines():
            sense, _, count = row.split()
            lemma, _, rest = sense.partition("%")
            self._tagged[KINDS[rest[0]], lemma] += int(count)

    def label(self, word: str) -> str:
        """The part of speech in which the word and its base forms are tagged most often.

        Where none is tagged, the one with most senses; "other" for words of grammar and what
        WordNet has not.
        """
        if word in FUNCTION or not word[0].isalpha():
            return "other"
        bases = {part: self._bases(part, word) for part in FILES}
        counts = {
            part: (
                sum(self._tagged[part, base] for base in found),
                sum(self._senses[part][base] for base in found),
            )
            for part, found in bases.items()
        }
        best = max(counts, key=counts.__getitem__)
        return best if any(counts[best]) else "other"

    def _bases(self, part: str, word: str) -> set[str]:
        known = self._senses[part]
        found = {word, *self._irregular[part].get(word, [])}
        for rule in SUFFIXES[part]:
            ending, _, instead = rule.partition(":")
            if word.endswith(ending):
                found.add(word.removesuffix(ending) + instead)
        return found & known.keys()


def _code(path: Path) -> list[Word]:
    """The words of a source file; none where it is no Python."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
        return list(words_of_code(text))
    except (SyntaxError, UnicodeError, tokenize.TokenError):
        return []


def words_of_code(text: str) -> Iterator[Word]:
    """Class and spelling of each token of a Python source.

    Raises:
        SyntaxError, tokenize.TokenError: the text is no Python.
    """
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind in LAYOUT:
            yield "layout", kind
        elif kind == "NAME":
            yield ("keyword" if keyword.iskeyword(token.string) else "name"), token.string
        elif kind == "OP":
            yield "operator", token.string
        elif kind == "NUMBER":
            yield "number", token.string
        elif kind == "COMMENT":
            yield "comment", token.string
        elif "STRING" in kind:  # f-strings come in pieces from Python 3.12 on
            yield "string", token.string


def _classed(
    name: str,
    classes: tuple[str, ...],
    documents: Iterable[list[Word]],
    vocab_size: int,
    train: int,
    held: int,
) -> Classed:
    """The first documents are held out, the next ones trained on, up to what was asked for."""
    parts: tuple[list[Word], list[Word]] = ([], [])
    count = 0
    for document in documents:
        part = parts[len(parts[0]) >= held]
        part.extend(document)
        count += 1
        if len(parts[1]) >= train:
            break
    if len(parts[0]) < held or len(parts[1]) <= held:
        raise UserError(
            f"{name}: {len(parts[0]) + len(parts[1]):,} words are too few to hold {held:,} out"
        )
    unknown = [(kind, f"<{kind}>") for kind in classes]
    common = Counter(parts[1][:train]).most_common(vocab_size - len(unknown))
    words = unknown + [word for word, _ in common]
    number = {word: index for index, word in enumerate(words)}

    def numbers(part: list[Word], most: int) -> np.ndarray:
        found = (number.get(word, number[word[0], f"<{word[0]}>"]) for word in part[:most])
        return np.fromiter(found, np.int32)

    arrays = (
        np.array([classes.index(kind) for kind, _ in words], np.int32),
        numbers(parts[1], train),
        numbers(parts[0], held),
    )
    spelling = tuple(text for _, text in words)
    digest = hashlib.sha256("\0".join((name, *classes, *spelling)).encode("utf-8", "replace"))
    for array in arrays:
        digest.update(array.tobytes())
    return Classed(name, classes, spelling, *arrays, count, digest.hexdigest())


def _shuffled(items: Iterable, name) -> list:
    """In an order that is the same everywhere, and random for all that matters."""
    return sorted(items, key=lambda item: hashlib.sha256(name(item).encode()).digest())


def _read(folder: Path, file: str) -> str:
    try:
        return (folder / file).read_text(encoding="latin-1")
    except FileNotFoundError:
        raise UserError(
            f"{folder / file} is missing: WordNet, which Debian has as wordnet-base "
            "(apt install wordnet-base); --wordnet names a folder with another copy, and "
            "--corpora python does without"
        ) from None
