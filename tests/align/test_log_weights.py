"""Log-weights and their means, held to a chain all of whose walks can be written down."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kedge.align import Baseline, Potential, centred, log_weights, mean_within
from kedge.exact.chain import Chain

CHAIN = Chain(states=4, steps=2)
"""64 walks."""
BETA = 0.7
GENERATOR = torch.Generator().manual_seed(3)
REWARD = torch.randn(4, generator=GENERATOR, dtype=torch.float64)


def logits(seed: int) -> Tensor:
    """`[steps, states, states]` of a chain that forgets where it was, as a walk from pure noise does."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    made[0] = made[0, :1]
    return made


REFERENCE = logits(0)


def weights_of(theta: Tensor, walks: Tensor = CHAIN.walks) -> Tensor:
    """`[B]`: log w of each walk."""
    log_ratio = CHAIN.log_prob(REFERENCE, walks) - CHAIN.log_prob(theta, walks)
    potential = torch.zeros(3, walks.shape[1], dtype=torch.float64)
    potential[-1] = REWARD[walks[-1]] / BETA
    return log_weights(log_ratio, potential, "terminal")[0]


def divergence(theta: Tensor) -> Tensor:
    """`KL(p_theta || p*)`, written out: `p*` has the law of the tilted chain."""
    star, _ = CHAIN.tilted(REFERENCE, REWARD / BETA)
    law = CHAIN.law(theta)
    return (law * (law.log() - CHAIN.law(star).log())).sum()


def gradient(loss: Tensor, theta: Tensor) -> Tensor:
    return torch.autograd.grad(loss, theta)[0]


def test_the_tilted_chain_is_the_tilt_of_its_walks() -> None:
    star, log_z = CHAIN.tilted(REFERENCE, REWARD / BETA)
    law = CHAIN.law(REFERENCE) * (REWARD[CHAIN.walks[-1]] / BETA).exp()
    torch.testing.assert_close(CHAIN.law(star), law / law.sum(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(log_z, law.sum().log().expand(4), rtol=1e-12, atol=0)
    torch.testing.assert_close(CHAIN.law(star).sum(), torch.ones((), dtype=torch.float64))


def test_a_chain_that_remembers_its_start_keeps_it() -> None:
    """Then `log Z` depends on the start, and the ends are not tilted: the bias of a walk that is not memoryless."""
    memory = logits(5)
    memory[0] += 3 * torch.eye(4, dtype=torch.float64)
    star, log_z = CHAIN.tilted(memory, REWARD / BETA)
    starts = torch.zeros(4, dtype=torch.float64).index_add(0, CHAIN.walks[0], CHAIN.law(star))
    torch.testing.assert_close(starts, torch.full((4,), 0.25, dtype=torch.float64))
    assert log_z.std() > 0.05


def test_on_its_own_walks_the_gradient_is_twice_that_of_the_divergence() -> None:
    theta = logits(1).requires_grad_()
    law = CHAIN.law(theta).detach()
    log_w = weights_of(theta)
    exact = 2 * gradient(divergence(theta), theta)
    variance = (law * (log_w - (law * log_w.detach()).sum()) ** 2).sum()
    torch.testing.assert_close(gradient(variance, theta), exact, rtol=1e-10, atol=1e-12)


def test_two_walks_with_leave_one_out_have_that_gradient_on_average() -> None:
    """All 4,096 pairs, each as likely as it is; without leaving one out it is half as long."""
    theta = logits(1).requires_grad_()
    first, second = torch.cartesian_prod(torch.arange(64), torch.arange(64)).T
    law = CHAIN.law(theta).detach()
    likely = law[first] * law[second]
    pairs = torch.arange(len(first)).repeat_interleave(2)
    exact = 2 * gradient(divergence(theta), theta)
    for others, share in ((True, 1.0), (False, 0.5)):
        log_w = weights_of(theta)[torch.stack([first, second], 1).flatten()]
        residual = log_w - mean_within(log_w.detach(), pairs, others=others)
        found = gradient((likely * (residual**2).reshape(-1, 2).mean(1)).sum(), theta)
        torch.testing.assert_close(found, share * exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sampled", ["own", "reference", "even"])
def test_whoever_draws_the_walks_they_are_led_to_the_same_law(sampled: str) -> None:
    """At the tilted chain all log-weights are equal, and minimising their variance under any law leads there."""
    star, log_z = CHAIN.tilted(REFERENCE, REWARD / BETA)
    torch.testing.assert_close(weights_of(star), log_z[CHAIN.walks[0]], rtol=1e-12, atol=1e-12)
    theta = REFERENCE.clone().requires_grad_()
    even = torch.full((64,), 1 / 64, dtype=torch.float64)
    law = {"own": lambda: CHAIN.law(theta).detach(), "reference": lambda: CHAIN.law(REFERENCE), "even": lambda: even}
    optimiser = torch.optim.Adam([theta], lr=0.05)
    before = float(divergence(REFERENCE))
    for _ in range(600):
        optimiser.zero_grad()
        p, log_w = law[sampled](), weights_of(theta)
        (p * (log_w - (p * log_w.detach()).sum()) ** 2).sum().backward()
        optimiser.step()
    assert before > 0.1
    assert float(divergence(theta.detach())) < 1e-6


def brute(log_ratio: Tensor, potential: Tensor, which: Potential, i: int, k: int) -> float:
    """Word for word."""
    gain = lambda j: float(log_ratio[j, i] + potential[j + 1, i] - potential[j, i])  # noqa: E731
    steps = range(len(log_ratio))
    match which:
        case "terminal":
            return sum(float(log_ratio[j, i]) for j in steps) + float(potential[-1, i])
        case "difference":
            return gain(k)
        case "to-go":
            return sum(gain(j) for j in steps if j >= k)


@pytest.mark.parametrize("which", ["terminal", "difference", "to-go"])
def test_potentials_word_for_word(which: Potential) -> None:
    generator = torch.Generator().manual_seed(8)
    log_ratio, potential = torch.randn(3, 5, generator=generator), torch.randn(4, 5, generator=generator)
    found = log_weights(log_ratio, potential, which)
    assert found.shape == ((1, 5) if which == "terminal" else (3, 5))
    for i in range(5):
        for k in range(len(found)):
            assert float(found[k, i]) == pytest.approx(brute(log_ratio, potential, which, i, k), abs=1e-5)


@pytest.mark.parametrize(("baseline", "means"), [
    ("batch", [3.0, 3.0, 3.0, 3.0]),
    ("leave-one-out", [2.0, 1.0, 5.0, 4.0]),
    ("group", [1.5, 1.5, 4.5, 4.5]),
    ("pair", [1.5, 1.5, 4.5, 4.5]),
])  # fmt: skip
def test_means(baseline: Baseline, means: list[float]) -> None:
    log_w = torch.tensor([[1.0, 2.0, 4.0, 5.0], [2.0, 4.0, 8.0, 10.0]], requires_grad=True)
    found = centred(log_w, baseline, torch.tensor([7, 7, 2, 2]))
    expected = log_w.detach() - torch.tensor([means, [2 * mean for mean in means]])
    torch.testing.assert_close(found.detach(), expected)
    (slope,) = torch.autograd.grad(found.sum(), log_w)
    assert slope.equal(torch.ones(2, 4)), "the mean has no gradient"
    if baseline == "leave-one-out":
        others = [11 / 3, 10 / 3, 8 / 3, 7 / 3]
        torch.testing.assert_close(centred(log_w, baseline)[0].detach(), log_w[0].detach() - torch.tensor(others))


def test_groups_need_not_stand_together_or_be_of_one_size() -> None:
    values = torch.tensor([[1.0, 10.0, 3.0, 30.0, 5.0]])
    group = torch.tensor([4, 1, 4, 1, 4])
    assert mean_within(values, group).tolist() == [[3.0, 20.0, 3.0, 20.0, 3.0]]
    assert mean_within(values, group, others=True).tolist() == [[4.0, 30.0, 3.0, 10.0, 2.0]]


def test_what_does_not_fit_is_told() -> None:
    log_w = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="3 steps want 4 potentials"):
        log_weights(torch.zeros(3, 5), torch.zeros(3, 5), "terminal")
    with pytest.raises(ValueError, match="wants groups of walks"):
        centred(log_w, "group")
    with pytest.raises(ValueError, match="two walks in each group"):
        centred(log_w, "pair", torch.tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="a group of one"):
        mean_within(log_w, torch.tensor([0, 1, 1]), others=True)
    with pytest.raises(ValueError, match="at most 65536 walks"):
        Chain(states=16, steps=4)
    assert math.prod(CHAIN.walks.shape) == 3 * 64
