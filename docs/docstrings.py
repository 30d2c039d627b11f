"""Reads the package's docstrings, which are plain prose, as their writers meant them. A Sphinx extension.

Four things look like something else to Sphinx: an indented formula; a list of names with their meanings aligned in a
second column; a sentence that begins with one letter or digit and a full stop (a numbered list); and a colon in what is
said of an attribute (which napoleon takes to end a type).
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from sphinx.application import Sphinx

ENTRY = re.compile(r"(\w+):?( +)\S")
NUMBERED = re.compile(r"(^|: )(-?\w)\.(?= |$)")
BEFORE_NAPOLEON, AFTER_NAPOLEON = 400, 600


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", _before, priority=BEFORE_NAPOLEON)
    app.connect("autodoc-process-docstring", _after, priority=AFTER_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


SAID: dict[str, list[str]] = {}
"""What is said of attributes, to be put back once napoleon has read it."""


def _before(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    rewrite(lines)
    if what in ("attribute", "data", "property"):
        SAID[name] = list(lines)


def _after(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = SAID.pop(name, lines)
    if lines and lines[0].startswith("Alias for field number"):  # Python's own words for a named tuple's field
        lines.clear()


def rewrite(lines: list[str]) -> None:
    """Changes a docstring in place, paragraph by paragraph."""
    paragraphs = [list(group) for filled, group in groupby(lines, lambda line: bool(line.strip())) if filled]
    rewritten: list[str] = []
    for paragraph in paragraphs:
        rewritten += [*(formula(paragraph) or definitions(paragraph) or sentences(paragraph)), ""]
    lines[:] = rewritten


def formula(paragraph: list[str]) -> list[str]:
    """A paragraph that is indented as a whole, as a literal block; nothing where it is none."""
    return [".. code-block:: text", "", *paragraph] if all(line.startswith("    ") for line in paragraph) else []


def sentences(paragraph: list[str]) -> list[str]:
    """A paragraph in which nothing is numbered."""
    return [NUMBERED.sub(r"\1\2\\.", line) for line in paragraph]


def definitions(paragraph: list[str]) -> list[str]:
    """A paragraph of two columns as a list of definitions; nothing where it has none."""
    entries = [match for line in paragraph if (match := ENTRY.match(line))]
    columns = {match.end() - 1 for match in entries}
    aligned = len(columns) == 1 and len(entries) > 1 and any(len(match[2]) > 1 for match in entries)
    if not aligned:
        return []
    column = columns.pop()
    listed: list[str] = []
    for line in paragraph:
        match = ENTRY.match(line)
        if match:
            listed += ["", f"`{match[1]}`"]
        elif line[:column].strip():
            return []
        listed.append("    " + line[column:])
    return listed
