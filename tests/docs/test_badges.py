"""README's badges are what .ci/run has run, and what pyproject.toml asks for."""

import importlib.util
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def badges():
    spec = importlib.util.spec_from_file_location("badges", ROOT / ".ci" / "badges.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record(badges):
    text = badges.RECORD.read_text(encoding="utf-8")
    found = badges.runs(text)
    assert len(found) == len(text.splitlines())
    return found


def test_pictures_and_readme_are_those_of_the_record(badges, record):
    line, pictures = badges.made(record)
    assert README.splitlines().count(line) == 1
    for path, svg in pictures.items():
        assert (ROOT / path).read_text(encoding="utf-8") == svg
        title = ElementTree.fromstring(svg).find("{*}title").text
        assert f"![{title}]({path})" in line


def test_versions_are_those_that_the_package_declares(badges, record):
    pythons = [run.minor for run in record]
    prefix = "Programming Language :: Python :: "
    declared = [c.removeprefix(prefix) for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert pythons == declared
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    (floor,) = (d.removeprefix("jax>=") for d in PROJECT["dependencies"] if d.startswith("jax>="))
    assert badges.minor(record[0].jax) == floor  # the oldest Python has the oldest JAX


def test_ci_runs_all_tests_on_these_versions(record):
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    command = re.search(r"<!-- test-command -->\s*```bash\n(.*?)\n```", README, re.DOTALL)[1]
    assert re.search(r"&& pytest( -n \d+)?$", command)  # no folder, no selection
    assert 'tested .venv/bin/python bash -euo pipefail -c "$command"\n' in script
    newest = re.findall(
        r"^newer=\$\(find_python ([\d.]+)\)$.*?"
        r"tested (\S+)/bin/python \2/bin/pytest( -n \d+)?\n",
        script, re.MULTILINE | re.DOTALL,
    )  # fmt: skip
    assert [found[0] for found in newest] == [run.minor for run in record[1:]]


def test_ci_runs_the_slow_tests_too():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    tested = re.search(r"^tested\(\) \{(.*?)^\}", script, re.MULTILINE | re.DOTALL)[1]
    assert '"$python" -m pytest -n 2 -m slow' in tested


def test_a_line_comes_from_a_suite_that_passed(badges):
    said = badges.line("..s.\n===== 2 skipped, 4321 passed in 9.87s =====\n")
    (run,) = badges.runs(f"=== step\n{said}\n   12 s  step\n")
    assert run.passed == 4321
    (run,) = badges.runs(badges.line("4000 passed in 9.00s (0:01:30)\n== 321 passed in 1.20s ==\n"))
    assert run.passed == 4321
    for bad in (
        "",
        "no tests ran in 0.01s",
        "== 1 failed, 4320 passed in 9.87s ==",
        "== 4 passed, 1 error in 1.00s ==",
        "== 1 failed, 4320 passed in 9.87s ==\n== 4 passed in 0.10s ==",
        "== 4320 passed in 9.87s ==\n== 4 errors in 0.10s ==",
    ):
        with pytest.raises(SystemExit):
            badges.line(bad)


def test_badges_say_where_tests_fail(badges):
    text = "tested: Python 3.11.7, jax 0.10.2: 4321 passed\n"
    text += "tested: Python 3.12.1, jax 0.12.0: 4000 passed, 4 failed\n"
    said = badges.texts(badges.runs(text))
    assert said["tests"] == "more than 4,300 pass"
    assert said["Python"] == "3.11, 3.12 (4 fail)"
    assert said["JAX"] == "0.10.2, 0.12.0 (4 fail)"


def test_check_finds_what_the_badges_overstate(badges):
    record = [badges.Run("3.11.7", "0.10.2", 4321), badges.Run("3.12.1", "0.12.0", 4400)]
    assert badges.claimed(record) == 4300
    assert badges.claimed([badges.Run("3.11.7", "0.10.2", 4300)]) == 4200  # "more than"
    assert badges.check([badges.Run("3.11.9", "0.10.2", 4301)], record) == []
    assert badges.check([badges.Run("3.11.9", "0.10.2", 4300)], record)
    assert badges.check([], record)
