"""The command line. Each command is a frozen dataclass in `kedge.run.commands`, whose fields are its flags."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from kedge.errors import InputError
from kedge.launch import on_machine, place

DONE, FAILED, BAD_INPUT, REFUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143

LONGEST = 1000
"""Characters of the line that says what is wrong: it may repeat a name that was given, however long that is."""

COMMANDS = {
    "train": "train a recipe on logged behaviour: kedge train fv --env maze2d-large",
    "sweep": "search over the fields of a recipe: kedge sweep fv --over rate=1e-4:1e-2:log",
    "eval": "score a run over many starts, latched and raw: kedge eval runs/fv-large",
    "align": "move a run toward a reward: kedge align vmpo runs/fv-large --reward speed",
    "grid": "fit where a run's walks stop: kedge grid fit runs/fv-large --steps 5",
    "quantise": "a run in 8 bits, calibrated on its own walks: kedge quantise runs/fv-large",
    "report": "one HTML file about one run or several: kedge report runs/fv-large",
    "compare": "two groups of runs, paired by start: kedge compare runs/a runs/b",
    "play": "the run's maze in a browser, to try things on: kedge play runs/fv-large",
    "serve": "put an agent behind a port, for many clients: kedge serve runs/fv-large",
    "export": "a run as ONNX, to plan without kedge: kedge export runs/fv-large",
    "data": "look into a data set: kedge data inspect my.npz",
    "systems": "what is implemented, with its paper, its test and a figure: kedge systems --family align",
    "doctor": "whether this machine is fit, and what to do where not: kedge doctor",
    "demo": "demonstrations, training, evaluation and report in one go: kedge demo",
}

HELP = f"""usage: kedge COMMAND [flags]

Learns to plan from logged behaviour, by denoising.

commands:
{chr(10).join(f"  {name:<9} {what}" for name, what in COMMANDS.items())}

Every command explains its flags with --help. All have:
  --seed N       the seed of whatever is random in it, if anything is
  --device NAME  where networks run, if any do: cpu, cuda, cuda:1
  --threads N    threads of torch, processes of an evaluation
  --out PATH     where the result goes
  --json         the result as one JSON object on standard output, all else on standard error

exit codes:
  {DONE}    done
  {FAILED}    an unexpected failure
  {BAD_INPUT}    bad input or usage; one line says what to change
  {REFUSED}    refused: the folder holds another run
  {INTERRUPTED}  interrupted; the same command goes on from what is finished
  {TERMINATED}  a training or a sweep was told to stop (SIGTERM); the same command goes on from there
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code that `kedge --help` documents."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return DONE if args else BAD_INPUT
    if args[0] in ("-V", "--version", "version"):
        from importlib.metadata import version

        sys.stdout.write(f"kedge {version('kedge')}\n")
        return DONE
    if args[0] not in COMMANDS:
        return _failed(BAD_INPUT, f"there is no command {args[0]!r}{_near(args[0])}; kedge --help lists them", args)
    return _guarded(args)


def _guarded(args: list[str]) -> int:
    """Runs the command; whatever goes wrong becomes an exit code and a line."""
    try:
        return _run(args)
    except InputError as error:
        return _failed(BAD_INPUT, str(error), args)
    except KeyboardInterrupt:
        return _failed(INTERRUPTED, "interrupted; the same command goes on from what is finished", args)
    except SystemExit as stop:
        return _stopped(stop, args)
    except BrokenPipeError:  # the reader of our output has gone: nothing is wrong here
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        return _surprised(error, args)


def _stopped(stop: SystemExit, args: list[str]) -> int:
    """What has said its reason on standard error already: a flag that is none, a training that was told to stop."""
    code = stop.code if isinstance(stop.code, int) else (DONE if stop.code is None else FAILED)
    if code != DONE and "--json" in args and not place()[0]:
        what = {BAD_INPUT: "wrong usage", INTERRUPTED: "interrupted", TERMINATED: "terminated"}.get(code, "stopped")
        said = f"{what}; standard error says more"
        sys.stdout.write(json.dumps({"error": said, "exit": code}) + "\n")
    return code


def _surprised(error: Exception, args: list[str]) -> int:
    """What was foreseen further down, or was not foreseen at all."""
    from kedge.train import (
        CheckpointError,
        CrewError,
        RefusedError,
    )  # torch comes with it: not for those who ask for help

    if isinstance(error, RefusedError):
        return _failed(REFUSED, f"refused: {error} (--out), or give the flags that it was made with", args)
    if isinstance(error, OSError):
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _failed(FAILED, f"{said}; the same command goes on once that is mended", args)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no more to be had'}"
        return _failed(FAILED, f"not enough memory for this ({why}); smaller sizes or data take less", args)
    if not isinstance(error, CheckpointError | CrewError):  # those say all in one line
        traceback.print_exc(file=sys.stderr)
    return _failed(FAILED, f"{type(error).__name__}: {error}", args)


def _run(args: list[str]) -> int:
    """Parses the flags of one command and carries it out."""
    rank, size = place()
    if size > 1 and args[0] != "train":
        raise InputError(f"kedge {args[0]} runs in one process: torchrun is for kedge train alone")
    module = importlib.import_module(f"kedge.run.commands.{_MODULES.get(args[0], args[0])}")
    command = module.parse(args[1:])
    with _stdout_for_json(command.json):
        outcome = command.run()
    if rank:
        return DONE
    if command.json:
        sys.stdout.write(json.dumps(outcome.data, indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in outcome.lines))
    sys.stdout.flush()
    return outcome.code


_MODULES = {"eval": "evaluate"}


@contextlib.contextmanager
def _stdout_for_json(wanted: bool) -> Iterator[None]:
    """With --json, what any library prints on the way goes to standard error: the result stands alone."""
    if not wanted:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _failed(code: int, line: str, args: Sequence[str]) -> int:
    """One line to the reader, and the same as JSON where that was asked for. Of processes that train together on one
    machine, what is wrong with the input is wrong for all, and said once.
    """
    if code != FAILED and on_machine():
        return code
    line = " ".join(line.split())
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
    sys.stderr.write(f"kedge: {line}\n")
    if "--json" in args and not place()[0]:
        sys.stdout.write(json.dumps({"error": line, "exit": code}) + "\n")
    return code


def _near(word: str) -> str:
    import difflib

    close: list[Any] = difflib.get_close_matches(word, COMMANDS, 1)
    return f"; did you mean {close[0]}?" if close else ""


if __name__ == "__main__":
    sys.exit(main())
