"""Outcomes by example, and what foresees them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kedge import Cond
from kedge.errors import InputError
from kedge.paths import Trig
from kedge.steer import Foresight, ForesightLoss, Outcomes
from kedge.train import Tick

f64 = torch.float64
PATH = Trig()
WANTED = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=f64)
UNWANTED = torch.tensor([[-1.0, 0.0]], dtype=f64)


def ends(x: Tensor, t: Any, cond: Any) -> Tensor:
    return x.sum(1) + cond


def test_the_metric() -> None:
    x, seen = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=f64), torch.ones(2, dtype=f64)
    h = ends(x, 0.0, seen)
    near = [(-(h[:, None] - z).norm(dim=-1) / 0.5).exp().sum(1).log() for z in (WANTED, UNWANTED)]
    both = Outcomes(ends, WANTED, UNWANTED, spread=0.5)
    torch.testing.assert_close(both(x, 0.0, seen), near[1] - near[0])
    torch.testing.assert_close(Outcomes(ends, WANTED, spread=0.5)(x, 0.0, seen), -near[0])
    torch.testing.assert_close(Outcomes(ends, unwanted=UNWANTED, spread=0.5)(x, 0.0, seen), near[1])
    at = torch.zeros(1, 3, 2, dtype=f64, requires_grad=True)
    exactly = Outcomes(ends, torch.zeros(1, 2, dtype=f64))(at, 0.0, torch.zeros(2, dtype=f64))
    assert torch.autograd.grad(exactly.sum(), at)[0].isfinite().all()
    for bad, why in (({}, "what is wanted"), ({"wanted": WANTED, "spread": 0.0}, "positive")):
        with pytest.raises(InputError, match=why):
            Outcomes(ends, **bad)


class Heard(nn.Module):
    """What the network is told."""

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.heard = x, t, cond
        return x[:, :2]


def test_chunks_come_to_the_network_at_unit_scale_with_their_level() -> None:
    net, count = Heard(), 20_000
    ahead = Foresight(net, PATH)
    cond = Cond.of(observation=torch.zeros(count, 3), goal=torch.ones(count, 1))
    x = torch.randn(count, 3, 2, generator=torch.Generator().manual_seed(1))
    z = torch.randn(count, 3, 2, generator=torch.Generator().manual_seed(2))
    for scale in (0.0, 0.3, 4.0):
        t = PATH.time_at(scale) if scale else 0.0
        assert ahead(PATH.perturb(x, t, z), t, cond).shape == (count, 2)
        heard, level, seen = net.heard
        assert heard.shape == (count, 6)
        assert float(heard.std()) == pytest.approx(1, abs=0.02)
        assert list(seen.fields) == ["observation"]
        least = PATH.noise_scale(PATH.t_min)
        assert level.shape == (count,)
        assert float(level[0]) == pytest.approx(0.25 * torch.tensor(max(scale, least)).log().item(), rel=1e-4)
    many = torch.linspace(0.1, 1.5, count)
    ahead(x, many, cond)
    torch.testing.assert_close(net.heard[0][7], x[7].flatten() / (many[7].cos() ** 2 + many[7].sin() ** 2).sqrt())


class Linear(nn.Module):
    """`h = gain x_t`, where chunks are unit normal, and their outcome is their sum: best at the gain alpha."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.off = nn.Parameter(torch.tensor(off))

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        scale = (4 * t).exp()  # of noise, from c_noise
        return (1 + self.off) * x.unflatten(1, (3, 2)).sum(1) / (1 + scale[:, None] ** 2).sqrt()


def test_the_best_foresight_is_what_is_expected_given_the_noisy_chunk() -> None:
    x = torch.randn(8192, 3, 2, generator=torch.Generator().manual_seed(3))
    batch = {"x": x, "outcome": x.sum(1), "observation": torch.zeros(8192, 1)}
    errors = {}
    for off in (-0.1, 0.0, 0.1):
        loss, info = ForesightLoss(Foresight(Linear(off), PATH))(batch, Tick(0, 0))
        assert loss.shape == (8192,)
        errors[off] = float(info["error"])
    assert errors[0.0] < min(errors[-0.1], errors[0.1])
    assert errors[0.0] > 0.5  # the noise is really there
