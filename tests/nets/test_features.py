from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kedge.cond import Cond
from kedge.denoise import Denoiser
from kedge.nets import MLP, Atlas, ConvNet, DiT1D, Fourier, Octaves, UNet1D
from kedge.paths import Trig

B, T, D, EXTRA = 3, 8, 4, 20
NETS: dict[str, Callable[..., nn.Module]] = {
    "MLP": lambda D, **o: MLP((T, D), 32, 2, embed=16, **o),
    "DiT1D": lambda D, **o: DiT1D(D, 32, 2, 2, embed=16, **o),
    "UNet1D": lambda D, **o: UNet1D(D, 16, (1, 2, 2), **o),
    "ConvNet": lambda D, **o: ConvNet(D, 16, (1, 2), **o),
}
every = pytest.mark.parametrize("name", NETS)


def made(name: str, **options: Any) -> Fourier:
    torch.manual_seed(0)
    net = Fourier(NETS[name](D + EXTRA, out=D, **options)).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(B, T, D, generator=generator, dtype=torch.float64)
    return x, torch.rand(B, generator=generator, dtype=torch.float64)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4)])
def test_features_are_the_sines_and_cosines_of_the_periods(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    columns = [x[..., i] for i in range(4)]
    for wave in (np.sin, np.cos):
        columns += [wave(2 * np.pi * x[..., i] / period) for i in (2, 0) for period in (6.0, 3.0, 1.5)]
    y = Octaves((2, 0), 3, 6.0)(torch.as_tensor(x))
    np.testing.assert_allclose(y.numpy(), np.stack(columns, -1), rtol=0, atol=1e-6)  # 1/6 is rounded to float32
    assert y.shape[-1] == 4 + Octaves((2, 0), 3, 6.0).extra


def test_as_they_stand_the_periods_are_4_to_a_quarter() -> None:
    octaves = Octaves()
    assert octaves.dims == (0, 1)
    for i, period in enumerate((4.0, 2.0, 1.0, 0.5, 0.25)):
        x = torch.tensor([period / 4, period / 2], dtype=torch.float64)
        y = octaves(x)
        torch.testing.assert_close(y[[2 + i, 7 + i]].tolist(), [1.0, 0.0], rtol=0, atol=1e-14)
        torch.testing.assert_close(y[[12 + i, 17 + i]].tolist(), [0.0, -1.0], rtol=0, atol=1e-14)
    assert len(y) == 22


def test_no_two_positions_within_the_first_period_are_alike() -> None:
    x = torch.linspace(-2, 2, 402, dtype=torch.float64)[:-1, None]
    y = Octaves((0,), 1, 4.0)(x)[:, 1:]
    assert torch.cdist(y, y).fill_diagonal_(9).min() > 0.99 * 2 * math.sin(math.pi / 401)


def test_a_linear_layer_reads_walls_off_them() -> None:
    """Walls as wide as the gaps between them, .25 each: x itself explains 3 / 8^2 of where they are (exactly, for eight
    bars), their own wave explains 8 / pi^2, and the slower waves, which repeat with them, nothing.
    """
    x = (torch.arange(4096, dtype=torch.float64) + 0.5) / 2048 - 1
    wall = torch.where((x / 0.25).floor() % 2 == 0, 1.0, -1.0).double()

    def explained(features: torch.Tensor) -> float:
        fitted = features @ torch.linalg.lstsq(features, wall[:, None]).solution
        return 1 - (wall - fitted[:, 0]).square().mean().item()

    assert explained(x[:, None]) == pytest.approx(3 / 64, abs=1e-6)
    assert explained(Octaves((0,), 4, 4.0)(x[:, None])) > 8 / math.pi**2


@every
def test_the_network_is_given_the_features(name: str) -> None:
    net, (x, t) = made(name, cond={"goal": 2}), inputs()
    cond = Cond.of(goal=torch.randn(B, 2, dtype=torch.float64))
    y = net(x, t, cond)
    assert y.shape == x.shape
    assert torch.equal(y, net.net(Octaves()(x), t, cond))
    assert not torch.equal(y, net(x, t))


@every
def test_one_level_a_token_is_passed_on(name: str) -> None:
    net, (x, t) = made(name), inputs()
    levels = t[:, None].expand(B, T)
    torch.testing.assert_close(net(x, levels), net(x, t), rtol=0, atol=1e-12)
    other = levels.clone()
    other[:, 3] += 0.5
    assert (net(x, other) - net(x, t)).abs().amax((1, 2)).min() > 1e-5


@every
def test_only_the_first_layer_grows(name: str) -> None:
    """By the extra inputs times what they feed: a U-Net's feed a convolution of 5 and a skip."""
    fed = {"MLP": T * 32, "DiT1D": 32, "UNet1D": 16 * (5 + 1), "ConvNet": 16}[name]
    assert count(NETS[name](D + EXTRA, out=D)) == count(NETS[name](D)) + EXTRA * fed
    assert count(NETS[name](D, out=D)) == count(NETS[name](D))


@every
def test_out_is_the_width_of_the_output(name: str) -> None:
    x, t = inputs()
    assert NETS[name](D, out=7).double()(x, t).shape == (B, T, 7)


@every
def test_gradient_reaches_position_and_parameters(name: str) -> None:
    net, (x, t) = made(name), inputs()
    x.requires_grad_()
    net(x, t).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs() > 0).all()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in net.parameters())


def test_around_builds_both() -> None:
    torch.manual_seed(0)
    net = Fourier.around(UNet1D, 4, 16, (1, 2), dims=(1,), count=3, longest=2, features="fourier")
    assert isinstance(net.net, UNet1D)
    assert (net.net.dim, net.net.out, net.octaves.dims, net.octaves.extra) == (10, 4, (1,), 6)
    assert float(net.octaves.w[0]) == 1 / 2
    denoiser = Denoiser(net, Trig(0.5), "trig")
    assert denoiser(torch.randn(2, 8, 4), 0.3).shape == (2, 8, 4)


def test_features_are_not_saved() -> None:
    assert all(key.startswith("net.") for key in made("ConvNet").state_dict())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Octaves(()), "Octaves: number_of_dims must be at least 1, got 0"),
        (lambda: Octaves((0, 0)), r"Octaves: dims are indices from 0 on, each once, got \(0, 0\)"),
        (lambda: Octaves((-1,)), r"Octaves: dims are indices from 0 on, each once, got \(-1,\)"),
        (lambda: Octaves(count=0), "Octaves: count must be at least 1, got 0"),
        (lambda: Octaves(longest=0.0), "Octaves: the longest period must be positive, got 0.0"),
        (lambda: Octaves((0, 5))(torch.zeros(2, 4)), r"Octaves: dims are \(0, 5\), but x has 4 dimensions"),
        (lambda: Fourier(ConvNet(4)), "Fourier: ConvNet must read 20 dimensions more .* dim=4 and out=4;"),
        (lambda: Fourier(nn.Linear(24, 4)), "Fourier: Linear must read 20 dimensions more .* dim=None and out=None"),
        (lambda: Fourier.around(ConvNet, 4, dims=(4,)), r"Fourier: dims are \(4,\), but x has 4 dimensions"),
        (
            lambda: Fourier.around(ConvNet, 4)(torch.zeros(2, 8, 3), torch.zeros(2)),
            r"Fourier: x must have shape \[B, 8, 4\], got \[2, 8, 3\]",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        make()
    assert "\n" not in str(error.value)


def plane(cells: int) -> Atlas:
    """A table that holds its own places: x in the first channel, 10 y in the second."""
    atlas = Atlas((2, 0), channels=2, cells=(cells,), reach=3.0).double()
    line = torch.linspace(-3, 3, cells, dtype=torch.float64)
    with torch.no_grad():
        atlas.tables[0].copy_(torch.stack([line.expand(cells, cells), 10 * line[:, None].expand(cells, cells)])[None])
    return atlas


def test_an_atlas_is_read_between_its_entries():
    """Bilinear interpolation is exact on a plane, at any point and any number of cells."""
    x = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6 - 3
    for cells in (2, 7):
        found = plane(cells)(x)
        torch.testing.assert_close(found[..., :4], x, rtol=0, atol=0)
        torch.testing.assert_close(found[..., 4:], torch.stack([x[..., 2], 10 * x[..., 0]], -1))


def test_beyond_the_atlas_its_edge_goes_on():
    x = torch.tensor([[[9.0, 0.0, -5.0, 0.0]]], dtype=torch.float64)
    assert plane(5)(x)[0, 0, 4:].tolist() == [-3.0, 30.0]


def test_an_atlas_appends_a_table_for_each_size():
    atlas = Atlas(channels=3, cells=(4, 8))
    assert atlas.extra == 6
    assert atlas(torch.zeros(2, 7, 5)).shape == (2, 7, 11)


def test_a_network_learns_its_atlas():
    net = Fourier.around(UNet1D, D, width=16, mults=(1, 2), atlas=Atlas(channels=3, cells=(4, 8)))
    x, t = inputs()
    net(x.float(), t.float()).square().sum().backward()
    assert net.atlas is not None
    assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in net.atlas.tables)


@pytest.mark.parametrize(
    ("options", "says"), [({"dims": (0, 1, 2)}, "two dimensions"), ({"reach": 0.0}, "reach must be positive")]
)
def test_an_atlas_says_what_is_wrong(options, says):
    with pytest.raises(ValueError, match=says):
        Atlas(**options)
