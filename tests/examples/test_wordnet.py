"""The mammals: nouns read from a file, what a perfect embedding scores, and that training helps."""

import jax.numpy as jnp
import numpy as np
import pytest
import wordnet

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
FAMILIES, SPECIES = 6, 4

# name: (kind of pointer, the noun above)
SMALL = {
    "vertebrate": [],
    "mammal": [("@", "vertebrate")],
    "racer": [("@", "vertebrate")],
    "horse": [("@", "mammal")],
    "male_horse": [("@", "horse"), ("+", "vertebrate")],
    "workhorse": [("@", "horse")],
    "steeplechaser": [("@", "male_horse"), ("@", "workhorse"), ("@", "racer")],
    "Lucy": [("@i", "workhorse")],
    "tusker": [("@", "mammal")],
    "snake": [("@", "vertebrate")],
}


def write(path, nouns):
    """A file in the format of data.noun, with two words for a noun and pointers in both ways."""
    offsets = {name: f"{100 * i:08d}" for i, name in enumerate(nouns, 1)}
    lines = []
    for name, above in nouns.items():
        pointers = [f"{kind} {offsets[target]} n 0000" for kind, target in above]
        pointers += [
            f"~ {offsets[other]} n 0000" for other, upper in nouns.items() if ("@", name) in upper
        ]
        start = f"{offsets[name]} 05 n 02 {name} 0 other_{name} 0 {len(pointers):03d}"
        lines.append(" ".join([start, *pointers, f"| about @ {name} | in words  "]))
    path.write_text(LICENCE + "\n".join(lines) + "\n", encoding="latin-1")
    return path


@pytest.fixture
def small(tmp_path):
    return wordnet.hierarchy(write(tmp_path / "data.noun", SMALL))


@pytest.fixture
def families(tmp_path):
    """A root, families below it, species below these."""
    nouns = {"mammal": []}
    for family in range(FAMILIES):
        nouns[f"family_{family}"] = [("@", "mammal")]
        for one in range(SPECIES):
            nouns[f"species_{family}_{one}"] = [("@", f"family_{family}")]
    return wordnet.hierarchy(write(tmp_path / "data.noun", nouns))


def named(nouns, pairs):
    return {(nouns.names[i], nouns.names[j]) for i, j in pairs.tolist()}


def test_nouns_below_the_root(small):
    expected = ["mammal", "horse", "male_horse", "workhorse", "steeplechaser", "Lucy"]
    assert small.names == expected  # by the first word, without the tusker


def test_edges_are_kinds_and_instances(small):
    assert named(small, small.edges) == {
        ("horse", "mammal"),
        ("male_horse", "horse"),
        ("workhorse", "horse"),
        ("steeplechaser", "male_horse"),
        ("steeplechaser", "workhorse"),
        ("Lucy", "workhorse"),
    }


def test_pairs_hold_each_ancestor_once(small):
    assert len(small.pairs) == 12
    above = {
        "horse": ["mammal"],
        "male_horse": ["horse", "mammal"],
        "workhorse": ["horse", "mammal"],
        "steeplechaser": ["male_horse", "workhorse", "horse", "mammal"],
        "Lucy": ["workhorse", "horse", "mammal"],
    }
    assert named(small, small.pairs) == {(n, a) for n, many in above.items() for a in many}


def test_a_missing_file_is_named_with_its_package(tmp_path, monkeypatch, capsys):
    path = tmp_path / "none" / "data.noun"
    monkeypatch.setattr("sys.argv", ["wordnet.py", "--wordnet", str(path)])
    with pytest.raises(SystemExit, match="apt install wordnet-base") as raised:
        wordnet.main()
    assert str(path) in str(raised.value)
    assert "--wordnet" in str(raised.value)


def test_a_file_without_the_root_is_refused(tmp_path):
    path = write(tmp_path / "data.noun", {"snake": []})
    with pytest.raises(SystemExit, match="no noun 'mammal'"):
        wordnet.hierarchy(path)


def on_a_line(*places):
    return jnp.asarray(np.stack([places, np.zeros(len(places))], axis=-1), jnp.float32)


def test_a_perfect_embedding_scores_one():
    # On a line a root, two nouns at distance 1 from it, and one 1.5 behind each of these.
    pairs = np.array([(1, 0), (2, 0), (3, 1), (3, 0), (4, 2), (4, 0)], np.int32)
    far = np.tanh(np.array([0.0, 1.0, -1.0, 2.5, -2.5]) / 2)
    assert wordnet.scores(on_a_line(*far), pairs) == (1.0, 1.0)


def test_ranks_and_precision_by_hand():
    # From noun 2 at 0: others at 0.1 (none), 0.2 (above), 0.3 (none), 0.4 (above).
    pairs = np.array([(2, 0), (2, 1)], np.int32)
    points = on_a_line(0.2, 0.4, 0.0, 0.1, 0.3)
    rank, precision = wordnet.scores(points, pairs)
    assert rank == (2 + 3) / 2
    assert precision == (1 / 2 + 2 / 4) / 2


def test_ties_count_against_the_ancestor():
    pairs = np.array([(0, 1)], np.int32)
    assert wordnet.scores(on_a_line(0.0, 0.5, 0.5, -0.5), pairs) == (3.0, 1 / 3)


@pytest.mark.slow
def test_training_finds_the_families(families, tmp_path):
    count, pairs = len(families.names), families.pairs
    assert (count, len(pairs)) == (31, 54)
    before, _ = wordnet.scores(wordnet.start(count, 2, np.random.default_rng(0)), pairs)
    points = wordnet.train(
        count, pairs, seed=0, dim=2, epochs=60, rate=0.1, batch=8, negatives=16, warmup=5
    )
    after, _ = wordnet.scores(points, pairs)
    assert np.all(np.linalg.norm(points, axis=1) < 1)
    assert after < before / 2
    path = tmp_path / "pictures" / "disk.png"
    wordnet.draw(points, families, "families", path)
    assert path.read_bytes().startswith(b"\x89PNG")
