"""A function of tensors, recorded and replayed: what goes in, what is refused, and when it is recorded anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kedge import Cond
from kedge.capture import CudaGraph, Recorder, Replay, unseen
from kedge.errors import InputError
from recorded import Again

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def doubled(x: Tensor, cond: Any = None, power: int = 1) -> Tensor:
    return 2 * x**power if cond is None else 2 * x**power + cond.fields["goal"]


class Counted:
    """How often it was recorded."""

    def __init__(self) -> None:
        self.made: list[Again] = []

    def __call__(self, device: torch.device) -> Recorder:
        self.made.append(Again(device))
        return self.made[-1]


def test_other_numbers_are_replayed() -> None:
    counted = Counted()
    replay = Replay(doubled, recorder=counted)
    x, goal = torch.randn(3, 2), torch.randn(3, 2)
    first = replay(x, Cond.of(goal=goal))
    assert torch.equal(first, 2 * x + goal)
    other = replay(x + 1, Cond.of(goal=-goal))
    assert torch.equal(other, 2 * (x + 1) - goal)
    assert torch.equal(first, 2 * x + goal)  # a copy: not where the next replay writes
    assert len(counted.made) == 1
    assert counted.made[0].replays == 2


def test_what_was_given_is_not_held() -> None:
    replay, x = Replay(doubled, recorder=Again), torch.ones(2)
    replay(x)
    replay(torch.full((2,), 5.0))
    assert torch.equal(x, torch.ones(2))


@pytest.mark.parametrize(
    "other", [(torch.ones(4),), (torch.ones(3, dtype=torch.float64),), (torch.ones(3), None, 2), (torch.ones(3, 1),)]
)
def test_what_is_no_number_of_a_tensor_is_recorded_anew(other: tuple[Any, ...]) -> None:
    counted = Counted()
    replay = Replay(doubled, recorder=counted)
    for inputs in ((torch.ones(3),), other, (torch.zeros(3),), other):
        given: Any = inputs
        assert torch.equal(replay(*given), doubled(*given))
    assert len(counted.made) == 2


def test_so_many_are_kept() -> None:
    counted = Counted()
    replay = Replay(doubled, recorder=counted, kept=2)
    for size in (1, 2, 1, 3, 1):
        replay(torch.ones(size))
    assert len(counted.made) == 3  # 2 was dropped, 1 was used since
    replay(torch.ones(2))
    assert len(counted.made) == 4


ASKING: dict[str, Callable[[Tensor], Any]] = {
    "truth": lambda x: x if bool(x.sum() > 0) else -x,
    "number": lambda x: x * x.max().item(),
    "where": lambda x: x[x > 0],
    "place": lambda x: (x > 0).nonzero(),
    "equal": lambda x: x if torch.equal(x, x) else -x,
    "unique": lambda x: x.unique(),
}


@pytest.mark.parametrize("how", ASKING)
def test_who_asks_for_values_is_refused_in_one_line(how: str) -> None:
    counted = Counted()
    with pytest.raises(
        InputError, match=r"^this function has no CUDA graph: <lambda> \(test_capture.py:\d+\) asks"
    ) as e:
        Replay(ASKING[how], recorder=counted)(torch.randn(4))
    assert "\n" not in str(e.value)
    assert not unseen()


@pytest.mark.parametrize("move", [lambda x: x + torch.ones(4).to(x), lambda x: x.copy_(torch.ones(4))])
def test_a_copy_from_elsewhere_is_refused(move: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InputError, match="copies from one device to another"):
        Replay(move, recorder=Again)(torch.empty(4, device="meta"))


def test_what_asks_for_nothing_passes() -> None:
    seen: list[bool] = []

    def quiet(x: Tensor) -> Tensor:
        seen.append(unseen())
        y = x[torch.tensor([1, 0])] * torch.where(x > 0, x, 0.0)
        y[:1] = 3.0
        return y.double().to(x.dtype)

    x = torch.randn(2)
    assert torch.equal(Replay(quiet, recorder=Again)(x)[1:], (x[0] * x.clamp(min=0)[1:]))
    assert seen == [True, True, False]  # watched, recorded; in place of the last a GPU runs no Python


def test_inputs_lie_on_one_device() -> None:
    with pytest.raises(InputError, match="inputs lie on cpu and meta"):
        Replay(doubled, recorder=Again)(torch.ones(1), torch.ones(1, device="meta"))
    with pytest.raises(InputError, match="inputs lie on no device"):
        Replay(doubled, recorder=Again)(3)


def test_recorded_without_gradients_and_used_with_them() -> None:
    replay = Replay(doubled, recorder=Again)
    with torch.inference_mode():
        replay(torch.ones(2))
    assert not replay(torch.ones(2, requires_grad=True)).requires_grad


def test_a_processor_has_no_cuda_graph() -> None:
    with pytest.raises(InputError, match=r"CUDA graphs are of a GPU, and this lies on cpu: .*kedge.walk.Compiled"):
        CudaGraph(torch.device("cpu"))


@GPU
def test_on_a_gpu() -> None:
    replay = Replay(doubled)
    for size in (3, 4, 3):
        x = torch.randn(size, device="cuda")
        assert torch.equal(replay(x), 2 * x)
    with pytest.raises(InputError, match="asks for the values"):
        Replay(ASKING["truth"])(torch.ones(2, device="cuda"))
