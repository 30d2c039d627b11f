"""Grids by the shape of trajectories.

Chen, Zhou, Wang, Shen and Lyu, "On the trajectory regularity of ODE-based diffusion sampling", ICML 2024: the
trajectories of one model have nearly the same shape, whatever they lead to, so that a few of them tell where a grid has
to stop for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kedge.distill.partition import least
from kedge.distill.subject import Subject
from kedge.walk.grids import Fitted
from kedge.walk.hooks import Record
from kedge.walk.solvers import DPMSolverPP
from kedge.walk.state import Solver
from kedge.walk.walk import Walk

Metric = Literal["deviation", "l1", "l2"]


@dataclass(frozen=True, eq=False)
class Teachings:
    """A teacher's walks, in the units of clean data.

    scales: of the levels, noisiest first, the last 0
    y:      `x_t / alpha_t` at each, over the entries that are free, flat
    z:      the noise that the teacher saw in it, at each but the last
    """

    scales: Float[Tensor, " k"]
    y: Float[Tensor, "k b d"]
    z: Float[Tensor, "k1 b d"]

    @classmethod
    @torch.no_grad()
    def of(cls, subject: Subject, levels: int = 60, solver: Solver | None = None) -> Teachings:
        """Of each sample of a subject, from pure noise, over so many levels by a good solver."""
        record = Record()
        path, grid = subject.path, subject.teacher(levels)
        walk = subject.walk(DPMSolverPP(2) if solver is None else solver, grid)
        walk = Walk(walk.denoiser, walk.solver, grid, [*walk.hooks, record])
        walk.run(subject.start(), subject.cond, seeds=subject.seed)
        times = [float(state.t) for state in record.states] + [0.0]
        r = torch.tensor([path.noise_scale(t) if t else 0.0 for t in times], dtype=torch.float64)
        free = subject.free
        y = [_flat(x, free) / path.alpha(t) for x, t in zip(record.x, times, strict=True)]
        x_hat = [_flat(step.estimate.x, free) for step in record.steps if step.estimate is not None]
        return cls(r, torch.stack(y), torch.stack([(a - b) / s for a, b, s in zip(y, x_hat, r, strict=False)]))

    def jumps(self, metric: Metric = "deviation") -> Float[Tensor, "k k"]:
        """What a single step of Euler's from level i to level j > i costs: how far it ends from the teacher's state
        there, or how much farther than that from the chord between the two ends. Means over the samples.
        """
        K = len(self.scales)
        C = torch.zeros(K, K, dtype=torch.float64)
        own = self.deviations().mean(1)
        for i in range(K - 1):
            reached = self.y[i] + (self.scales[i + 1 :] - self.scales[i])[:, None, None] * self.z[i]
            if metric == "deviation":
                C[i, i + 1 :] = self._from_chord(reached).mean(1) - own[i + 1 :]
            else:
                C[i, i + 1 :] = (reached - self.y[i + 1 :]).norm(p=1 if metric == "l1" else 2, dim=2).mean(1)
        return C

    def deviations(self) -> Float[Tensor, "k b"]:
        """How far each state is from the chord of its trajectory."""
        return self._from_chord(self.y)

    def _from_chord(self, y: Float[Tensor, "m b d"]) -> Float[Tensor, "m b"]:
        chord = self.y[-1] - self.y[0]
        unit = chord / chord.norm(dim=1, keepdim=True)
        off = y - self.y[-1]
        return (off - (off * unit).sum(2, keepdim=True) * unit).norm(dim=2)

    def in_planes(self, count: int = 2) -> Float[Tensor, " b"]:
        """Of each trajectory the share of its variance that lies in its first `count` principal directions."""
        y = self.y.transpose(0, 1)
        e = torch.linalg.svdvals(y - y.mean(1, keepdim=True)).square()
        return e[:, :count].sum(1) / e.sum(1)

    def grid(self, n: int, metric: Metric = "deviation", later: float = 1.0) -> Fitted:
        """n steps whose costs are least in sum, what follows a step counting `later` times as much: 1.15 in the paper's
        code.
        """
        places = least(self.jumps(metric), n, later)
        return Fitted(tuple(float(self.scales[k]) for k in places[:-1]))


def _flat(x: object, free: Tensor) -> Tensor:
    assert isinstance(x, Tensor)
    return (x * free).flatten(1).double()
