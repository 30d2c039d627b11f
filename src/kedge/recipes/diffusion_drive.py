"""DiffusionDrive: plans from clustered anchors, in two steps from a little noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from kedge.cond import Cond
from kedge.denoise import Denoiser
from kedge.errors import InputError
from kedge.noise import Noise
from kedge.plan import Agent, Anchored, Planner
from kedge.plan.anchored import CONFIDENCE, clustered, placed
from kedge.recipes.networks import Models, Sizes, known, network, path_of
from kedge.recipes.planning import Planning, Prediction
from kedge.recipes.sources import Plans
from kedge.slots import LEVEL_SLOT, SHOWN_SLOT, Z_SLOT
from kedge.train import Batch, OptimiserSpec, Part, Tick
from kedge.tree import first_leaf
from kedge.walk.solvers import SolverName

SEEN = 8192
"""Windows that anchors are clustered from."""


@dataclass(frozen=True)
class DiffusionDrive(Planning):
    """Plans from k-means anchors that are noised a little, walked in two steps by a denoiser that also says how sure it
    is of each anchor; it is trained on that little noise alone, towards the one anchor that the data went along.

    Liao et al., "DiffusionDrive: truncated diffusion model for end-to-end autonomous driving", CVPR 2025
    (arXiv:2411.15139). There the decoder looks at a bird's-eye view where the waypoints are; here it reads a table of
    places there. The cascade of two decoders is left to the walk's two steps, and each sample is shown some of the
    anchors in a step, not all.
    """

    batch: int = 24
    predict: Prediction = "clean"
    goals: float = 0.5
    solver: SolverName = "ddim"
    evaluations: int = 2
    truncated: float = 0.2
    """The largest noise scale that is trained on."""
    scale_max: float = 0.08
    scale_min: float = 0.075
    anchors: int = 32
    """Typical trajectories, by k-means."""
    shown: int = 6
    """Anchors of each sample in a training step: the nearest one, and others by chance."""
    sure: float = 1.0
    """What it counts to know the nearest anchor, beside being near the data from it."""
    rate: float = 4e-3
    candidates: int = 4
    nearby: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.anchors < 2 or not 2 <= self.shown <= self.anchors or not self.truncated >= self.scale_max:
            raise InputError(
                "DiffusionDrive: wanted anchors >= shown >= 2 and truncated >= scale_max; got "
                f"{self.anchors}, {self.shown}, {self.truncated} and {self.scale_max}"
            )
        if self.actions or self.predict != "clean":
            raise InputError('DiffusionDrive denoises states and says them clean: leave actions out, predict="clean"')

    def denoising(self, sizes: Sizes) -> AnchoredLoss:
        """See `AnchoredLoss`."""
        denoiser = Denoiser(Scored(network(self, sizes.state + 1)), path_of(self), "clean", pinned="clean")
        anchors = torch.zeros(self.anchors, self.horizon, sizes.state)
        return AnchoredLoss(denoiser, anchors, self.truncated, self.shown, self.sure, sizes.state // 2)

    def ready(self, models: Models, source: Plans) -> None:
        """The anchors."""
        loss = models.planner
        loss.anchors.copy_(clustered(source.sample(SEEN), self.anchors, loss.places))

    def agent(self, models: Models, goal: Float[np.ndarray, " g"] | None = None) -> Agent:
        """As every recipe's, from anchors."""
        agent = super().agent(models, goal)
        assert isinstance(agent.proposer, Planner)
        return replace(agent, proposer=Anchored(agent.proposer, models.planner.anchors, models.planner.places))


class Scored(nn.Module):
    """A network over trajectories that says one number of each as well: the mean over the points of one channel more,
    which comes in as zeros.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """`[B, H, D]`, and the logit `[B]` of the confidence."""
        out = self.net(torch.cat([x, torch.zeros_like(x[..., :1])], -1), t, cond)
        return out[..., :-1], {CONFIDENCE: out[..., -1].mean(1)}


class AnchoredLoss(nn.Module):
    """Of the anchor nearest to the data, `k* = argmin_k mean_h |a_k,h - x_h|`, and of some others:

        L = mean |D(a_k*,t, t) - x| + sure sum_k focal(s_k, [k = k*]),   a_k,t = alpha a_k + sigma z

    with s the logit of the confidence, t uniform below a small noise, and the focal loss (Lin et al., "Focal loss for
    dense object detection", ICCV 2017, eq. 5) at gamma 2 and alpha 1/4, as released.
    """

    anchors: Tensor

    def __init__(
        self, denoiser: Denoiser, anchors: Tensor, truncated: float, shown: int, sure: float, places: int = 2
    ) -> None:
        super().__init__()
        self.denoiser, self.path = denoiser, denoiser.path
        self.truncated, self.shown, self.sure, self.places = truncated, shown, sure, places
        self.register_buffer("anchors", anchors)

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps."""
        options.setdefault("compiles", (getattr(self.denoiser, "net", self.denoiser),))
        return Part(self, self, optimiser, shared=True, **options)

    def forward(self, batch: Batch, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each sample `[B]`."""
        x = batch["states"]
        held = known(batch, x.shape[-1])
        noise = tick.noise(len(x))
        a = placed(self.anchors, x[:, 0], self.places)
        which = self.some(self.nearest(a, x), noise, tick.step)
        a = a.gather(1, which[..., None, None].expand(-1, -1, *x.shape[1:]))
        estimate, s = self.decoded(a, x, held, noise, tick.step)
        off = ((estimate[:, 0] - x).abs() * ~held).sum((1, 2)) / (~held).sum((1, 2))
        sure = focal(s).sum(1)
        found = (s.argmax(1) == 0).float().mean()
        return off + self.sure * sure, {"error": off.detach().mean(), "sure": sure.detach().mean(), "found": found}

    def nearest(self, a: Float[Tensor, "b m h s"], x: Float[Tensor, "b h s"]) -> Int64[Tensor, " b"]:
        """The anchor nearest to the data, by its positions."""
        return (a - x[:, None])[..., : self.places].norm(dim=-1).mean(-1).argmin(1)

    def some(self, nearest: Int64[Tensor, " b"], noise: Noise, step: int) -> Int64[Tensor, "b k"]:
        """The nearest first, and others of which each is as likely."""
        order = noise.uniform((len(nearest), len(self.anchors)), step, SHOWN_SLOT).to(nearest.device)
        order = order.scatter(1, nearest[:, None], -1.0)
        return order.argsort(1)[:, : self.shown]

    def decoded(
        self,
        a: Float[Tensor, "b k h s"],
        x: Float[Tensor, "b h s"],
        held: Bool[Tensor, "b h s"],
        noise: Noise,
        step: int,
    ) -> tuple[Float[Tensor, "b k h s"], Float[Tensor, "b k"]]:
        """What the denoiser makes of each anchor, at one level for all of a sample."""
        b, k = a.shape[:2]
        share = noise.uniform((b, 1), step, LEVEL_SLOT)[:, 0]
        t = self.path.t_min + share * (float(self.path.time_at(self.truncated)) - self.path.t_min)
        t = t.to(device=x.device).repeat_interleave(k)
        z = noise.normal(a.shape, step, Z_SLOT, x.dtype).to(x.device)
        noised = self.path.perturb(a.flatten(0, 1), t.to(x)[:, None, None], z.flatten(0, 1))
        noised = torch.where(held.repeat_interleave(k, 0), x.repeat_interleave(k, 0), noised)
        found = self.denoiser.estimate(noised, t.to(x)[:, None, None])
        return first_leaf(found.x).unflatten(0, (b, k)), found.extra[CONFIDENCE].view(b, k)


def focal(s: Float[Tensor, "b k"], gamma: float = 2.0, alpha: float = 0.25) -> Float[Tensor, "b k"]:
    """`-alpha_k (1 - p_k)^gamma log p_k` with p_k what the logits give to the truth: that the first one is it."""
    truth = torch.zeros_like(s)
    truth[:, 0] = 1.0
    error = functional.binary_cross_entropy_with_logits(s, truth, reduction="none")
    weight = torch.where(truth > 0, alpha, 1 - alpha)
    return weight * (1 - (-error).exp()) ** gamma * error
