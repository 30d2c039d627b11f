"""How Sphinx builds the documentation: Markdown pages, docstrings as they are, warnings are errors (`make docs`)."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "docs"))

project = "kedge"
author = "The kedge authors"
copyright = "2026, The kedge authors"
release = version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "docstrings", "drawn"]
exclude_patterns = ["_build", "_drawn"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
default_role = "literal"  # docstrings put code in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_title = "kedge"
html_static_path = ["_static"]
html_css_files = ["kedge.css"]
html_show_sphinx = False
