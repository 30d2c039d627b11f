"""The processes that train one run together, each on its share of every batch."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kedge.launch import on_machine, place
from kedge.tree import tree_map

PATIENCE = timedelta(hours=2)
"""How long a process waits for another that says nothing: one of them may have demonstrations to make."""

Result = TypeVar("Result")


class CrewError(RuntimeError):
    """Another process of the same training has ended, or computes something else."""


@dataclass(frozen=True)
class Crew:
    """This process among those that train one run. Alone, everything here is free and does nothing.

    All draw the same batches, and process r of n takes the r-th of n equal parts. Noise is keyed by sample, so that a
    sample hears what it would hear in one process; gradients are averaged, and every process makes the same step.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def device(self, wanted: torch.device | str | None) -> torch.device | str | None:
        """A GPU for each, where only "cuda" was asked for."""
        mine = self.size > 1 and wanted is not None and torch.device(wanted) == torch.device("cuda")
        return f"cuda:{on_machine()}" if mine else wanted

    def share(self, batch: Any) -> Any:
        """This process's part of a batch."""
        if self.size == 1:
            return batch

        def mine(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if len(leaf) % self.size:
                raise ValueError(f"a batch of {len(leaf)} samples has no {self.size} equal parts, one for each process")
            return leaf.chunk(self.size)[self.rank]

        if not isinstance(batch, Tensor | dict):
            raise ValueError(f"a batch that is a {type(batch).__name__} cannot be shared among processes")
        return tree_map(mine, batch)

    def whole(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The values of all samples of the batch, given those of this process's part; without gradients."""
        mine = tuple(value.detach() for value in values)
        return mine if self.size == 1 else tuple(self._gathered(value) for value in mine)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Puts the mean over all processes in place of each, by one exchange for each kind of number."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            together(dist.all_reduce, flat)
            means = (flat / self.size).split([tensor.numel() for tensor in same])
            for tensor, mean in zip(same, means, strict=True):
                tensor.copy_(mean.view_as(tensor))

    def gradients(self, parameters: Sequence[Tensor], *also: Tensor) -> None:
        """Averages what the parameters have for gradients, and other figures with them. A parameter that no process has
        a gradient for keeps none.
        """
        if self.size == 1:
            return
        device = next(tensor.device for tensor in (*parameters, *also))
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self.average([*(p.grad for p in parameters if p.grad is not None), there, *also])
        for p, share in zip(parameters, there.tolist(), strict=True):
            p.grad = p.grad if share else None

    def most(self, *numbers: float | int) -> list[float]:
        """The largest of each over all processes."""
        if self.size == 1:
            return [float(number) for number in numbers]
        found = torch.tensor(numbers, dtype=torch.float64)
        together(dist.all_reduce, found, op=dist.ReduceOp.MAX)
        return found.tolist()

    def total(self, number: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            together(dist.all_reduce, number)
        return number

    def collected(self, thing: Any) -> list[Any]:
        """What every process has, in their order."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        together(dist.all_gather_object, found, thing)
        return found

    def all_or_none(self, act: Callable[[], Result], *errors: type[Exception]) -> list[Result]:
        """What `act` gives in every process, in their order. Where it fails in one, by one of these errors, it has
        failed in all.
        """
        if self.size == 1:
            return [act()]
        found: tuple[Any, str | None]
        try:
            found = act(), None
        except errors as error:
            found = None, str(error)
        every = self.collected(found)
        if failures := [f"process {rank}: {why}" for rank, (_, why) in enumerate(every) if why is not None]:
            raise OSError("; ".join(failures))
        return [result for result, _ in every]

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process goes first, then the others: what it has made, they find."""
        if not self.first:
            self._wait()
        yield
        if self.first:
            self._wait()

    def _wait(self) -> None:
        if self.size > 1:
            together(dist.barrier)

    def _gathered(self, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(self.size)]
        together(dist.all_gather, parts, value.contiguous())
        return torch.cat(parts)


ALONE = Crew()

_alone = threading.Event()
"""Set once another process has ended."""


def joined() -> Crew:
    """The processes that `torchrun` has started, joined when this is first asked for; else this one alone."""
    rank, size = place()
    if size == 1:
        return ALONE
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_leave)
    return Crew(rank, size)


def _leave() -> None:
    if _alone.is_set():  # gloo's threads still wait for the other process, and tidying up would end by their abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # the others may be gone
            dist.destroy_process_group()


def together(exchange: Callable[..., Result], *what: Any, **how: Any) -> Result:
    """Whatever goes wrong in an exchange is another process's end: one line, for there is nothing to see here."""
    try:
        return exchange(*what, **how)
    except RuntimeError as error:
        _alone.set()
        rank, size = place()
        raise CrewError(
            f"process {rank} of {size}: another process of this training has ended; start all of them again, and they "
            "go on from the last checkpoint"
        ) from error
