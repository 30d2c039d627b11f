"""What a weighting buys where the best denoiser is known: small networks that learn mixtures of Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import kedge
from kedge.exact import GaussianMixture
from kedge.fit import DenoisingLoss, Weighting, weightings
from kedge.fit.proposals import LogNormal
from kedge.noise import Noise
from kedge.train import AdamW, Batches, Trainer
from measure.jobs import Job, Store

SIGMA_DATA, MODES, RADIUS = 0.5, 8, 0.7
PATH, PROPOSAL = kedge.paths.Trig(SIGMA_DATA), LogNormal(-0.8, 1.6)
LEVELS, TESTED, DATA = 25, 4096, 40_000


@dataclass(frozen=True)
class Problem:
    """Eight modes on a circle. stds: of a mode, one for each task; the network is told which task it is."""

    stds: tuple[float, ...]
    batch: int = 64


PROBLEMS = {
    "gentle": Problem((0.3,)),
    "steep": Problem((0.02,)),
    "few-samples": Problem((0.02,), batch=4),
    "many-tasks": Problem(tuple(np.geomspace(0.01, 0.5, 16).round(4).tolist())),
}
"""A gentle landscape; one whose error falls steeply with the noise; the same from few samples; many at once."""


def arms() -> dict[str, Weighting]:
    """Fresh weightings."""
    even = weightings.Uniform(of="v", sigma_data=SIGMA_DATA)
    return {
        "uniform": even,
        "min-snr": weightings.MinSNR(sigma_data=SIGMA_DATA),
        "head": weightings.LearnedHead(even),
        "polynomial": weightings.Polynomial(center=PROPOSAL.mean, scale=PROPOSAL.std),
    }


def exact(job: Job, store: Store) -> dict[str, Any]:
    """For each weighting and seed, how far the network is from the exact denoiser at each noise level.

    `nats` bounds the divergence from the data of what the network samples, by Girsanov's theorem over the levels that
    were trained: `KL <= E int |D_theta - D|^2 / sigma^2 d ln sigma`.
    """
    problem, steps = PROBLEMS[job.settings["problem"]], job.settings["steps"]
    tested = Tested.of(problem)
    rows = []
    for seed in range(job.settings["seeds"]):
        for name, weighting in arms().items():
            excess = tested.excess(trained(problem, weighting, seed, steps))
            nats = float(np.trapezoid(excess / tested.scale**2, np.log(tested.scale)))
            rows.append({"arm": name, "seed": seed, "nats": nats, "excess": excess.tolist()})
    said = ", ".join(f"{name} {np.mean([row['nats'] for row in rows if row['arm'] == name]):.3g}" for name in arms())
    return {"said": f"nats: {said}", "scale": tested.scale.tolist(), "least": tested.least.tolist(), "rows": rows}


def ring(std: float) -> GaussianMixture:
    """One task."""
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    means = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture([1.0] * MODES, means, [std**2] * MODES)


def drawn(problem: Problem, count: int, seed: int) -> dict[str, Tensor]:
    """Samples, task after task in turn, and which task each is of."""
    each = -(-count // len(problem.stds))
    x = torch.stack([ring(std).sample(each, seeds=seed + task) for task, std in enumerate(problem.stds)], 1)
    tasks = torch.eye(len(problem.stds)).repeat(each, 1)
    return {"x": x.flatten(0, 1)[:count].float(), "task": tasks[:count]}


def trained(problem: Problem, weighting: Weighting, seed: int, steps: int) -> nn.Module:
    """The averaged denoiser. Arms of a seed begin with the same weights and hear the same batches and noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = kedge.nets.MLP(2, width=64, depth=2, cond={"task": len(problem.stds)})
    loss = DenoisingLoss(kedge.Denoiser(net, PATH, "trig"), PROPOSAL, weighting)
    batches = Batches(drawn(problem, DATA, 10_000 + 100 * seed), problem.batch, seed=seed)
    part = loss.part(AdamW(2e-3, warmup=50, decay="cosine"), clip=None)
    trainer = Trainer([part], batches, steps, seed=seed, progress=False)
    trainer.train()
    average = trainer.shadow().module
    assert isinstance(average, DenoisingLoss)
    return average.denoiser.eval()


@dataclass(frozen=True)
class Tested:
    """Fresh noised samples at evenly spaced levels, and what the exact denoiser makes of them.

    least: the mean squared error of the exact denoiser, summed over entries, at each level
    """

    scale: np.ndarray
    levels: tuple[tuple[Tensor, Tensor, Tensor], ...]
    task: Tensor
    least: np.ndarray

    @classmethod
    def of(cls, problem: Problem) -> Tested:
        """Over two standard deviations of the law of the levels."""
        scale = np.exp(np.linspace(PROPOSAL.mean - 2 * PROPOSAL.std, PROPOSAL.mean + 2 * PROPOSAL.std, LEVELS))
        data = drawn(problem, TESTED, 1_000_000)
        x, task = data["x"].double(), data["task"]
        z = PATH.noise(x, Noise.of(1_000_001, len(x)), 0)
        levels, least = list[tuple[Tensor, Tensor, Tensor]](), list[float]()
        for level in PATH.time_at(torch.as_tensor(scale)).tolist():
            t = torch.full((len(x),), level, dtype=torch.float64)
            noised, best = PATH.perturb(x, t, z), torch.empty_like(x)
            for k, std in enumerate(problem.stds):
                own = task[:, k] > 0
                best[own] = ring(std).posterior_mean(PATH, noised[own], level)
            levels.append((t.float(), noised.float(), best))
            least.append(float(((best - x) ** 2).sum(1).mean()))
        return cls(scale, tuple(levels), task, np.array(least))

    @torch.no_grad()
    def excess(self, denoiser: Any) -> np.ndarray:
        """`E |D_theta - D|^2` at each level."""
        cond = kedge.Cond.of(task=self.task)
        found = [((denoiser(noised, t, cond) - best) ** 2).sum(1).mean() for t, noised, best in self.levels]
        return np.array([float(error) for error in found])
