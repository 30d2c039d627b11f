from __future__ import annotations

import pytest
import torch
from torch import nn

from kedge.nets import DiT1D


def linear(enter: int, leave: int) -> int:
    return enter * leave + leave


def shaken(longest: int = 1024) -> DiT1D:
    """Off its start, where the gates are closed."""
    torch.manual_seed(0)
    net = DiT1D(3, 32, 2, 4, embed=16, longest=longest).double().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net


def inputs(batch: int = 2, tokens: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, tokens, 3, dtype=torch.float64), torch.randn(batch, dtype=torch.float64)


@pytest.mark.parametrize(
    ("D", "E", "W", "depth", "published"), [(4, 128, 256, 2, 2_620_420), (10, 64, 128, 3, 956_298)]
)
def test_parameter_count_is_the_sources(D: int, E: int, W: int, depth: int, published: int) -> None:
    """DV's planner, CleanDiffuser's `DiT1d(in_dim=D, emb_dim=E, d_model=W, n_heads=W / 64, depth=depth,
    timestep_emb_type="fourier")`, whose trainable layers are
    in: Linear(D, W); time: Linear(E / 4, E), Linear(E, E); context: Linear(E, W), Linear(W, W);
    a block: attention (W to 3W, W to W, biases), Linear(W, 4W), Linear(4W, W), modulation Linear(W, 6W);
    out: modulation Linear(W, 2W), Linear(W, D). `published` was counted on the source itself; the first is maze2d's.
    """
    source = linear(D, W) + linear(E // 4, E) + linear(E, E) + linear(E, W) + linear(W, W)
    source += depth * (linear(W, 3 * W) + linear(W, W) + linear(W, 4 * W) + linear(4 * W, W) + linear(W, 6 * W))
    source += linear(W, 2 * W) + linear(W, D)
    assert source == published
    net = DiT1D(D, W, depth, W // 64, embed=E)
    assert sum(parameter.numel() for parameter in net.parameters()) == published


def test_output_is_the_sources() -> None:
    """The source's output with these weights and these frequencies, in float64, its first residual and the index code
    repaired as the class says."""
    net = DiT1D(3, 16, 2, 2, embed=16).double()
    for i, p in enumerate(net.parameters()):
        p.data.copy_(0.3 * torch.sin(1.7 * torch.arange(p.numel(), dtype=torch.float64) + i).view_as(p))
    net.get_buffer("hears.level.0.w").copy_(torch.linspace(1, 2, 2, dtype=torch.float64))
    angle = torch.arange(8.0, dtype=torch.float64)[:, None] * 10_000 ** -(torch.arange(8, dtype=torch.float64) / 7)
    net.position[:8] = torch.cat([angle.sin(), angle.cos()], -1)  # as the table has it, but for float32's rounding
    x = torch.cos(torch.arange(48, dtype=torch.float64)).view(2, 8, 3)
    y = net(x, torch.tensor([-1.5, 0.7], dtype=torch.float64)).detach()
    expected = [1.7275158801206865, -1.0307441485356408, -1.5165181090694517]
    torch.testing.assert_close(y.flatten()[[0, 4, -1]].tolist(), expected, rtol=0, atol=1e-11)
    assert abs(y.abs().sum().item() - 51.43581254644269) < 1e-9


def test_output_starts_at_exactly_zero() -> None:
    torch.manual_seed(0)
    net = DiT1D(3, 32, 2, 4, cond={"goal": 2})
    x, t = inputs()
    assert torch.count_nonzero(net(x.float(), t.float())) == 0


def test_blocks_start_as_the_identity() -> None:
    torch.manual_seed(0)
    net = DiT1D(3, 32, 2, 4).double()
    nn.init.normal_(net.leave.weight)
    x, t = inputs()
    h = net.enter(x) + net.position[:6]
    expected = net.leave((h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, correction=0) + 1e-6).sqrt())
    torch.testing.assert_close(net(x, t), expected, rtol=0, atol=1e-12)
    assert net(x, t).std() > 0.1


def test_each_token_is_modulated_by_its_own_level() -> None:
    """With the attention's gates shut, a token is on its own: its level reaches it, and no other."""
    net = shaken()
    for i in range(2):
        for part in ("weight", "bias"):
            nn.init.zeros_(net.get_parameter(f"blocks.{i}.modulation.{part}").data.chunk(6)[2])
    x, t = inputs()
    levels = t[:, None].repeat(1, 6)
    before = net(x, levels)
    levels[:, 2] += 0.5
    change = (net(x, levels) - before).abs().amax(-1)
    assert change[:, 2].min() > 1e-3
    assert change[:, [0, 1, 3, 4, 5]].max() == 0


def test_tokens_attend_to_all_tokens() -> None:
    net = shaken()
    x, t = inputs()
    before = net(x, t)
    for token in range(6):
        moved = x.clone()
        moved[:, token] += 1
        assert (net(moved, t) - before).abs().amax(-1).min() > 1e-5


def test_order_of_tokens_is_told_by_the_positions_alone() -> None:
    net = shaken()
    x, t = inputs()
    levels = t[:, None] + torch.linspace(-1, 1, 6, dtype=torch.float64)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert (net(x[:, order], levels[:, order]) - net(x, levels)[:, order]).abs().max() > 1e-3
    net.position.zero_()
    torch.testing.assert_close(net(x[:, order], levels[:, order]), net(x, levels)[:, order], rtol=0, atol=1e-12)


def test_any_horizon_up_to_the_longest() -> None:
    net = shaken(longest=20)
    for tokens in (1, 7, 20):
        x, t = inputs(tokens=tokens)
        assert net(x, t).shape == x.shape
    x, t = inputs(tokens=21)
    with pytest.raises(ValueError, match="x has 21 tokens, but longest is 20"):
        net(x, t)


def test_a_checkpoint_loads_at_another_longest() -> None:
    net, longer = shaken(longest=20), shaken(longest=40)
    longer.load_state_dict(net.state_dict())
    x, t = inputs()
    assert torch.equal(longer(x, t), net(x, t))


def test_dropout_works_in_training_alone() -> None:
    torch.manual_seed(0)
    net = DiT1D(3, 32, 2, 4, dropout=0.5).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, t = inputs()
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))
