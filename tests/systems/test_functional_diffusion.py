"""Functions: noise with a finite spectrum, modes at their own pace, and the same samples at every resolution."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

import kedge
from kedge import Denoiser, grids, solvers
from kedge.fit.loss import DenoisingLoss
from kedge.fit.proposals import PacedLevels, Uniform
from kedge.nets import MLP
from kedge.paths import CosineModes, EntryPace, VariancePreserving
from kedge.train import Tick
from walk.oracles import Factorised

pytestmark = pytest.mark.system

f64 = torch.float64
VP = VariancePreserving()


def rates(modes: int) -> Tensor:
    """Of the heat equation, on top of a common one."""
    return 1 + 0.01 * torch.arange(modes, dtype=f64) ** 2


@pytest.mark.parametrize("t", [0.02, 0.1, 0.3])
def test_each_mode_is_the_process_of_its_rate(t: float) -> None:
    """In the units of the data `dX_k = -b_k beta / 2 X_k dt + sqrt(beta r_k) dW` with `C_k = r_k / b_k`: the moments
    solve `m' = -b beta m / 2` and `v' = -b beta v + r beta`.
    """
    b, C = rates(4), CosineModes.power(4).spectrum
    at = torch.tensor(t, dtype=f64)

    def moments(t: Tensor) -> Tensor:
        levels = EntryPace(b).times(VP, t)
        return torch.stack([VP.alpha(levels), C * VP.sigma(levels) ** 2])

    m, v = moments(at)
    dm, dv = torch.autograd.functional.jacobian(moments, at)
    beta = 0.1 + 19.9 * t
    torch.testing.assert_close(dm, -0.5 * b * beta * m, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(dv, -b * beta * v + b * C * beta, rtol=1e-8, atol=1e-10)


def test_levels_begin_clean_and_wait_at_the_noise_end() -> None:
    pace = EntryPace(torch.tensor([1.0, 30.0], dtype=f64))
    times = pace.times(VP, torch.tensor([0.0, 1e-3, 0.5, 1.0], dtype=f64))
    assert times[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(times[:, 0], torch.tensor([0.0, 1e-3, 0.5, 1.0], dtype=f64), rtol=1e-9, atol=0)
    assert times[2, 1] == times[3, 1] == 1.0
    with pytest.raises(ValueError, match="rates are 1 or more"):
        EntryPace(torch.tensor([0.5]))


@pytest.mark.parametrize("n", [32, 64])
def test_modes_are_functions_and_back(n: int) -> None:
    """Exact up to mode n - 1, whatever the resolution, and noise of a finite size: `E int f^2 = sum C_k`."""
    modes = CosineModes.power(20)
    y = torch.randn(5, 20, dtype=f64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(modes.of(modes.at(y, n)), y)
    square = CosineModes(torch.ones(3, dtype=f64)).of(torch.full((n,), 2.0, dtype=f64))
    torch.testing.assert_close(square, torch.tensor([2.0, 0.0, 0.0], dtype=f64), rtol=0, atol=1e-12)
    size = modes.at(kedge.Noise.of(0, 4000).normal((4000, 20), 0), n).square().mean()
    assert float(size) == pytest.approx(float(modes.spectrum.sum()), rel=0.1)
    torch.testing.assert_close(modes.at(y, [0.25])[:, 0], modes.at(y, 2)[:, 0])
    with pytest.raises(ValueError, match="do not tell"):
        modes.of(torch.zeros(10))
    with pytest.raises(ValueError, match="no finite sum"):
        CosineModes.power(4, 1.0)


def spectrum_of_data(modes: int) -> Tensor:
    """Of a Gaussian process: `(1 + (k / 4)^2)^-1.5`."""
    return (1 + (torch.arange(modes, dtype=f64) / 4) ** 2) ** -1.5


def sampled_spectrum(n: int, steps: int = 40) -> Tensor:
    """Of samples on n points with the exact denoiser, mode by mode: the flow is linear, so one walk tells all of it."""
    modes = CosineModes.power(n)
    variance = spectrum_of_data(n) / modes.spectrum
    grid = grids.Paced(grids.LogSNR(steps), EntryPace(rates(n)))
    y = kedge.sample(Factorised(VP, 0.0, variance), torch.ones(1, n, dtype=f64), grid, solvers.DPMSolverPP(2))
    return (y[0] ** 2) * modes.spectrum


def white_spectrum(n: int, steps: int = 40) -> Tensor:
    """The same with noise that is independent at every point: of a variance of 1 / n in each mode."""
    variance = spectrum_of_data(n) * n
    grid = grids.LogSNR(steps)
    y = kedge.sample(Factorised(VP, 0.0, variance), torch.ones(1, n, dtype=f64), grid, solvers.DPMSolverPP(2))
    return y[0] ** 2 / n


def test_the_spectrum_is_the_same_at_every_resolution() -> None:
    """Within .05 of the data's in 16 modes at 40 steps; equal at 32, 64 and 128 points, where white noise drifts."""
    exact = spectrum_of_data(16)
    ours = [sampled_spectrum(n)[:16] for n in (32, 64, 128)]
    assert float((ours[0] / exact - 1).abs().max()) < 0.05
    for other in ours[1:]:
        torch.testing.assert_close(other, ours[0], rtol=1e-10, atol=0)
    white = [white_spectrum(n)[:16] for n in (32, 128)]
    assert float((white[1] / white[0] - 1).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (solvers.DDIM(), 1),
        (solvers.DPMSolverPP(2), 2),
        (solvers.DPMSolverPP(3, multistep=False), 3),
        (solvers.Heun(), 2),
    ],
    ids=str,
)
def test_solvers_keep_their_order(solver: kedge.walk.Solver, order: int) -> None:
    """Each mode by itself between levels of its own."""
    pace, variance = EntryPace(torch.tensor([1.0, 1.7, 3.0], dtype=f64)), torch.tensor([1.0, 0.3, 0.1], dtype=f64)
    high, low = VP.time_at(2.0), VP.time_at(0.1)

    def walked(solver: kedge.walk.Solver, n: int) -> Tensor:
        if isinstance(solver, solvers.Heun):
            levels = [high + (low - high) * i / n for i in range(n + 1)]
        else:
            levels = [VP.time_at(2.0 * 0.05 ** (i / n)) for i in range(n + 1)]
        grid = grids.Paced(grids.Levels(levels), pace)
        return kedge.sample(Factorised(VP, 0.0, variance), torch.ones(1, 3, dtype=f64), grid, solver)

    start, end = (EntryPace(pace.rate).times(VP, t) for t in (high, low))
    spread = [VP.alpha(t) ** 2 * variance + VP.sigma(t) ** 2 for t in (start, end)]
    exact = (spread[1] / spread[0]).sqrt()[None]  # the flow of a Gaussian
    errors = [float((walked(solver, n) - exact).norm()) for n in (40, 80)]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15


class Low(torch.nn.Module):
    """A network of the lowest 12 modes; of the others the expected value, 0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(12, width=96, depth=2, expansion=2, activation="silu", embed=16)

    def forward(self, y: Tensor, told: Tensor) -> Tensor:
        out = self.net(y[:, :12], told[:, 0] if told.ndim > 1 else told)
        return torch.cat([out, torch.zeros_like(y[:, 12:])], 1)


def test_levels_of_modes_are_trained_on() -> None:
    """The loss draws one level a sample and noises each mode to its own; a network hears the slowest."""
    proposal = PacedLevels(Uniform(), EntryPace(rates(20)))
    loss = DenoisingLoss(Denoiser(Low(), VP, "clean"), proposal)
    y = torch.randn(6, 20)
    draw = proposal.draw(VP, y, kedge.Noise.of(0, 6), 0)
    assert draw.t.shape == (6, 20)
    torch.testing.assert_close(draw.t, EntryPace(rates(20)).times(VP, draw.t[:, 0]))
    value, _ = loss(y, Tick(0, 0))
    assert value.shape == (6,)
    value.mean().backward()


def family(n: int, points: int, seed: int) -> Tensor:
    """Sines and parabolas in equal shares, `a sin(2 pi x + phase)` and `a (2 x - 1)^2 - a / 3`."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.arange(points) + 0.5) / points
    a = 0.7 + 0.6 * torch.rand(n, 1, generator=g)
    sine = a * torch.sin(2 * math.pi * x + 2 * math.pi * torch.rand(n, 1, generator=g))
    parabola = a * (2 * (2 * x - 1) ** 2 - 2 / 3)
    return torch.where(torch.rand(n, 1, generator=g) < 0.5, sine, parabola)


def mmd(f: Tensor, g: Tensor) -> float:
    """The squared maximum mean discrepancy under `exp(-|f - g|^2 / 2 / .5^2)`, in the norm of L2, without bias."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / a.shape[1] / 0.5)

    n = len(f)
    within = sum((kernel(a, a).sum() - n) / (n * (n - 1)) for a in (f, g))
    return float(within - 2 * kernel(f, g).mean())


K = 32


@functools.cache
def noise_of_the_data() -> CosineModes:
    """Noise with the spectrum of the family: what a network says nothing of is then estimated as a Gaussian's."""
    return CosineModes(CosineModes(torch.ones(K, dtype=f64)).of(family(4000, K, 77).double()).var(0))


def gap() -> float:
    """Of samples at 128 points, after 3000 steps of training at 32."""
    torch.manual_seed(0)
    modes, pace, net = noise_of_the_data(), EntryPace(torch.ones(K)), Low()
    denoiser = Denoiser(net, VP, "edm", sigma_data=1.0)
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    share = (modes.spectrum / modes.spectrum.sum()).sqrt()
    for i in range(3000):
        x, one = modes.of(family(128, 32, i)), 1e-3 + 0.998 * torch.rand(128, dtype=f64)
        t = pace.times(VP, one)
        error = denoiser(VP.perturb(x, t, torch.randn_like(x)), t) - x
        weight = (VP.log_snr(one).exp() + 1)[:, None]
        adam.zero_grad()
        (weight * share * error.double() ** 2).sum(1).mean().backward()
        adam.step()
    start = VP.prior((800, K), seeds=0, dtype=torch.float32)
    y = kedge.sample(denoiser, start, grids.Paced(grids.LogSNR(40, scale_min=0.02), pace), solvers.DPMSolverPP(2))
    return mmd(modes.at(y, 128), family(800, 128, 10**6))


@pytest.mark.slow
def test_trained_at_32_points_it_samples_at_128() -> None:
    """Far nearer to the family than a Gaussian process of its mean and spectrum is."""
    gaussian = noise_of_the_data().at(kedge.Noise.of(0, 800).normal((800, K), 0, dtype=torch.float32), 128)
    assert gap() < 0.25 * mmd(gaussian, family(800, 128, 10**6))
