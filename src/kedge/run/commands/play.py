"""`kedge play RUN`: the run's agent in its maze, in a browser."""

from __future__ import annotations

import contextlib
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import tyro

from kedge.errors import InputError
from kedge.run.commands.command import Command, Outcome, parsed
from kedge.run.commands.runs import check_fit, planning, recipe_of, task_of


@dataclass(frozen=True, kw_only=True)
class Play(Command):
    """Opens a page on which the run's agent lives in its maze: move the goal, draw walls, watch plans denoise. Needs
    `pip install 'kedge[play]'`. Ctrl-C ends it.
    """

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="run", metavar="RUN", help="The folder of the run.")
    ]
    port: Annotated[int, tyro.conf.arg(metavar="N")] = 8321
    """The port to listen on; 0 takes one that is free."""
    host: Annotated[str, tyro.conf.arg(metavar="NAME")] = "127.0.0.1"
    """The address to listen on. By default this machine alone can open the page; 0.0.0.0 lets others, for whom there
    should be a --token."""
    token: Annotated[str | None, tyro.conf.arg(metavar="WORD")] = None
    """A word that the page's address must have. The address that is printed has it."""
    browser: bool = True
    """Open the page in a browser."""
    env: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The maze, where it is not the one that the run was trained in: its name, or a text file that draws it."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Changes nothing here: the first tab begins at start 1, the second at start 2, always."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Changes nothing here: nothing is written."""

    def run(self) -> Outcome:
        """Serves until it is stopped."""
        if not 0 <= self.port < 65536:
            raise InputError(f"--port is a number from 0 to 65535, got {self.port}")
        if self.token == "":
            raise InputError("--token is a word; leave it out for none")
        device = self.place()
        from kedge.run.play.server import application, bound, serve

        app = application(table_of(self.folder, self.env, device), self.token, self.host)
        listening = bound(self.host, self.port)
        address = address_of(self.host, listening.getsockname()[1], self.token)
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            serve(app, listening, lambda: self._begun(address))
        return Outcome([], {"run": str(self.folder), "address": address})

    def _begun(self, address: str) -> None:
        from kedge.train.progress import announce

        announce(f"playing {self.folder} at {address}")
        announce("Ctrl-C ends it")
        if self.browser:
            webbrowser.open(address)


def table_of(folder: Path, env: str | None, device: str | None) -> Any:
    """The run's agent and maze; one line where there is no maze in it."""
    from kedge.run.play.server import Table, landscape_of

    recipe_of(folder)
    task = task_of(folder, env)
    if not hasattr(task, "layout"):
        raise InputError(f"{folder}: kedge play draws a maze from above, and {task.name} is none")
    check_fit(folder, task)
    return Table(folder.resolve().name, planning(folder, device, "kedge play"), task.layout, landscape_of(folder))


def address_of(host: str, port: int, token: str | None) -> str:
    """What is to be opened here."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/" + ("" if token is None else f"?token={quote(token, safe='')}")


def parse(args: Sequence[str]) -> Play:
    """The flags."""
    return parsed(Play, args, "play")
