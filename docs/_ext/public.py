"""What is public: modules without an underscore in their path, and their public names.

Read from the sources, without importing them.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules(package: str = "physnet") -> dict[str, Path]:
    """Dotted name and file of every public module, the package itself first."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            found[".".join(parts)] = path
    return dict(sorted(found.items()))


def names(module: str) -> list[str]:
    """Public functions and classes of a module, in the order of its source; no submodules."""
    known = modules()
    tree = ast.parse(known[module].read_text(encoding="utf-8"))
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.ImportFrom) and known[module].name == "__init__.py":
            found += [alias.asname for alias in node.names if alias.asname == alias.name]
    public = [n for n in found if not n.startswith("_") and f"{module}.{n}" not in known]
    return list(dict.fromkeys(public))  # overloads repeat a name
