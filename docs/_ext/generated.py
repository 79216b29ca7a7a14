"""Pages with a part that is made when the site is built: <!-- generated: NAME -->."""

import implementations
import performance
from sphinx.application import Sphinx

PARTS = {"implementations": implementations.render, "performance": performance.render}


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    for name, render in PARTS.items():
        marker = f"<!-- generated: {name} -->"
        if marker in source[0]:
            source[0] = source[0].replace(marker, render())


def _always(app: Sphinx, env: object, added: set, changed: set, removed: set) -> list[str]:
    """These pages are read anew at each build: what they are made from lies elsewhere."""
    return ["performance", "implementations"]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", _always)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
