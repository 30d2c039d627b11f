from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kedge.cond import Cond
from kedge.nets import HalfUNet1D


def made(horizon: int = 16, mults: tuple[int, ...] = (1, 4), **options: Any) -> HalfUNet1D:
    torch.manual_seed(0)
    net = HalfUNet1D(horizon, 3, 16, mults, **options).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net


@pytest.mark.parametrize(
    ("horizon", "D", "W", "mults", "published"),
    [
        (32, 23, 32, (1, 2, 4, 8), 2_296_545),
        (32, 14, 32, (1, 2, 4, 8), 2_294_817),
        (4, 3, 16, (1, 2, 4), 146_993),
        (8, 3, 16, (1, 4), 117_809),
    ],
)
def test_parameter_count_is_the_sources(horizon: int, D: int, W: int, mults: tuple[int, ...], published: int) -> None:
    """Counted on the source itself; the first is its locomotion's half-cheetah."""
    assert sum(p.numel() for p in HalfUNet1D(horizon, D, W, mults).parameters()) == published


def test_output_is_the_sources() -> None:
    """The source's output with these weights and these frequencies (they are ours to choose), in float64."""
    net = HalfUNet1D(8, 3, 16, (1, 4)).double()
    for i, p in enumerate(net.parameters()):
        p.data.copy_(0.3 * torch.sin(1.7 * torch.arange(p.numel(), dtype=torch.float64) + i).view_as(p))
    net.get_buffer("hears.level.0.w").copy_(torch.linspace(1, 2, 8, dtype=torch.float64))
    x = torch.cos(torch.arange(48, dtype=torch.float64)).view(2, 8, 3)
    y = net(x, torch.tensor([-1.5, 0.7], dtype=torch.float64)).flatten().tolist()
    torch.testing.assert_close(y, [0.9155904994834723, 0.9503967623319225], rtol=0, atol=1e-12)


@pytest.mark.parametrize("horizon", [1, 7, 16, 33])
def test_one_level_for_all_tokens_is_one_level_and_each_is_heard(horizon: int) -> None:
    net = made(horizon, cond={"goal": 2}, out=2)
    x = torch.randn(2, horizon, 3, dtype=torch.float64)
    t = torch.tensor([-1.0, 0.4], dtype=torch.float64)
    cond = Cond.of(goal=torch.randn(2, 2, dtype=torch.float64))
    one, levels = net(x, t, cond), t[:, None].repeat(1, horizon)
    assert one.shape == (2, 2)
    assert not torch.equal(one, net(x, t))
    torch.testing.assert_close(net(x, levels, cond), one, rtol=0, atol=1e-12)
    for token in range(horizon):
        other = levels.clone()
        other[:, token] += 0.5
        assert (net(x, other, cond) - one).abs().amax(1).min() > 1e-6


def test_levels_of_tokens_are_pooled_on_the_way_down() -> None:
    """With the finest resolution and the last layers deaf, a token is heard through its pair, and the last of seven
    through itself.
    """
    net = made(7)
    finest: Any = net.down[0]
    for block in finest.blocks:
        nn.init.zeros_(block.hears.weight)
    last: Any = net.leave[0]
    last.weight.data[:, -16:] = 0
    x, t = torch.randn(1, 7, 3, dtype=torch.float64), torch.linspace(-1, 0.5, 7, dtype=torch.float64)[None]
    y = net(x, t)
    torch.testing.assert_close(net(x, t[:, [1, 0, 3, 2, 5, 4, 6]]), y, rtol=0, atol=1e-12)
    assert (net(x, t[:, [0, 2, 1, 3, 4, 5, 6]]) - y).abs().max() > 1e-6
    for token in range(7):
        other = t.clone()
        other[:, token] += 0.5
        assert (net(x, other) - y).abs().max() > 1e-6


def test_gradient_reaches_every_parameter_and_every_entry_of_the_plan() -> None:
    net = made(32)  # at the end 2 tokens are left, so that no tap of a kernel falls beyond the ends alone
    x = torch.randn(4, 32, 3, dtype=torch.float64, requires_grad=True)
    net(x, torch.rand(4, dtype=torch.float64)).sum().backward()
    assert x.grad is not None
    assert (x.grad.abs() > 0).all()
    assert all(p.grad is not None and bool((p.grad.abs() > 0).all()) for p in net.parameters())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: made()(torch.zeros(2, 8, 3), torch.zeros(2)), r"x must have shape \[B, 16, 3\], got \[2, 8, 3\]"),
        (lambda: HalfUNet1D(8, 3, 20), "width must be a multiple of 8 and the channels .* of 64 .* got 20 and 160"),
        (lambda: HalfUNet1D(8, 3, 16, (1, 2)), "width must be a multiple of 8 .* got 16 and 32"),
        (lambda: HalfUNet1D(0, 3), "horizon must be at least 1, got 0"),
        (lambda: HalfUNet1D(8, 3, 32, ()), "number_of_mults must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=f"^HalfUNet1D: {says}") as error:
        call()
    assert "\n" not in str(error.value)
