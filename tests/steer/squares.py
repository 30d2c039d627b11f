"""Four squares on a table, and a policy that touches one of them, whichever: many copies, and its exact denoiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kedge import Cond, Noise, Walk
from kedge.paths import Trig

LENGTH, CHUNKS, SPEED, STD, SIDE = 4, 4, 0.075, 0.03, 0.15
"""Actions of a chunk; chunks of an episode; length of an action and its deviation; half a square's side, so to say."""
PATH = Trig(sigma_data=0.06, scale_max=40.0)
CORNERS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]]) / 2**0.5


class Table:
    """The hand `(x, y)` begins in the middle, the squares about a unit away from it, where the seed says. Actions are
    moves of the hand, which stays on the table.
    """

    def __init__(self, seeds: Tensor) -> None:
        noise = Noise.of(seeds, len(seeds))
        self.squares = CORNERS + 0.2 * (noise.uniform((len(seeds), 4, 2), 0) - 0.5).float()
        self.hand = 0.05 * noise.normal((len(seeds), 2), 1).float()

    def seen(self) -> Tensor:
        return torch.cat([self.hand, self.squares.flatten(1)], 1)

    def do(self, chunk: Tensor) -> None:
        for action in chunk.unbind(1):
            self.hand = (self.hand + action).clamp(-1.2, 1.2)

    def touched(self) -> Tensor:
        """The square that is touched, or -1."""
        away = (self.hand[:, None] - self.squares).norm(dim=-1)
        return torch.where(away.amin(1) < SIDE, away.argmin(1), -1)


def towards(seen: Tensor) -> Tensor:
    """The mean of the chunk towards each square, `[B, 4, LENGTH, 2]`."""
    hand, squares = seen[:, :2], seen[:, 2:].unflatten(1, (4, 2))
    way = squares - hand[:, None]
    far = way.norm(dim=-1, keepdim=True)
    step = way / far.clamp(min=1e-6) * (far / LENGTH).clamp(max=SPEED)
    return step[:, :, None].expand(-1, -1, LENGTH, -1)


class AnySquare:
    """`E[x | x_t, what is seen]` of chunks of actions."""

    pinned = "noised"
    path = PATH

    def likely(self, seen: Tensor) -> Tensor:
        """The log of how likely each is, but for a constant: who is under way goes on to where it is heading."""
        return 12 * torch.einsum("bs,bks->bk", seen[:, :2], seen[:, 2:].unflatten(1, (4, 2)))

    def __call__(self, x_t: Tensor, t: Any, cond: Any) -> Tensor:
        seen = cond.fields["observation"]
        mu = towards(seen)
        alpha, sigma = PATH.alpha(t), PATH.sigma(t)
        v = alpha**2 * STD**2 + sigma**2
        off = x_t[:, None] - alpha * mu
        p = (self.likely(seen) - off.square().sum((2, 3)) / (2 * v)).softmax(1)
        return (p[..., None, None] * (mu + alpha * STD**2 / v * off)).sum(1)


def acted(walk: Walk, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Whole episodes: what was seen before each chunk, the chunks, where the hand was in the end, what it touched."""
    seeds = torch.arange(count) + 1000 * seed
    table, seen, chunks = Table(seeds), [], []
    start = float(PATH.sigma(walk.grid.levels(PATH).rows()[0]))
    for k in range(CHUNKS):
        noise = Noise.of(seeds + 7919 * (k + 1), count)
        seen.append(table.seen())
        x: Any = walk.run(
            start * noise.normal((count, LENGTH, 2), -1).float(), Cond.of(observation=seen[-1]), seeds=noise
        ).x
        chunks.append(x)
        table.do(x)
    return {
        "observation": torch.cat(seen), "x": torch.cat(chunks), "outcome": table.hand.repeat(CHUNKS, 1),
        "touched": table.touched(),
    }  # fmt: skip
