"""Outcomes that are wanted and outcomes that are not, said by examples; and a model that foresees what will come of
actions that are still noisy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from kedge import elementary as el
from kedge.cond import Cond
from kedge.elementary import Level
from kedge.errors import InputError
from kedge.fit import Proposal
from kedge.fit.proposals import LogNormal
from kedge.paths.gaussian import GaussianPath
from kedge.steer.objectives import Objective
from kedge.train import Batch, OptimiserSpec, Part, Tick
from kedge.tree import lead


@dataclass(frozen=True, eq=False)
class Outcomes(Objective):
    """`xi(s, a) = -d` with

        d(s, a) = log sum_i e^{-||z_i+ - h(s, a)|| / sigma} - log sum_j e^{-||z_j- - h(s, a)|| / sigma}

    where h foresees the latent state in which the chunk of actions a, done from s, will end. Du and Song, "DynaGuide:
    steering diffusion policies with active dynamic guidance", NeurIPS 2025, eq. 4. The sum is soft: the nearest example
    counts most, and it need not be said which.

    It speaks of what the denoiser sees: a chunk to the policy's scale, and its condition. h hears noisy chunks, so that
    `through="state"` is where its gradient is taken.

    Args:
        ahead: `h(a, t, cond) -> [B, D]`, a `Foresight` for one.
        wanted: examples of outcomes to come to, `[K, D]`; None: there are none.
        unwanted: examples of those to keep away from, `[M, D]`.
        spread: sigma: the larger, the more of the examples count.
    """

    ahead: Callable[[Tensor, Level, Any], Tensor]
    wanted: Float[Tensor, "k d"] | None = None
    unwanted: Float[Tensor, "m d"] | None = None
    spread: float | int = 1.0

    def __post_init__(self) -> None:
        if self.wanted is None and self.unwanted is None:
            raise InputError("Outcomes: give examples of what is wanted, of what is not, or of both")
        if not self.spread > 0:
            raise InputError(f"Outcomes: the spread is a positive number, got {self.spread}")

    def __call__(self, x: Any, t: Level = 0.0, cond: Any = None) -> Float[Tensor, " b"]:
        """`-d`."""
        h = self.ahead(x, t, cond)
        return self._near(self.unwanted, h) - self._near(self.wanted, h)

    def _near(self, examples: Float[Tensor, "k d"] | None, h: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """`log sum_i e^{-||z_i - h|| / sigma}`; 0 of none."""
        if examples is None:
            return h.new_zeros(len(h))
        away = ((h[:, None] - examples.to(h)).square().sum(-1) + 1e-12).sqrt()
        return (-away / self.spread).logsumexp(1)


class Foresight(nn.Module):
    """`h(s, a_t, t)`: of the latent state at the end of a chunk, what is expected given where it is begun and the chunk
    as it is at a level of noise.

    Args:
        net: `net(a, c_noise, cond) -> [B, D]` of chunks that are flattened and brought to unit scale: an `MLP(Ta * A,
            out=D, cond={...})`.
        path: of the policy that is to be steered.
        observed: the fields of the condition that it hears.
    """

    def __init__(self, net: nn.Module, path: GaussianPath, observed: tuple[str, ...] = ("observation",)) -> None:
        super().__init__()
        self.net, self.path, self.observed = net, path, observed
        self._span = path.log_snr(path.t_max), path.log_snr(path.t_min)

    def forward(self, x: Tensor, t: Level, cond: Any = None) -> Float[Tensor, "b d"]:
        """x at level t; t is a number, or one for each sample."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        size = el.sqrt(alpha * alpha + sigma * sigma)
        told = -0.125 * el.clip(self.path.log_snr(t), *self._span)
        level = told.to(x) if isinstance(told, Tensor) else x.new_full(x.shape[:1], told)
        heard = x / (lead(size, x) if isinstance(size, Tensor) else size)
        seen = None if cond is None else Cond.of(**{name: cond.fields[name] for name in self.observed})
        return self.net(heard.flatten(1), level, seen)


class ForesightLoss(nn.Module):
    """`E ||h(s, a_t, t) - z||^2` over chunks that are noised as the policy's are, so that the gradient of h means
    something wherever a walk comes by.

    A batch holds `x` (the chunks), `outcome` (the latents z), and what is observed.
    """

    def __init__(self, ahead: Foresight, proposal: Proposal | None = None) -> None:
        super().__init__()
        self.ahead = ahead
        self.proposal = LogNormal() if proposal is None else proposal

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps."""
        return Part(self, self, optimiser, **options)

    def forward(self, batch: Batch, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The squared error of each sample `[B]`."""
        x, z = batch["x"], batch["outcome"]
        draw = self.proposal.draw(self.ahead.path, x, tick.noise(len(x)), tick.step)
        x_t = self.ahead.path.perturb(x, draw.t.to(x), draw.z)
        cond = Cond.of(**{name: batch[name] for name in self.ahead.observed})
        error = (self.ahead(x_t, draw.t.to(x), cond) - z).square().sum(1)
        return error, {"error": error.detach().mean()}
