"""The site's pages and generators: nothing public is missing, no result breaks its page."""

import ast
import importlib
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from physnet import _dispatch

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def _extension(name):
    """A module of docs/_ext; they need no Sphinx."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def public():
    return _extension("public")


@pytest.fixture(scope="module")
def performance():
    return _extension("performance")


def test_every_public_module_has_a_page_and_is_linked(public):
    pages = {path.stem for path in (DOCS / "api").glob("*.rst")}
    assert pages == set(public.modules()) - {"physnet"}
    for name in pages:
        text = (DOCS / "api" / f"{name}.rst").read_text(encoding="utf-8")
        assert f".. public-module:: {name}\n" in text
        above = name.rpartition(".")[0]
        index = DOCS / "api" / ("index.md" if above == "physnet" else f"{above}.rst")
        assert re.search(rf"^ *{re.escape(name)}$", index.read_text("utf-8"), re.MULTILINE), name


def _contract():
    """Modules and names of tests/contract/test_public_api.py, read without running it."""
    source = (ROOT / "tests" / "contract" / "test_public_api.py").read_text(encoding="utf-8")
    assigned = (node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    listed = next(node.value for node in assigned if ast.unparse(node.targets[0]) == "PUBLIC")
    return {module: set(names.split()) for module, names in ast.literal_eval(listed).items()}


def test_public_names_are_those_of_the_contract(public):
    modules = public.modules()
    for module, listed in _contract().items():
        children = {
            name.rpartition(".")[2] for name in modules if name.rpartition(".")[0] == module
        }
        assert set(public.names(module)) | children == listed, module


def test_every_public_name_has_an_entry_on_the_page_of_its_home(public):
    """A page shows what its module defines, and links to what another public one does."""
    for module, listed in _contract().items():
        for name in listed & set(public.names(module)):
            home = getattr(importlib.import_module(module), name).__module__
            home = home if home in public.modules() else module
            assert name in public.names(home), (module, name, home)


def test_every_result_has_a_section_with_its_numbers(performance):
    text = performance.render()
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        start = text.index(f"(result-{path.stem.replace('_', '-')})=")
        section = text[start:].split("\n(result-")[0].split("\n## ")[0]
        assert f"`benchmarks/results/{path.name}`" in section
        assert "\n- device: " in section, path.name
        assert "\n- command: " in section, path.name
        assert "\n|---" in section, path.name  # a table
    assert "benchmarks/kv_memory.py --preset gpu --data recall" in text  # not the file's last half


def test_specifications_name_results_and_columns_that_there_are(performance):
    parts = tomllib.loads((DOCS / "performance.toml").read_text(encoding="utf-8"))
    for name, specification in ((n, s) for part in parts.values() for n, s in part.items()):
        data = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))
        for asked in specification.get("tables", []):
            found = performance.chosen(data, asked)
            assert found is not None, (name, asked["path"])
            _, header, body = found
            for index, column in enumerate(header):
                assert any(row[index] for row in body), (name, asked["path"], column)
        if picture := specification.get("picture"):
            assert (DOCS / "pictures" / f"{picture}.png").is_file(), name


def test_a_result_of_any_shape_has_a_section(performance, tmp_path):
    odd = {
        "device": "cpu",
        "versions": {"jax": "1"},
        "command": "run | me",
        "rows": [{"way": "a|b", "ms": 1.0, "inner": {"x": 2, "list": [1]}}, {"other": None}],
        "tree": {"one": {"y": 1e-9}, "two": {"y": float("inf")}, "rows": []},
        "empty": {},
        "text": "x" * 100,
    }
    (tmp_path / "zz_new.json").write_text(json.dumps(odd), encoding="utf-8")
    (tmp_path / "list.json").write_text(json.dumps([{"n": 1}]), encoding="utf-8")
    (tmp_path / "bare.json").write_text('{"versions": "1.0", "rows": [1, [2]]}', encoding="utf-8")
    text = performance.render(tmp_path)
    assert "## Further results" in text
    assert "(result-zz-new)=" in text
    assert "| a\\|b | 1 | 2 |" in text
    assert "1.00e-09" in text
    assert "(result-list)=" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (12345, "12,345"), (0.5, "0.5"), (1234.5, "1,234"), (1.5e-7, "1.50e-07"),
     (0.0, "0"), (float("nan"), "nan"), ("a_b", "a\\_b")],
)  # fmt: skip
def test_numbers(performance, value, text):
    assert performance.number(value) == text


def test_mean_and_standard_error(performance):
    assert performance.spread([1.0, 2.0, 3.0]) == "2\u00a0±\u00a00.58"
    assert performance.spread([4.0]) == "4"


def test_table_of_implementations_is_the_dispatch():
    text = _extension("implementations").render()
    for operation, table in _dispatch._TABLE.items():
        assert f"`{operation}`" in text
        for name in table:
            assert f'`"{name}"`' in text
    assert text.count("\n| ") == sum(
        len(t) for t in {id(t): t for t in _dispatch._TABLE.values()}.values()
    )
    for words in ("compute capability 9.0 (Hopper)", "dtype bfloat16 or float16", "at most 256",
                  "`physnet[triton]`", "multiple of 128", "weights without dropout"):  # fmt: skip
        assert words in text
    assert ", got" not in text


@pytest.mark.parametrize(
    ("lines", "want"),
    [
        (["A |x| and x*.", "", "    |x| = 1", "    y*", "", "More a_."],
         ["A \\|x\\| and x\\*.", "", ".. code-block:: text", "", "    |x| = 1", "    y*", "",
          "More a\\_."]),
        (["One.", "", "Returns:", "    y (n,), in [0, 1]: clipped."],
         ["One.", "", "Returns:", "    y (n,), in [0,", "    1]: clipped."]),
        (["One.", "", "Attributes:", "    x: a |b|.", "", "Example:", "    >>> f(*a) | b"],
         ["One.", "", "Fields:", "    x: a \\|b\\|.", "", "Example:", "    >>> f(*a) | b"]),
        (["One `a|b`.", "", "$$ x^2 $$", "", "- item", "  more"],
         ["One `a|b`.", "", ".. math::", "", "   x^2", "", "- item", "  more"]),
    ],
)  # fmt: skip
def test_docstrings_become_text_that_means_what_it_says(lines, want):
    assert _extension("docstrings").converted(lines) == want


def test_pages_name_only_pictures_that_there_are():
    for path in DOCS.rglob("*.md"):
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).is_file(), (path.name, target)


def test_mathematics_in_tables_has_no_bars():
    """A bar within $...$ would end the cell."""
    for path in DOCS.rglob("*.md"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("|") and line.count("$") > 1:
                assert not any("|" in formula for formula in line.split("$")[1::2]), (path, line)
