"""What recipes of offline reinforcement learning share: their choices, and how they come to a policy that acts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kedge.data import Trajectories, Transitions
from kedge.errors import InputError
from kedge.policy import Reactive
from kedge.recipes.learning import LearnsPolicy, Measured
from kedge.recipes.networks import Sizes
from kedge.rl import ActionValues, BoundedGaussian, ImplicitQ, Logged, NearBehaviour, StateMLP
from kedge.train import AdamW, Part, Source

LearnerName = Literal["td3_bc", "iql"]
Learner = NearBehaviour | ImplicitQ


@dataclass(frozen=True)
class Acting(LearnsPolicy):
    """A policy with its critics, learned from logged transitions; it acts step by step and plans nothing."""

    steps: int = 20_000
    """Training steps, those of a model included, where there is one."""
    batch: int = 256
    """Transitions in a batch."""
    learner: LearnerName = "td3_bc"
    """How the policy is learned: TD3+BC, or implicit Q-learning."""
    stride: int = 15
    """Steps of the logs that are one transition; the papers have 1. What an action is worth is then told by what
    behaviour went on to do for so long."""
    discount: float = 0.99
    """Of a reward, per step of the logs."""
    once: bool = True
    """Whether the task is over at the first reward above 0; else it goes on being earned."""
    octaves: int = 4
    """Periods of the sines and cosines of the position that networks hear; 0 for none."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers; the papers' are 256."""
    norm: bool = True
    """Whether the layers of critics are normalised; the papers' are not."""
    rate: float = 1e-3
    """The learning rate of policy and critics."""
    follow: float = 0.995
    """How much of the slow copies stays at each update."""
    alpha: float = 20.0
    """TD3+BC: what a critic's word counts against staying near to what was done; in the paper 2.5."""
    noise: float = 0.2
    """TD3+BC: of the actions that a target smooths over, as a share of their limit."""
    cut: float = 0.5
    """TD3+BC: where that noise is cut off."""
    tau: float = 0.9
    """IQL: the expectile that counts as a state's value; towards 1 the best that was done there."""
    beta: float = 10.0
    """IQL: how much more an action counts that did better."""
    relative: bool = True
    """IQL: whether what did better is measured by its spread in the batch; the paper takes it as it is."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.learner not in get_args(LearnerName):
            raise InputError(f"{name}: learner is one of {', '.join(get_args(LearnerName))}, not {self.learner!r}")
        for field in self.counts:
            if getattr(self, field) < 1:
                raise InputError(f"{name}: {field} must be at least 1, got {getattr(self, field)}")
        for field in (*self.positive, "rate", "alpha"):
            if not 0 < getattr(self, field) < math.inf:
                raise InputError(f"{name}: {field} must be positive, got {getattr(self, field)}")
        for field in (*self.shares, "discount", "follow", "tau"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(f"{name}: {field} is a share between 0 and 1, got {getattr(self, field)}")

    @property
    def counts(self) -> tuple[str, ...]:
        """The fields that are at least 1."""
        return ("steps", "batch", "stride")

    @property
    def positive(self) -> tuple[str, ...]:
        """Those above 0."""
        return ()

    @property
    def shares(self) -> tuple[str, ...]:
        """Those between 0 and 1."""
        return ()

    def measure(self, logs: Trajectories) -> Measured:
        """The scales of states and actions."""
        return Measured.of(self, logs)

    def kept(self, tensors: Mapping[str, Tensor]) -> Measured:
        """The same from a run's folder."""
        return Measured.kept(self, tensors)

    def check(self, logs: Trajectories) -> None:
        """One line before any long work, where the data does not fit."""
        name = type(self).__name__
        if not logs.rewarded:
            raise InputError(f"{name} learns from rewards, and the data carries none; add a column of rewards")
        if self.once and not any((chunk["rewards"] > 0).any() for chunk in logs.chunks()):
            raise InputError(f"{name} learns to come to a reward, and no step of the data earned a positive one")
        if self.octaves and logs.dimensions.observation < 2:
            raise InputError(f"{name}: a state of one number has no position in the plane: take octaves=0")

    def windows(self, logs: Trajectories, seed: int, device: torch.device | None, count: int = 1) -> Transitions:
        """Of the logs, so many transitions each, their states in the data's own units."""
        return Transitions(
            logs,
            self.batch,
            count=count,
            stride=self.stride,
            discount=self.discount,
            once=self.once,
            seed=seed,
            device=device,
        )

    def modules(self, sizes: Sizes, measured: Measured) -> dict[str, nn.Module]:
        """Fresh networks by the names of their parts; their weights follow from torch's generator."""
        width, hidden = measured.sight.width, self.hidden
        std = 1.0 if self.learner == "td3_bc" else None
        made: dict[str, nn.Module] = {
            "critic": ActionValues(width, sizes.action, hidden, activation="relu", norm=self.norm),
            "actor": BoundedGaussian(width, sizes.action, hidden, limit=measured.limit, std=std),
        }
        if self.learner == "iql":
            made["value"] = StateMLP(width, hidden)
        return made

    def learned(self, modules: dict[str, Any], discount: float) -> Learner:
        """Policy and critics with their losses, at the discount of a transition."""
        if self.learner == "td3_bc":
            return NearBehaviour(
                modules["actor"],
                modules["critic"],
                discount=discount,
                alpha=self.alpha,
                noise=self.noise,
                cut=self.cut,
                follow=self.follow,
            )
        return ImplicitQ(
            modules["actor"],
            modules["critic"],
            modules["value"],
            discount=discount,
            tau=self.tau,
            beta=self.beta,
            relative=self.relative,
            follow=self.follow,
        )

    def optimisers(self) -> tuple[AdamW, AdamW]:
        """Of the critics and of the policy: Adam, the policy's rate falling as a cosine in implicit Q-learning."""
        decay = "cosine" if self.learner == "iql" else "constant"
        rate = AdamW(self.rate, warmup=0, weight_decay=0.0)
        return rate, AdamW(self.rate, warmup=0, weight_decay=0.0, decay=decay)

    def work(
        self, logs: Trajectories, modules: dict[str, Any], measured: Measured, device: torch.device | None
    ) -> tuple[list[Part], Source]:
        """What the trainer steps, and on what."""
        source = Logged(self.windows(logs, 0, device), measured.sight)
        learner = self.learned(modules, source.discount)
        return learner.parts(*self.optimisers()), source

    def agent(self, actor: Any, measured: Measured) -> Reactive:
        """What acts."""
        return Reactive(actor, measured.sight, len(measured.sight.normaliser.shift), name=type(self).__name__)
