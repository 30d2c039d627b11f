from __future__ import annotations

import pytest
import torch
from torch import nn

from kedge.nets import MLP


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def linear(enter: int, leave: int) -> int:
    return enter * leave + leave


@pytest.mark.parametrize(("D", "E", "W", "depth", "published"), [(6, 64, 256, 3, 1_614_534), (17, 32, 128, 2, 276_721)])
def test_parameter_count_is_the_sources(D: int, E: int, W: int, depth: int, published: int) -> None:
    """CleanDiffuser's `IDQLMlp(x_dim=D, emb_dim=E, hidden_dim=W, n_blocks=depth)`, whose layers are
    time: Linear(E, 2E), Linear(2E, E); in: Linear(D + E, W); a block: LayerNorm(W) with weight and bias, Linear(W, 4W),
    Linear(4W, W); out: Linear(W, D). `published` was counted on the source itself; 64, 256 and 3 are its defaults.
    """
    source = linear(E, 2 * E) + linear(2 * E, E) + linear(D + E, W) + linear(W, D)
    source += depth * (2 * W + linear(W, 4 * W) + linear(4 * W, W))
    assert source == published
    assert count(MLP(D, W, depth, embed=E)) == published
    assert count(MLP(D, W, depth, embed=E, dropout=0.1)) == published


def test_condition_adds_its_embeddings_and_nothing_else() -> None:
    """Linear(d, E), Linear(E, E) and a null vector of E for each field."""
    E = 16
    added = sum(linear(d, E) + linear(E, E) + E for d in (2, 5))
    assert count(MLP(3, 32, 2, embed=E, cond={"goal": 2, "value": 5})) - count(MLP(3, 32, 2, embed=E)) == added


def test_output_is_the_sources() -> None:
    """The source's output with these weights and these frequencies (they are ours to choose), in float64."""
    net = MLP(3, 16, 2, embed=8).double()
    for i, p in enumerate(net.parameters()):
        p.data.copy_(0.3 * torch.sin(1.7 * torch.arange(p.numel(), dtype=torch.float64) + i).view_as(p))
    net.get_buffer("hears.level.0.w").copy_(torch.linspace(1, 2, 4, dtype=torch.float64))
    x = torch.cos(torch.arange(48, dtype=torch.float64)).view(2, 8, 3)[:, 0]
    y = net(x, torch.tensor([-1.5, 0.7], dtype=torch.float64)).detach()
    expected = [1.1945946713214308, -1.1294485410514752, 0.3405095479892257]
    torch.testing.assert_close(y.flatten()[[0, 4, -1]].tolist(), expected, rtol=0, atol=1e-12)
    assert abs(y.abs().sum().item() - 4.81625416810546) < 1e-12


def test_tokens_are_flattened() -> None:
    net, flat = MLP((4, 3), 32, 2), MLP(12, 32, 2)
    flat.load_state_dict(net.state_dict())
    x, t = torch.randn(5, 4, 3), torch.randn(5)
    assert torch.equal(net(x, t).flatten(1), flat(x.flatten(1), t))


def test_which_token_has_which_level_is_heard_by_each_and_not_by_mean() -> None:
    torch.manual_seed(0)
    x, t = torch.randn(5, 4, 3), torch.randn(5, 4)
    mean, each = MLP((4, 3), 32, 2).double(), MLP((4, 3), 32, 2, levels="each").double()
    x, t = x.double(), t.double()
    torch.testing.assert_close(mean(x, t.flip(1)), mean(x, t), rtol=0, atol=1e-12)
    assert (each(x, t.flip(1)) - each(x, t)).abs().amax((1, 2)).min() > 1e-4
    assert count(each) - count(mean) == 3 * 64 * 32  # the first layer hears three more embeddings


def test_dropout_works_in_training_alone() -> None:
    torch.manual_seed(0)
    net, x, t = MLP(3, 32, 2, dropout=0.5), torch.randn(4, 3), torch.randn(4)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


@pytest.mark.parametrize("activation", ["mish", "silu", "gelu", "relu", "tanh"])
def test_activation_is_the_one_that_was_named(activation: str) -> None:
    """All biases and layers at hand: in at 1, one block whose second layer is zero, out as the identity."""
    net = MLP(2, 2, 1, embed=2, activation=activation).double()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    net.enter.weight.data[:, :2] = torch.eye(2)
    net.get_parameter("leave.1.weight").data.copy_(torch.eye(2))
    x = torch.tensor([[-0.7, 1.3]], dtype=torch.float64)
    expected = {
        "mish": x * torch.tanh(torch.log1p(torch.exp(x))),
        "silu": x / (1 + torch.exp(-x)),
        "gelu": x * 0.5 * (1 + torch.erf(x / 2**0.5)),
        "relu": x * (x > 0),
        "tanh": (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1),
    }[activation]
    torch.testing.assert_close(net(x, torch.zeros(1)), expected, rtol=0, atol=1e-12)
