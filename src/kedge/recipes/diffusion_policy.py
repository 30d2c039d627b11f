"""Diffusion Policy: behaviour cloning by denoising chunks of actions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kedge.data import Normaliser, Trajectories
from kedge.denoise import Denoiser
from kedge.errors import InputError
from kedge.fit import DenoisingLoss, proposals
from kedge.nets import MLP
from kedge.paths import Trig
from kedge.policy import ActionChunks, ChunkPolicy
from kedge.policy.chunks import FIELD
from kedge.recipes.learning import LearnsPolicy
from kedge.recipes.local import check_counts
from kedge.recipes.networks import Sizes
from kedge.train import AdamW, Part, Shadow, Source
from kedge.walk import Walk
from kedge.walk.grids import LogSNR
from kedge.walk.hooks import Threshold
from kedge.walk.solvers import DDPM

SCALES = (0.05, 20.0)
"""The last noise scale before the clean chunk, and the one at which a walk begins."""


class Scales(NamedTuple):
    """What was measured of the data: how states and actions come to the scale of the network."""

    observations: Normaliser
    actions: Normaliser

    def tensors(self) -> dict[str, Tensor]:
        """For a run's folder."""
        return {f"{name}.{key}": v for name, own in self._asdict().items() for key, v in own.state_dict().items()}

    def to(self, device: torch.device | str | None) -> None:
        """Moves it, in place."""
        for normaliser in self:
            normaliser.to(device)

    @property
    def limit(self) -> float:
        """The largest entry that an action of the data may have."""
        return float((self.actions.shift.abs() + self.actions.scale).max())


@dataclass(frozen=True)
class DiffusionPolicy(LearnsPolicy):
    """What was done next, denoised given what is seen: of each chunk of actions the first few are done, and the next
    one is drawn. It imitates, rewards are not looked at, and where behaviour goes either way so does the policy.

    Chi et al., "Diffusion policy: visuomotor policy learning via action diffusion", RSS 2023 (arXiv:2303.04137). There
    the network is a 1-D U-Net or a transformer that hears the last two observations, and a walk has 100 levels of DDPM.
    Here it is an MLP that hears the last one, on TrigFlow's path, and a walk has 10 levels of DDPM.
    """

    steps: int = 3000
    """Training steps; the learning rate falls to zero at the last one."""
    batch: int = 256
    """Windows in a batch."""
    horizon: int = 16
    """Actions of a chunk."""
    execute: int = 8
    """Actions that are done before the next chunk is drawn."""
    width: int = 256
    """Of the network's layers."""
    depth: int = 3
    """Of its blocks."""
    rate: float = 1e-3
    """The learning rate."""
    evaluations: int = 10
    """Network evaluations a chunk; 1 is regression: the mean of what was done."""
    sigma_data: float = 0.5
    """The standard deviation of actions, which are brought to [-1, 1]."""
    level_mean: float = -0.4
    """Mean of the log noise scale in training."""
    level_std: float = 1.6
    """... and its standard deviation."""

    def __post_init__(self) -> None:
        check_counts(self, ("steps", "batch", "horizon", "execute", "width", "depth", "evaluations"))
        for name in ("rate", "sigma_data", "level_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"DiffusionPolicy: {name} must be positive, got {getattr(self, name)}")
        if self.execute > self.horizon:
            raise InputError(f"DiffusionPolicy: of {self.horizon} actions of a chunk {self.execute} cannot be done")

    def check(self, logs: Trajectories) -> None:
        """Any logs will do: past the end of an episode nothing is done."""

    def measure(self, logs: Trajectories) -> Scales:
        """States have unit variance, and actions lie in [-1, 1]."""
        return Scales(Normaliser.fit(logs), Normaliser.fit(logs.actions, "limits"))

    def kept(self, tensors: Mapping[str, Tensor]) -> Scales:
        """The same from a run's folder."""
        return Scales(*(Normaliser(tensors[f"{name}.shift"], tensors[f"{name}.scale"]) for name in Scales._fields))

    def modules(self, sizes: Sizes, measured: Scales) -> dict[str, nn.Module]:
        """The denoiser of chunks, and the loss that trains it."""
        net = MLP((self.horizon, sizes.action), self.width, self.depth, cond={FIELD: sizes.state})
        denoiser = Denoiser(net, Trig(sigma_data=self.sigma_data), "trig")
        return {"actor": DenoisingLoss(denoiser, proposals.LogNormal(self.level_mean, self.level_std))}

    def work(
        self, logs: Trajectories, modules: dict[str, Any], measured: Scales, device: torch.device | None
    ) -> tuple[list[Part], Source]:
        """What the trainer steps, and on what."""
        seen, done = (deepcopy(normaliser).to(device or "cpu") for normaliser in measured)
        source = ActionChunks(logs, self.horizon, self.batch, seen, done, device=device)
        spec = AdamW(self.rate, warmup=min(100, self.steps // 10), decay="cosine")
        shadow = Shadow(0.9999, std=0.1)
        return [modules["actor"].part(spec, name="actor", shadows=(shadow,))], source

    def agent(self, actor: Any, measured: Scales) -> ChunkPolicy:
        """What acts."""
        grid = LogSNR(self.evaluations, *SCALES)
        walk = Walk(actor.denoiser, DDPM(), grid, (Threshold(1.0),))
        shape, name = (self.horizon, len(measured.actions.shift)), type(self).__name__
        return ChunkPolicy(walk, shape, *measured, self.execute, limit=measured.limit, name=name)
