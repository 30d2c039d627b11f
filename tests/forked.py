"""Programs in processes of their own, forked from one that has imported what they need, which takes seconds of a
processor each time otherwise. `python forked.py MODULE...` is that one.

They share its hash seed: where that may matter, one that they are compared with is started afresh.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def forking(*modules: str) -> Iterator[Forks]:
    """From here on programs are forked, one at a time."""
    command = [sys.executable, __file__, *modules]
    with (
        tempfile.TemporaryDirectory() as place,
        subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server,
    ):
        forks = Forks(server, Path(place) / "said")
        assert forks.hear(100) == 0, "it could not import them"
        yield forks
        assert server.stdin is not None
        server.stdin.close()


class Forks:
    """The process that programs are forked from."""

    def __init__(self, server: subprocess.Popen[bytes], said: Path) -> None:
        self.server, self.said = server, said

    def start(self, *args: str) -> Forked:
        """As `python ARGS` would: a file and its arguments, or `-c` and code."""
        assert self.server.stdin is not None
        self.said.write_text("")  # it may be killed before it has opened it
        self.server.stdin.write(json.dumps([str(self.said), *args]).encode() + b"\n")
        pid = self.hear(100)
        assert pid is not None
        return Forked(self, pid)

    def hear(self, seconds: float) -> int | None:
        """The next number that it says, if it does."""
        assert self.server.stdout is not None
        if not select.select([self.server.stdout], [], [], seconds)[0]:
            return None
        return int(self.server.stdout.readline())


class Forked:
    """What `subprocess.Popen` is of a process that was started afresh, as far as it is needed."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self.forks, self.pid = forks, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        return self._waited(0.0)

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[None, str]:
        """What it has written to standard error, once it has ended."""
        if self._waited(timeout) is None:
            os.kill(self.pid, 9)
            raise TimeoutError(f"it has not ended within {timeout} s")
        return None, self.forks.said.read_text(encoding="utf-8")

    def _waited(self, seconds: float) -> int | None:
        if self.returncode is None:
            self.returncode = self.forks.hear(seconds)
        return self.returncode


def _serve(modules: Sequence[str]) -> None:
    """Says 0, and then of each program its process and its exit code."""
    for name in modules:
        importlib.import_module(name)
    print(0, flush=True)
    while line := sys.stdin.readline():
        said, *args = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(said, args)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(said: str, args: Sequence[str]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    nothing = os.open(os.devnull, os.O_RDWR)
    for target, handle in enumerate((nothing, nothing, os.open(said, flags))):
        os.dup2(handle, target)
    code: Any = 1
    try:
        _run(args)
        code = 0
    except SystemExit as error:
        code = error.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)  # taking down what was imported takes as long as importing it


def _run(args: Sequence[str]) -> None:
    if args[0] == "-c":
        exec(compile(args[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(args)
        runpy.run_path(args[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1:])
