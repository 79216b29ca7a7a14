"""The documentation site. Build it with .ci/docs; nothing here needs a network."""

import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
# Sphinx reads its own folder alone.
shutil.copytree(
    HERE.parent / "notebooks",
    HERE / "notebooks",
    ignore=lambda _, names: [name for name in names if not name.endswith(".ipynb")],
    dirs_exist_ok=True,
)

project = "physnet"
author = "The physnet developers"
copyright = author
release = version = version_of("physnet")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "api",
    "docstrings",
    "generated",
]
exclude_patterns = ["_build", "_ext", "pictures"]
nitpicky = False
default_role = "py:obj"  # names in docstrings stand in single backticks
smartquotes_action = "D"  # dashes alone: shapes such as (..., n) stay as they are typed
highlight_language = "python"
suppress_warnings: list[str] = []

# Signatures come from the source (api.py): shapes as they were written, overloads once.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Fields", "params_style")]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks carry their outputs
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "physnet"
html_static_path = ["_static"]
html_css_files = ["physnet.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "navigation_with_keys": False,
}
