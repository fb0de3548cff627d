"""The documentation as a site: Sphinx reads the Markdown pages here, docstrings and `--help`; `make docs` builds it.

pages + docstrings + `rango COMMAND --help` ──> build/docs/index.html

What a page can take from the program is not pasted but filled in: `<!-- fill: NAME -->` in a page is replaced by what
`FILLS[NAME]` of reference_pages.py gives. A block that no test runs says why in `<!-- not run: REASON -->`, which the
reader sees too.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from reference_pages import FILLS  # noqa: E402 (beside this file, which is in no package)

from rango import __version__  # noqa: E402

project = "Rango"
author = copyright = "The Rango developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_enable_extensions = ["colon_fence", "deflist"]
# Links such as benchmarks.md#memory-of-training, with the anchors that GitHub makes.
myst_heading_anchors = 3

# Docstrings are Markdown where they mark code: `name` is no cross reference.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# The theme has its fonts and scripts in the folder: a page asks for nothing outside of it.
html_theme = "furo"
html_title = f"Rango {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False


def fill(_app: Sphinx, page: str, source: list[str]) -> None:
    """Fill in what comes from the program, and say of blocks that are not run why."""
    text = re.sub(r"<!-- fill: ([\w-]+) -->", lambda match: FILLS[match[1]](), source[0])
    words = "Las pruebas no lo ejecutan" if page.startswith("es/") else "Not run by the tests"
    source[0] = re.sub(r"<!-- not run: (.*?) -->", rf"*{words}: \1.*", text)


def name_language(_app: Sphinx, page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    """Say of a Spanish page that it is one: readers aloud and hyphenation go by it."""
    if page.startswith("es/"):
        context["language"] = "es"


def escape_bars(_app: Sphinx, _what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
    """Keep bars of mathematics, |d|, from being read as the names of substitutions."""
    for number, line in enumerate(lines):
        # Between backticks stands code, which is shown as it is.
        parts = line.split("`")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = line if line.lstrip().startswith(">>>") else "`".join(parts)


def setup(app: Sphinx) -> None:
    """Called by Sphinx before it reads the pages."""
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("source-read", fill)
    app.connect("html-page-context", name_language)
