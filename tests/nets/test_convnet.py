from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kedge.nets import ConvNet


def without_norms(dilations: Sequence[int], kernel: int) -> ConvNet:
    """The norms look at the whole horizon; the convolutions alone have a receptive field."""
    torch.manual_seed(0)
    net = ConvNet(2, 8, dilations, kernel=kernel).double()
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return net


def moved(y: Tensor) -> Tensor:
    """Which entries along the second axis differ from those of a run that was not touched."""
    return (y.abs() > 1e-14).flatten(2).any(2).any(0)


@pytest.mark.parametrize(
    ("D", "W", "dilations", "K"), [(4, 64, (1, 2, 4, 8), 5), (3, 16, (1, 3), 3), (29, 32, (1, 2, 4, 1), 5)]
)
def test_parameter_count_is_that_of_its_layers(D: int, W: int, dilations: tuple[int, ...], K: int) -> None:
    """Level: Linear(W, 4W), Linear(4W, W). Block: two of Conv(W, W, K) and norm 2 W; Linear(W, W). Ends: Linear(D, W),
    Linear(W, D).
    """
    block = 2 * (W * W * K + W + 2 * W) + W * W + W
    expected = (W * 4 * W + 4 * W) + (4 * W * W + W) + len(dilations) * block + (D * W + W) + (W * D + D)
    net = ConvNet(D, W, dilations, kernel=K)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


@pytest.mark.parametrize("at", [20, 1])
@pytest.mark.parametrize(("dilations", "kernel", "reach"), [((1,), 5, 4), ((1, 2), 3, 6), ((1, 2, 4), 3, 14)])
def test_a_token_sees_as_far_as_the_kernels_reach_and_no_further(
    dilations: tuple[int, ...], kernel: int, reach: int, at: int
) -> None:
    net, T = without_norms(dilations, kernel), 41
    assert net.reach == reach
    x, t = torch.randn(1, T, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    other = x.clone()
    other[:, at] += 1
    seen = moved(net(other, t) - net(x, t)).nonzero().flatten().tolist()
    assert seen == list(range(max(at - reach, 0), at + reach + 1))


@pytest.mark.parametrize("at", [0, 31])
def test_as_it_stands_32_points_see_each_other(at: int) -> None:
    net = without_norms((1, 2, 4, 8), 5)
    assert net.reach == ConvNet(2).reach == 60
    x, t = torch.randn(1, 32, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    other = x.clone()
    other[:, at] += 1
    assert moved(net(other, t) - net(x, t)).all()


def test_a_level_is_heard_by_its_own_token_first() -> None:
    """It enters after the first convolution of a block: it reaches as far as x does, less that convolution."""
    net, T, at = without_norms((1, 2), 3), 41, 20
    x, t = torch.randn(1, T, 2, dtype=torch.float64), torch.zeros(1, T, dtype=torch.float64)
    other = t.clone()
    other[:, at] += 1
    reach = net.reach - 1
    assert moved(net(x, other) - net(x, t)).nonzero().flatten().tolist() == list(range(at - reach, at + reach + 1))


def test_a_shifted_plan_gives_the_shifted_output() -> None:
    net, shift = without_norms((1, 2), 3), 5
    x = torch.randn(2, 60, 2, dtype=torch.float64)
    t = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    inside = slice(net.reach, 60 - shift - net.reach)
    expected = net(x, t)[:, shift:][:, inside]
    torch.testing.assert_close(net(x[:, shift:], t)[:, inside], expected, rtol=0, atol=1e-12)


def test_without_its_blocks_it_is_the_two_ends() -> None:
    """The residual: with the last norm of each block silent, mish(0) = 0 and x passes as it is."""
    torch.manual_seed(0)
    net = ConvNet(3, 16, (1, 2)).double()
    block: Any
    for block in net.blocks:
        for parameter in block.second[1].parameters():
            nn.init.zeros_(parameter)
    x, t = torch.randn(2, 9, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(net(x, t), net.leave(net.enter(x)), rtol=0, atol=1e-14)
