"""SA-Solver: stochastic Adams methods that sample the equations of any noise tau with exact variances."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers.schedulers import scheduling_sasolver
from diffusers.schedulers.scheduling_sasolver import SASolverScheduler
from scipy.integrate import quad
from torch import Tensor

import kedge
from kedge.exact import GaussianMixture
from kedge.noise import Given, Noise
from kedge.walk import Solver
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Record
from kedge.walk.solvers import DDIM, DDPM, Band, Decision, DPMSolverPP, SASolver, Unified
from kedge.walk.solvers.exponential import spans
from walk.flow import holds, scales, slope, walked
from walk.oracles import PATHS, Factorised, Spy, f64, geometric, mixture, normals, start

pytestmark = pytest.mark.system


@pytest.mark.parametrize(
    ("solver", "order", "n", "own"),
    [
        (SASolver(1, 0, 0.0), 1, 20, False),
        (SASolver(2, 0, 0.0), 2, 20, False),
        (SASolver(3, 0, 0.0), 3, 20, True),
        (SASolver(1, 2, 0.0), 2, 20, False),
        (SASolver(2, 3, 0.0), 3, 20, False),
        (SASolver(3, 4, 0.0), 4, 64, True),
        (SASolver(3, 0, 0.0, predict="eps"), 3, 40, True),
        (SASolver(3, 4, 0.0, mode="PECE"), 4, 64, True),
    ],
    ids=lambda value: str(value) if not isinstance(value, SASolver) else f"{value.predictor}{value.corrector}",
)
def test_order_without_noise(solver: SASolver, order: int, n: int, own: bool) -> None:
    assert abs(slope(solver, n, own) - order) < 0.15


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
@pytest.mark.parametrize("tau", [0, 1])
@pytest.mark.parametrize(
    "how",
    [SASolver(3, 4, short=True), SASolver(2, 2, short=True), SASolver(1, 3, short=True), SASolver(3, 4, predict="eps")],
    ids=["34", "22", "13", "eps"],
)
def test_diffusers(how: SASolver, tau: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the levels of kedge in float64, with the walk's own noise, at an end above clean. Its steps of order 2 are
    always the longer ones.
    """
    solver = SASolver(how.predictor, how.corrector, tau, predict=how.predict, short=how.short)
    path, n = PATHS["VP"], 9
    levels = geometric(path, 8.0, 0.1, n)
    D, x = mixture().denoiser(path), start(path, levels[0], (5, 2))
    scheduler: Any = SASolverScheduler(
        predictor_order=how.predictor,
        corrector_order=how.corrector,
        prediction_type="epsilon",
        algorithm_type="noise_prediction" if how.predict == "eps" else "data_prediction",
        lower_order_final=False,
        tau_func=lambda t: tau,
    )
    scheduler.set_timesteps(n)
    scheduler.sigmas = torch.tensor([path.noise_scale(t) for t in levels], dtype=f64)
    drawn = iter(normals(7, (5, 2), n))
    monkeypatch.setattr(scheduling_sasolver, "randn_tensor", lambda *_, **__: next(drawn))
    y = x
    for t, name in zip(levels, scheduler.timesteps, strict=False):
        y = scheduler.step(path.convert(D(y, t), y, t, "clean", "eps"), name, y).prev_sample
    torch.testing.assert_close(kedge.sample(D, x, Levels(levels), solver, seeds=7), y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("q", [-3.0, -0.4, 0.01, 0.9, 1.1, 7.0])
def test_moments_are_integrals(q: float) -> None:
    for k, m in enumerate(spans(q, 4)):
        exact = quad(lambda r, k=k: q * math.exp(-q * (1 - r)) * r**k, 0, 1, epsabs=1e-13)[0]
        assert abs(m - exact) < 1e-12 * math.exp(abs(q))
        assert abs(spans(torch.tensor(q, dtype=f64), 4)[k] - m) < 1e-14 * math.exp(abs(q))


def test_a_corrector_uses_the_noise_of_its_predictor() -> None:
    """The corrected end by eq. 17 itself: x_t, the noise, and the line through the estimates at both ends."""
    path, tau = PATHS["VE"], 0.7
    t, s, end = (path.time_at(scale) for scale in (2.0, 1.2, 1.1999))
    D, x = mixture().denoiser(path), start(path, t, (5, 2))
    z, h = normals(3, (5, 2), 1)[0], math.log(2.0 / 1.2)
    q, decay = (1 + tau**2) * h, 0.6 * math.exp(-(tau**2) * h)
    noised = decay * x + 1.2 * math.sqrt(1 - math.exp(-2 * tau**2 * h)) * z
    predicted = noised + (1 - math.exp(-q)) * D(x, t)
    m_1 = 1 - (1 - math.exp(-q)) / q
    corrected = noised + (1 - math.exp(-q) - m_1) * D(x, t) + m_1 * D(predicted, s)
    solver = SASolver(1, 2, tau, mode="PECE")
    heard = Spy(path, D)
    kedge.sample(heard, x, Levels([t, s, end]), solver, seeds=3)
    torch.testing.assert_close(heard.calls[1][0], predicted, rtol=0, atol=1e-12)
    torch.testing.assert_close(heard.calls[2][0], corrected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SASolver(1, 0, 0.0), DDIM()),
        (SASolver(1, 0, 1.0), DDPM()),
        (SASolver(3, 0, 0.0), Unified((Decision(3),))),
        (SASolver(2, 3, 0.0, predict="eps"), Unified((Decision(2, predict="eps", corrector=3),))),
        (SASolver(3, 4, Band(1.0, 100.0, 200.0)), SASolver(3, 4, 0.0)),
        (SASolver(3, 4, Band(1.0, 0.0, 200.0)), SASolver(3, 4, 1.0)),
    ],
    ids=["DDIM", "DDPM", "Adams", "Adams of eps", "no band", "one band"],
)
def test_solvers_that_are_one(first: Solver, second: Solver) -> None:
    torch.testing.assert_close(walked(first, scales(7)), walked(second, scales(7)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["VP", "Cosine", "Rectified", "Trig"])
@pytest.mark.parametrize("solver", [SASolver(), SASolver(3, 4, Band(0.8, 0.5, 1.0), "PECE")], ids=["1", "band"])
def test_it_does_not_see_the_path(name: str, solver: SASolver) -> None:
    torch.testing.assert_close(walked(solver, scales(7), name), walked(solver, scales(7)), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "solver", [SASolver(), SASolver(2, 3, Band(), "PECE"), SASolver(2, 2, 0.0, predict="eps")], ids=str
)
def test_what_a_solver_owes_the_walk(solver: SASolver) -> None:
    holds(solver)


def moments_at_the_end(solver: Solver, levels: list[float], wrong: float = 0.0) -> tuple[float, float]:
    """Mean and std of a walk on Gaussian data, exactly: it is affine in its start and in each noise, so that one sample
    for each of them, with that one 1 and all others 0, tells their coefficients. `wrong` is added to estimates above
    noise scale 1.
    """
    path, n = PATHS["VE"], len(levels) - 1
    true = Factorised(path, mean=0.3, variance=0.5)
    D = Spy(path, lambda x, t: true.one(x, t) + (wrong if t > 1 else 0.0))
    x, z = torch.zeros(n + 2, 1, dtype=f64), torch.zeros(n + 2, n, 1, dtype=f64)
    x[1], z[torch.arange(2, n + 2), torch.arange(n)] = 1.0, 1.0
    end = kedge.sample(D, x, Levels(levels), solver, seeds=Given.drawn(z))[:, 0]
    parts = end[1:] - end[0]
    variance = (0.5 + levels[0] ** 2) * parts[0] ** 2 + parts[1:].square().sum()
    return float(end[0] + 0.3 * parts[0]), float(variance.sqrt())


def gaussian_distance(solver: Solver, n: int, wrong: float = 0.0) -> float:
    """The 2-Wasserstein distance of samples from Gaussian data, exactly."""
    mean, std = moments_at_the_end(solver, [float(t) for t in LogSNR(n, 0.02, 20.0).levels(PATHS["VE"]).t], wrong)
    return math.hypot(mean - 0.3, std - math.sqrt(0.5))


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("predictor", "order"), [(1, 1), (2, 2)])
def test_the_variance_has_its_weak_order(tau: float, predictor: int, order: int) -> None:
    def error(solver: SASolver, n: int) -> float:
        mean, std = moments_at_the_end(solver, geometric(PATHS["VE"], 3.0, 0.3, n))
        assert abs(mean - 0.3) < 1e-12  # of what is linear nothing is lost
        return abs(std**2 - 0.59)

    coarse, fine = (error(SASolver(predictor, 0, tau), n) for n in (40, 80))
    assert abs(math.log2(coarse / fine) - order) < 0.15
    assert error(SASolver(3, 4, tau), 80) < 0.5 * fine  # noise holds it to order 2, with a smaller constant


def test_noise_forgets_what_went_wrong() -> None:
    """With estimates that are off above noise scale 1 the reverse SDE ends nearer to the data than the flow."""
    for n in (15, 20, 40):
        flow, noisy = (gaussian_distance(SASolver(3, 4, tau), n, wrong=0.3) for tau in (0.0, 1.0))
        assert noisy < 0.9 * flow
        assert gaussian_distance(SASolver(3, 4, 0.0), n) <= gaussian_distance(DPMSolverPP(2), n)


def sliced(x: Tensor, y: Tensor) -> float:
    """The 2-Wasserstein distance of the plane, averaged over 32 directions."""
    angle = torch.arange(32, dtype=f64) * math.pi / 32
    lines = torch.stack([angle.cos(), angle.sin()])
    return float(((x @ lines).sort(0)[0] - (y @ lines).sort(0)[0]).square().mean().sqrt())


LAW = GaussianMixture(
    [1.0] * 6,
    torch.tensor([[math.cos(math.pi / 3 * k), math.sin(math.pi / 3 * k)] for k in range(6)], dtype=f64),
    [0.01] * 6,
)


def test_a_ring_of_modes_at_15_evaluations() -> None:
    """Where 20,000 samples of the law itself are .022 from others."""
    path, samples = PATHS["VE"], 20_000
    x, law = 20.0 * Noise.of(5, samples).normal((samples, 2), 0), LAW.sample(samples, 11)
    D, grid = LAW.denoiser(path), LogSNR(15, 0.02, 20.0)
    solvers = SASolver(), SASolver(tau=Band()), DPMSolverPP(2)
    one, band, midpoint = (sliced(kedge.sample(D, x, grid, solver, seeds=1), law) for solver in solvers)
    assert max(one, band) < midpoint


def test_it_counts_its_evaluations_and_says_what_it_is() -> None:
    assert SASolver(mode="PECE").evaluations(5) == 8
    assert SASolver().evaluations(5) == 5
    assert [s.density for s in (SASolver(tau=0.0), SASolver(1, 0), SASolver(tau=Band()))] == ["none", "step", "walk"]
    for wrong in (lambda: SASolver(5), lambda: SASolver(2, 1), lambda: SASolver(tau=-1.0), lambda: Band(low=2.0)):
        with pytest.raises(ValueError, match=r"predictor of 1 to 4|tau is 0"):
            wrong()


def test_replay() -> None:
    path = PATHS["VP"]
    record = Record()
    walk = kedge.Walk(mixture().denoiser(path), SASolver(), LogSNR(6), (record,))
    walk.run(path.prior((4, 2), 0, dtype=f64), seeds=0)
    torch.testing.assert_close(record.log_prob(walk.replay(record)), record.log_prob(), rtol=0, atol=1e-9)
