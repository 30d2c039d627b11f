"""What planning recipes share: their choices, how they are trained, how they are put together to act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float

from kedge.data import Trajectories
from kedge.data.segments import Until
from kedge.guide import Gradient
from kedge.plan import Agent, Chase, Follower, Invert, Judge, Nearby, Planner
from kedge.recipes import networks
from kedge.recipes.fields import check_fields
from kedge.recipes.networks import Models, Sizes
from kedge.recipes.sources import Companion, Plans
from kedge.recipes.training import Training, check_logs
from kedge.train import AdamW, Muon, OptimiserSpec, Part, Shadow
from kedge.walk.grids import Rho, Uniform
from kedge.walk.grids.levels import Grid
from kedge.walk.solvers import NAMED, SolverName
from kedge.walk.state import Solver

PathName = Literal["trig", "vp", "cosine"]
Prediction = Literal["trig", "eps", "clean", "velocity"]
WeightingName = Literal["polynomial", "head", "min-snr", "uniform", "eps", "clean"]
NetName = Literal["unet", "dit", "conv"]
Scale = Literal["gaussian", "limits"]
OptimiserName = Literal["muon", "adamw"]
DecayName = Literal["linear", "cosine", "constant"]
CriticName = Literal["mlp", "transformer", "none"]
FollowerName = Literal["chase", "inverse", "inverse-diffusion"]
StatesName = Literal["moving", "plain"]
WorthName = Literal["success", "rewards"]


KITCHEN: Mapping[str, Any] = {
    "states": "plain", "worth": "rewards", "stride": 4, "octaves": 0, "atlas": 0, "goals": 0.0, "aim": False,
    "support": 0.0, "follow": "inverse", "pairs": 4, "ahead": 4, "replan": 4,
}  # fmt: skip
"""What every planner needs in a kitchen, where there is no plane to move in."""


@dataclass(frozen=True)
class Planning:
    """A planner of state trajectories with a critic and a follower, all trained together on logged behaviour."""

    steps: int = 3000
    """Training steps; the learning rate falls to zero at the last one."""
    batch: int = 64
    """Windows in a batch."""
    pairs: int = 1
    """Pairs of states for each window of a batch, for inverse dynamics to learn from."""
    horizon: int = 32
    """Points of a plan."""
    stride: int = 15
    """Steps from one point of a plan to the next."""
    states: StatesName = "moving"
    """What a state is: a position followed by its velocity, as in a maze, or just numbers."""
    worth: WorthName = "success"
    """What the critic learns of a plan: how soon a first reward comes, as in a maze, or all rewards to come."""
    path: PathName = "trig"
    """How plans become noise: TrigFlow's path, the variance-preserving diffusion, or its cosine form."""
    predict: Prediction = "trig"
    """What the network's output means."""
    sigma_data: float = 1.0
    """The data's standard deviation on the trigonometric path; plans are normalised to 1."""
    weighting: WeightingName = "polynomial"
    """What an error counts at a noise level: the variational polynomial, a learned head, min-SNR, or equal weights on
    the velocity ("uniform", which is EDM's weighting on the trigonometric path), on the noise, on the clean plan."""
    degree: int = 5
    """Of the weighting's polynomial."""
    regress: Literal["gamma", "log"] = "gamma"
    """How the polynomial is fitted: to the error with a log link, or to the logs of errors."""
    smooth: Literal["statistics", "coefficients"] = "statistics"
    """What is averaged over batches: the regression's statistics, or its coefficients."""
    level_mean: float = -0.4
    """Mean of the log noise scale in training, on the trigonometric path."""
    level_std: float = 1.2
    """... and its standard deviation."""
    net: NetName = "unet"
    """The denoiser's network: a temporal U-Net, a transformer, or a plain convolutional net."""
    width: int = 32
    """Channels of the network."""
    mults: tuple[int, ...] = (1, 2)
    """The U-Net's channels at each resolution, over `width`."""
    depth: int = 2
    """Blocks of the transformer."""
    octaves: int = 4
    """Periods of the sines and cosines of the position that the networks hear; 0 for none."""
    atlas: int = 32
    """Channels of the tables in which the denoiser learns what is where; 0 for none."""
    actions: bool = False
    """Whether plans hold actions too."""
    past: int = 0
    """Points of where it has been, before the first of a plan, that the planner hears."""
    normalise: Scale = "gaussian"
    """Plans have unit variance, or lie in [-1, 1]."""
    goals: float = 0.25
    """Share of windows that end at a state which the planner is told: it learns to plan to a goal."""
    aim: bool = True
    """Whether, when it acts, it plans to the place where the logs earned rewards; else the critic alone decides."""
    optimiser: OptimiserName = "muon"
    """The planner's optimiser; Muon takes the kernels of convolutions as matrices."""
    rate: float = 8e-3
    """The planner's learning rate."""
    hold: float = 0.3
    """Share of the steps at the full rate, before it falls."""
    decay: DecayName = "linear"
    """How the rate falls."""
    clip: float = 50.0
    """Longer gradients are shortened to this; the same for all weightings."""
    average: float = 0.10
    """Width of the moving average of the weights, as a share of the run."""
    ema: float = 0.9999
    """The moving average's decay is never above this."""
    solver: SolverName = "2m"
    """How a walk is stepped: DPM-Solver++ (2m, 3m), UniPC, DEIS, Adams-Bashforth (ab), SA-Solver without noise (sa),
    DDIM, DDPM, Euler."""
    evaluations: int = 5
    """Network evaluations a plan."""
    scale_max: float = 10.0
    """The noise scale at which a walk begins."""
    scale_min: float = 0.2
    """The last noise scale before the clean plan."""
    rho: float = 3.0
    """How the levels are spaced: EDM's exponent; 0 for even steps in time, over all of the path."""
    critic: CriticName = "mlp"
    """What says which candidate is best."""
    critic_rate: float = 1e-3
    """The critic's learning rate."""
    discount: float = 0.997
    """Of a reward, per step: the critic's value of a success in k steps is discount^k, that of rewards is their
    discounted sum."""
    guidance: float = 0.0
    """How strongly a value that hears the noise level pulls the walk; 0 for not at all."""
    candidates: int = 64
    """Plans to choose from, each time."""
    support: float = 0.1
    """Candidates that leave the places where logged behaviour has been are set back: the size of a place; 0 for no such
    filter."""
    firmness: float = 1.0
    """How far they are set back for the first few segments, which are followed before the next plan."""
    far: float = 0.03
    """... and for those further ahead, as a share of that."""
    keep: bool = True
    """Whether what is left of the last plan is one more candidate."""
    nearby: float = 0.5
    """Share of the candidates that are looked for near the last plan: it is noised, and denoised again."""
    nearby_scale: float = 2.0
    """How much it is noised."""
    follow: FollowerName = "chase"
    """How a plan becomes actions: P-D control towards a point ahead, or learned inverse dynamics."""
    ahead: int = 30
    """Steps by which that point is ahead."""
    replan: int = 15
    """Steps from one plan to the next."""

    until: ClassVar[Until] = "reward"
    """Where the windows of a plan to a first success end: see `kedge.data.Segments`."""
    in_kitchen: ClassVar[Mapping[str, Any]] = KITCHEN
    """The fields that are other ones in a kitchen."""

    def __post_init__(self) -> None:
        check_fields(self)

    def train(
        self,
        logs: Trajectories,
        run: Path | str | None = None,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        compile: bool | str = False,  # noqa: A002  torch's own word
        progress: bool | None = None,
        task: str | None = None,
    ) -> Any:
        """Learns from logged behaviour, and returns what plans and acts: a `kedge.plan.Agent`, of most recipes.

        Args:
            logs: of `kedge.data.open`, or an environment's `demonstrations`.
            run: a folder for what comes of it. The same call goes on where it was stopped.
            seed: of the networks' weights, the batches and the noise.
            device: where to train. A GPU with room for the data gets a copy of them.
            precision: "fp32", or "bf16": networks compute in half precision, weights stay in full.
            compile: whether torch compiles what is trained; or the name of its backend.
            progress: a bar on a terminal (None), lines everywhere (True), nothing (False).
            task: the name of the environment, kept for the evaluation.
        """
        how: dict[str, Any] = {"device": device, "precision": precision, "compile": compile, "progress": progress}
        training = self.training(logs, run, seed=seed, task=task, **how)
        training.trainer.train()
        return training.agent()

    def training(self, logs: Trajectories, run: Path | str | None, **how: Any) -> Training:
        """This recipe at work on data."""
        return Training(self, logs, run, **how)

    def check(self, logs: Trajectories) -> None:
        """One line before any long work, where the data does not fit."""
        check_logs(self, logs)

    def resting(self, state: int) -> tuple[int, ...]:
        """The numbers of a state that are zero at rest: where it moves, its second half."""
        return tuple(range(state // 2, state // 2 * 2)) if self.states == "moving" else ()

    @property
    def columns(self) -> tuple[str, ...]:
        """What else the windows hold, beside states, actions and what critics learn."""
        return ()

    def denoising(self, sizes: Sizes) -> Any:
        """The denoiser of plans, and the loss that trains it."""
        return networks.planner(self, sizes)

    def more(self, sizes: Sizes) -> dict[str, Any]:
        """What else is trained, by the names of parts."""
        return {}

    def companions(self, logs: Trajectories, models: Models, device: torch.device | None = None) -> Sequence[Companion]:
        """What comes along with the windows."""
        return ()

    def ready(self, models: Models, source: Plans) -> None:
        """What networks are told of the data, before they are trained."""

    def agent(self, models: Models, goal: Float[np.ndarray, " g"] | None = None) -> Agent:
        """Puts together what plans and acts; `goal` is where it plans to when it acts."""
        planner = Planner(
            denoiser=models.planner.denoiser,
            normaliser=models.normaliser,
            horizon=self.horizon,
            stride=self.stride,
            solver=self.stepping(),
            grid=self.levels(),
            dim=models.sizes.state,
            nearby=self.around(),
            guides=() if models.value is None else (Gradient(models.value.value, self.guidance),),
            heeds=self.goals > 0,
            still=models.sizes.still,
            past=self.past,
            rest=self.resting(models.sizes.state),
        )
        critic = None if models.critic is None else models.critic.net
        judge = Judge(critic, models.scale, models.support, self.firmness, far=self.far)
        return Agent(
            proposer=planner,
            judge=judge,
            follower=self.follower(models),
            candidates=self.candidates,
            replan=self.replan,
            keep=self.keep,
            goal=goal,
            name=type(self).__name__,
        )

    def follower(self, models: Models) -> Follower:
        """What turns plans into actions."""
        if self.follow == "chase":
            return Chase(self.ahead)
        return Invert(models.inverse, min(self.ahead, self.stride), timed=self.states == "plain")

    def stepping(self) -> Solver:
        """The solver of the walk."""
        return NAMED[self.solver]

    def levels(self) -> Grid:
        """The grid of the walk."""
        if not self.rho:
            return Uniform(self.evaluations)
        return Rho(self.evaluations, self.rho, self.scale_min, self.scale_max)

    @classmethod
    def suited(cls, task: Any, **fields: Any) -> Planning:
        """The recipe as it is meant for an environment, but for the fields that are given.

        In a maze that is as it stands. In a kitchen states are just numbers, chores count and not the way to one
        place, a plan spans 128 of the 280 steps, and learned inverse dynamics acts.
        """
        kitchen = str(getattr(task, "name", task)).startswith("kitchen")
        return cls(**{**(cls.in_kitchen if kitchen else {}), **fields})

    @property
    def ends(self) -> Until:
        """Where the windows end that plans are learned from."""
        return "episode" if self.worth == "rewards" else self.until

    @property
    def judged(self) -> str:
        """The field of a batch that the critics learn."""
        return "returns" if self.worth == "rewards" else "steps"

    @property
    def aims(self) -> bool:
        """Whether it plans to the rewarded place when it acts: only a planner that was shown goals can."""
        return self.aim and self.goals > 0

    def around(self) -> Nearby | None:
        """How candidates near the last plan are found: half of the evaluations, rounded up, from less noise."""
        if not (self.keep and self.nearby) or self.actions:
            return None
        return Nearby(Rho(-(-self.evaluations // 2), self.rho or 3.0, self.scale_min, self.nearby_scale), self.nearby)

    def optimisers(self) -> dict[str, OptimiserSpec]:
        """Of each part."""
        hold = int(self.hold * self.steps)
        warmup = min(100, self.steps // 10)
        mine: OptimiserSpec = AdamW(self.rate, warmup=warmup, hold=hold, decay=self.decay)
        if self.optimiser == "muon":
            mine = Muon(self.rate, warmup=warmup, hold=hold, decay=self.decay, convolutions=True)
        other = AdamW(self.critic_rate, warmup=warmup, decay="cosine")
        return {"planner": mine, "critic": other, "value": other, "inverse": other}

    def parts(self, models: Models) -> list[Part]:
        """What the trainer steps."""
        specs = self.optimisers()
        made = []
        for name, module in models.trained().items():
            shadow = Shadow(0.995) if name == "inverse" else Shadow(self.ema, std=self.average)
            clip = self.clip if name == "planner" or name in models.more else 10.0
            made.append(module.part(specs.get(name, specs["planner"]), name=name, shadows=(shadow,), clip=clip))
        return made
