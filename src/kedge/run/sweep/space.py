"""What is searched: fields of a recipe with their ranges, as `--over` writes them."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kedge.errors import InputError

FORMS = "field=low:high, field=low:high:log or field=one,two,three"
USUAL = {"lr": "rate", "learning_rate": "rate", "batch_size": "batch", "hidden": "width", "gamma": "discount"}
"""What others call some of our fields."""
TRIED = 10_000
"""Combinations of ends that are looked at before a sweep begins."""


@dataclass(frozen=True)
class Choice:
    """One of some values; a trial is told which by its word, for a value may be a tuple."""

    words: tuple[str, ...]
    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """What is tried before a sweep begins."""
        return self.values

    @property
    def count(self) -> float:
        """How many values there are."""
        return float(len(self.values))

    def read(self, told: Any) -> Any:
        """The value of a word."""
        return self.values[self.words.index(told)]

    def told(self, value: Any) -> Any:
        """The word of a value; None where it is none of ours."""
        return self.words[self.values.index(value)] if value in self.values else None


@dataclass(frozen=True)
class Range:
    """All numbers between two, both of them included; `whole` ones, where the field counts something."""

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def ends(self) -> tuple[Any, ...]:
        """What is tried before a sweep begins."""
        return self.read(self.low), self.read(self.high)

    @property
    def count(self) -> float:
        """How many values there are."""
        return self.high - self.low + 1 if self.whole else math.inf

    def read(self, told: Any) -> Any:
        """The value of a number."""
        return int(told) if self.whole else float(told)

    def told(self, value: Any) -> Any:
        """The number of a value; None where it lies outside."""
        return value if self.low <= value <= self.high else None


Axis = Choice | Range
Space = Mapping[str, Axis]


def space_of(recipe: Any, over: Sequence[str]) -> dict[str, Axis]:
    """The ranges, each checked against its field, and the ends of all against the recipe.

    Args:
        recipe: with the fields that all trials share.
        over: as they were typed, such as `rate=1e-4:1e-2:log`.
    """
    if not over:
        raise InputError(f"a sweep needs something to search over: --over {FORMS}")
    space: dict[str, Axis] = {}
    for text in over:
        field, equals, values = text.partition("=")
        field = field.strip().replace("-", "_")
        if not (equals and field and values.strip()):
            raise InputError(f"--over {text}: write it as {FORMS}")
        if field in space:
            raise InputError(f"--over {text}: {field} has a range already")
        space[field] = _axis(recipe, field, values.strip(), text)
    _check_ends(recipe, space)
    return space


def filled(recipe: Any, space: Space, told: Mapping[str, Any]) -> Any:
    """The recipe of a trial."""
    return dataclasses.replace(recipe, **{name: axis.read(told[name]) for name, axis in space.items()})


def combinations(space: Space) -> float:
    """How many recipes there are in it."""
    return math.prod(axis.count for axis in space.values())


def every(space: Space) -> Iterator[dict[str, Any]]:
    """All of them, of a space that is finite."""
    told = [
        axis.words if isinstance(axis, Choice) else range(int(axis.low), int(axis.high) + 1) for axis in space.values()
    ]
    for one in itertools.product(*told):
        yield dict(zip(space, one, strict=True))


def as_it_is(recipe: Any, space: Space) -> dict[str, Any] | None:
    """The recipe's own values, where all of them lie in their ranges."""
    own = {name: axis.told(getattr(recipe, name)) for name, axis in space.items()}
    return None if None in own.values() else own


def _axis(recipe: Any, field: str, values: str, text: str) -> Axis:
    kind = _kind(recipe, field)
    if ":" in values:
        return _range(kind, values, text)
    words = tuple(" ".join(word.split()) for word in values.split(","))
    if len(words) < 2:
        flag = field.replace("_", "-")
        raise InputError(f"--over {text}: one value is no range; for all trials alike give --{flag} {values}")
    read = tuple(_value(kind, word, text) for word in words)
    if len(set(read)) < len(read):
        raise InputError(f"--over {text}: a value stands there twice")
    return Choice(words, read)


def _kind(recipe: Any, field: str) -> Any:
    """A field's type; one line where there is no such field."""
    kinds = get_type_hints(type(recipe))
    names = [own.name for own in dataclasses.fields(recipe)]
    if field not in names:
        close = [USUAL[field]] if USUAL.get(field) in names else difflib.get_close_matches(field, names, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(
            f"--over {field}: {type(recipe).__name__} has no field {field}{hint} kedge train --help lists them"
            if hint
            else f"--over {field}: {type(recipe).__name__} has no field {field}; its fields are {', '.join(names)}"
        )
    return kinds[field]


def _range(kind: Any, values: str, text: str) -> Range:
    low, high, *how = values.split(":")
    if kind not in (int, float):
        raise InputError(f"--over {text}: only numbers have ranges; list the values: field=one,two")
    if len(how) > 1 or how not in ([], ["log"]):
        raise InputError(f"--over {text}: write it as {FORMS}")
    a, b = _value(kind, low, text), _value(kind, high, text)
    if a >= b:
        raise InputError(f"--over {text}: the range is empty, for {low} is not below {high}")
    if how and a <= 0:
        raise InputError(f"--over {text}: there is no logarithm of {low}; begin above 0, or leave :log out")
    return Range(float(a), float(b), bool(how), kind is int)


def _value(kind: Any, word: str, text: str) -> Any:
    """What a word means for a field of some type."""
    if get_origin(kind) is Literal:
        if word not in get_args(kind):
            raise InputError(f"--over {text}: {word!r} is none of {', '.join(get_args(kind))}")
        return word
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], part, text) for part in word.split())
    if kind is bool:
        if word.lower() not in ("true", "false"):
            raise InputError(f"--over {text}: {word!r} is neither true nor false")
        return word.lower() == "true"
    if kind not in (int, float):
        raise InputError(f"--over {text}: a field of this kind cannot be searched over")
    return _number(kind, word, text)


def _number(kind: Any, word: str, text: str) -> Any:
    try:
        number = float(word)
    except ValueError:
        raise InputError(f"--over {text}: {word!r} is no number") from None
    if not math.isfinite(number):
        raise InputError(f"--over {text}: {word} is not finite")
    if kind is int and not number.is_integer():
        raise InputError(f"--over {text}: this field takes whole numbers, and {word} is none")
    return kind(number)


def _check_ends(recipe: Any, space: Space) -> None:
    """Every end has to be part of some recipe that can be: two fields may have to fit each other."""
    fits: set[tuple[str, Any]] = set()
    said: dict[tuple[str, Any], str] = {}
    for one in itertools.islice(itertools.product(*(axis.ends for axis in space.values())), TRIED):
        pairs = list(zip(space, one, strict=True))
        try:
            dataclasses.replace(recipe, **dict(pairs))
            fits.update(pairs)
        except InputError as error:
            for pair in pairs:
                said.setdefault(pair, str(error))
    for pair, why in said.items():
        if pair not in fits:
            raise InputError(f"--over {pair[0]}: {pair[1]} fits no trial ({why})")
