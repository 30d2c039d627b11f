"""A command of kedge in a process of its own, forked from one that has imported everything already.

So a trial costs what the command costs, without the seconds that torch takes to be imported.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

OUT, ERR = "standard-output.txt", "standard-error.txt"
PREPARE = (
    *("torch._dynamo", "kedge.recipes", "kedge.align", "kedge.data", "kedge.envs", "kedge.run.evaluate"),
    *("kedge.run.beside", "kedge.run.compare", "kedge.run.report", "kedge.run.commands.train", "kedge.data.summary"),
    *("kedge.run.commands.align", "kedge.run.commands.evaluate", "kedge.run.commands.report", "kedge.plan.worth"),
    *("kedge.run.commands.compare", "kedge.run.commands.data", "kedge.run.commands.demo", "mujoco.rollout"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "jinja2", "tyro"),
    *("h5py", "zarr", "minari", "kedge.client", "kedge.run.serve", "kedge.run.commands.serve"),
    *("kedge.run.play.server", "kedge.run.commands.play", "uvicorn", "starlette.applications", "starlette.staticfiles"),
    *("uvicorn.protocols.websockets.websockets_sansio_impl", "uvicorn.lifespan.on", "uvicorn.loops.auto"),
    *("starlette.websockets", "websockets.sync.client"),
)
"""What a child would import otherwise, each time."""


def prepare() -> None:
    """Imports what children need, in one thread: what is forked is a process without others."""
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in PREPARE:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            if name.startswith("kedge"):
                raise


@dataclass(frozen=True)
class Ran:
    """What came of a command. A negative code is the signal that ended it."""

    args: list[str]
    code: int
    out: str
    err: str
    seconds: float
    busy: float
    """Seconds of a processor: on a machine that is shared the others measure the neighbours."""

    @property
    def killed(self) -> bool:
        """Whether it was still at it when it was killed."""
        return self.code == -signal.SIGKILL

    @property
    def last(self) -> str:
        """The last line on standard error."""
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""


def command(
    args: Sequence[str],
    place: Path,
    *,
    after: float | None = None,
    memory: int | None = None,
    before: Callable[[], None] | None = None,
    during: Callable[[Path, Callable[[], bool]], None] | None = None,
) -> Ran:
    """Runs `kedge ARGS` in the folder `place`, whose `cache` and `home` are its own.

    Args:
        args: the command line.
        place: where it runs.
        after: seconds after which it is killed, with whatever it has started.
        memory: bytes that it may add to what it has at the fork.
        before: is called in the child, just before the command.
        during: is called here, with the file that it writes its standard error to and whether it still runs; then the
            command is interrupted, as by Ctrl-C.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for name in (OUT, ERR):  # it may be killed before it has opened them
        (place / name).touch()
    begun = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        _child(list(args), place, memory, before)
    if during is not None:
        during(place / ERR, lambda: not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
        os.kill(pid, signal.SIGINT)
    code, busy = _waited(pid, None if after is None else begun + after)
    seconds = time.perf_counter() - begun
    said = [(place / name).read_text(encoding="utf-8", errors="replace") for name in (OUT, ERR)]
    for name in (OUT, ERR):
        (place / name).unlink()
    return Ran(list(args), code, said[0], said[1], seconds, busy)


def _child(args: list[str], place: Path, memory: int | None, before: Callable[[], None] | None) -> None:
    code = 99
    try:
        os.setpgid(0, 0)
        _settle(place, memory)
        from kedge.run import cli

        if before is not None:
            before()
        code = cli.main(args)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _settle(place: Path, memory: int | None) -> None:
    """Takes its place: folder, files for what it says, environment, memory."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    handles = os.open(os.devnull, os.O_RDONLY), *(os.open(place / name, flags, 0o644) for name in (OUT, ERR))
    for target, handle in enumerate(handles):
        os.dup2(handle, target)
    os.chdir(place)
    os.environ.update(KEDGE_CACHE="cache", HOME=str(place / "home"), COLUMNS="200", NO_COLOR="1")
    os.environ.pop("MINARI_DATASETS_PATH", None)
    if memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _waited(pid: int, until: float | None) -> tuple[int, float]:
    """The exit code, and seconds of a processor; past `until` the child and all that it has started are killed."""
    pause = 0.001
    while True:
        found, status, used = os.wait4(pid, 0 if until is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        assert until is not None
        left = until - time.perf_counter()
        if left <= 0:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:  # not yet a group of its own, or over by now
                os.kill(pid, signal.SIGKILL)
            until = None
            continue
        time.sleep(min(left, pause))
        pause = min(pause * 1.5, 0.05)
