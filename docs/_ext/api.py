"""`public-module`: a page of the API from a module's docstrings, and signatures as written.

.. public-module:: physnet.greens

makes the module's text, a table of its public names, and an entry for each of them under the name
by which it is imported. What another public module defines is listed with a link to it.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from typing import Any

import docstrings
import public
from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class PublicModule(SphinxDirective):
    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        module = importlib.import_module(name)
        self.env.note_dependency(str(public.modules()[name]))
        lines = [f".. automodule:: {name}", ""]
        entries = {n: getattr(module, n) for n in public.names(name)}
        children = [m for m in public.modules() if m.rpartition(".")[0] == name]
        lines += [".. list-table::", "   :widths: auto", ""]
        for child in children:
            role = f":doc:`{child} </api/{child}>`"
            lines += _row(role, inspect.getdoc(importlib.import_module(child)))
        for entry, value in entries.items():
            kind = "class" if inspect.isclass(value) else "func"
            lines += _row(
                f":py:{kind}:`{entry} <{_home(name, value)}.{entry}>`", inspect.getdoc(value)
            )
        lines += ["", f".. currentmodule:: {name}", ""]
        for entry, value in entries.items():
            if _home(name, value) != name:
                continue
            directive = "autoclass" if inspect.isclass(value) else "autofunction"
            lines += [f".. {directive}:: {entry}"]
            lines += ["   :members:"] if inspect.isclass(value) else []
            lines += [""]
        node = nodes.section(document=self.state.document)
        self.state.nested_parse(StringList(lines, source=name), 0, node)
        return node.children


def _row(role: str, doc: str | None) -> list[str]:
    """A row: a linked name, and the first sentence of its docstring."""
    first = " ".join((doc or "").split("\n\n")[0].split())
    return [f"   * - {role}", f"     - {docstrings.escaped(first)}"]


def _home(module: str, value: Any) -> str:
    """The public module that documents a value: where it is defined, if that is public."""
    defined = getattr(value, "__module__", module)
    return defined if defined in public.modules() else module


def _tree(value: Any) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value)))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None


def readable(annotation: str) -> str:
    """An annotation without private modules and the blanks of one-axis shapes."""
    annotation = re.sub(r"\b_[a-z_]+\.", "", annotation)
    return re.sub(r"'\s+([^']*)'", r"'\1'", annotation)


def signature(value: Any) -> tuple[str, str | None] | None:
    """Parameters and result of a function or class, as the source has them."""
    tree = _tree(value)
    if isinstance(tree, ast.ClassDef):
        own = next((n for n in tree.body if getattr(n, "name", "") == "__init__"), None)
        if own is not None:
            own.args.args = own.args.args[1:]
            return f"({readable(ast.unparse(own.args))})", None
        if not (dataclasses.is_dataclass(value) or hasattr(value, "_fields")):
            return "()", None
        fields = [n for n in tree.body if isinstance(n, ast.AnnAssign)]
        return f"({', '.join(_field(n) for n in fields)})", None
    if isinstance(tree, ast.FunctionDef):
        args = tree.args
        if args.args and args.args[0].arg in ("self", "cls"):
            args.args = args.args[1:]
        result = readable(ast.unparse(tree.returns)) if tree.returns else None
        return f"({readable(ast.unparse(args))})", result
    return None


def _field(node: ast.AnnAssign) -> str:
    text = f"{ast.unparse(node.target)}: {readable(ast.unparse(node.annotation))}"
    default = node.value
    if isinstance(default, ast.Call):  # dataclasses.field(default=...)
        default = next((k.value for k in default.keywords if k.arg == "default"), None)
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _process(
    app: Sphinx, what: str, name: str, value: Any, options: Any, args: Any, result: Any
) -> Any:
    if what in ("function", "method", "class"):
        return signature(value)
    return None


def _skip(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Fields stand under their class's text; Flax's and tuples' own members are not ours."""
    doc = inspect.getdoc(value) or ""
    module = getattr(value, "__module__", None) or ""
    if doc.startswith("Alias for field") or (callable(value) and not module.startswith("physnet")):
        return True
    return None


def _relative(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Element) -> Any:
    """`greens.left` in a docstring means physnet.greens.left; so do names of packages above."""
    if node.get("refdomain") != "py" or node.get("reftype") not in ("obj", "class"):
        return None
    domain = env.domains["py"]
    above = (node.get("py:module") or "physnet").split(".")
    target = node["reftarget"].removeprefix("physnet.")
    for depth in range(len(above), 0, -1):
        full = ".".join([*above[:depth], target])
        if full in domain.objects or full in domain.modules:
            kind = "mod" if full in domain.modules else "obj"
            return domain.resolve_xref(env, node["refdoc"], app.builder, kind, full, node, content)
    return None


def _exact(app: Sphinx, doctree: nodes.document) -> None:
    """`State` in an annotation is never just any State."""
    for node in doctree.findall(addnodes.pending_xref):
        node.attributes.pop("refspecific", None)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public-module", PublicModule)
    app.connect("autodoc-process-signature", _process)
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-read", _exact)
    app.connect("missing-reference", _relative)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
