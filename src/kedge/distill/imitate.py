"""Grids that learn from a teacher.

Tong, Hoang, Liu, Van den Broeck and Niepert, "Learning to discretize denoising diffusion ODEs", ICLR 2025: the levels
of a short walk are moved along the gradient through it, until it ends where a long one does.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kedge.distill.subject import Subject, endpoint_error
from kedge.train import Batches, Part, Schedule, Tick, Trainer
from kedge.walk.grids import Fitted, Levels, LogSNR, Quadratic, Rho, Uniform
from kedge.walk.grids.levels import Grid
from kedge.walk.solvers import DPMSolverPP
from kedge.walk.state import Solver


@dataclass(frozen=True)
class Imitation:
    """How a grid learns from its teacher.

    updates:  of the levels
    rate:     of the levels' logits, falling to 0 along a cosine
    hears:    whether the network is told noise scales that are learned as well, and at what rate: 0 for not at all
    ball:     how far each start may be moved from the teacher's, root mean square of a normal's spread: a short walk
              need not end where the long one does from just the same noise. 0 for not at all
    batch:    walks in an update
    held_out: the share of the samples on which the best levels are picked
    """

    updates: int = 300
    rate: float = 0.05
    hears: float = 0.02
    ball: float = 0.02
    batch: int = 64
    held_out: float = 0.5

    def grid(self, subject: Subject, solver: Solver, n: int, reference: Tensor, begin: Grid | None = None) -> Fitted:
        """n levels from which a solver ends nearest to where a teacher does.

        Args:
            subject: whose walks they are.
            solver: of the short walk.
            n: its steps.
            reference: where the teacher's walks of the subject's samples end.
            begin: a grid to begin at; by default the best of those by hand.
        """
        kept = round(len(subject.x) * (1 - self.held_out))
        if not 0 < kept < len(subject.x):
            raise ValueError(f"Imitation: held_out={self.held_out} of {len(subject.x)} samples leaves none on a side")
        index, start = torch.arange(len(subject.x)), subject.start()
        begin = begin or best_by_hand(subject, solver, n, reference)
        with torch.enable_grad():
            clock = Clock(self, subject, solver, reference, start, scales_of(begin, subject), kept)
            part = Part(clock, clock, _Rates(self), clip=1.0, shadows=())
            data = Batches(index[:kept], min(self.batch, kept), subject.seed)
            Trainer([part], data, self.updates, seed=subject.seed, progress=False).train()
        return clock.finished()


class Clock(nn.Module):
    """The levels while they learn: `ln r_i` at the cumulative softmax of the logits, from `high` down to `low`, whose
    place the clean end takes; and what the network hears, at most half the narrowest gap from them.
    """

    def __init__(
        self,
        how: Imitation,
        subject: Subject,
        solver: Solver,
        reference: Tensor,
        start: Tensor,
        scales: Tensor,
        kept: int,
    ) -> None:
        super().__init__()
        self.how, self.subject, self.solver, self.reference, self.start = how, subject, solver, reference, start
        ends = torch.tensor([subject.high, subject.low], dtype=torch.float64).log()
        falls = (-torch.cat([scales.log(), ends[1:]]).diff()).clamp(min=1e-3 * float(ends[0] - ends[1]))
        self.logits = nn.Parameter((falls / falls.sum()).log())
        if how.hears:
            self.offsets = nn.Parameter(torch.zeros(len(scales), dtype=torch.float64))
        if how.ball:
            self.moved = nn.Parameter(torch.zeros_like(start[:kept]))
        self.kept, self.least = kept, float("inf")
        self.found: dict[str, Tensor] = {}

    def scales(self) -> tuple[Tensor, Tensor]:
        """The noise scales, and those that are told."""
        high, low = self.subject.high, self.subject.low
        span = torch.tensor(low / high, dtype=torch.float64).log()
        passed = torch.cat([self.logits.new_zeros(1), self.logits.softmax(0).cumsum(0)])
        r = high * (span * passed[:-1]).exp()
        if not self.how.hears:
            return r, r
        window = 0.5 * float(-(span * passed.detach()).diff().max())
        offset = torch.cat([self.offsets.new_zeros(1), self.offsets[1:].clamp(-window, window)])
        return r, r * offset.exp()

    def levels(self) -> Levels:
        """As the walk takes them."""
        path = self.subject.path
        r, told = (path.time_at(scales).clamp(max=path.t_max) for scales in self.scales())
        return Levels(torch.cat([r, r.new_zeros(1)]), told=told if self.how.hears else None)

    def forward(self, index: Tensor, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """How far each walk ends from the teacher's, squared."""
        if tick.step % 10 == 0:
            self.compare()
        start = self.start[index]
        if self.how.ball:
            start = start + self._within(self.moved[index]) * self.subject.spread
        return self._off(index, start, grad=True), {}

    def _within(self, moved: Tensor) -> Tensor:
        share = self.how.ball / moved.flatten(1).square().mean(1).clamp(min=self.how.ball**2).sqrt()
        return moved * share.reshape(-1, *[1] * (moved.ndim - 1))

    def _off(self, index: Tensor, start: Tensor, grad: bool) -> Tensor:
        some = self.subject.take(index)
        levels = self.levels()
        x = some.walk(self.solver, levels).run(start, some.cond, seeds=0, grad=grad).x
        assert isinstance(x, Tensor)
        free = some.free.flatten(1)
        return ((x - self.reference[index]).flatten(1).square() * free).sum(1) / free.sum(1)

    @torch.no_grad()
    def compare(self) -> None:
        """Keeps these levels if none before were better on what is held out, from the teacher's own starts."""
        index = torch.arange(self.kept, len(self.start))
        now = float(self._off(index, self.start[index], grad=False).mean())
        if now < self.least:
            self.least = now
            own = {name: value for name, value in self.state_dict().items() if name in ("logits", "offsets")}
            self.found = copy.deepcopy(own)

    @torch.no_grad()
    def finished(self) -> Fitted:
        """The best levels."""
        self.compare()
        self.load_state_dict(self.found, strict=False)
        r, told = self.scales()
        return Fitted(tuple(r.tolist()), tuple(told.tolist()) if self.how.hears else ())


@dataclass(frozen=True)
class _Rates:
    """Adam, with rates of their own for levels and what is heard; starts move by plain descent, as in the paper."""

    how: Imitation

    def build(self, module: nn.Module) -> list[Optimizer]:
        """One for each."""
        fall, made = Schedule(0, 0, "cosine"), list[Optimizer]()
        for name, p in module.named_parameters():
            rate = {"logits": self.how.rate, "offsets": self.how.hears, "moved": 1.0}[name]
            group = {"params": [p], "lr": rate, "initial_lr": rate, "schedule": fall}
            made.append(torch.optim.SGD([group], lr=rate) if name == "moved" else torch.optim.Adam([group], lr=rate))
        return made


def by_hand(subject: Subject, n: int) -> dict[str, Grid]:
    """The grids that need no fitting, over a subject's noise scales; those in a path's own time where walks begin at
    its end. Each of those in noise scales also with its cleanest level left to the clean end.
    """
    low, high, path = subject.low, subject.high, subject.path
    found: dict[str, Grid] = {
        "log-SNR": LogSNR(n, low, high),
        "rho 7": Rho(n, 7.0, low, high),
        "rho 3": Rho(n, 3.0, low, high),
    }
    longer: dict[str, Grid] = {
        "log-SNR, ended": LogSNR(n + 1, low, high),
        "rho 7, ended": Rho(n + 1, 7.0, low, high),
        "rho 3, ended": Rho(n + 1, 3.0, low, high),
    }
    for name, grid in longer.items():
        found[name] = Fitted(tuple(scales_of(grid, subject)[:-1].tolist()))
    if high >= path.noise_scale(path.t_max) * (1 - 1e-6):
        found |= {"uniform": Uniform(n), "quadratic": Quadratic(n)}
    else:
        end = path.time_at(high)
        found["uniform"] = Levels([end * (1 - i / n) for i in range(n + 1)])
        found["quadratic"] = Levels([end * (1 - i / n) ** 2 for i in range(n + 1)])
    return found


def best_by_hand(subject: Subject, solver: Solver, n: int, reference: Tensor) -> Grid:
    """Of the grids by hand the one whose walks end nearest to the reference."""
    grids = by_hand(subject, n)
    return grids[min(grids, key=lambda name: endpoint_error(subject, solver, grids[name], reference))]


def teacher_ends(subject: Subject, steps: int = 100) -> Tensor:
    """Where long walks from the subject's starts end: third order, and each step of three evaluations."""
    return subject.walked(DPMSolverPP(3, multistep=False), subject.teacher(steps))


def scales_of(grid: Grid, subject: Subject) -> Tensor:
    """The noise scales of a grid, but for its clean end."""
    path = subject.path
    rows = [float(t) for t in grid.levels(path).rows()]
    return torch.tensor([path.noise_scale(t) for t in rows[:-1]], dtype=torch.float64)
