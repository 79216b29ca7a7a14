"""The packages' sources as syntax trees."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

import physnet
import physnet_kernels


class Import(NamedTuple):
    """`importer` takes `target`: a module, or a name in one."""

    importer: str
    target: str


@pytest.fixture(scope="session")
def modules() -> dict[str, ast.Module]:
    """Dotted name of every module of both packages, and its syntax tree."""
    found = {}
    for package in (physnet, physnet_kernels):
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            parts = (package.__name__, *path.relative_to(root).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="session")
def imports(modules) -> list[Import]:
    """Every import in both packages, those inside functions too."""
    found = []
    for importer, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [Import(importer, name.name) for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{importer} imports relatively"
                found += [Import(importer, f"{node.module}.{name.name}") for name in node.names]
    return found
