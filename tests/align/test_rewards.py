"""Rewards that fail: what it costs, and what is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from align.gaussian_walk import DIM, walk
from kedge import Cond
from kedge.align import VMPO, OwnWalks, Patient, PolicyGradient, Relative, RewardError, from_file, recorded
from kedge.align.rewards import rewarded
from kedge.errors import InputError
from kedge.train import Tick

X = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
TICK = Tick(3, 5)


def total(x: Any, cond: Any = None) -> Tensor:
    return x.sum(-1)


def test_what_is_not_finite_counts_for_nothing() -> None:
    found = rewarded(lambda x, cond: torch.tensor([1.0, torch.nan, 2.0, torch.inf]), X)
    assert found.value.tolist() == [1, 0, 2, 0]
    assert found.counts is not None
    assert found.counts.tolist() == [True, False, True, False]
    assert rewarded(total, X).counts is None


def test_a_reward_of_each_entry_is_summed() -> None:
    def doubled(x: Any, cond: Any = None) -> Tensor:
        return 2 * x

    found = rewarded(doubled, X)
    assert found.value.tolist() == (2 * X).sum(1).tolist()
    assert found.entries is not None
    assert rewarded(total, X).entries is None


def test_what_is_no_tensor_will_do() -> None:
    assert rewarded(lambda x, cond: [1, 2, 3, 4], X).value.tolist() == [1, 2, 3, 4]


def test_what_is_no_reward_is_told() -> None:
    def whole(x: Any, cond: Any = None) -> Tensor:
        return x.sum()

    def never(x: Any, cond: Any = None) -> Tensor:
        return x[:, 0] * torch.nan

    with pytest.raises(ValueError, match="one number for each of 4 samples"):
        rewarded(whole, X)
    with pytest.raises(RewardError, match="failed for all of 4 samples"):
        rewarded(never, X)


class Picky:
    """Refuses some samples, a number of times."""

    def __init__(self, times: int = 1000) -> None:
        self.times, self.asked = times, 0

    def __call__(self, x: Any, cond: Any = None) -> Tensor:
        self.asked += 1
        if bool((x[:, 0] == 3.0).any()) and self.times:
            self.times -= 1
            raise ValueError("not this one")
        return x.sum(-1) if cond is None else x.sum(-1) + cond.fields["goal"][:, 0]


def test_an_exception_costs_the_sample_that_it_happened_to() -> None:
    reward = Patient(Picky())
    assert reward(X).tolist()[:1] + reward(X).tolist()[2:] == [3.0, 21.0, 30.0]
    assert bool(reward(X)[1].isnan())
    assert (reward.failures, reward.latest) == (3, "ValueError: not this one")
    assert reward(X, Cond.of(goal=X[:, :1])).tolist()[2:] == [27.0, 39.0], "each sample with its own condition"


def test_a_failure_is_asked_for_again() -> None:
    reward = Patient(Picky(times=3), retries=2)
    assert reward(X).tolist() == X.sum(1).tolist()
    assert reward.failures == 0
    assert reward.reward.asked == 1 + 4 + 2, "once for all, once for each, twice more for the one"  # type: ignore[attr-defined]


def test_an_answer_that_takes_too_long_is_none() -> None:
    def slow(x: Any, cond: Any = None) -> Tensor:
        if bool((x[:, 0] == 6.0).any()):
            time.sleep(1.0)
        return x.sum(-1)

    reward = Patient(slow, seconds=0.1, retries=0)
    begun = time.perf_counter()
    assert reward(X).isnan().tolist() == [False, False, True, False]
    assert time.perf_counter() - begun < 0.9
    assert reward.latest == "TimeoutError: no answer within 0.1 s"


def test_a_reward_that_always_fails_says_why() -> None:
    def never(x: Any, cond: Any = None) -> Tensor:
        raise OSError("no connection")

    with pytest.raises(RewardError, match="failed for all of 4 samples; the latest: OSError: no connection"):
        Patient(never)(X)


@pytest.mark.parametrize("method", ["vmpo", "policy"])
def test_a_batch_with_a_failure_is_the_batch_without_that_sample(method: str) -> None:
    """The loss is a mean over all samples, so that it is 7/8 of that."""
    made = VMPO(walk(), 0.4) if method == "vmpo" else PolicyGradient(walk(), [Relative()])
    with torch.no_grad():
        made.denoiser.b.add_(0.1)

    def failing(x: Any, cond: Any = None) -> Tensor:
        value = total(x)
        value[2] = torch.nan
        return value

    keep = torch.tensor([0, 1, 3, 4, 5, 6, 7])
    found = OwnWalks(made.walk, (DIM,), 8, failing, dtype=torch.float64).next(TICK)
    fewer = OwnWalks(made.walk, (DIM,), 8, total, dtype=torch.float64)
    start, ends = found.record.x[0], found.record.x[-1]
    assert isinstance(start, Tensor)
    noise = found.record.states[0].noise.take(keep, fork=False)
    small = recorded(fewer.walk, start[keep], total, seeds=noise)
    torch.testing.assert_close(small.record.x[-1], ends[keep], rtol=0, atol=0)  # type: ignore[index]
    (one, info), (other, _) = made(found, TICK), made(small, TICK)
    slopes = [torch.autograd.grad(loss.mean(), made.denoiser.b)[0] for loss in (one, other)]
    torch.testing.assert_close(slopes[0], 7 / 8 * slopes[1], rtol=1e-9, atol=1e-12)
    assert float(info["failed"]) == pytest.approx(1 / 8)
    assert float(info["reward"]) == pytest.approx(float(small.reward.mean()))


def test_a_reward_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def worth(x, cond=None):\n    return x.sum(-1)\nbroken = 3\n")
    assert from_file(f"{tmp_path}/mine.py:worth")(X, None).tolist() == X.sum(1).tolist()
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    for name, message in {
        "mine.py": "a reward is named file.py:function",
        f"{tmp_path}/mine.py:two words": "a reward is named file.py:function",
        f"{tmp_path}/none.py:worth": "there is no file",
        f"{tmp_path}/mine.py:worthless": "has no function 'worthless'",
        f"{tmp_path}/mine.py:broken": "has no function 'broken'",
        f"{tmp_path}/bad.py:worth": "does not run: ModuleNotFoundError",
    }.items():
        with pytest.raises(InputError, match=message):
            from_file(name)


def test_a_reward_that_would_end_the_program_does_not(tmp_path: Path) -> None:
    def leaves(x: Any, cond: Any = None) -> Tensor:
        raise SystemExit(0)

    with pytest.raises(RewardError, match=r"failed for all of 4 samples; the latest: RuntimeError: SystemExit\(0\)"):
        Patient(leaves, seconds=5.0)(X)
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(InputError, match=r"leaves.py does not run: SystemExit: 3"):
        from_file(f"{tmp_path}/leaves.py:worth")


def test_what_a_reward_of_one_s_own_does_wrong_is_bad_input() -> None:
    """So the command line says it in a line."""
    assert issubclass(RewardError, InputError)
    with pytest.raises(InputError, match="one number for each of 4 samples"):
        rewarded(lambda x, cond: torch.ones(5), X)
    for odd in ({}, {"speed": None}, {"speed": torch.ones(())}):
        with pytest.raises(InputError, match="one number for each of 4 samples"):
            rewarded(lambda x, cond, odd=odd: odd, X)
    with pytest.raises(InputError, match="one number for each sample, and this one gave a NoneType"):
        rewarded(lambda x, cond: None, X)
    with pytest.raises(InputError, match=r"this one gave them torch.sparse_coo"):
        rewarded(lambda x, cond: torch.ones(4).to_sparse(), X)
