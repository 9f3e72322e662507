"""How Sphinx builds the site from what `build.py` put together."""

import re
from typing import Any

project = "unclip"
author = "the unclip authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_title = "unclip"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["unclip.css"]
templates_path: list[str] = []
source_suffix = {".md": "markdown"}
root_doc = "index"
myst_heading_anchors = 4
highlight_language = "none"
default_role = "literal"  # as the docstrings use single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False


def setup(app: Any) -> None:
    """Bars in docstrings are absolute values, not substitutions."""

    def escape(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        for at, line in enumerate(lines):
            pieces = re.split(r"(``.*?``|`.*?`)", line)
            shown = (p if p.startswith("`") else p.replace("|", r"\|") for p in pieces)
            lines[at] = "".join(shown)

    app.connect("autodoc-process-docstring", escape)
