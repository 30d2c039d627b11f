"""Critics of a state and an action: several of one kind, of which the least is believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kedge.nets.contract import check_sizes
from kedge.nets.mlp import ACTIVATIONS

ActionCritic: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`critic(state [B, S], action [B, A]) -> [n, B]`, what an action is worth by each of n critics: a network, or a
function that is known."""


class ActionValues(nn.Module):
    """`Q_j(s, a)`, j = 1..n: networks of one shape, each with weights of its own. Of two the lesser is believed, since
    what a policy climbs to is where a critic errs upwards (Fujimoto et al., "Addressing function approximation
    error in actor-critic methods", ICML 2018).

    state:      of a state
    action:     of an action
    hidden:     widths of the hidden layers
    count:      n
    activation: "mish", "silu", "gelu", "relu" or "tanh"
    norm:       whether each layer is normalised before its activation
    """

    def __init__(
        self,
        state: int,
        action: int,
        hidden: Sequence[int] = (128, 128, 128),
        *,
        count: int = 2,
        activation: str = "tanh",
        norm: bool = True,
    ) -> None:
        super().__init__()
        check_sizes("ActionValues", state=state, action=action, count=count)
        self.critics = nn.ModuleList(
            nn.Sequential(*normed("ActionValues", state + action, hidden, activation, norm), nn.Linear(hidden[-1], 1))
            for _ in range(count)
        )

    def forward(self, state: Tensor, action: Tensor) -> Float[Tensor, "n b"]:
        """The word of each critic."""
        heard = torch.cat([state, action], 1)
        return torch.stack([critic(heard)[:, 0] for critic in self.critics])


def normed(owner: str, size: int, hidden: Sequence[int], activation: str, norm: bool) -> list[nn.Module]:
    """Linear layers from width to width, each with a norm, if any, and its activation. What does not fit is told in the
    owner's name.
    """
    check_sizes(owner, **{f"hidden[{i}]": n for i, n in enumerate(hidden)})
    if activation not in ACTIVATIONS:
        raise ValueError(f"{owner}: unknown activation {activation!r}; one of {', '.join(ACTIVATIONS)}")
    made = list[nn.Module]()
    for i, o in pairwise([size, *hidden]):
        made += [nn.Linear(i, o), *([nn.LayerNorm(o)] if norm else []), ACTIVATIONS[activation]()]
    return made
