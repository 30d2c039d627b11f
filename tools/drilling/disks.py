"""Disks that are full, really: a file system of a few pages in memory, in a mount namespace of the trial's own."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from drilling.child import Ran, command
from drilling.kills import touching
from drilling.scene import ALIGN, EVAL, TRAIN, Scene, SceneError, done, often
from drilling.trial import Trial, Verdict, apart, content, untidy

PAGE = 4096
ROOM = "size=64m,nr_inodes=10000"
NEWUSER, NEWNS, REMOUNT = 0x10000000, 0x00020000, 0x20
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


def pages(count: int) -> str:
    """A file system that holds so much."""
    return f"size={count * PAGE}"


def files(count: int) -> str:
    """... that holds so many files and folders, itself not counted."""
    return f"size=64m,nr_inodes={count + 1}"


def own_mounts() -> None:
    """From here on this process, and what it forks, mounts for itself alone; needs no privileges."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(NEWUSER | NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "namespaces are not permitted here")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def mounted(folder: Path, options: str, again: bool = False) -> None:
    """A file system in memory on a folder; `again` changes the one that is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", REMOUNT if again else 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mounting on {folder} with {options} is not permitted here")


def permitted() -> bool:
    """Whether a process may have mounts of its own here; tried in a child."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            own_mounts()
            mounted(Path("/tmp"), "size=64k")
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


@dataclass(frozen=True)
class Known:
    """A command: how many pages and files it needs to end well, and what it leaves where there is room."""

    name: str
    pages: int
    files: int
    content: dict[str, str]


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
    return Known(**json.loads(told.read_text()))


def _watched(scene: Scene, name: str, place: Path) -> Known:
    scene.copied(place)
    folder, seen = place / COMMANDS[name].folder, place / "seen"

    def look() -> None:
        here = os.statvfs(folder)
        with seen.open("a") as file:
            file.write(f"{here.f_blocks - here.f_bfree} {here.f_files - here.f_ffree}\n")

    def before() -> None:
        often()
        touching(folder, look)

    done(_filled(name, place, ROOM, before))
    look()
    used = [tuple(map(int, line.split())) for line in seen.read_text().splitlines()]
    return Known(name, max(used)[0], max(files for _, files in used) - 1, steady(folder))


def trials(scene: Scene, commands: Sequence[Known], count: int | None) -> Iterator[Trial]:
    """Every size from a page up to what a command needs, or `count` of them, and as many numbers of files."""
    for one in commands:
        for size in spread(list(range(1, one.pages)), count):
            yield Trial(f"disk:{one.name}:pages:{size}", _Full(scene, one, pages(size)))
        for size in spread(list(range(1, one.files)), count):
            yield Trial(f"disk:{one.name}:files:{size}", _Full(scene, one, files(size)))


def spread(sizes: list[int], count: int | None) -> list[int]:
    """`count` of them, evenly; all of them for None."""
    if count is None or count >= len(sizes):
        return sizes
    return [sizes[(2 * i + 1) * len(sizes) // (2 * count)] for i in range(count)]


def steady(folder: Path) -> dict[str, str]:
    """The content, of a report its presence."""
    return {name: "" if name.endswith(UNEVEN) else own for name, own in content(folder).items()}


def _filled(name: str, place: Path, options: str, before: Callable[[], None] = often) -> Ran:
    """The command with its folder on such a disk; from here on this process sees that."""
    folder = place / COMMANDS[name].folder
    folder.mkdir(parents=True, exist_ok=True)
    own_mounts()
    mounted(folder, options)
    return command(COMMANDS[name].args, place, before=before)


@dataclass
class _Full:
    scene: Scene
    known: Known
    options: str

    def __call__(self, place: Path) -> Verdict:
        """Fills the disk, then makes room. The first has to end in one line that says so, the second as ever."""
        self.scene.copied(place)
        written = COMMANDS[self.known.name]
        folder = place / written.folder
        first = _filled(self.known.name, place, self.options)
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob(".writing-*"))
        mounted(folder, ROOM, again=True)
        second = command(written.args, place, before=often)
        odd = wrong(first, written.folder)
        if not odd and second.code != 0:
            odd = f"with room it ended with {second.code}: {second.last}"
        if not odd and (other := apart(self.known.content, steady(folder))):
            odd = f"with room it is another result than an undisturbed one: {', '.join(other)}"
        if not odd and left:
            odd = f"it left {', '.join(left)}"
        counts = {"full": int(first.code != 0), "enough": int(first.code == 0)}
        return Verdict(odd, counts, f"{first.err}\n--- with room ---\n{second.err}")


def wrong(ran: Ran, folder: str) -> str:
    """What is wrong with how a full disk was said."""
    if ran.code == 0:
        return ""
    if said := untidy(ran.err):
        return f"code {ran.code} and {said}: {ran.last}"
    if FULL not in ran.last or folder not in ran.last:
        return f"code {ran.code}, and the line does not say that {folder} is full: {ran.last}"
    return ""
