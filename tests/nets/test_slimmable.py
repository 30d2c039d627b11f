"""Networks of several widths in one set of weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kedge.cond import Cond
from kedge.nets import MLP, DiT1D, Slimmable, UNet1D, multiply_adds

f64 = torch.float64
W, T, D = 32, 5, 3
BUILD: dict[str, Callable[[int], nn.Module]] = {
    "MLP": lambda width: MLP((T, D), width, 2, embed=8, cond={"goal": 2}, dropout=0.1),
    "DiT1D": lambda width: DiT1D(D, width, 2, width // 8, embed=16, longest=8, cond={"goal": 2}),
}
every = pytest.mark.parametrize("name", BUILD)


def made(name: str, shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)) -> Slimmable:
    """Every parameter random, so that nothing hides behind a zero or a one."""
    torch.manual_seed(0)
    net = Slimmable(BUILD[name], W, shares).double().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def inputs() -> tuple[Tensor, Tensor, Cond]:
    generator = torch.Generator().manual_seed(7)
    x, t, goal = (torch.randn(*shape, generator=generator, dtype=f64) for shape in ((4, T, D), (4,), (4, 2)))
    return x, t, Cond.of(goal=goal)


def copied(slim: Slimmable, name: str, share: float) -> nn.Module:
    """A network of the width, built by itself, its weights picked out of the whole ones channel by channel."""
    width = round(share * W)
    net = BUILD[name](width).double().eval()
    whole = dict(slim.whole.named_parameters()) | dict(slim.whole.named_buffers())
    for key, own in [*net.named_parameters(), *net.named_buffers()]:
        value = whole[key].detach()
        for axis, size in enumerate(own.shape):
            if size != value.shape[axis]:
                channels = [block * W + a for block in range(value.shape[axis] // W) for a in range(width)]
                value = value.index_select(axis, torch.tensor(channels))
        own.data.copy_(value)
    norms = [module for module in net.modules() if isinstance(module, nn.LayerNorm)]
    for norm, own in zip(norms, slim.get_submodule(f"norms.{slim.shares.index(share)}").children(), strict=True):
        norm.load_state_dict(own.state_dict())
    return net


@every
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_part_is_a_small_network_with_copied_weights(name: str, share: float) -> None:
    slim, (x, t, cond) = made(name), inputs()
    apart = copied(slim, name, share)
    for level in (t, t[:, None].expand(-1, T)):
        for heard in (cond, None):
            expected = apart(x, level, heard)
            torch.testing.assert_close(slim.at(share)(x, level, heard), expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(slim.cut(share)(x, level, heard), expected, rtol=0, atol=1e-12)


@every
def test_the_whole_is_the_network_itself(name: str) -> None:
    slim, (x, t, cond) = made(name), inputs()
    for net in (slim, slim.at(1.0), slim.cut(1.0)):
        assert torch.equal(net(x, t, cond), slim.whole(x, t, cond))


def test_gradients_reach_the_first_channels_and_no_others() -> None:
    slim, (x, t, cond) = made("MLP"), inputs()
    apart = copied(slim, "MLP", 0.5)
    apart(x, t, cond).square().sum().backward()
    slim.at(0.5)(x, t, cond).square().sum().backward()
    theirs, ours = (dict(net.named_parameters())["enter.weight"].grad for net in (apart, slim.whole))
    assert theirs is not None
    assert ours is not None
    torch.testing.assert_close(ours[: W // 2], theirs, rtol=0, atol=1e-10)
    assert not ours[W // 2 :].any()
    used = [[parameter.grad is not None for parameter in own.parameters()] for own in slim.norms]
    assert [all(own) for own in used] == [False, True, False]  # each width has norms of its own
    assert [any(own) for own in used] == [False, True, False]


def test_parts_are_trained_as_the_whole_is() -> None:
    slim, (x, t, cond) = made("MLP"), inputs()
    assert torch.equal(slim.at(0.5)(x, t, cond), slim.at(0.5)(x, t, cond))
    slim.train()
    assert not torch.equal(slim.at(0.5)(x, t, cond), slim.at(0.5)(x, t, cond))
    assert not torch.equal(slim.cut(0.5)(x, t, cond), slim.cut(0.5)(x, t, cond))


def test_what_is_saved_is_the_whole_and_the_norms() -> None:
    slim, (x, t, cond) = made("MLP"), inputs()
    size = sum(parameter.numel() for parameter in slim.whole.parameters())
    norms = 2 * sum(2 * round(share * W) for share in (0.25, 0.5, 0.75))
    assert sum(parameter.numel() for parameter in slim.parameters()) == size + norms
    again = Slimmable(BUILD["MLP"], W).double().eval()
    again.load_state_dict(slim.state_dict())
    frozen = copy.deepcopy(slim).requires_grad_(False)
    slim.whole.get_parameter("enter.weight").data.zero_()
    for net in (again, frozen):
        assert torch.equal(net.at(0.25)(x, t, cond), again.cut(0.25)(x, t, cond))
        assert not torch.equal(net.at(0.25)(x, t, cond), slim.at(0.25)(x, t, cond))
    assert not any(parameter.requires_grad for parameter in frozen.cut(0.25).parameters())


def test_a_cut_keeps_its_weights() -> None:
    slim, (x, t, cond) = made("MLP"), inputs()
    for share in (0.5, 1.0):
        cut = slim.cut(share)
        before = cut(x, t, cond)
        with torch.no_grad():
            for parameter in slim.parameters():
                parameter.mul_(0.5)
        assert torch.equal(cut(x, t, cond), before)


def test_multiply_adds_are_those_of_the_layers() -> None:
    x, t, cond = (value[:1] if isinstance(value, Tensor) else None for value in inputs())
    for share in (0.25, 1.0):
        w, E = round(share * W), 8
        MLP_s = E * 2 * E + 2 * E * E + (T * D + E) * w + 2 * 2 * w * 4 * w + w * T * D
        assert multiply_adds(lambda s=share: made("MLP").cut(s)(x, t, cond)) == MLP_s
        E = 16
        block = T * 3 * w * w + 2 * T * T * w + T * w * w + 2 * T * w * 4 * w + w * 6 * w
        DiT_s = E // 4 * E + E * E + E * w + w * w + T * D * w + 2 * block + w * 2 * w + T * w * D
        assert multiply_adds(lambda s=share: made("DiT1D").cut(s)(x, t, cond)) == DiT_s


@pytest.mark.parametrize(
    ("build", "shares", "said"),
    [
        (BUILD["MLP"], (0.5, 0.25, 1.0), "least first, 1 last"),
        (BUILD["MLP"], (0.5,), "least first, 1 last"),
        (BUILD["MLP"], (0.3, 1.0), "whole channels"),
        (lambda width: MLP(D, width, depth=width // 8), (0.5, 1.0), "other layers at another width: blocks"),
        (lambda width: UNet1D(D, width, (1, 2)), (0.5, 1.0), "no multiple of width 32"),
    ],
)
def test_what_has_no_parts_is_refused(build: Any, shares: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Slimmable(build, W, shares)


def test_a_share_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no share 0.3 of the width; there are 0.25, 0.5, 0.75, 1.0"):
        made("MLP").at(0.3)
