"""Where trials are carried out: in processes of this machine, or as tasks of a ray cluster."""

from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from kedge.errors import InputError
from kedge.extras import command
from kedge.run.sweep.trial import Ending, Piece, carried_out, in_a_process

GRACE = 60.0
"""Seconds for a trial that was told to stop to write its checkpoint."""

STARTS = 3
"""How often ray is started here: it waits half a minute for itself, which is short on a busy machine."""


@runtime_checkable
class Pool(Protocol):
    """Carries trials out, several at once."""

    room: int

    def start(self, piece: Piece) -> None:
        """Begins a trial, or goes on with it."""
        ...

    def ended(self) -> list[tuple[int, Ending]]:
        """Those that have ended since it was last asked, by number; without waiting."""
        ...

    def stop(self) -> None:
        """Tells all to stop: what they have done is kept."""
        ...


@dataclass
class Processes:
    """A process for each trial, so that one that takes all memory, or falls over, costs itself alone."""

    room: int = 1
    going: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def start(self, piece: Piece) -> None:
        """Starts it afresh rather than by a fork, which torch's threads do not survive."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=in_a_process, args=(theirs, piece))
        process.start()
        theirs.close()
        self.going[piece.number] = process, ours

    def ended(self) -> list[tuple[int, Ending]]:
        """Each is asked whether it has something to say, or is gone without a word."""
        found = []
        for number, (process, pipe) in list(self.going.items()):
            if not pipe.poll() and process.is_alive():
                continue
            found.append((number, _last_word(process, pipe)))
            del self.going[number]
        return found

    def stop(self) -> None:
        """A training writes a checkpoint when it is told to stop; one that takes too long for that is ended."""
        for process, _ in self.going.values():
            process.terminate()
        until = time.monotonic() + GRACE
        for process, _ in self.going.values():
            process.join(max(0.0, until - time.monotonic()))
            process.kill()
            process.join()
        self.going.clear()


def _last_word(process: Any, pipe: Any) -> Ending:
    try:
        ending = pipe.recv()
    except EOFError:
        process.join()
        return Ending("failed", why=_fallen(process.exitcode))
    process.join()
    return ending


def _fallen(code: int) -> str:
    """What an exit code says."""
    if code == -signal.SIGKILL:
        return "its process was killed (by the system, where memory runs out)"
    return f"its process ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}"


class Ray:
    """A task of a ray cluster for each trial. A task whose machine is lost is started once more elsewhere, and goes on
    from the checkpoint in the shared folder.
    """

    def __init__(self, address: str, room: int | None, cpus: int, gpus: int) -> None:
        """`address`: "local" starts ray on this machine, "auto" finds the cluster that it belongs to."""
        ray = _ray()
        told = {"include_dashboard": False} if address == "local" else {"address": address}
        for left in reversed(range(STARTS if address == "local" else 1)):
            try:
                ray.init(logging_level="ERROR", log_to_driver=False, **told)
                break
            except Exception as error:  # ray has no class of its own for this
                ray.shutdown()
                if not left:
                    raise InputError(_absent(address, " ".join(str(error).split())[:200])) from None
        self.ray, self.numbers = ray, dict[Any, int]()
        there = ray.cluster_resources()
        fit = int(there.get("CPU", 0) // cpus)
        fit = min(fit, int(there.get("GPU", 0) // gpus)) if gpus else fit
        if fit < 1:
            self.stop()
            wanted = f"{cpus} processors" + (f" and {gpus} GPU" if gpus else "")
            raise InputError(f"--ray {address}: no room for a trial there, which takes {wanted}")
        self.room = min(room or fit, fit)
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(carried_out)

    def start(self, piece: Piece) -> None:
        """Hands it to the cluster."""
        self.numbers[self.task.remote(piece)] = piece.number

    def ended(self) -> list[tuple[int, Ending]]:
        """What the cluster has done."""
        if not self.numbers:
            return []
        done, _ = self.ray.wait(list(self.numbers), num_returns=len(self.numbers), timeout=0)
        return [(self.numbers.pop(one), self._last_word(one)) for one in done]

    def stop(self) -> None:
        """Each task is interrupted, and writes a checkpoint."""
        for one in self.numbers:
            self.ray.cancel(one, force=False)
        if self.numbers:
            self.ray.wait(list(self.numbers), num_returns=len(self.numbers), timeout=GRACE)
        self.numbers.clear()
        self.ray.shutdown()

    def _last_word(self, one: Any) -> Ending:
        try:
            return self.ray.get(one)
        except self.ray.exceptions.TaskCancelledError:
            return Ending("stopped")
        except self.ray.exceptions.RayError as error:
            return Ending("failed", why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _absent(address: str, why: str) -> str:
    if address == "local":
        return f"--ray local: ray did not start here ({why}); try again when the machine is less busy, or without --ray"
    return (
        f"--ray {address}: no cluster there ({why}); start one with `ray start --head` and add machines with "
        "`ray start --address HEAD:6379`, or give --ray local"
    )


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError:
        raise InputError(f"--ray needs ray: {command(['ray'])}") from None
    return ray
