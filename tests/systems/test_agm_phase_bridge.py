"""Phase bridges: the released closed forms, the control that ends in the data, and few evaluations."""

# A Tree may be a tensor; in these tests it has the fields of a phase.
# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

import kedge
from kedge import Denoiser, grids, solvers
from kedge.denoise import Accelerating
from kedge.exact import GaussianMixture, PhaseMixture
from kedge.nets import MLP
from kedge.paths import PhaseBridge, VarianceExploding, VariancePreserving
from kedge.walk import Solver
from sliced import sliced
from walk.oracles import mixture

pytestmark = pytest.mark.system

f64 = torch.float64
PATH = PhaseBridge()
TIMES = [0.05 + 0.1 * i for i in range(10)]


def released(t: float, p: float = 3.0, k: float = 0.2) -> tuple[float, float, float]:
    """The variances and the covariance at u = 1 - t as apple/ml-agm has them, for a first variance of 1 in both."""
    u, log = 1 - t, math.log(t)
    xx = t**2 * (
        30 * (u**3 - 3 * u**2 + 3 * u + 3) ** 2 + 60 * p**2 * t**3 * log
        - u * (60 * k * (u**5 - 6 * u**4 + 15 * u**3 - 15 * u**2 + 9) - 30 * u * (u**2 - 3 * u + 3) ** 2
               + p**2 * (10 * u**5 - 60 * u**4 + 150 * u**3 - 200 * u**2 + 150 * u - 60))
    ) / 270  # fmt: skip
    xv = t / 270 * (
        30 * k * (8 * u**6 - 48 * u**5 + 120 * u**4 - 135 * u**3 + 45 * u**2 + 27 * u - 9) - 150 * p**2 * t**3 * log
        + u * (-120 * (u**5 - 6 * u**4 + 15 * u**3 - 15 * u**2 + 9)
               - 30 * (4 * u**5 - 24 * u**4 + 60 * u**3 - 75 * u**2 + 45 * u - 9)
               + p**2 * (40 * u**5 - 240 * u**4 + 600 * u**3 - 770 * u**2 + 510 * u - 150))
    )  # fmt: skip
    vv = (-4 * u**3 + 12 * u**2 - 12 * u + 3) ** 2 / 9 + 8 * p**2 * t**3 * log / 9 + u / 135 * (
        -120 * k * (4 * u**5 - 24 * u**4 + 60 * u**3 - 75 * u**2 + 45 * u - 9) + 240 * u * (u**2 - 3 * u + 3) ** 2
        + p**2 * (-80 * u**5 + 480 * u**4 - 1200 * u**3 + 1525 * u**2 - 975 * u + 255)
    )  # fmt: skip
    return xx, xv, vv


@pytest.mark.parametrize("t", TIMES)
def test_the_covariance_is_the_released_one(t: float) -> None:
    (xx, xv), (_, vv) = PATH.covariance(t).tolist()
    assert (xx, xv, vv) == pytest.approx(released(t), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_moments_solve_the_equations_of_the_control(t: float) -> None:
    """With u = 1 - t: `M' = F M + (0, 4 / t^2)` and Lyapunov's `C' = F C + C F^T + G G^T`."""
    at = torch.tensor(t, dtype=f64)
    F = torch.tensor([[0, 1], [-4 / t**2, -4 / t]], dtype=f64)
    G = torch.tensor([[0, 0], [0, (PATH.p * t) ** 2]], dtype=f64)
    M, C = PATH.M(t), PATH.covariance(t)
    pull = torch.tensor([[0, 0], [4 / t**2, 0]], dtype=f64)
    torch.testing.assert_close(-jacobian(PATH.M, at), F @ M + pull, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(PATH.d_M(t), jacobian(PATH.M, at), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(-jacobian(PATH.covariance, at), F @ C + C @ F.mT + G, rtol=1e-9, atol=1e-9)
    step = 1e-7  # F^2 step / 2 is 2e-5
    torch.testing.assert_close((PATH.kept(t, t - step) - torch.eye(2, dtype=f64)) / step, F, rtol=1e-4, atol=1e-4)
    # of the flow both have the same moments: C' = -(P C + C P^T), and dx = v du
    P = PATH.flow(t)
    torch.testing.assert_close(P @ C + C @ P.mT, jacobian(PATH.covariance, at), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(P[0], torch.tensor([0.0, -1.0], dtype=f64))


def test_the_simulated_control_ends_in_the_data() -> None:
    """Euler and Maruyama's method with the control to x = .7, from the first law: its moments on the way, then x."""
    n, N, p = 800, 8000, PATH.p
    torch.manual_seed(0)
    z = torch.randn(N, 2, dtype=f64)
    x, v = z[:, 0], -PATH.k * z[:, 0] + math.sqrt(1 - PATH.k**2) * z[:, 1]
    for i in range(n):
        t = 1 - i / n
        if i == n // 2:
            M, C = PATH.M(t)[:, 0] * 0.7, PATH.covariance(t)
            assert float((torch.stack([x.mean(), v.mean()]) - M).abs().max()) < 0.05  # 3 standard errors
            assert float((torch.stack([x, v]).cov() / C - 1).abs().max()) < 0.1  # 3 standard errors
        a = 4 / t * ((0.7 - x) / t - v)
        x, v = x + v / n, v + a / n + p * t / math.sqrt(n) * torch.randn(N, dtype=f64)
    assert float((x - 0.7).abs().max()) < 0.02


@functools.cache
def between(solver: Solver, n: int, high: float = 0.8, low: float = 0.2) -> Tensor:
    x = mixture().sample(8, 1)
    z = {name: kedge.Noise.of(2, 8).normal((8, 2), i) for i, name in enumerate("xv")}
    start = PATH.perturb({"x": x, "v": 0 * x}, high, z)
    levels = grids.Levels([high + (low - high) * i / n for i in range(n + 1)])
    out = kedge.sample(PhaseMixture(mixture(), PATH), start, levels, solver)
    return torch.cat([out["x"], out["v"]], 1)


@pytest.mark.parametrize(
    ("solver", "order"),
    [(solvers.Euler(), 1), (solvers.DDIM(), 1), (solvers.Heun(), 2), (solvers.LinearMultistep(), 2)],
    ids=str,
)
def test_order_of_convergence(solver: Solver, order: int) -> None:
    exact = between(solvers.Heun(), 160)
    errors = [float((between(solver, n) - exact).norm()) for n in (20, 40)]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15


def reached(solver: Solver, law: GaussianMixture, n: int, phase: bool) -> float:
    """How far the samples of n evaluations are from the law's, DDIM on the better of two grids."""
    N, target = 3000, law.sample(3000, 9)
    found: list[float] = []
    for grid in (grids.Uniform(n),) if phase else (grids.Uniform(n), grids.LogSNR(n)):
        if phase:
            start = PATH.prior({"x": (N, 2), "v": (N, 2)}, seeds=0, dtype=f64)
            found.append(sliced(kedge.sample(PhaseMixture(law, PATH), start, grid, solver)["x"], target))
        else:
            path = VariancePreserving()
            start = path.prior((N, 2), seeds=0, dtype=f64)
            found.append(sliced(kedge.sample(law.denoiser(path), start, grid, solver), target))
    return min(found)


@pytest.mark.parametrize("n", [5, 10])
def test_few_evaluations_take_it_nearer_than_ddim(n: int) -> None:
    """From the same exact estimates: .10 and .05 where DDIM is .19 and .10, and .03 and .02 by the line through two."""
    ddim = reached(solvers.DDIM(), mixture(), n, phase=False)
    assert reached(solvers.DDIM(), mixture(), n, phase=True) < 0.8 * ddim
    assert reached(solvers.LinearMultistep(), mixture(), n, phase=True) < 0.5 * ddim


def test_the_end_is_known_early() -> None:
    """At .3 of the way the least error of an estimate of x is .17 of the variance; DDPM's .87."""
    law, plain, vp = mixture(), VarianceExploding(t_max=1e9), VariancePreserving()
    early = law.loss(plain, PATH.noise_scale(0.7))
    ddpm = law.loss(vp, 0.7)
    assert early < 0.8 * ddpm


def test_what_a_network_predicts_is_the_acceleration() -> None:
    """Its target has a variance of 1 at every level, and returns x exactly."""
    law = GaussianMixture([1.0], torch.zeros(1, 2), [1.0])
    x = law.sample(20_000, 1)
    for t in (0.05, 0.5, 0.95):
        z = {name: kedge.Noise.of(2, len(x)).normal((len(x), 2), i) for i, name in enumerate("xv")}
        state = PATH.perturb({"x": x, "v": 0 * x}, t, z)
        spread = float(torch.as_tensor(Accelerating(lambda *_: x, PATH)._spread_left(t)))
        F = (x - state["x"] - t * state["v"]) / spread
        assert float(F.var()) == pytest.approx(1.0, abs=0.03)
        found = Accelerating(lambda joined, told, F=F: F, PATH)(state, t)
        torch.testing.assert_close(found["x"], x)
        a = 4 / t * ((x - state["x"]) / t - state["v"])  # the control's own words
        torch.testing.assert_close(state["x"] + t * (state["v"] + t / 4 * a), x)


def test_keyed_noise_float32_and_what_cannot_be_walked() -> None:
    walk = kedge.Walk(PhaseMixture(mixture(), PATH), solvers.DDPM(), grids.Uniform(6))
    start = PATH.prior({"x": (4, 2), "v": (4, 2)}, seeds=[1, 2, 3, 4], dtype=torch.float32)
    whole = walk.run(start, seeds=[1, 2, 3, 4]).x["x"]
    alone = walk.run({name: leaf[2:3] for name, leaf in start.items()}, seeds=[3]).x["x"]
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole[2:3], alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(TypeError, match="a path of matrices, without alpha and sigma"):
        kedge.sample(PhaseMixture(mixture(), PATH), start, grids.Uniform(3), solvers.DPMSolverPP())
    with pytest.raises(ValueError, match="depends on where it leads"):
        PATH.up(start, 0.3, 0.5)


def trained(phase: bool, steps: int = 1200) -> float:
    """How far 3000 samples in 5 evaluations are from the mixture, after seconds of training of the same network."""
    torch.manual_seed(0)
    law, N = mixture(), 3000
    bridge, plain = PATH, VariancePreserving()
    net = MLP(4 if phase else 2, width=64, depth=2, expansion=2, activation="silu", embed=16)
    ours = Accelerating(lambda joined, told: net(joined, told)[:, :2], bridge, sigma_data=0.45)
    denoiser = ours if phase else Denoiser(net, plain, "edm", sigma_data=0.45)
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    for i in range(steps):
        x, noise = law.sample(256, i, torch.float32), kedge.Noise.of(i, 256)
        t = 1e-3 + 0.998 * noise.uniform((256,), 0, 6)
        z = [noise.normal((256, 2), k, 7, torch.float32) for k in (0, 1)]
        if phase:
            state = bridge.perturb({"x": x, "v": 0 * x}, t, {"x": z[0], "v": z[1]})
            error = ours(state, t)["x"] - x
            weight = torch.as_tensor(ours._spread_left(t)) ** -2
        else:
            error = denoiser(plain.perturb(x, t, z[0]), t) - x
            weight = torch.as_tensor(denoiser.preconditioning(t)[2]) ** -2  # pyright: ignore[reportAttributeAccessIssue]
        adam.zero_grad()
        (weight.float()[:, None] * error**2).mean().backward()
        adam.step()
    if phase:
        start = bridge.prior({"x": (N, 2), "v": (N, 2)}, seeds=0, dtype=torch.float32)
        out = kedge.sample(denoiser, start, grids.Uniform(5), solvers.LinearMultistep())["x"]
        return sliced(out, law.sample(N, 9))
    start = plain.prior((N, 2), seeds=0, dtype=torch.float32)
    return min(
        sliced(kedge.sample(denoiser, start, grid, solvers.DDIM()), law.sample(N, 9))
        for grid in (grids.Uniform(5), grids.LogSNR(5))
    )


@pytest.mark.slow
def test_a_network_keeps_the_advantage() -> None:
    """The same net and the same batches: lower by .2 at least."""
    assert trained(True) < 0.8 * trained(False)
