"""A chain small enough to write down all of its walks."""

from __future__ import annotations

from functools import cached_property
from itertools import product

import torch
from torch import Tensor


class Chain:
    """Markov walks of `steps` steps over `states` states, the first drawn evenly: `states^(steps + 1)` walks.

    The transitions follow from logits `[steps, states, states]` (from, to), so that any law of walks of this form has
    some; every probability and expectation is exact and can be differentiated.
    """

    def __init__(self, states: int = 4, steps: int = 2) -> None:
        if states < 2 or steps < 1 or states ** (steps + 1) > 1 << 16:
            raise ValueError(
                f"Chain: at least two states, one step and at most {1 << 16} walks, got {states=} and {steps=}"
            )
        self.states, self.steps = states, steps

    @cached_property
    def walks(self) -> Tensor:
        """`[steps + 1, W]`: all of them."""
        return torch.tensor(list(product(range(self.states), repeat=self.steps + 1))).T.contiguous()

    def log_prob(self, logits: Tensor, walks: Tensor | None = None) -> Tensor:
        """`[steps, B]`: the log-probability of each step of these walks, by default of all."""
        walks = self.walks if walks is None else walks
        log_p = logits.log_softmax(-1)
        return torch.stack([log_p[k, walks[k], walks[k + 1]] for k in range(self.steps)])

    def law(self, logits: Tensor) -> Tensor:
        """`[W]`: the probability of each walk."""
        return self.log_prob(logits).sum(0).exp() / self.states

    def sample(self, logits: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`[steps + 1, count]` walks."""
        chosen = torch.multinomial(self.law(logits.detach()), count, replacement=True, generator=generator)
        return self.walks[:, chosen]

    def tilted(self, logits: Tensor, bonus: Tensor) -> tuple[Tensor, Tensor]:
        """The law of walks `p(walk) e^{bonus(last state)} / Z(first state)`, with a bonus `[states]`: its logits, and
        `log Z` `[states]`. The first state stays even: where `Z` depends on it this is not the tilt of the ends.

        Backwards: `V_k(i) = log sum_j p_k(j | i) e^{V_{k+1}(j)}`, and `p*_k(j | i) ~ p_k(j | i) e^{V_{k+1}(j)}`.
        """
        log_p, value = logits.log_softmax(-1), bonus
        made: list[Tensor] = []
        for k in reversed(range(self.steps)):
            twisted = log_p[k] + value
            value = twisted.logsumexp(-1)
            made.append(twisted - value[:, None])
        return torch.stack(made[::-1]), value
