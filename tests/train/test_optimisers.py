"""What the descriptions of optimisers build."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kedge.train import AdamW, Muon
from kedge.train.optimisers import set_rates


class Mixed(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.tied = self.linear
        self.convolution = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.embedding = nn.Embedding(7, 4)
        self.positions = nn.Parameter(torch.zeros(5, 4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def names(module: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    by_id = {id(p): name for name, p in module.named_parameters()}
    return {by_id[id(p)] for p in parameters}


def test_adamw_decays_matrices_alone() -> None:
    module = Mixed()
    (optimiser,) = AdamW(weight_decay=0.3).build(module)
    decayed, rest = optimiser.param_groups
    assert decayed["weight_decay"] == 0.3
    assert rest["weight_decay"] == 0.0
    matrices = {"linear.weight", "convolution.weight", "embedding.weight", "positions"}
    assert names(module, decayed["params"]) == matrices
    assert names(module, rest["params"]) == {"linear.bias", "convolution.bias", "norm.weight", "norm.bias"}


def test_muon_takes_the_weight_matrices_and_adamw_the_rest() -> None:
    module = Mixed()
    muon, adamw = Muon(lr=0.02, warmup=5, decay="linear").build(module)
    assert isinstance(muon, torch.optim.Muon)
    assert names(module, muon.param_groups[0]["params"]) == {"linear.weight"}
    held = [p for group in adamw.param_groups for p in group["params"]]
    everything = {name for name, p in module.named_parameters() if p.requires_grad}
    assert names(module, held) == everything - {"linear.weight"}
    assert {group["initial_lr"] for group in adamw.param_groups} == {0.02}
    assert set_rates([muon, adamw], 0, 10) == pytest.approx(0.004)
    assert {group["lr"] for group in adamw.param_groups} == {0.004}


def test_muon_may_give_the_rest_a_rate_of_its_own() -> None:
    muon, adamw = Muon(lr=0.02, warmup=0, adamw=AdamW(lr=1e-4, warmup=10)).build(Mixed())
    set_rates([muon, adamw], 4, 100)
    assert muon.param_groups[0]["lr"] == 0.02
    assert adamw.param_groups[0]["lr"] == pytest.approx(0.5e-4)


def test_muon_moves_a_matrix_as_far_as_adamw_would() -> None:
    """An orthogonal update has the root mean square 1 / sqrt(max(rows, columns)); it is matched to .2, AdamW's."""
    torch.manual_seed(0)
    module = nn.Linear(64, 32, bias=False)
    before = module.weight.detach().clone()
    (muon,) = Muon(lr=0.1, weight_decay=0.0).build(module)
    module.weight.grad = torch.randn_like(module.weight)
    muon.step()
    moved = module.weight.detach() - before
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.2)
    singular = torch.linalg.svdvals(moved)
    assert float(singular.max() / singular.min()) < 2.5  # of the gradient itself: 5 or more
    assert math.isfinite(float(singular.sum()))


def test_bad_rates_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^AdamW: the learning rate must be positive, got 0.0$"):
        AdamW(lr=0.0)


def test_muon_takes_a_kernel_as_the_matrix_of_its_first_axis_by_the_others():
    torch.manual_seed(0)
    conv, linear = nn.Conv1d(3, 4, 5, bias=False), nn.Linear(15, 4, bias=False)
    linear.weight.data = conv.weight.detach().reshape(4, 15).clone()
    (by_kernel,) = Muon(lr=0.1, convolutions=True).build(conv)
    (by_matrix,) = Muon(lr=0.1).build(linear)
    for _ in range(3):
        gradient = torch.randn(4, 15)
        conv.weight.grad, linear.weight.grad = gradient.reshape(4, 3, 5), gradient.clone()
        by_kernel.step()
        by_matrix.step()
    assert torch.equal(conv.weight.detach().reshape(4, 15), linear.weight.detach())


def test_muon_leaves_kernels_and_channelwise_kernels_to_adamw():
    mixed = nn.Sequential(nn.Conv1d(4, 4, 3, bias=False), nn.Conv1d(4, 4, 3, groups=4, bias=False))
    (adamw,) = Muon().build(mixed)
    assert isinstance(adamw, torch.optim.AdamW)
    muon, adamw = Muon(convolutions=True).build(mixed)
    assert sum(len(g["params"]) for g in muon.param_groups) == 1
    assert [p.shape for g in adamw.param_groups for p in g["params"]] == [(4, 1, 3)]


def test_muon_says_when_a_kernels_memory_has_moved():
    conv = nn.Conv1d(3, 4, 5, bias=False)
    (muon,) = Muon(convolutions=True).build(conv)
    conv.weight.data = conv.weight.data.clone()
    with pytest.raises(RuntimeError, match=r"^Muon: a kernel's memory has moved"):
        muon.step()
