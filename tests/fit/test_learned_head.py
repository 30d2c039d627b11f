"""The weighting that is trained: where it starts, where it ends, what it carries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kedge.fit.weightings import EDM, LearnedHead, MinSNR, Uniform, Weighting

LEVELS = torch.linspace(-6, 6, 201, dtype=torch.float64)


def known_error(log_snr: Tensor) -> Tensor:
    """`s^2 / (1 + s^2)` of the noise scale s: what a standard normal leaves."""
    return torch.sigmoid(-log_snr)


@pytest.mark.parametrize("base", [EDM(0.5), Uniform("v"), MinSNR(), Uniform("clean")])
def test_it_starts_at_its_base_to_the_bit(base: Weighting) -> None:
    assert torch.equal(LearnedHead(base)(LEVELS), base(LEVELS))
    assert torch.equal(LearnedHead()(LEVELS), EDM()(LEVELS))


def test_weight_and_penalty_are_one_u() -> None:
    head = LearnedHead(EDM(0.5), features=16)
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(0))
    u = head.penalty(LEVELS)
    assert float(u.detach().std()) > 0.1
    torch.testing.assert_close(head(LEVELS), EDM(0.5)(LEVELS) * torch.exp(-u))


def test_its_features_are_karras_fourier_features_of_a_quarter_of_the_log_scale() -> None:
    """`sqrt(2 / n) cos(2 pi (f c_noise + phase))`, f standard normal, phase uniform: unit norm in the mean."""
    head = LearnedHead(features=4096)
    with torch.no_grad():
        head.linear.weight.copy_(torch.arange(4096.0)[None] / 4096)
    log_scale = torch.tensor([-1.0, 0.3, 2.0])
    features = (2 / 4096) ** 0.5 * torch.cos(log_scale[:, None] / 4 * head.frequencies + head.phases)
    torch.testing.assert_close(head.penalty(-2 * log_scale), features @ head.linear.weight[0])
    torch.testing.assert_close((features**2).sum(1), torch.ones(3), rtol=0, atol=0.1)
    assert abs(float(head.frequencies.std()) / (2 * torch.pi) - 1) < 0.05
    assert 0 <= float(head.phases.min()) < 0.01
    assert 6.27 < float(head.phases.max()) <= 2 * torch.pi


@pytest.mark.parametrize("base", [EDM(0.5), Uniform("clean")])
def test_the_minimum_of_its_loss_weighs_with_one_over_the_error(base: Weighting) -> None:
    """Trained by itself on `J = E[lambda L e^-u + u]`, L known: the weighted loss is 1 within .02 at every level but
    the outermost 5%, whatever the base.
    """
    head = LearnedHead(base)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=400, history_size=50, line_search_fn="strong_wolfe")

    def J() -> Tensor:
        optimiser.zero_grad()
        loss = (head(LEVELS) * known_error(LEVELS) + head.penalty(LEVELS)).mean()
        loss.backward()
        return loss

    optimiser.step(J)
    weighted = (head(LEVELS) * known_error(LEVELS)).detach()
    assert float((weighted[10:-10] - 1).abs().max()) < 0.02
    assert abs(float(weighted.mean()) - 1) < 0.005


def test_its_features_are_in_its_state_and_only_its_layer_is_trained() -> None:
    one, other = LearnedHead(seed=0), LearnedHead(seed=1)
    assert set(one.state_dict()) == {"frequencies", "phases", "linear.weight"}
    assert [name for name, _ in one.named_parameters()] == ["linear.weight"]
    assert not torch.equal(one.frequencies, other.frequencies)
    torch.nn.init.ones_(one.linear.weight)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(LEVELS), other(LEVELS))
    assert torch.equal(LearnedHead(seed=7).phases, LearnedHead(seed=7).phases)
