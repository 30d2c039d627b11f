"""Disks that are full, really: a file system in memory, in a mount namespace of the trial's own, which from a moment on
holds no more than it holds by then.

A command writes file after file, and gives room back between them. Every write that takes room is a trial, in which
the last page that it takes is refused, and every file and folder that is made is one, in which it is refused; in both,
so is all that comes after.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from drilling.child import Ran, command
from drilling.kills import touching
from drilling.scene import ALIGN, EVAL, TRAIN, Scene, SceneError, done, often
from drilling.trial import Trial, Verdict, apart, content, untidy

PAGE = 4096
LARGE, MANY = 2**14, 10_000
"""Pages and files for which there is room where there is room."""
NEWUSER, NEWNS, REMOUNT, BIND = 0x10000000, 0x00020000, 0x20, 0x1000
FULL = "No space left on device"
UNEVEN = (".html", ".png")
"""Files that carry the time at which they were made."""


@dataclass(frozen=True)
class Written:
    """A command, and the folder that it fills."""

    args: tuple[str, ...]
    folder: str


COMMANDS = {
    "train": Written((*TRAIN, "--out", "runs/mine"), "runs/mine"),
    "eval": Written((*EVAL, "--out", "scores"), "scores"),
    "align": Written((*ALIGN, "--out", "runs/mine"), "runs/mine"),
    "report": Written(("report", "runs/fv", "--out", "reports"), "reports"),
    "demonstrations": Written((*TRAIN, "--data-seed", "7", "--out", "runs/mine"), "cache"),
    "inspect": Written(("data", "inspect", "data/plain.npz", "--out", "said/plain.json"), "said"),
}


@dataclass(frozen=True)
class Disk:
    """A file system in memory, on a folder of its own. Commands see a folder in it; beside that lies a page of ballast,
    for a file system that holds nothing cannot be told from one that holds all.
    """

    place: Path

    def mounted(self, folder: Path) -> None:
        """With room, seen at `folder`; from here on by this process alone, and by what it forks."""
        self.place.mkdir()
        own_mounts()
        mount(b"none", self.place, b"tmpfs", 0, _options(LARGE, MANY))
        (self.place / "ballast").write_bytes(bytes(PAGE))
        (self.place / "inner").mkdir()
        mount(os.fsencode(self.place / "inner"), folder, None, BIND, None)

    def used(self) -> tuple[int, int]:
        """Pages and files that it holds."""
        here = os.statvfs(self.place)
        return here.f_blocks - here.f_bfree, here.f_files - here.f_ffree

    def fill(self, pages: int | None = None, files: int | None = None) -> None:
        """From now on it takes so many more, and as many as ever of what is not said."""
        taken, there = self.used()
        most = LARGE if pages is None else taken + pages, MANY if files is None else there + files
        mount(b"none", self.place, b"tmpfs", REMOUNT, _options(*most))


def _options(pages: int, files: int) -> bytes:
    return f"nr_blocks={pages},nr_inodes={files}".encode()


def own_mounts() -> None:
    """From here on this process, and what it forks, mounts for itself alone; needs no privileges."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(NEWUSER | NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "namespaces are not permitted here")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def mount(source: bytes, target: Path, kind: bytes | None, flags: int, options: bytes | None) -> None:
    """As the system has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source, os.fsencode(target), kind, flags, options) != 0:
        raise OSError(ctypes.get_errno(), f"mounting on {target} is not permitted here")


def permitted() -> bool:
    """Whether a process may have mounts of its own here; tried in a child."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            own_mounts()
            mount(b"none", Path("/tmp"), b"tmpfs", 0, b"size=64k")
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


@dataclass(frozen=True)
class Taken:
    """What a write takes last: after which moment it begins, and how many pages or files it has taken by then."""

    moment: int
    more: int


@dataclass(frozen=True)
class Known:
    """A command: its writes, the files and folders that it makes, and what it leaves where there is room."""

    name: str
    pages: list[Taken]
    files: list[Taken]
    content: dict[str, str]


def moments(folder: Path, look: Callable[[], None]) -> None:
    """Called in a child: `look` is called before whatever takes room below `folder`."""
    import safetensors.torch

    module: Any = safetensors.torch
    touching(folder, look)
    write: Callable[..., None] = module.serialize_file  # what is not Python's own is not reported

    def seen(tensors: Any, path: Any, *more: Any, **named: Any) -> None:
        if str(folder) in os.path.abspath(path):
            look()
        write(tensors, path, *more, **named)

    module.serialize_file = seen


def known(scene: Scene, name: str, place: Path) -> Known:
    """From a run on a disk with room, looked at before each touch and at the end; in a process of its own."""
    told = place.with_suffix(".json")
    pid = os.fork()
    if pid == 0:
        try:
            told.write_text(json.dumps(asdict(_watched(scene, name, place))))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    if not told.exists():
        raise SceneError(f"{name} could not be run on a disk of its own")
    found = json.loads(told.read_text())
    pages, files = ([Taken(**one) for one in found[kind]] for kind in ("pages", "files"))
    return Known(name, pages, files, found["content"])


def _watched(scene: Scene, name: str, place: Path) -> Known:
    scene.copied(place)
    folder, disk, seen = place / COMMANDS[name].folder, Disk(place / "disk"), place / "seen"

    def look() -> None:
        with seen.open("a") as file:
            file.write(f"{json.dumps(disk.used())}\n")

    done(_run(name, place, disk, look))
    look()
    used = [json.loads(line) for line in seen.read_text().splitlines()]
    pages, files = (taken([one[kind] for one in used]) for kind in range(2))
    return Known(name, pages, files, steady(folder))


def taken(used: Sequence[int]) -> list[Taken]:
    """From what is used at each moment."""
    grown = enumerate(after - before for before, after in pairwise(used))
    return [Taken(moment, growth - 1) for moment, growth in grown if growth > 0]


def trials(scene: Scene, commands: Sequence[Known], count: int | None) -> Iterator[Trial]:
    """Every write of a command, or `count` of them, and every file and folder that it makes or as many."""
    for one in commands:
        for kind, found in (("pages", one.pages), ("files", one.files)):
            for number in spread(list(range(len(found))), count):
                yield Trial(f"disk:{one.name}:{kind}:{number}", _Full(scene, one, kind, found[number]))


def spread(sizes: list[int], count: int | None) -> list[int]:
    """`count` of them, evenly; all of them for None."""
    if count is None or count >= len(sizes):
        return sizes
    return [sizes[(2 * i + 1) * len(sizes) // (2 * count)] for i in range(count)]


def steady(folder: Path) -> dict[str, str]:
    """The content, of a report its presence; of a run's checkpoints the last: which one is kept before it depends on
    which could be written.
    """
    states = sorted((folder / "state").glob("step-*"))
    left_out = tuple(f"state/{state.name}/" for state in states[:-1])
    found = {name: own for name, own in content(folder).items() if not name.startswith(left_out)}
    return {name: "" if name.endswith(UNEVEN) else own for name, own in found.items()}


def _run(name: str, place: Path, disk: Disk, look: Callable[[], None]) -> Ran:
    """The command, with its folder on that disk; from here on this process sees that."""
    folder = place / COMMANDS[name].folder
    folder.mkdir(parents=True, exist_ok=True)
    disk.mounted(folder)

    def before() -> None:
        often()
        moments(folder, look)

    return command(COMMANDS[name].args, place, before=before)


@dataclass
class _Full:
    scene: Scene
    known: Known
    kind: str
    at: Taken

    def __call__(self, place: Path) -> Verdict:
        """Fills the disk, then makes room. The first has to end in one line that says so, the second as ever."""
        self.scene.copied(place)
        written = COMMANDS[self.known.name]
        folder, disk, seen = place / written.folder, Disk(place / "disk"), [0]

        def look() -> None:
            if seen[0] == self.at.moment:
                disk.fill(**{self.kind: self.at.more})
            seen[0] += 1

        first = _run(self.known.name, place, disk, look)
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob(".writing-*"))
        disk.fill()
        second = command(written.args, place, before=often)
        odd = wrong(first, written.folder)
        if not odd and second.code != 0:
            odd = f"with room it ended with {second.code}: {second.last}"
        if not odd and (other := apart(self.known.content, steady(folder))):
            odd = f"with room it is another result than an undisturbed one: {', '.join(other)}"
        if not odd and left:
            odd = f"it left {', '.join(left)}"
        full = int(first.code != 0)
        counts = {"full": full, "went on": 1 - full, f"{self.known.name}: {self.kind}": 1}
        return Verdict(odd, counts, f"{first.err}\n--- with room ---\n{second.err}")


def wrong(ran: Ran, folder: str) -> str:
    """What is wrong with how a full disk was said. A run may go on without a checkpoint, and says so."""
    if ran.code == 0:
        return "" if FULL in ran.err else "it ended well, and never met the full disk"
    if said := untidy(ran.err):
        return f"code {ran.code} and {said}: {ran.last}"
    if FULL not in ran.last or folder not in ran.last:
        return f"code {ran.code}, and the line does not say that {folder} is full: {ran.last}"
    return ""
