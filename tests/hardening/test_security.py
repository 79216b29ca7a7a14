"""Nothing that is read is executed: no sources unpickle, evaluate or unpack."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("physnet", "physnet_kernels", "examples", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"extractall", "extract", "unpack_archive", "mktemp", "system"}


def found_in(tree: ast.Module) -> list[str]:
    """What would execute or unpack something, in words."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            found += [f"import {name}" for name in names & MODULES]
        elif isinstance(node, ast.ImportFrom):
            name = (node.module or "").partition(".")[0]
            found += [f"from {name}"] * (name in MODULES)
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in CALLS:
                found.append(f"{function.id}()")
            if isinstance(function, ast.Attribute):
                found += [f".{function.attr}()"] * (function.attr in METHODS)
            for keyword in node.keywords:
                true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if keyword.arg in ("allow_pickle", "shell") and true:
                    found.append(f"{keyword.arg}=True")
    return found


def test_there_are_sources():
    assert len(SOURCES) > 200


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_executes_what_it_reads(folder):
    found = {}
    for path in SOURCES:
        if not path.is_relative_to(ROOT / folder):
            continue
        if bad := found_in(ast.parse(path.read_text(encoding="utf-8"))):
            found[str(path.relative_to(ROOT))] = bad
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "eval(x)",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
    ],
)
def test_what_would_is_found(source):
    assert found_in(ast.parse(source))
