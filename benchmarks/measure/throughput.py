"""Samples aligned a second, beside a plain loop in the manner of released code, with the same network in one run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedge import Denoiser, Walk, grids, solvers
from kedge.align import OwnWalks, PolicyGradient
from kedge.align.policy import DDPO
from kedge.nets import UNet1D
from kedge.paths import VariancePreserving
from kedge.train import AdamW, Tick, Trainer
from kedge.tree import first_leaf
from measure.jobs import Job, Store
from measure.planning import Scale
from measure.rates import in_turns

SHAPE = (32, 4)
"""A plan in the plane: points, and the entries of a state."""
BATCHES, STEPS, RATE, CLIP = (8, 64), 10, 1e-4, 1e-4
PATH = VariancePreserving()


def jobs(scale: Scale) -> Iterator[Job]:
    """One; nothing may run beside it."""
    yield Job("throughput", {"kind": "throughput", "scale": scale.name, "rounds": scale.rounds}, alone=True)


def throughput(job: Job, store: Store) -> dict[str, Any]:
    """One update of DDPO at a time: walks are drawn, rewarded, and learned from once. The arms take turns."""
    rows = []
    for batch in BATCHES:
        arms = {"kedge": kedge_arm(batch), "loop": Loop(network(), batch).update}
        times = in_turns(arms, job.settings["rounds"])
        ratios = [loop / ours for ours, loop in zip(times["kedge"], times["loop"], strict=True)]
        rate = {f"{name}_per_second": batch / statistics.median(found) for name, found in times.items()}
        rows.append({"batch": batch, **rate, "ratio": statistics.median(ratios), "ratios": ratios})
    off = disagreement()
    said = "; ".join(
        f"batch {row['batch']}: {row['kedge_per_second']:.1f} a second, {row['ratio']:.2f}x" for row in rows
    )
    return {"said": said, "rows": rows, "gradients_apart": off, "steps": STEPS}


def network() -> nn.Module:
    """The temporal U-Net of planners; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet1D(SHAPE[-1], width=32, mults=(1, 2))


def reward(x: Any, cond: Any = None) -> Tensor:
    """Cheap, so that the time is that of the walks."""
    return -x.square().mean((1, 2))


def standard(value: Tensor) -> Tensor:
    """Rewards of a batch as advantages, as released code has them: centred, scaled, held within five deviations."""
    return ((value - value.mean()) / (value.std(correction=0) + 1e-8)).clamp(-5, 5)


def walk_of(net: nn.Module) -> Walk:
    """Ancestral DDIM, as released code has it."""
    return Walk(Denoiser(net, PATH, "eps"), solvers.DDIM(eta=1.0), grids.Uniform(STEPS))


def kedge_arm(batch: int) -> Callable[[], None]:
    """By the trainer."""
    walk = walk_of(network())
    method = PolicyGradient(walk, DDPO, clip=CLIP, average=True)
    own = OwnWalks(walk, SHAPE, batch, reward)
    return Trainer([method.part(AdamW(RATE), shadows=())], own, 10_000, progress=False).advance


@dataclass
class Loop:
    """What released code does, written plainly: a loop over steps draws, a second one learns, step by step."""

    net: nn.Module
    batch: int

    def __post_init__(self) -> None:
        self.times = [float(t) for t in grids.Uniform(STEPS).levels(PATH).rows()]
        self.optimiser = torch.optim.AdamW(self.net.parameters(), RATE)

    def update(self) -> None:
        """One batch."""
        states, drawn, before = self.sampled()
        self.optimiser.zero_grad()
        self.learned(states, drawn, before, standard(reward(states[-1])))
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()

    @torch.no_grad()
    def sampled(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The states, what was drawn, and its log-density."""
        x = torch.randn(self.batch, *SHAPE) * PATH.sigma(self.times[0])
        states, drawn, densities = [x], list[Tensor](), list[Tensor]()
        for i in range(STEPS):
            mean, std = self.step(x, i)
            x = mean + std * torch.randn_like(mean)
            states.append(x)
            drawn.append(x)
            densities.append(self.density(x, mean, std))
        return states, drawn, densities

    def step(self, x: Tensor, i: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of DDIM's step at eta = 1."""
        t, s = self.times[i], self.times[i + 1]
        (a_t, s_t), (a_s, s_s) = ((PATH.alpha(u), PATH.sigma(u)) for u in (t, s))
        told = torch.full((len(x),), -0.125 * PATH.log_snr(t))
        eps = self.net(x, told)
        clean = (x - s_t * eps) / a_t
        std = s_s / s_t * math.sqrt(max(1 - (a_t / a_s) ** 2, 0.0))
        return a_s * clean + math.sqrt(max(s_s**2 - std**2, 0.0)) * eps, std

    @staticmethod
    def density(x: Tensor, mean: Tensor, std: float) -> Tensor:
        """The mean over entries, as released code takes it."""
        if not std:
            return torch.zeros(len(x))
        return (-((x - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)).mean((1, 2))

    def learned(self, states: list[Tensor], drawn: list[Tensor], before: list[Tensor], advantage: Tensor) -> None:
        """Adds up the gradients, a step of the walk at a time."""
        for i in range(STEPS - 1):  # the last step has no noise
            mean, std = self.step(states[i], i)
            ratio = (self.density(drawn[i], mean, std) - before[i]).exp()
            pushed = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - CLIP, 1 + CLIP))
            pushed.mean().backward()


def disagreement() -> float:
    """How far apart the two gradients are on the same walks, of their length: they are to do the same work."""
    walk = walk_of(network())
    method = PolicyGradient(walk, DDPO, clip=CLIP, average=True)
    tick = Tick(0, 0)
    batch = OwnWalks(walk, SHAPE, 16, reward).next(tick)
    ours = torch.autograd.grad(method(batch, tick)[0].mean(), list(walk.denoiser.parameters()))
    loop, x = Loop(network(), 16), [first_leaf(each) for each in batch.record.x]
    with torch.no_grad():
        before = [loop.density(x[i + 1], *loop.step(x[i], i)) for i in range(STEPS - 1)]
    loop.learned(x, x[1:], before, standard(batch.reward))
    theirs = [p.grad for p in loop.net.parameters() if p.grad is not None]
    flat = [torch.cat([g.flatten() for g in gradients]) for gradients in (ours, theirs)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())
