"""A law all of whose walks can be written down: four states, noised by being drawn anew, and denoised in two steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kedge import Walk
from kedge.denoise import Estimator
from kedge.elementary import Level
from kedge.exact.chain import Chain
from kedge.kernels import Categorical
from kedge.noise import Noise
from kedge.paths import Rectified
from kedge.paths.gaussian import GaussianPath
from kedge.tree import Tree
from kedge.walk import State, Step
from kedge.walk.grids import Levels

f64 = torch.float64
CHAIN = Chain(states=4, steps=2)
"""64 walks."""
SHARES = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=f64)
WORTH = torch.tensor([0.0, 0.5, 1.0, 1.0], dtype=f64)
"""The rare states are wanted, two of them equally."""
PATH = Rectified(t_max=1 - 1e-9)
"""Its alpha is the chance that a state has not been drawn anew: nothing of it is left at the end."""
GRID = Levels([PATH.t_max, 0.5, 0.0])

Posterior = Callable[[Tensor, Tensor], Categorical]


@dataclass(frozen=True)
class Redrawn:
    """The ancestral step of states that noise draws anew, evenly: a state is still itself with probability `alpha(t)`,

        q(x_t | x_s) = r [x_t = x_s] + (1 - r) / S,    r = alpha_t / alpha_s
        p(x_s | x_t) = sum_x q(x_s | x_t, x) D(x | x_t)

    Austin et al., "Structured denoising diffusion models in discrete state-spaces", NeurIPS 2021 (D3PM, uniform),
    eq. 3-4. The estimate D is the probability of each clean state, which is the mean of states that are written as
    vectors with one 1.
    """

    density: Literal["step"] = field(default="step", init=False, repr=False)

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def plan(self, path: GaussianPath, levels: Sequence[Level]) -> list[Posterior]:
        """The posterior of each step."""
        return [posterior(path.alpha(t), path.alpha(s)) for t, s in pairwise(levels)]

    def step(self, denoiser: Estimator, state: State, s: Level, coefficients: Posterior) -> Step:
        """All clean states that there may be, as likely as they are."""
        estimate = denoiser.estimate(state.x, state.t, state.cond)
        assert isinstance(state.x, Tensor)
        assert isinstance(estimate.x, Tensor)
        return Step(coefficients(state.x, estimate.x), {}, estimate)


def posterior(kept_t: float, kept_s: float) -> Posterior:
    """`p(x_s | x_t)` by x_t and D, with the chances of still being oneself at t and at s."""
    kept = kept_t / kept_s

    def made(x_t: Tensor, D: Tensor) -> Categorical:
        S = x_t.shape[-1]
        share = D / noised(x_t, kept_t)
        back = kept_s * share + (1 - kept_s) / S * share.sum(-1, keepdim=True)
        return Categorical((noised(x_t, kept) * back).log())

    return made


def noised(x: Tensor, kept: float) -> Tensor:
    """How likely each state is, once x has been drawn anew with probability `1 - kept`; or, the law being symmetric,
    how likely each state was to become x.
    """
    return kept * x + (1 - kept) / x.shape[-1]


class Table(nn.Module):
    """`D(x | x_t) ~ p(x) q(x_t | x) e^{m(x_t, x)}`, another m at each level: exact for the law p while m is 0, and able
    to say whatever there is to be said.
    """

    def __init__(self, law: Tensor, grid: Levels = GRID) -> None:
        super().__init__()
        self.path, self.law = PATH, law
        self.times = grid.rows()[:-1]
        self.m = nn.Parameter(torch.zeros(len(self.times), len(law), len(law), dtype=f64))

    def forward(self, x_t: Tensor, t: Level) -> Tensor:
        """The probability of each clean state."""
        exact = (self.law * noised(x_t, self.path.alpha(t))).log()
        return (exact + x_t @ self.m[self.times.index(t)]).softmax(-1)


class Flows(nn.Module):
    """A log-potential of each state at each level but the last."""

    def __init__(self, grid: Levels = GRID) -> None:
        super().__init__()
        self.times = grid.rows()[:-1]
        self.f = nn.Parameter(torch.zeros(len(self.times), CHAIN.states, dtype=f64))

    def forward(self, x_t: Tensor, t: Level, cond: Any = None) -> Tensor:
        """`[B]`."""
        return x_t @ self.f[self.times.index(t)]


@dataclass(frozen=True)
class States:
    """The scene of the frontier. A law of walks is the chain's: logits `[steps, states, states]`."""

    shape: tuple[int, ...] = (4,)
    asked: int = CHAIN.steps + 1
    """How many estimates and samples a walk has to be rewarded: both of its steps are random."""
    steps: int = CHAIN.steps
    rate: float = 5e-2
    grid: Levels = GRID
    drawing: dict[str, Any] = field(default_factory=lambda: {"starts": starts, "dtype": f64})

    def reward(self, x: Any, cond: Any = None) -> Tensor:
        """Of states; of an estimate the expected one."""
        return x @ WORTH.to(x)

    def model(self, seed: int) -> nn.Module:
        """Exact, whatever the seed."""
        return Table(SHARES, self.grid)

    def walk(self, model: nn.Module) -> Walk:
        """From evenly drawn states."""
        return Walk(model, Redrawn(), self.grid)

    def flow(self, seed: int) -> nn.Module:
        """Begins at 0, whatever the seed."""
        return Flows(self.grid)

    def law(self, walk: Walk, drawn: int) -> Tensor:
        """The chain that the walk is: nothing has to be drawn."""
        return transitions(walk)

    def compared(self, after: Tensor, before: Tensor, beta: float | None) -> dict[str, Any]:
        """As for other scenes, by enumeration: of whole walks, and exact. `least`: the divergence of the tilt with as
        much reward; `bias`: of the mean reward; `spread`: the variance of log w over the model's own walks.
        """
        p, q, ends = CHAIN.law(before), CHAIN.law(after), ends_of(after)
        reward = float(ends @ WORTH)
        found: dict[str, Any] = {"reward": reward, "from_before": divergence(q, p), "least": least(before, reward)}
        found |= {"shares": [round(share, 5) for share in ends.tolist()], "from_tilt": None}
        if beta is None:
            return found
        star, _ = tilt(before, beta)
        target, wanted = CHAIN.law(star), ends_of(star)
        log_w = WORTH[CHAIN.walks[-1]] / beta + p.log() - q.log()
        return found | {
            "from_tilt": divergence(q, target),
            "off": float((ends - wanted).norm()),
            "ess": 1 / float((target**2 / q).sum()),
            "bias": float((ends - wanted) @ WORTH),
            "spread": float(q @ (log_w - q @ log_w) ** 2),
        }


def starts(cond: Any, noise: Noise) -> Tree:
    """Any state, as likely as any other."""
    return Categorical(torch.zeros(len(noise.key), CHAIN.states, dtype=f64)).draw(noise, 0)


def transitions(walk: Walk) -> Tensor:
    """`[steps, states, states]`: the logits with which this walk goes on from each state."""
    rows, each = walk.grid.levels(walk.path).rows(), torch.eye(CHAIN.states, dtype=f64)
    plan: Sequence[Posterior] = walk.solver.plan(walk.path, rows)
    with torch.no_grad():
        made = [step(each, walk.denoiser(each, t)).logits for t, step in zip(rows, plan, strict=False)]
    return torch.stack([logits for logits in made if isinstance(logits, Tensor)])


def ends_of(logits: Tensor) -> Tensor:
    """`[states]`: how likely a walk ends in each."""
    return torch.zeros(CHAIN.states, dtype=f64).index_add(0, CHAIN.walks[-1], CHAIN.law(logits))


def tilt(logits: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """`p e^{reward / beta}` of walks, as logits, and `log Z` of each start."""
    return CHAIN.tilted(logits, WORTH / beta)


def least(logits: Tensor, reward: float) -> float:
    """The divergence that so much reward is to be had for: that of the tilt with as much, found by halving."""
    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        more = float(ends_of(CHAIN.tilted(logits, WORTH * middle)[0]) @ WORTH) > reward
        low, high = (low, middle) if more else (middle, high)
    return divergence(CHAIN.law(CHAIN.tilted(logits, WORTH * low)[0]), CHAIN.law(logits))


def divergence(q: Tensor, p: Tensor) -> float:
    """`KL(q | p)` of laws of walks."""
    return float(q @ (q.log() - p.log()))
