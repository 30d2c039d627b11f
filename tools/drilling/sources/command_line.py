"""Command lines that nobody should have typed."""

from __future__ import annotations

import random
from pathlib import Path

from drilling.sources.given import SMALL, Given

NUMBERS = ("nan", "inf", "-inf", "-1", "0", "-0", "0.5", "-0.0", "1e-300", "1e400", "9" * 25, "-" + "9" * 25, "0x10")
WORDS = ("", " ", "ü漢", "none", "None", "True", "a" * 3000, "--", "-", "\n", "\t", "../..", "/", ".", "~", "~nobody/x")
PLACES = (
    "nothing.npz",
    "nowhere/at/all",
    "ring.txt",
    "runs",
    "runs/fv",
    "data",
    "data/plain.npz",
    "/dev/null",
    "/proc/1/mem",
)
UNKNOWN = ("--unknown", "--stepz", "-q", "--steps=", "--no-json", "---", "--seed=", "--help=3", "--fields.steps")
LONG = ("--steps", "--demonstrations", "--episodes", "--times")
"""Flags whose large values are no mistake, only long."""
ONE = ("--steps", "1", "--batch", "4")
BASES: tuple[tuple[str, ...], ...] = (
    ("train", "fv", "--env", "ring.txt", "--demonstrations", "2500", *SMALL, "--out", "runs/new"),
    ("train", "fv", "--data", "data/plain.npz", *SMALL, "--out", "runs/new"),
    (
        "train",
        "diffuser",
        "--data",
        "data/plain.npz",
        "--steps",
        "1",
        "--batch",
        "2",
        "--width",
        "16",
        "--out",
        "runs/new",
    ),
    ("eval", "runs/fv", "--episodes", "1", "--alone", "--out", "scores"),
    (
        "align",
        "vmpo",
        "runs/fv",
        "--reward",
        "mine.py:calm",
        "--steps",
        "1",
        "--batch",
        "4",
        "--each",
        "2",
        "--out",
        "runs/new",
    ),
    (
        "align",
        "ddpo",
        "runs/al",
        "--reward",
        "speed",
        "--steps",
        "1",
        "--batch",
        "4",
        "--each",
        "2",
        "--out",
        "runs/new",
    ),
    ("report", "runs/fv", "--out", "reports"),
    ("compare", "runs/fv", "runs/al"),
    ("data", "inspect", "data/plain.npz"),
)
FLAGS = (
    *("--seed", "--device", "--threads", "--out", "--env", "--data", "--demonstrations", "--data-seed", "--goal"),
    *("--precision", "--steps", "--batch", "--horizon", "--stride", "--width", "--mults", "--depth", "--rate"),
    *("--average", "--discount", "--scale-max", "--scale-min", "--rho", "--evaluations", "--candidates", "--goals"),
    *("--path", "--net", "--solver", "--critic", "--follow", "--degree", "--level-std", "--octaves", "--atlas"),
    *("--episodes", "--first-seed", "--box", "--reward", "--each", "--clip", "--sigma-data", "--hold", "--ema"),
    *("--guidance", "--support", "--replan", "--nats", "--penalty", "--weighting", "--optimiser"),
)
AGAINST = (
    ("--goal", "1", "1"), ("--env", "maze2d-umaze", "--env", "ring.txt"), ("--box", "0", "0", "1", "1"),
    ("--data", "data/plain.npz", "--demonstrations", "5"), ("--reward", "keep-out"), ("--alone", "--fresh"),
    ("--json", "--json"), ("--seed", "1", "--seed", "2"), ("--out", "ring.txt"), ("--out", "runs/fv"),
    ("--out", "/proc/x"),
)  # fmt: skip


def draw(rng: random.Random, place: Path) -> Given:
    """A good command line with one to three things wrong."""
    args = list(rng.choice(BASES))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice((_value, _value, _value, _flag, _flag, _unknown, _without, _against, _word))(rng, args)
    return Given([arg for arg in args if "\0" not in arg], "command line")


def _value(rng: random.Random, args: list[str]) -> None:
    """Another value of a flag that is there."""
    at = rng.randrange(1, len(args))
    args[at] = _odd(rng, args[at - 1])


def _flag(rng: random.Random, args: list[str]) -> None:
    """A flag with a value."""
    name = rng.choice(FLAGS)
    args += [name, _odd(rng, name)]


def _odd(rng: random.Random, name: str) -> str:
    found = rng.choice(rng.choice((NUMBERS, NUMBERS, WORDS, PLACES)))
    return "7" if name in LONG and found.startswith("99") else found


def _unknown(rng: random.Random, args: list[str]) -> None:
    args.insert(rng.randrange(1, len(args) + 1), rng.choice(UNKNOWN))


def _without(rng: random.Random, args: list[str]) -> None:
    at = rng.randrange(1, len(args)) if len(args) > 2 else 0
    if at and not {args[at], args[at - 1]} & set(LONG):
        del args[at]


def _against(rng: random.Random, args: list[str]) -> None:
    args += rng.choice(AGAINST)


def _word(rng: random.Random, args: list[str]) -> None:
    """Another command, or none that there is."""
    args[0] = rng.choice(("train", "evla", "align", "report", "compare", "data", "trian", "ü", "--jsno"))
