"""Rewards that can be differentiated: their gradient goes back through the walk."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kedge.align.method import Method
from kedge.align.walks import Begun, OwnWalks
from kedge.guide import Relay
from kedge.train import Tick
from kedge.tree import sum_event
from kedge.walk import Walk
from kedge.walk.hooks import Record
from kedge.walk.walk import Grad, without_gradient


class Beginnings:
    """A source of what walks begin with, for methods that walk themselves.

    Args:
        walks: says from where, for what conditions, and how many for each.
    """

    def __init__(self, walks: OwnWalks) -> None:
        self.walks = walks

    def next(self, tick: Tick) -> Begun:
        """A function of the tick."""
        return self.walks.begin(tick)

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing."""


class Direct(Method):
    """`-E r(x_0) / beta + KL(p_theta || p_ref)` over walks, by the gradient through the walk itself.

    Its optimum is that of `VMPO`: the tilt of the reference, where a walk forgets its start. It wants a reward that can
    be differentiated, and hears far more of it. With a log-likelihood `gamma log p(y | x_0, c)` for a reward and y
    among the conditions it is conditional control: "Adding conditional control to diffusion models with reinforcement
    learning" (CTRL), where `p(x | c, y) ~ p_ref(x | c) p(y | x, c)^gamma` for all y at once.

    The last step has no variance and no divergence; the reference makes it.

    Args:
        walks: what is walked, from where and for what; `walks.reward` is what is differentiated.
        beta: how much of a divergence in nats a reward of one is worth.
        through: how gradients flow: True through all steps, "checkpoint" for the same in less memory, K through the
            last K of them. The divergence is that of the steps through which they flow.
    """

    def __init__(self, walks: OwnWalks, beta: float = 1.0, *, through: Grad = True) -> None:
        super().__init__(walks.walk)
        if not beta > 0:
            raise ValueError(f"Direct: beta must be positive, got {beta}")
        if walks.walk.solver.density == "none":
            raise ValueError(
                f"Direct: {walks.walk.solver} is deterministic and has no divergence; use DDPM() or DDIM(eta=1)"
            )
        self.walks, self.beta = walks, beta
        self.through: Grad = through

    def forward(self, batch: Begun, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each walk `[B]`, and what to log."""
        record, walk = Record(), self.walks.held(batch.cond)
        heard = self.walks.heard(batch.cond)
        levels = batch.levels or walk.grid.levels(walk.path)
        # in that last step the model could move its samples without any divergence to pay for it
        ended = Relay(walk.denoiser, self.reference.module, float(levels.t[-2]))
        walk = Walk(ended, walk.solver, walk.grid, [*walk.hooks, record])
        end = walk.run(batch.start, heard, levels=batch.levels, seeds=batch.seeds, grad=self.through)
        reward = sum_event(self.walks.reward(end.x, batch.cond))
        first = without_gradient(self.through, len(record.steps))
        steps = [i for i in record.random_steps if i >= first]
        kernels = [record.steps[i].kernel for i in steps]
        still = self.walk.replay(record, self.reference.module, steps)
        divergence = record.divergence(kernels, still, steps).sum(0)
        info = {"reward": reward.detach().mean(), "divergence": divergence.detach().mean()}
        return divergence - reward / self.beta, info
