"""Settings of a walk, chosen by a policy that is rewarded for where the walk ends. The denoiser stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kedge.align.advantages import Piece, Relative, Standard, advantages
from kedge.align.rewards import rewarded
from kedge.align.walks import OwnWalks
from kedge.cond import Cond
from kedge.rl.choice import Choice
from kedge.rl.objectives import clipped, k3, share_clipped
from kedge.train import OptimiserSpec, Part, Shadow, Tick
from kedge.tree import first_leaf, leaves
from kedge.walk import Hook, State
from kedge.walk.state import Place

HEARD, ACTION, OLD = "choice.heard", "choice.action", "choice.old"
"""What a walk notes of its choices, `[B, K, ...]`."""

GRPO: tuple[Piece, ...] = (Relative(), Standard())
"""Centred and scaled within the condition."""

Holds = Literal["k3", "exact", "reward"]
"""How a penalty holds a policy to its reference: see `ChoiceGradient`."""


def state_and_level(state: State) -> Tensor:
    """`[B, F + 1]`: the state at about unit size, and a quarter of the logarithm of its noise scale, in [-4, 4]."""
    path, t = state.walk.path, state.t
    x = torch.cat([leaf.flatten(1) for leaf in leaves(state.x)], 1)
    size = (path.alpha(t) ** 2 + path.sigma(t) ** 2) ** 0.5
    told = torch.as_tensor(path.noise_scale(t)).to(x).log().clamp(-16, 16) / 4
    return torch.cat([x / size, told.expand(len(x), 1)], 1)


@dataclass(eq=False)
class Choosing(Hook):
    """At each step, or once at the start, a policy hears the state and chooses a setting, which becomes a field of the
    condition: what the denoiser, or a guide such as `ToldWeight`, reads there.

    Args:
        policy: the chooser.
        name: of the field.
        settings: `[A, ...]`, what there is to choose from.
        hear: what the policy is told of a state, `[B, F]`; it may ask the denoiser, `state.walk.estimator`.
        once: one choice, at the start, rather than one at each step.
        likeliest: the likeliest setting rather than a drawn one.
    """

    policy: Choice
    name: str
    settings: Tensor
    hear: Callable[[State], Tensor] = state_and_level
    once: bool = False
    likeliest: bool = False
    place: Place = field(default="move", init=False)

    def begin(self, state: State) -> State:
        """The one choice."""
        return self._chosen(state) if self.once else state

    def before(self, state: State, s: object) -> State:
        """The choice of this step."""
        return state if self.once else self._chosen(state)

    @torch.no_grad()
    def _chosen(self, state: State) -> State:
        """Notes what was heard, what was chosen and how likely it was; and tells the setting."""
        heard = self.hear(state)
        action = self.policy.best(heard) if self.likeliest else self.policy.draw(heard, state.noise, state.step)
        for name, value in ((HEARD, heard), (ACTION, action), (OLD, self.policy.log_prob(heard, action))):
            before = state.notes.get(name)
            state.notes[name] = value[:, None] if before is None else torch.cat([first_leaf(before), value[:, None]], 1)
        setting = {self.name: self.settings.to(heard.device)[action]}
        if state.cond is not None and not isinstance(state.cond, Cond):
            raise TypeError(f"Choosing: a setting is a field of a kedge.Cond, not of a {type(state.cond).__name__}")
        state.cond = Cond.of(**setting) if state.cond is None else state.cond.told(**setting)
        state.given = None  # a replay must not encode a condition without the setting
        return state


@dataclass(frozen=True, eq=False)
class Chosen:
    """Choices, K for each walk, and what they led to.

    heard:  `[B, K, F]`, what the policy was told
    action: `[B, K]`, which setting it chose
    old:    `[B, K]`, the log-probability of that under the weights that drew it
    reward: `[B]`, of where the walk ended; 0 where it failed
    group:  `[B]` whole numbers, the same for walks of one condition; None: all are one group
    counts: `[B]` booleans, False where the reward failed; None: all count
    """

    heard: Tensor
    action: Tensor
    old: Tensor
    reward: Tensor
    group: Tensor | None = None
    counts: Tensor | None = None


class OwnChoices:
    """A source of batches: walks whose settings are chosen by the policy as it is at that moment.

    A reward that asks for the condition is told the setting too, as the field that it is: `[B, ...]` where there is one
    choice, else `[B, K, ...]`.

    Args:
        walks: whose walk holds a `Choosing`; says from where, for what conditions, and how many for each.
    """

    follows_weights = True

    def __init__(self, walks: OwnWalks) -> None:
        hooks = [hook for hook in walks.walk.hooks if isinstance(hook, Choosing)]
        if len(hooks) != 1:
            raise ValueError(f"OwnChoices: a walk with one Choosing among its hooks, not {len(hooks)}")
        self.walks, self.chooser = walks, hooks[0]

    @torch.no_grad()
    def next(self, tick: Tick) -> Chosen:
        """Fresh walks, rewarded."""
        begun = self.walks.begin(tick)
        walk, heard = self.walks.held(begun.cond), self.walks.heard(begun.cond)
        end = walk.run(begun.start, heard, levels=begun.levels, seeds=begun.seeds)
        action = first_leaf(end.notes[ACTION])
        setting = {
            self.chooser.name: self.chooser.settings.to(action.device)[action[:, 0] if self.chooser.once else action]
        }
        told = begun.cond.told(**setting) if isinstance(begun.cond, Cond) else Cond.of(**setting)
        worth = rewarded(self.walks.reward, end.x, told)
        heard, old = (first_leaf(end.notes[name]) for name in (HEARD, OLD))
        return Chosen(heard, action, old, worth.value, begun.group, worth.counts)

    def state(self) -> dict[str, Any]:
        """Nothing: a batch is a function of the tick and of the weights."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing."""


def best_of(batch: Chosen) -> dict[str, Tensor]:
    """What a `ChoiceLoss` learns from: all choices of the best walk of each group, found by as many walks as a group
    has.
    """
    group = torch.zeros_like(batch.reward, dtype=torch.int64) if batch.group is None else batch.group
    reward = batch.reward if batch.counts is None else torch.where(batch.counts, batch.reward, -torch.inf)
    rows = []
    for name in group.unique():
        here = (group == name).nonzero()[:, 0]
        rows.append(here[reward[here].argmax()])
    best = torch.stack(rows)
    return {"heard": batch.heard[best].flatten(0, 1), "action": batch.action[best].flatten(0, 1)}


class ChoiceGradient(nn.Module):
    """Raises the reward of choices: `-E sum_k min(r_k A, clip(r_k) A)` over the choices of a walk, with r the ratio of
    a choice's probability to that under the weights that drew it.

    With groups, and the default pieces, this is group-relative policy optimisation. With a `value`, it is PPO, and the
    advantage of a choice is `A_k = reward - v(heard_k)`. Give its part a `repeat` to learn from each batch more than
    once.

    A penalty holds the policy to its reference, which is itself as it begins:

        "exact"   b KL(p | p_ref) at each visited state, summed over all choices
        "k3"      b k3 of the drawn choices, as released code does: in its gradient that is b KL(p_ref | p)
        "reward"  b (log p - log p_ref) of the walk's choices off its reward: exact for the law of whole walks

    Some released code takes the k3 of the choices off the reward instead. That pulls not at all at first order: the
    gradients of its two parts, KL(p | p_ref) and minus KL(p_ref | p), cancel near the reference.

    Args:
        policy: what moves.
        pieces: from rewards to advantages: see `kedge.align.advantages`; by default `GRPO`, or none with a value.
        value: `[B, K, F] -> [B, K]` or `[B, K, 1]`: what a walk will be worth, by what is heard. It learns along.
        average: the mean of the value over a walk's choices for all of them, as released code does. It hears what the
            choices led to, and takes some of what they are worth for its own: the gradient is biased.
        clip: how far a ratio may leave 1 before its choice stops pushing.
        penalty: b.
        holds: see above.
    """

    def __init__(
        self,
        policy: Choice,
        pieces: Sequence[Piece] | None = None,
        *,
        value: nn.Module | None = None,
        average: bool = False,
        clip: float | tuple[float, float] = 0.2,
        penalty: float = 0.0,
        holds: Holds = "k3",
    ) -> None:
        super().__init__()
        self.policy, self.value = policy, value
        self.pieces = (GRPO if value is None else ()) if pieces is None else tuple(pieces)
        self.average, self.clip, self.penalty = average, clip, penalty
        self.holds: Holds = holds
        self.reference = Shadow(decay=1.0).follow(policy)

    def part(self, optimiser: OptimiserSpec, **options: Any) -> Part:
        """What the trainer steps: the policy and its value, on this loss. Options are those of `kedge.train.Part`."""
        shadows = options.pop("shadows", (Shadow(),))
        options.setdefault("compiles", (self.policy.net,))
        return Part(self, self, optimiser, shadows=(*shadows, self.reference), **options)

    def forward(self, batch: Chosen, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """The loss of each walk `[B]`, and what to log."""
        new = self.policy.log_prob(batch.heard, batch.action)
        with torch.no_grad():
            still = self.still.log_prob(batch.heard, batch.action)
        A, error = self._advantage(batch, still)
        log_ratio = new - batch.old
        loss = clipped(log_ratio, A, self.clip)
        if self.penalty and self.holds == "k3":
            loss = loss + self.penalty * k3(new, still)
        elif self.penalty and self.holds == "exact":
            loss = loss + self.penalty * self.policy.divergence(batch.heard, self.still)
        counts = torch.ones_like(batch.reward, dtype=torch.bool) if batch.counts is None else batch.counts
        info = {
            "reward": batch.reward[counts].mean(),
            "failed": 1 - counts.float().mean(),
            "clipped": share_clipped(log_ratio.detach(), A, self.clip),
            "divergence": (batch.old - still).sum(1).mean(),
        }
        return torch.where(counts, loss.sum(1) + error, 0.0), info

    @property
    def still(self) -> Choice:
        """The policy as it began."""
        return self.reference.module  # pyright: ignore[reportReturnType]

    def _advantage(self, batch: Chosen, still: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, K]`, or `[B, 1]` where it is one for all; and the squared error `[B]` of the value."""
        reward = batch.reward
        if self.penalty and self.holds == "reward":
            reward = reward - self.penalty * (batch.old - still).sum(1)
        A = advantages(self.pieces, batch, reward)[:, None]
        if self.value is None:
            return A, torch.zeros_like(reward)
        value = self.value(batch.heard).reshape(batch.action.shape)
        if self.average:
            value = value.mean(1, keepdim=True)
        return A - value.detach(), ((A - value) ** 2).mean(1)
