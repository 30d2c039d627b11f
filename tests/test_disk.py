"""What is read from disk and may be anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedge.disk import misfit, read_object
from kedge.errors import InputError

FORM = {"name": str, "size": int, "share": float, "rows": [str], "inner": {"task": (str, type(None))}}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({}, ""),
        ({"name": "a", "size": 3, "share": 1, "rows": [], "inner": {"task": None}, "more": 1}, ""),
        ({"share": 0.5, "rows": ["a", "b"], "inner": {}}, ""),
        ([], "all of it is not an object"),
        (None, "all of it is not an object"),
        ({"name": 3}, "name is 3"),
        ({"size": True}, "size is true"),
        ({"size": 1.0}, "size is 1.0"),
        ({"size": 10**30}, "size is 1000000000000000000000000000000"),
        ({"share": float("nan")}, "share is NaN"),
        ({"share": float("inf")}, "share is Infinity"),
        ({"rows": "ab"}, "rows is not a list"),
        ({"rows": ["a", 1]}, "rows[1] is 1"),
        ({"inner": 1}, "inner is not an object"),
        ({"inner": {"task": {"a": "x" * 99}}}, 'inner.task is {"a": "' + "x" * 33 + "..."),
    ],
)
def test_where_a_tree_is_not_of_its_form(tree: Any, said: str) -> None:
    assert misfit(tree, FORM) == said


def test_a_file_that_is_of_another_form_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"size": 3}))
    assert read_object(path, FORM) == {"size": 3}
    for text, said in (
        ('{"size": "3"}', r'x.json cannot be used \(size is "3"\); make it again$'),
        ("{", "x.json cannot be read .*; make it again$"),
        ("[" * 99_999, r"x.json cannot be read \(maximum recursion depth .*; make it again$"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_object(path, FORM, "; make it again")
