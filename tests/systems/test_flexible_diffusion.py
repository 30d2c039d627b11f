"""Forward processes with a metric and a rotation: always to N(0, I), VP as one of them, and better where learned."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

import kedge
from kedge import grids, solvers
from kedge.exact import GaussianMixture, LinearMixture
from kedge.fit import bound
from kedge.kernels import Correlated
from kedge.paths import EntryPace, Flexible, LearnedFlexible, LinearPath, VariancePreserving
from kedge.walk import Solver
from walk.oracles import Factorised, mixture

pytestmark = pytest.mark.system

f64 = torch.float64
VP = VariancePreserving()
ANY = Flexible(torch.tensor([[1.5, 0.4], [0.4, 0.7]]), torch.tensor([[0.0, 0.6], [-0.6, 0.0]]))
PLAIN = Flexible(torch.eye(2), torch.zeros(2, 2))
SOLVERS: list[tuple[Solver, int]] = [
    (solvers.Euler(), 1),
    (solvers.DDIM(), 1),
    (solvers.Heun(), 2),
    (solvers.LinearMultistep(), 2),
]
eye = torch.eye(2, dtype=f64)


@pytest.mark.parametrize("t", [0.01, 0.3, 0.8])
def test_moments_solve_the_equation_and_end_in_a_standard_normal(t: float) -> None:
    """`M' = F M` and `C' = F C + C F^T + beta R`, for which C = I stands still whatever R and omega are."""
    at, beta = torch.tensor(t, dtype=f64), 0.1 + 19.9 * t
    F = -beta * (0.5 * ANY.R + ANY.omega)
    M, C = ANY.M(t), ANY.covariance(t)
    torch.testing.assert_close(jacobian(ANY.M, at), F @ M, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ANY.d_M(t), F @ M, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(jacobian(ANY.covariance, at), F @ C + C @ F.mT + beta * ANY.R, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(F + F.mT + beta * ANY.R, 0 * eye, rtol=0, atol=1e-12)
    P = ANY.flow(t)  # F - beta R score / 2
    torch.testing.assert_close(P, F + 0.5 * beta * ANY.R @ torch.linalg.inv(C), rtol=1e-8, atol=1e-8)
    assert float((ANY.covariance(1.0) - eye).abs().max()) < 0.01


def test_the_simulated_equation_has_the_closed_moments() -> None:
    """Euler and Maruyama's method from a point: 40 000 ways know a variance to .7 %, a mean to .005."""
    N, n, T = 40_000, 200, 0.4
    torch.manual_seed(0)
    root = torch.linalg.cholesky(ANY.R)
    x = torch.tensor([1.0, -0.5], dtype=f64).expand(N, 2)
    for i in range(n):
        beta = 0.1 + 19.9 * (i + 0.5) / n * T
        z = torch.randn(N, 2, dtype=f64)
        x = x - beta * T / n * x @ (0.5 * ANY.R + ANY.omega).mT + math.sqrt(beta * T / n) * z @ root.mT
    M, C = ANY.M(T), ANY.covariance(T)
    assert float((x.mean(0) - M @ torch.tensor([1.0, -0.5], dtype=f64)).abs().max()) < 0.02
    assert float((x.T.cov() - C).abs().max()) < 0.025


@pytest.mark.parametrize("solver", [*(s for s, _ in SOLVERS[:3]), solvers.DDPM()], ids=str)
def test_without_both_it_is_variance_preserving(solver: Solver) -> None:
    x = VP.prior((8, 2), seeds=0, dtype=f64)
    ours = kedge.sample(LinearMixture(mixture(), PLAIN), x, grids.LogSNR(8), solver, seeds=1)
    theirs = kedge.sample(mixture().denoiser(VP), x, grids.LogSNR(8), solver, seeds=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    torch.testing.assert_close(PLAIN.prior((8, 2), seeds=0, dtype=f64), x)


def test_without_both_its_bound_is_that_of_variance_preserving() -> None:
    x, levels = mixture().sample(64, 1), (0.99, 0.5, 0.2, 0.05)
    ours = bound(LinearMixture(mixture(), PLAIN), x, levels, seeds=0).total
    theirs = bound(mixture().denoiser(VP), x, levels, seeds=0).total
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.DDPM()], ids=str)
def test_a_diagonal_metric_is_a_pace_of_the_entries(solver: Solver) -> None:
    """The kernel's own levels of entries say the same process: so they walk it with the same draws."""
    rate = torch.tensor([1.0, 2.5], dtype=f64)
    path = Flexible(torch.diag(rate), torch.zeros(2, 2))
    variance, mean = torch.tensor([0.5, 2.0], dtype=f64), 0.3
    law = GaussianMixture([1.0], torch.full((1, 2), mean, dtype=f64), torch.diag(variance)[None])
    levels = [0.6, 0.4, 0.2, 0.05, 0.0]  # 2.5 B(.6) is below B(1): nothing waits
    x = torch.randn(8, 2, dtype=f64, generator=torch.Generator().manual_seed(0))
    ours = kedge.sample(LinearMixture(law, path), x, grids.Levels(levels), solver, seeds=1)
    paced = grids.Paced(grids.Levels(levels), EntryPace(rate))
    theirs = kedge.sample(Factorised(VP, mean, variance), x, paced, solver, seeds=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


@functools.cache
def walked(solver: Solver, n: int) -> Tensor:
    start = ANY.perturb(mixture().sample(8, 1), 0.5, kedge.Noise.of(2, 8).normal((8, 2), 0))
    levels = grids.Levels([0.5 - 0.3 * i / n for i in range(n + 1)])
    return kedge.sample(LinearMixture(mixture(), ANY), start, levels, solver)


@pytest.mark.parametrize(("solver", "order"), SOLVERS, ids=str)
def test_order_of_convergence(solver: Solver, order: int) -> None:
    exact = walked(solvers.Heun(), 160)
    errors = [float((walked(solver, n) - exact).norm()) for n in (20, 40)]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15


def test_transitions_agree_with_the_forward_process() -> None:
    """`q(x_t | x_s)` has the mean `F x_s`; what falls by the posterior and rises again has the marginal."""
    t, s = 0.5, 0.2
    x = mixture().sample(40_000, 1)
    rising = ANY.up(ANY.perturb(x, s, kedge.Noise.of(0, len(x)).normal(x.shape, 0)), s, t)
    assert isinstance(rising, Correlated)
    B = [-2 * math.log(VP.alpha(u)) for u in (s, t)]
    F = torch.matrix_exp(-(B[1] - B[0]) * (0.5 * ANY.R + ANY.omega))
    torch.testing.assert_close(rising.root.values @ rising.root.values.mT, eye - F @ F.mT, rtol=1e-8, atol=1e-8)
    x_t = rising.draw(kedge.Noise.of(1, len(x)), 0)
    C = ANY.M(t) @ mixture().covariance @ ANY.M(t).mT + ANY.covariance(t)
    assert float((x_t.T.cov() - C).abs().max()) < 0.03
    fallen = ANY.posterior(t, s)(x_t, x).draw(kedge.Noise.of(2, len(x)), 0)
    C = ANY.M(s) @ mixture().covariance @ ANY.M(s).mT + ANY.covariance(s)
    assert float((fallen.T.cov() - C).abs().max()) < 0.03


def test_the_density_of_a_step_is_that_of_the_whole_normal() -> None:
    mean = torch.randn(5, 3, 2, dtype=f64, generator=torch.Generator().manual_seed(0))
    one, two = (ANY.up(mean + k, 0.1 + k / 10, 0.5 + k / 10) for k in (0, 1))
    assert isinstance(one, Correlated)
    assert isinstance(two, Correlated)
    p, q = (torch.distributions.MultivariateNormal(k.mean, scale_tril=k.root.values) for k in (one, two))
    x = one.draw(kedge.Noise.of(3, 5), 0)
    torch.testing.assert_close(one.log_prob(x).sum(-1), p.log_prob(x))
    torch.testing.assert_close(one.kl(two).sum(-1), torch.distributions.kl_divergence(p, q))
    torch.testing.assert_close(one.variance, p.variance)
    torch.testing.assert_close(one.take(torch.tensor([3])).mean, mean_of(one, 3))


def mean_of(kernel: Correlated, i: int) -> Tensor:
    assert isinstance(kernel.mean, Tensor)
    return kernel.mean[i : i + 1]


def turned(*variances: float) -> Tensor:
    """A covariance whose axes are turned by 30 degrees."""
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    U = torch.tensor([[c, -s], [s, c]], dtype=f64)
    return U @ torch.diag(torch.tensor(variances, dtype=f64)) @ U.T


LAWS = {
    "gaussian": GaussianMixture([1.0], torch.zeros(1, 2), turned(1.9, 0.02)[None]),
    "mixture": GaussianMixture(
        [0.5, 0.5], torch.tensor([[1.0, 0.577], [-1.0, -0.577]]), torch.stack([turned(0.2, 0.02)] * 2)
    ),
}
LEVELS = tuple(VP.time_of(-6.0 + i) for i in range(11))
"""Ten steps, to a noise scale of .14."""


def learned(law: str, steps: int) -> LinearPath:
    """R and omega by a few steps on the bound of ten levels, with the exact denoiser of each process."""
    model = LearnedFlexible(2)
    adam = torch.optim.Adam(model.parameters(), 0.2)
    for i in range(steps):
        adam.zero_grad()
        exact = LinearMixture(LAWS[law], model.path)
        bound(exact, LAWS[law].sample(128, i), LEVELS, seeds=i).total.mean().backward()
        adam.step()
    return Flexible(model.path.R.detach(), model.path.omega.detach())


def nats_of(path: LinearPath, law: str) -> float:
    return float(bound(LinearMixture(LAWS[law], path), LAWS[law].sample(4000, 7), LEVELS, seeds=8).total.mean())


def check_learned(law: str, steps: int) -> None:
    exact = -float(LAWS[law].log_prob(LAWS[law].sample(4000, 7)).mean())
    ours, theirs = nats_of(learned(law, steps), law), nats_of(PLAIN, law)
    assert exact < ours < theirs - 0.15


def test_what_is_learned_bounds_better() -> None:
    """Ten levels either way, and the bound stays one."""
    check_learned("gaussian", 6)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_what_is_learned_at_length_bounds_better(law: str) -> None:
    check_learned(law, 30)


def test_parameters_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="positive eigenvalues"):
        Flexible(torch.diag(torch.tensor([1.0, -1.0])), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="antisymmetric"):
        Flexible(torch.eye(2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="square and alike"):
        Flexible(torch.eye(2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="last axis"):
        ANY.perturb(torch.zeros(4, 3, dtype=f64), 0.5)
    with pytest.raises(ValueError, match="predicts clean data"):
        kedge.Denoiser(kedge.nets.MLP(2), ANY, "eps")(torch.zeros(1, 2), 0.5)
