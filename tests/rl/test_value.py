from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kedge.fit import proposals
from kedge.guide import Gradient
from kedge.nets import HalfUNet1D, Octaves
from kedge.noise import Noise
from kedge.paths import Trig, VariancePreserving
from kedge.rl import (
    Discounted,
    MinusSteps,
    NoisyValue,
    NoisyValueLoss,
    PlanMLP,
    PlanTransformer,
    ValueLoss,
)
from kedge.train import AdamW, Batches, Tick, Trainer

f64 = torch.float64
STEPS = torch.tensor([0.0, 1.0, 200.0, 799.0, 1000.0, math.inf], dtype=f64)
TICK = Tick(0, 0)


def batch_of(steps: Tensor, H: int = 3, S: int = 2) -> dict[str, Tensor]:
    states = torch.randn(len(steps), H, S, generator=torch.Generator().manual_seed(1), dtype=f64)
    return {"states": states, "steps": steps}


def test_targets_are_exact() -> None:
    batch = {"steps": STEPS}
    expected = [1.0, 0.997, 0.997**200, 0.997**799, 0.997**1000, 0.0]
    torch.testing.assert_close(Discounted()(batch).tolist(), expected, rtol=1e-12, atol=0)
    assert Discounted(1.0)(batch).tolist() == [1, 1, 1, 1, 1, 0]
    assert MinusSteps()(batch).tolist() == [1, 1 - 2 / 799, 1 - 400 / 799, -1, -1, -1]
    assert MinusSteps(400)(batch).tolist() == [1, 0.995, 0, -1, -1, -1]


def test_minus_steps_is_diffusion_veterans_rule() -> None:
    """In its data a segment's rewards are 0 up to the goal and 1 from there on; less one, summed, mapped to [-1, 1]."""
    lengths = [3, 8, 5]
    sums = [[sum(-1.0 for _ in range(i, n)) for i in range(n + 1)] for n in lengths]
    least, greatest = min(map(min, sums)), max(map(max, sums))
    for n, ours in zip(lengths, sums, strict=True):
        steps = torch.arange(n, -1, -1, dtype=f64)
        theirs = [2 * (s - least) / (greatest - least) - 1 for s in ours]
        torch.testing.assert_close(MinusSteps(max(lengths))({"steps": steps}).tolist(), theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("D", "published"), [(4, 1_579_009), (60, 1_593_345)])
def test_transformer_has_the_sources_parameters(D: int, published: int) -> None:
    """Counted on the source itself, at width 256, depth 2, 4 heads: maze and kitchen."""
    assert sum(p.numel() for p in PlanTransformer(D).parameters()) == published


def test_mlp_has_the_parameters_of_its_layers() -> None:
    expected = (8 * 24 + 1) * 64 + (64 + 1) * 32 + 32 + 1
    assert sum(p.numel() for p in PlanMLP(8, 4, (64, 32), features=Octaves()).parameters()) == expected


CRITICS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: PlanMLP(6, 3, (16, 16)),
    "mlp-features": lambda: PlanMLP(6, 3, (16,), features=Octaves()),
    "transformer": lambda: PlanTransformer(3, 16, 2, 2),
    "transformer-features": lambda: PlanTransformer(3, 16, 1, 2, features=Octaves((1,), 2)),
}


@pytest.mark.parametrize("name", CRITICS)
def test_a_plan_is_valued_by_all_its_points_and_by_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    critic = CRITICS[name]().double()
    plan = torch.randn(5, 6, 3, dtype=f64, requires_grad=True)
    value = critic(plan)
    assert value.shape == (5,)
    (gradient,) = torch.autograd.grad(value[2], plan, retain_graph=True)
    assert (gradient[2].abs() > 0).all()
    assert not gradient[[0, 1, 3, 4]].any()
    torch.testing.assert_close(critic(plan[2:3]), value[2:3], rtol=0, atol=1e-12)
    swapped = critic(plan[:, [0, 2, 1, 3, 4, 5]])  # the order of the points matters, of the later ones too
    assert (swapped - value).abs().min() > 1e-6
    value.sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in critic.parameters())


def test_transformer_is_pre_norm_with_residuals_from_x() -> None:
    """Blocks whose branches are silent leave x as it is: the value is read off the first token's embedding."""
    torch.manual_seed(0)
    critic = PlanTransformer(3, 16, 2, 2).double()
    block: Any
    for block in critic.blocks:
        for layer in (block.attention.out_proj, block.mlp[2]):
            nn.init.zeros_(layer.weight)
    plan = torch.randn(4, 6, 3, dtype=f64)
    expected = critic.leave(critic.enter(plan[:, 0]) + critic.position[0])[:, 0]
    torch.testing.assert_close(critic(plan), expected, rtol=0, atol=1e-14)


def test_loss_is_the_squared_error_and_says_what_is_explained() -> None:
    class First(nn.Module):
        def forward(self, plan: Tensor) -> Tensor:
            return plan[:, 0, 0]

    batch = batch_of(torch.tensor([0.0, 1.0, 2.0], dtype=f64))
    loss, info = ValueLoss(First(), MinusSteps(2))(batch, TICK)
    error = (batch["states"][:, 0, 0] - torch.tensor([1.0, 0.0, -1.0])) ** 2
    torch.testing.assert_close(loss, error, rtol=0, atol=1e-14)
    torch.testing.assert_close(info["error"], error.mean(), rtol=0, atol=1e-14)
    torch.testing.assert_close(info["explained"], 1 - error.mean() * 3 / 2, rtol=0, atol=1e-14)


def test_minimiser_is_the_expected_target_of_each_plan() -> None:
    """Three plans, each seen with several outcomes: the least squares are at the mean outcome of each, exactly."""
    torch.manual_seed(0)
    plans = torch.randn(3, 2, 2, dtype=f64)
    which = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    steps = torch.tensor([0.0, math.inf, 5, 10, 15, 100, 200, math.inf, math.inf], dtype=f64)
    batch, target = {"states": plans[which], "steps": steps}, Discounted(0.99)
    loss = ValueLoss(PlanMLP(2, 2, (16,)).double(), target)
    optimiser = torch.optim.LBFGS(
        loss.parameters(), max_iter=400, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        mean = loss(batch, TICK)[0].mean()
        mean.backward()
        return mean

    optimiser.step(closure)
    expected = torch.stack([target(batch)[which == i].mean() for i in range(3)])
    torch.testing.assert_close(loss.net(plans).detach(), expected, rtol=0, atol=1e-6)


def test_it_trains_under_the_trainer() -> None:
    torch.manual_seed(0)
    states = torch.randn(256, 4, 2)
    data = {"states": states, "steps": 100 * (states[:, 0, 0] > 0).float()}
    loss = ValueLoss(PlanMLP(4, 2, (32,)), Discounted(0.98))
    part = loss.part(AdamW(1e-2, warmup=0))
    Trainer([part], Batches(data, 64), 300, progress=False).train()
    trained = part.weights()
    assert isinstance(trained, ValueLoss)
    assert trained(data, TICK)[1]["explained"] > 2 / math.pi  # what the best linear function explains of a sign


# Noised plans.


class Logistic(nn.Module):
    """sigmoid(2 m x_t alpha / sigma^2) on a variance-preserving path, from c_noise: alpha / sigma^2 = sqrt(s (s + 1))
    with the signal-to-noise ratio s = exp(-8 c_noise). It keeps what it was told.
    """

    def __init__(self, m: float) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.tensor(m, dtype=f64))
        self.heard: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.heard.append((x.detach(), t.detach()))
        s = torch.exp(-8 * t)
        return torch.sigmoid(2 * self.m * x[:, -1, 0] * (s * (s + 1)).sqrt())


def test_minimiser_is_the_expected_target_given_the_noised_plan() -> None:
    """Plans at +m are worth 1, at -m 0, so E[worth | x_t] = sigmoid(2 alpha m x_t / sigma^2). Of the values of this
    form the true m loses least; its estimate from n draws has the standard error of a nonlinear least squares,
    sqrt(E[r^2 g^2] / n) / E[g^2] with residuals r and slopes g.
    """
    n, m = 40_000, 0.8
    sign = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).double()
    batch = {"states": m * sign[:, None, None], "steps": torch.where(sign > 0, 0.0, math.inf).double()}
    net = Logistic(0.3)
    loss = NoisyValueLoss(NoisyValue(net, VariancePreserving()), proposal=proposals.Uniform("independent"))

    @torch.no_grad()
    def residual(at: float) -> Tensor:
        net.m.fill_(at)
        return loss(batch, TICK)[0].sqrt() * -sign  # a logistic value is below 1 and above 0

    r, g, found = residual(0.3), sign, 0.3
    for _ in range(30):  # Gauss and Newton's steps, the slopes by differences
        r, g = residual(found), (residual(found + 1e-5) - residual(found - 1e-5)) / 2e-5
        found -= ((g * r).sum() / (g * g).sum()).item()
    error = ((r * g).square().mean() / n).sqrt() / g.square().mean()
    assert error < 0.02
    assert abs(found - m) < 4 * error


def test_noised_plans_lie_on_the_path_at_the_level_that_is_told() -> None:
    path, batch = Trig(0.5), batch_of(torch.tensor([0.0, math.inf, 3.0], dtype=f64))
    known = torch.zeros(3, 2, dtype=torch.bool)
    known[0] = True
    net, tick = Logistic(0.5), Tick(7, 3)
    proposal = proposals.LogNormal()
    loss, _ = NoisyValueLoss(NoisyValue(net, path), Discounted(), proposal, known=known)(batch, tick)
    draw = proposal.draw(path, batch["states"], Noise.of(3, 3), 7)
    x_t = path.perturb(batch["states"], draw.t, draw.z)
    heard, told = net.heard[0]
    assert torch.equal(heard[:, 0], batch["states"][:, 0])
    torch.testing.assert_close(heard[:, 1:], x_t[:, 1:], rtol=0, atol=1e-14)
    torch.testing.assert_close(told, 0.25 * path.noise_scale(draw.t).log(), rtol=0, atol=1e-12)
    expected = (net(heard, told) - torch.tensor([1.0, 0.0, 0.997**3], dtype=f64)) ** 2
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-14)


def test_a_level_may_be_a_number_or_lie_along_the_plan() -> None:
    torch.manual_seed(0)
    value = NoisyValue(HalfUNet1D(8, 3, 64, (1,)).double(), VariancePreserving())
    x_t = torch.randn(4, 8, 3, dtype=f64)
    expected = value(x_t, 0.4)
    assert expected.shape == (4,)
    for shape in ((), (4,), (1, 1, 1), (4, 1, 1), (4, 8), (1, 8, 1)):
        torch.testing.assert_close(value(x_t, torch.full(shape, 0.4, dtype=f64)), expected, rtol=0, atol=1e-12)
    assert value(x_t, 0.0).isfinite().all()  # the clean level is told as t_min
    assert torch.equal(value(x_t, 0.0), value(x_t, value.path.t_min))


def test_guidance_follows_its_gradient() -> None:
    """x' = x_hat + w sigma^2 / alpha grad J(x_t, t), the gradient by differences."""

    class Denoised(nn.Module):
        path = VariancePreserving()

        def forward(self, x_t: Tensor, t: float) -> Tensor:
            return 0.5 * x_t

    torch.manual_seed(0)
    value, t, h = NoisyValue(HalfUNet1D(4, 2, 64, (1,)).double(), Denoised.path), 0.3, 1e-6
    x_t = torch.randn(2, 4, 2, dtype=f64)
    guided = Gradient(value, 3.0).on(Denoised())
    moved = guided(x_t, t) - 0.5 * x_t
    away = torch.zeros_like(x_t)
    away[1, 2, 1] = h
    slope = (value(x_t + away, t) - value(x_t - away, t))[1].item() / (2 * h)
    reach = Denoised.path.sigma(t) ** 2 / Denoised.path.alpha(t)
    assert moved[1, 2, 1].item() == pytest.approx(3 * reach * slope, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Discounted(0.0), r"Discounted: gamma lies in \(0, 1\], got 0.0"),
        (lambda: MinusSteps(0), "MinusSteps: the longest way must be positive, got 0"),
        (lambda: Discounted()({"x": STEPS}), r'segments with "states" and "steps", got \[\'x\'\]'),
        (lambda: ValueLoss(PlanMLP(3, 2))(torch.zeros(2, 3, 2), TICK), 'with "states" and "steps", got Tensor'),
        (lambda: PlanMLP(3, 2)(torch.zeros(2, 4, 2)), r"PlanMLP: a plan must have shape \[B, 3, 2\], got \[2, 4, 2\]"),
        (lambda: PlanTransformer(2)(torch.zeros(2, 2)), r"a plan must have shape \[B, H, 2\], got \[2, 2\]"),
        (lambda: PlanTransformer(2, longest=8)(torch.zeros(1, 9, 2)), "the plan has 9 points, but longest is 8"),
        (lambda: PlanTransformer(2, 30), "PlanTransformer: width 30 is not a multiple of heads 4"),
        (lambda: PlanMLP(3, 2, (0,)), r"PlanMLP: hidden\[0\] must be at least 1, got 0"),
        (lambda: PlanMLP(3, 2, activation="sin"), "PlanMLP: unknown activation 'sin'; choose one of mish"),
        (
            lambda: ValueLoss(nn.Flatten())(batch_of(STEPS), TICK),
            r"a critic returns one value a plan, \[6\]; got shape \[6, 6\]",
        ),
        (
            lambda: NoisyValue(HalfUNet1D(4, 2, 64, (1,), out=2), Trig())(torch.zeros(3, 4, 2), 0.3),
            r"HalfUNet1D must return one number for each of 3 samples, got shape \[3, 2\]",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
