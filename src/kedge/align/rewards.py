"""Rewards: whatever says what clean samples are worth, and what happens where it fails."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.cond import take_cond
from kedge.errors import InputError
from kedge.tree import Tree, first_leaf, sum_event, take

Reward = Callable[[Any, Any], Any]
"""`reward(x, cond) -> [B]`: what clean samples are worth, each by itself. In the shape of x it is the reward of each
entry, and their sum that of the sample. What is not finite has failed, and counts for nothing."""


class RewardError(InputError):
    """A reward failed for every sample, so that there is nothing to learn from."""


@dataclass(frozen=True, eq=False)
class Rewarded:
    """What a batch is worth.

    value:   `[B]`, 0 where it failed
    entries: of each entry, where the reward says so much
    counts:  `[B]` booleans, False where it failed; None: nothing did
    """

    value: Tensor
    entries: Tree | None = None
    counts: Tensor | None = None

    def where(self, counts: Tensor | None) -> Rewarded:
        """As if it had failed elsewhere too."""
        both = counts if self.counts is None else self.counts if counts is None else self.counts & counts
        return replace(self, counts=both)


def rewarded(reward: Reward, x: Tree, cond: Any = None) -> Rewarded:
    """Asks, and takes failures out."""
    like = first_leaf(x)
    said = reward(x, cond)
    said = said if isinstance(said, Tensor | dict) else _as_tensor(said)
    batch = like.shape[0]
    if isinstance(said, Tensor) and said.layout is not torch.strided:
        raise InputError(f"a reward says one number for each sample, and this one gave them {said.layout}")
    leaves = list(said.values()) if isinstance(said, dict) else [said]
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == batch for leaf in leaves):
        raise InputError(f"a reward says one number for each of {batch} samples, or one for each entry of them")
    value = sum_event(said).detach().to(like.device)
    value = value if value.is_floating_point() else value.float()
    good = value.isfinite()
    if not bool(good.any()):
        raise RewardError(f"the reward failed for all of {batch} samples: not one finite number")
    entries = said if isinstance(said, dict) or said.ndim > 1 else None
    return Rewarded(torch.where(good, value, 0.0), entries, None if bool(good.all()) else good)


def _as_tensor(said: Any) -> Tensor:
    try:
        return torch.as_tensor(said)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"a reward says one number for each sample, and this one gave a {type(said).__name__}"
        ) from None


@dataclass
class Patient:
    """A reward that may fail: it is asked for the batch; where that fails, sample by sample, and again.

    An exception, or an answer that takes too long, costs the sample that it happened to, which becomes nan. Nothing
    can stop a Python function from outside: one that hangs goes on in a thread of its own, and its answer is dropped.

    Args:
        reward: what is asked.
        seconds: how long an answer may take; None: as long as it likes.
        retries: how often a sample is asked for again.
    """

    reward: Reward
    seconds: float | None = None
    retries: int = 1
    failures: int = 0
    """Samples that got no answer, so far."""
    latest: str = ""
    """What the latest of them died of."""

    def __call__(self, x: Tree, cond: Any = None) -> Any:
        """The rewards, nan where there is none."""
        try:
            return self._asked(x, cond)
        except Exception as error:
            self.latest = f"{type(error).__name__}: {error}"
            return self._one_by_one(x, cond)

    def _one_by_one(self, x: Tree, cond: Any) -> Tensor:
        answers: list[Tensor | None] = []
        for i in range(first_leaf(x).shape[0]):
            index = torch.tensor([i], device=first_leaf(x).device)
            answers.append(self._patiently(take(x, index), take_cond(cond, index)))
        given = next((answer for answer in answers if answer is not None), None)
        if given is None:
            raise RewardError(f"the reward failed for all of {len(answers)} samples; the latest: {self.latest}")
        return torch.cat([torch.full_like(given, torch.nan) if answer is None else answer for answer in answers])

    def _patiently(self, x: Tree, cond: Any) -> Tensor | None:
        for _ in range(self.retries + 1):
            try:
                answer = torch.as_tensor(self._asked(x, cond))
                return answer if answer.is_floating_point() else answer.float()
            except Exception as error:
                self.latest = f"{type(error).__name__}: {error}"
        self.failures += 1
        return None

    def _asked(self, x: Tree, cond: Any) -> Any:
        if self.seconds is None:
            return self.reward(x, cond)
        box: list[Any] = []

        def ask() -> None:
            try:
                box.append((self.reward(x, cond), None))
            except BaseException as error:  # one that ends its own program must not end ours
                box.append((None, RuntimeError(repr(error)) if not isinstance(error, Exception) else error))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(self.seconds)
        if not box:
            raise TimeoutError(f"no answer within {self.seconds:g} s")
        answer, error = box[0]
        if error is not None:
            raise error
        return answer


def from_file(name: str) -> Reward:
    """The reward that `file.py:function` names."""
    path, separator, function = name.rpartition(":")
    if not separator or not function.isidentifier():
        raise InputError(f"a reward is named file.py:function, got {name!r}")
    if not Path(path).is_file():
        raise InputError(f"reward {name!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"reward_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"reward {name!r}: {path} is not Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"reward {name!r}: {path} does not run: {type(error).__name__}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"reward {name!r}: {path} has no function {function!r}")
    return found
