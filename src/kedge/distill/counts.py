"""How many steps a walk takes, chosen from what it is told.

Zhang, Wu, Xing, Shao and Jiang, "AdaDiff: adaptive step selection for fast diffusion": a small network reads the
condition, before the walk begins, and picks a number of steps; the denoiser stays as it is. It learns by the gradient
of a reward that is high for samples as good as long walks make, and the higher the fewer steps they took.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kedge.cond import take_cond
from kedge.noise import Noise, Seeds
from kedge.train import Batch, OptimiserSpec, Part, Tick
from kedge.walk import Walk
from kedge.walk.grids.levels import Grid
from kedge.walk.state import Solver


class StepCounts(nn.Module):
    """`p(u | f)`, a choice among numbers of steps, from the tokens of a condition: a few layers of self-attention over
    them, their mean, and a linear head.

    Args:
        options: the numbers of steps, fewest first.
        features: width of a token.
        width: of the network.
        depth: layers.
    """

    def __init__(self, options: Sequence[int], features: int, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        if not options or list(options) != sorted(set(options)) or options[0] < 1:
            raise ValueError(f"StepCounts: options are numbers of steps, fewest first, not {list(options)}")
        self.options = tuple(options)
        self.enter = nn.Linear(features, width)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.leave = nn.Linear(width, len(options))

    def forward(self, tokens: Float[Tensor, "b *t f"]) -> Float[Tensor, "b u"]:
        """Logits, of tokens or of a single one a sample."""
        h = self.enter(tokens if tokens.ndim == 3 else tokens[:, None])
        return self.leave(self.layers(h).mean(1))

    @torch.no_grad()
    def choose(self, tokens: Float[Tensor, "b *t f"]) -> Int64[Tensor, " b"]:
        """The place among the options that is likeliest for each sample."""
        return self(tokens).argmax(1)


def step_rewards(
    quality: Float[Tensor, "b u"], options: Sequence[int], tolerance: float, quality_weight: float = 0.0,
    penalty: float = 1.0,
) -> Float[Tensor, "b u"]:  # fmt: skip
    """`R = 1 - u / S + weight Q` where a sample of u steps is good, else `-penalty`: it is good where its quality comes
    within `tolerance` of the best that any number of steps gives the same condition. S is the largest option.
    """
    saved = 1 - torch.tensor(list(options)).to(quality) / max(options)
    good = quality >= quality.amax(1, keepdim=True) - tolerance
    return torch.where(good, saved + quality_weight * quality, torch.full_like(quality, -penalty))


@dataclass(frozen=True, eq=False)
class CountLoss:
    """`-log p(u | f) (R(u) - R(argmax p))` with u drawn from p: the likelihood-ratio gradient, the choice that would be
    made now as its baseline, less `entropy H(p)`: a choice that is sure too early draws nothing else, and learns no
    more. A batch holds `tokens` and the `rewards` of all options, known in advance, for a walk of each length needs to
    be made only once.
    """

    counts: StepCounts
    entropy: float = 0.0

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps."""
        return Part(self.counts, self, optimiser, **options)

    def __call__(self, batch: Batch, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each sample."""
        log_p = self.counts(batch["tokens"]).log_softmax(1)
        rows = torch.arange(len(log_p), device=log_p.device)
        u = tick.noise(len(rows)).uniform((len(rows), 1), tick.step).to(log_p)
        drawn = (log_p.detach().exp().cumsum(1) < u).sum(1).clamp(max=log_p.shape[1] - 1)
        rewards = batch["rewards"]
        gain = rewards[rows, drawn] - rewards[rows, log_p.argmax(1)]
        own = -(log_p.exp() * log_p).sum(1)
        return -log_p[rows, drawn] * gain.to(log_p) - self.entropy * own, {"reward": rewards[rows, drawn].mean()}


@torch.no_grad()
def walk_by_counts(
    denoiser: Any, solver: Solver, grid: Callable[[int], Grid], x: Tensor, counts: Int64[Tensor, " b"],
    cond: Any = None, seeds: Seeds = None,
) -> Tensor:  # fmt: skip
    """Walks each sample in as many steps as `counts` says: those of one number together. A sample's noise is its own,
    whatever group it is in.

    Args:
        denoiser: as it is.
        solver: of the walks.
        grid: of a number of steps.
        x: where walks begin.
        counts: `[B]` numbers of steps.
        cond: of each sample.
        seeds: of the noise.
    """
    noise, found = Noise.of(seeds, len(x), x.device), torch.empty_like(x)
    for n in counts.unique().tolist():
        at = (counts == n).nonzero()[:, 0]
        walk = Walk(denoiser, solver, grid(int(n)))
        end = walk.run(x[at], take_cond(cond, at), seeds=noise.take(at, fork=False)).x
        assert isinstance(end, Tensor)
        found[at] = end
    return found
