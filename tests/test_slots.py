"""Streams of keyed noise: one list, and no number in it twice but those that it owns up to."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from kedge import slots
from kedge.noise import SLOTS

NUMBERS = {name: number for name, number in vars(slots).items() if name.endswith("_SLOT")}


def test_no_number_is_given_twice_but_those_that_say_so() -> None:
    given = Counter(NUMBERS.values())
    assert {number for number, times in given.items() if times > 1} == set(slots.TWICE)
    assert {number: given[number] for number in slots.TWICE} == {15: 3, 16: 3, 17: 3}, "no further stream joins them"
    assert 0 not in given, "the noise of a step"


def test_a_field_s_streams_do_not_run_into_those_of_the_next() -> None:
    assert {name for name, number in NUMBERS.items() if number >= SLOTS} == {"DROP_SLOT"}


def test_nobody_numbers_a_stream_of_his_own() -> None:
    for path in Path(slots.__file__).parent.rglob("*.py"):
        if path.name != "slots.py":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"^\w*SLOT\w*(?:, \w+)* = .*\d", text.replace("SLOTS = 64", ""), re.M), path
            assert not re.search(r"\bslot=\d|_SLOT \+ (?!64 \* turn|zlib)", text), path
