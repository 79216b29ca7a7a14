"""Batches from the disk: the same on any number of processes, and again after a checkpoint."""

import dataclasses
import os

import jax
import meshes
import numpy as np
import pytest
import shakespeare
from lm import corpus, mapped
from lm.errors import UserError
from lm.evaluation import Evaluator
from lm.feed import Feed

TRAINING = dataclasses.replace(meshes.TRAINING, steps=30, batch=8, block=6)
TEXT = np.arange(100, dtype=np.uint8)  # a window begins with the number of its place
PLACES = 100 - 6


def test_batches_are_those_of_one_process():
    whole = Feed(TEXT, TRAINING, (0, 8)).take(5)
    assert (whole.dtype, whole.shape) == (np.int32, (5, 8, 7))
    for parts in (2, 8):
        size = 8 // parts
        feeds = [Feed(TEXT, TRAINING, (size * k, size * (k + 1))) for k in range(parts)]
        np.testing.assert_array_equal(np.concatenate([f.take(5) for f in feeds], axis=1), whole)
        assert all(feed.state == feeds[0].state for feed in feeds)


def test_every_window_comes_once_before_any_comes_again():
    windows = Feed(TEXT, TRAINING, (0, 8)).take(24).reshape(-1, 7)
    np.testing.assert_array_equal(np.diff(windows), 1)
    starts = windows[:, 0]
    for first in (0, PLACES):
        assert sorted(starts[first : first + PLACES]) == list(range(PLACES))
    assert (starts[:PLACES] != starts[PLACES : 2 * PLACES]).mean() > 0.9
    other = Feed(TEXT, dataclasses.replace(TRAINING, seed=1), (0, 8)).take(4).reshape(-1, 7)
    assert (other[:, 0] != starts[:32]).mean() > 0.9


def test_a_feed_goes_on_where_its_state_was_taken():
    feed = Feed(TEXT, TRAINING, (0, 8))
    feed.take(7)
    state, ahead = feed.state, feed.peek(3)
    after = feed.take(3)
    np.testing.assert_array_equal(ahead, after)
    again = Feed(TEXT, TRAINING, (0, 8))
    again.state = state
    np.testing.assert_array_equal(again.take(3), after)


def test_a_resumed_run_reads_what_an_unbroken_one_reads(tmp_path):
    whole = meshes.trained(meshes.BIGRAM, tmp_path / "whole", input="grain")
    drawn = meshes.trained(meshes.BIGRAM, tmp_path / "drawn")
    assert whole[1][0]["loss"] != drawn[1][0]["loss"]
    (tmp_path / "whole" / "checkpoints" / "6").rename(tmp_path / "aside")
    said = []
    again = meshes.trained(meshes.BIGRAM, tmp_path / "whole", input="grain", said=said)
    assert "resuming after step 3" in said[0]
    meshes.equal(whole, again)
    with pytest.raises(UserError, match=r"input\.reader was grain, is None"):
        meshes.trained(meshes.BIGRAM, tmp_path / "whole")


def test_without_grain_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install grain"):
        Feed(TEXT, TRAINING, (0, 8))


STORIES = {
    "plain": "the cat sat on the mat. " * 30,
    "wide": "Ἄνδρα μοι ἔννεπε, μοῦσα 🦉\r\n" * 30,
    "many": "".join(chr(0x4E00 + i) for i in range(300)) * 2,
}


@pytest.mark.parametrize("name", STORIES)
def test_a_text_on_the_disk_is_the_text_in_memory(name, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "PIECE", 7)
    path = tmp_path / "story.txt"
    path.write_text(STORIES[name], encoding="utf-8", newline="")
    text = corpus.read_file(path)
    expected = corpus.split("story", text, block=8)
    for source in (path, text):
        mapped.write("story", source, tmp_path / "text")
        found = mapped.read("story", tmp_path / "text", block=8)
        assert isinstance(found.train, np.memmap)
        assert found.train.dtype == (np.uint16 if name == "many" else np.uint8)
        assert found.characters == expected.characters
        assert found.texts() == expected.texts()
        assert found.fingerprint() == expected.fingerprint()


def test_a_text_on_the_disk_is_written_again_where_it_has_changed(tmp_path):
    path, folder = tmp_path / "story.txt", tmp_path / "text"
    path.write_text(STORIES["plain"])
    mapped.write("story", path, folder)
    first = mapped.read("story", folder, block=8)
    before = os.stat(folder / "tokens.npy").st_ino
    mapped.write("story", path, folder)
    assert os.stat(folder / "tokens.npy").st_ino == before
    path.write_text(STORIES["plain"].upper())
    mapped.write("story", path, folder)
    assert mapped.read("story", folder, block=8).texts()[0] == first.texts()[0].upper()
    assert first.texts()[0].startswith("the cat")  # who still reads the old one keeps it


def test_bad_texts_on_the_disk_are_named(tmp_path):
    for name, data, message in (
        ("empty.txt", b" \n", r"empty\.txt is empty"),
        ("latin.txt", "für".encode("latin-1") * 400, r"latin\.txt is not UTF-8"),
        ("wide.txt", "cat".encode("utf-16-le"), r"wide\.txt holds the character NUL"),
        ("none.txt", None, r"cannot read the text .*none\.txt: No such file"),
    ):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            mapped.write(name, tmp_path / name, tmp_path / "text")
    mapped.write("short", "To be, or not", tmp_path / "text")
    with pytest.raises(UserError, match="too short: it has 13 characters"):
        mapped.read("short", tmp_path / "text", block=8)


def test_an_evaluation_of_a_text_on_the_disk_reads_it_in_batches(tmp_path):
    tokens = np.asarray(meshes.TOY.validation)
    np.save(tmp_path / "tokens.npy", tokens.astype(np.uint8))
    mapped_tokens = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    params = meshes.init(meshes.Config(), jax.random.key(0))
    found = [
        Evaluator(meshes.BIGRAM, text, block=8, dtype="float32", batch=4).evaluate(params)
        for text in (tokens, mapped_tokens)
    ]
    assert found[0] == found[1]


def test_the_command_reads_a_text_from_the_disk(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(meshes.TEXT)
    arguments = (
        "--preset smoke --rows transformer --depths 1 --sample 5 --sizes.layers 1 "
        "--sizes.width 16 --training.steps 2 --training.steps-per-call 1 --training.block 8 "
        "--training.evaluate-every 1 --training.checkpoint-every 1 --input grain"
    )
    folder = tmp_path / "run"
    settings = shakespeare.command_line(
        [*arguments.split(), "--text", str(path), "--directory", str(folder)]
    )
    shakespeare.main(settings, shakespeare.Console(quiet=True))
    assert (folder / "report.md").exists()
    assert (folder / "text" / "tokens.npy").stat().st_size < 2 * len(meshes.TEXT)
