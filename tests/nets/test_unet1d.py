from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from kedge.nets import UNet1D
from kedge.nets.unet1d import _LinearAttention


def linear(enter: int, leave: int) -> int:
    return enter * leave + leave


def conv(enter: int, leave: int, kernel: int) -> int:
    return enter * leave * kernel + leave


def sources_count(D: int, W: int, mults: Sequence[int], attention: bool) -> int:
    """Diffuser's `TemporalUnet(horizon, transition_dim=D, cond_dim, dim=W, dim_mults=mults, attention=attention)`:

    time     Linear(W, 4W), Linear(4W, W)
    block    (i to o): Conv(i, o, 5), GroupNorm(o), Conv(o, o, 5), GroupNorm(o), Linear(W, o), Conv(i, o, 1) if i != o
    attend   (o): norm 2 o; Conv(o, 384, 1) without bias; Conv(128, o, 1)
    down     for each resolution: block(i, o), block(o, o), attend(o); Conv(o, o, 3) but for the last
    middle   block(c, c), attend(c), block(c, c)
    up       for each resolution but one: block(2 i, o), block(o, o), attend(o), transposed Conv(o, o, 4)
    final    Conv(W, W, 5), GroupNorm(W), Conv(W, D, 1)
    """

    def block(i: int, o: int) -> int:
        return conv(i, o, 5) + 2 * o + conv(o, o, 5) + 2 * o + linear(W, o) + (conv(i, o, 1) if i != o else 0)

    def pair(i: int, o: int) -> int:
        return block(i, o) + block(o, o) + (2 * o + 384 * o + linear(128, o) if attention else 0)

    c = [D, *(W * m for m in mults)]
    total = linear(W, 4 * W) + linear(4 * W, W) + pair(c[-1], c[-1])
    total += sum(pair(i, o) for i, o in pairwise(c)) + sum(conv(o, o, 3) for o in c[1:-1])
    total += sum(pair(2 * i, o) + conv(o, o, 4) for o, i in pairwise(c[1:]))
    return total + conv(W, W, 5) + 2 * W + conv(W, D, 1)


@pytest.mark.parametrize(
    ("D", "W", "mults", "attention", "published"),
    [
        (6, 32, (1, 2, 4, 8), False, 3_954_502),
        (6, 32, (1, 4, 8), False, 3_682_118),
        (23, 32, (1, 2, 4, 8), True, 4_452_727),
        (4, 64, (1, 2), True, 1_180_676),
    ],
)
def test_parameter_count_is_the_sources(
    D: int, W: int, mults: tuple[int, ...], attention: bool, published: int
) -> None:
    """`published` was counted on the source itself; the second is its maze2d's."""
    assert sources_count(D, W, mults, attention) == published
    net = UNet1D(D, W, mults, attention=attention)
    assert sum(parameter.numel() for parameter in net.parameters()) == published


@pytest.mark.parametrize(
    ("attention", "expected", "total"),
    [
        (False, [-0.10280322013447414, -0.37817814699262636, 0.4567775462686721], 14.668668500855938),
        (True, [0.14650832055871338, -0.13209116077283356, 0.22411737857810204], 7.086646572131963),
    ],
)
def test_output_is_the_sources(attention: bool, expected: list[float], total: float) -> None:
    """The source's output with these weights and these frequencies (they are ours to choose), in float64."""
    net = UNet1D(3, 16, (1, 2), attention=attention).double()
    for i, p in enumerate(net.parameters()):
        p.data.copy_(0.3 * torch.sin(1.7 * torch.arange(p.numel(), dtype=torch.float64) + i).view_as(p))
    net.get_buffer("hears.level.0.w").copy_(torch.linspace(1, 2, 8, dtype=torch.float64))
    x = torch.cos(torch.arange(48, dtype=torch.float64)).view(2, 8, 3)
    y = net(x, torch.tensor([-1.5, 0.7], dtype=torch.float64)).detach()
    torch.testing.assert_close(y.flatten()[[0, 4, -1]].tolist(), expected, rtol=0, atol=1e-12)
    assert abs(y.abs().sum().item() - total) < 1e-11


def without_norms(mults: tuple[int, ...]) -> UNet1D:
    """The norms look at the whole horizon; the convolutions alone have a receptive field."""
    torch.manual_seed(0)
    net = UNet1D(2, 8, mults).double()
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return net


def seen_from(out: int, tokens: int, levels: int) -> set[int]:
    """The input tokens that output token `out` depends on, by the kernels alone: every pair of blocks is four
    convolutions of 5, so it reaches 8 tokens each way; output i of the strided convolution sees 2i - 1, 2i, 2i + 1;
    output o of the transposed one (kernel 4, stride 2, padding 1) sees the i with o = 2i - 1 + k, 0 <= k <= 3.
    """
    length = [tokens >> i for i in range(levels)]

    def spread(seen: set[int], reach: int, level: int) -> set[int]:
        return {j for i in seen for j in range(max(0, i - reach), min(length[level], i + reach + 1))}

    def inside(seen: set[int], level: int) -> set[int]:
        return {i for i in seen if 0 <= i < length[level]}

    skips: list[set[int]] = []
    seen = spread({out}, 2, 0)  # the final block
    for level in range(levels - 1):
        upsampled = inside({(o + 1 - k) // 2 for o in seen for k in range(4) if (o + 1 - k) % 2 == 0}, level + 1)
        seen = spread(upsampled, 8, level + 1)
        skips.append(seen)
    seen = spread(seen, 8, levels - 1)  # the middle
    for level in reversed(range(levels)):
        # What the skip needs of this resolution joins what came through the coarser ones.
        seen = spread(seen | (skips[level - 1] if level else set()), 8, level)
        if level:
            seen = inside({2 * i + k for i in seen for k in (-1, 0, 1)}, level - 1)
    return seen


@pytest.mark.parametrize(("levels", "tokens", "out"), [(1, 64, 30), (2, 160, 80), (2, 160, 3), (3, 400, 201)])
def test_receptive_field_is_what_the_kernels_make_it(levels: int, tokens: int, out: int) -> None:
    net = without_norms((1,) * levels)
    x = torch.randn(1, tokens, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x, torch.zeros(1))[0, out].sum(), x)
    seen = set(grad[0].abs().amax(-1).nonzero()[:, 0].tolist())
    assert seen == seen_from(out, tokens, levels)
    assert len(seen) < tokens


def test_a_shift_by_the_coarsest_stride_shifts_the_plan() -> None:
    """Away from the ends, and without the norms."""
    net = without_norms((1, 2))
    x = torch.randn(1, 240, 2, dtype=torch.float64)
    t = torch.zeros(1)
    y = net(x, t)
    interior = slice(80, 150)
    torch.testing.assert_close(net(x.roll(2, 1), t).roll(-2, 1)[:, interior], y[:, interior], rtol=0, atol=1e-12)
    assert (net(x.roll(1, 1), t).roll(-1, 1)[:, interior] - y[:, interior]).abs().max() > 1e-4


def test_levels_of_tokens_are_pooled_to_each_resolution() -> None:
    torch.manual_seed(0)
    net = UNet1D(2, 8, (1, 1, 1)).double()
    t = torch.randn(3, 16, dtype=torch.float64)
    heard = net._heard(t, None)
    assert [tuple(h.shape) for h in heard] == [(3, 16, 8), (3, 8, 8), (3, 4, 8)]
    for i, window in enumerate((1, 2, 4)):
        for token in range(16 // window):
            inside = heard[0][:, token * window : (token + 1) * window].mean(1)
            torch.testing.assert_close(heard[i][:, token], inside, rtol=0, atol=1e-12)


def test_a_level_reaches_the_tokens_around_its_own() -> None:
    """One resolution, no norms: a level enters each block after its first convolution. From the first block on, that
    leaves 3 convolutions of 5 in the pair, 4 in the middle and the final one, which reach 2 tokens each.
    """
    net = without_norms((1,))
    x = torch.randn(1, 64, 2, dtype=torch.float64)
    t = torch.zeros(1, 64, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x, t)[0, 30].sum(), t)
    reach = 2 * (3 + 4 + 1)
    assert grad[0].nonzero()[:, 0].tolist() == list(range(30 - reach, 30 + reach + 1))


@pytest.mark.parametrize("mults", [(1,), (1, 2), (1, 2, 4, 8)])
def test_any_multiple_of_the_coarsest_stride_is_a_horizon(mults: tuple[int, ...]) -> None:
    net, stride = UNet1D(2, 8, mults), 2 ** (len(mults) - 1)
    for tokens in (stride, 3 * stride):
        x = torch.randn(2, tokens, 2)
        assert net(x, torch.zeros(2)).shape == x.shape
    if stride > 1:
        with pytest.raises(ValueError, match=f"horizon must be a multiple of {stride}, got {stride + 1} tokens"):
            net(torch.zeros(2, stride + 1, 2), torch.zeros(2))


def test_first_resolution_may_be_wider_than_the_embedding() -> None:
    net = UNet1D(2, 8, (2, 3))
    assert net(torch.randn(2, 8, 2), torch.zeros(2)).shape == (2, 8, 2)


def test_linear_attention_is_attention_with_separable_weights() -> None:
    """out_t = sum_s (q_t . softmax_s(k)_s) v_s, written token by token."""
    torch.manual_seed(0)
    layer = _LinearAttention(16, heads=2, size=4).double()
    x = torch.randn(2, 16, 5, dtype=torch.float64)
    q, k, v = layer.qkv(layer.norm(x.transpose(1, 2))).chunk(3, -1)
    rows: list[Tensor] = []
    for head in (slice(0, 4), slice(4, 8)):
        weight = (q[..., head] * 4**-0.5) @ k[..., head].softmax(1).transpose(1, 2)  # [B, T, T]
        rows.append(weight @ v[..., head])
    expected = x + layer.out(torch.cat(rows, -1)).transpose(1, 2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
