"""The laws of the levels, against their definitions; their strata; their keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from kedge.fit import Draw, Proposal
from kedge.fit.proposals import LogitNormal, LogNormal, Uniform
from kedge.noise import Noise
from kedge.paths import Cosine, GaussianPath, Rectified, Trig, VarianceExploding, VariancePreserving

PATHS: list[GaussianPath] = [Trig(0.5), VariancePreserving(), Cosine(), VarianceExploding(), Rectified()]
SPREADS = ["independent", "stratified", "lattice"]
MEAN, STD = -0.4, 1.0


def ids(path: GaussianPath) -> str:
    return type(path).__name__


def logit_share(path: GaussianPath, t: Tensor) -> Tensor:
    return torch.logit(t / path.t_max)


LAWS: dict[str, tuple[Callable[..., Any], Callable[[GaussianPath, Tensor], Tensor], Any]] = {
    "log_normal": (
        lambda **kw: LogNormal(MEAN, STD, **kw),
        lambda path, t: path.noise_scale(t).log(),
        lambda path: stats.norm(MEAN, STD),
    ),
    "logit_normal": (lambda **kw: LogitNormal(MEAN, STD, **kw), logit_share, lambda path: stats.norm(MEAN, STD)),
    "uniform": (
        lambda **kw: Uniform(**kw),
        lambda path, t: t,
        lambda path: stats.uniform(path.t_min, path.t_max - path.t_min),
    ),
}
"""Of each law: how it is made, the variable in which it is plain, and its law there."""


def times(proposal: Proposal, path: GaussianPath, batch: int, seed: int = 0, step: int = 0) -> Tensor:
    return proposal.draw(path, torch.zeros(batch, 1), Noise.of(seed, batch), step).t


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize("law", LAWS)
def test_independent_levels_have_the_law(law: str, path: GaussianPath) -> None:
    make, variable, want = LAWS[law]
    t = times(make(spread="independent"), path, 4000)
    assert t.dtype == torch.float64
    assert t.shape == (4000,)
    inside = (t > path.t_min) & (t < path.t_max)  # what is held at an end is an atom there
    values = variable(path, t[inside])
    low, high = (float(variable(path, torch.tensor(end, dtype=torch.float64))) for end in (path.t_min, path.t_max))
    cdf = want(path).cdf
    held = cdf([low, high])
    truncated = stats.kstest(values, lambda v: (cdf(v) - held[0]) / (held[1] - held[0]))
    assert truncated.pvalue > 1e-3
    assert int((~inside).sum()) <= stats.binom(4000, 1 - (held[1] - held[0])).ppf(1 - 1e-6)


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize("law", LAWS)
def test_times_are_the_quantiles(law: str, path: GaussianPath) -> None:
    make, variable, want = LAWS[law]
    u = torch.tensor([0.05, 0.3, 0.5, 0.71, 0.9], dtype=torch.float64)
    got = variable(path, make().times(path, u))
    torch.testing.assert_close(got, torch.as_tensor(want(path).ppf(u)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("law", ["log_normal", "logit_normal"])
def test_moments_in_the_normal_variable(law: str) -> None:
    """Within four standard errors of the mean and the variance of 20,000 independent levels."""
    make, variable, _ = LAWS[law]
    path, n = Trig(0.5), 20000
    values = variable(path, times(make(spread="independent"), path, n))
    assert abs(float(values.mean()) - MEAN) < 4 * STD / math.sqrt(n)
    assert abs(float(values.var()) - STD**2) < 4 * STD**2 * math.sqrt(2 / n)


def test_on_a_trig_path_log_normal_levels_are_trig_flows_own() -> None:
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    tau = torch.as_tensor(stats.norm(-0.8, 1.6).ppf(u))
    torch.testing.assert_close(LogNormal(-0.8, 1.6).times(Trig(0.5), u), torch.atan(tau.exp() / 0.5))


@pytest.mark.parametrize("path", PATHS, ids=ids)
@pytest.mark.parametrize(
    "proposal", [LogNormal(0.0, 30.0), LogitNormal(0.0, 30.0), Uniform()], ids=lambda p: type(p).__name__
)
def test_levels_are_held_within_the_path(proposal: Any, path: GaussianPath) -> None:
    t = times(proposal, path, 512)
    assert bool(t.isfinite().all())
    assert path.t_min <= float(t.min())
    assert float(t.max()) <= path.t_max
    if not isinstance(proposal, Uniform):  # so wide a law reaches both ends
        assert (float(t.min()), float(t.max())) == (path.t_min, path.t_max)


@pytest.mark.parametrize("spread", ["stratified", "lattice"])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_each_stratum_has_one_level(spread: Any, batch: int) -> None:
    """`u` is read back from uniform times, whose law is the identity."""
    path = Rectified()
    for step in range(20):
        t = times(Uniform(spread), path, batch, step=step)
        u = (t - path.t_min) / (path.t_max - path.t_min)
        assert sorted((u * batch).floor().int().tolist()) == list(range(batch))
        shift = (u * batch) % 1
        if spread == "lattice":
            torch.testing.assert_close(shift, shift[:1].expand(batch), rtol=0, atol=1e-9)
        elif batch > 1:
            assert float(shift.max() - shift.min()) > 0.01


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("sample", [0, 5])
def test_each_samples_own_level_is_uniform_over_the_steps(spread: Any, sample: int) -> None:
    """Strata are dealt out anew at each step, so a sample sees the whole law."""
    path, batch = Rectified(), 8
    t = torch.stack([times(Uniform(spread), path, batch, step=step)[sample] for step in range(800)])
    u = (t - path.t_min) / (path.t_max - path.t_min)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([u[1:], u[:-1]]))[0, 1])) < 4 / math.sqrt(800)


@pytest.mark.parametrize("spread", SPREADS)
def test_strata_estimate_the_same_mean_with_far_less_variance(spread: Any) -> None:
    """The mean of f = e^u over a batch of B, against f's exact mean and, to leading order in 1 / B, its variance:

    independent  Var f / B;   stratified  E[f'^2] / (12 B^3);   lattice  (f(1) - f(0))^2 / (12 B^2)
    """
    path, B, steps, e = Rectified(), 64, 300, math.e
    t = torch.stack([times(Uniform(spread), path, B, step=s) for s in range(steps)])
    estimates = ((t - path.t_min) / (path.t_max - path.t_min)).exp().mean(1)
    square = (e**2 - 1) / 2
    exact = {
        "independent": (square - (e - 1) ** 2) / B,
        "stratified": square / (12 * B**3),
        "lattice": (e - 1) ** 2 / (12 * B**2),
    }
    assert abs(float(estimates.mean()) - (e - 1)) < 4 * math.sqrt(exact[spread] / steps)
    assert abs(float(estimates.var()) / exact[spread] - 1) < 4 * math.sqrt(2 / steps)
    assert exact["independent"] > 60 * exact["lattice"] > 3000 * exact["stratified"]


@pytest.mark.parametrize("spread", SPREADS)
def test_a_draw_is_a_function_of_the_noise_and_the_step(spread: Any) -> None:
    path, x = Trig(0.5), {"a": torch.zeros(16, 3), "b": torch.zeros(16, 2, 2)}
    proposal = LogNormal(spread=spread)

    def draw(seed: int, step: int) -> Any:
        return proposal.draw(path, x, Noise.of(seed, 16), step)

    one, same = draw(3, 7), draw(3, 7)
    assert torch.equal(one.t, same.t)
    assert all(torch.equal(one.z[name], same.z[name]) for name in x)
    assert {name: z.shape for name, z in one.z.items()} == {name: leaf.shape for name, leaf in x.items()}
    for other in (draw(3, 8), draw(4, 7)):
        assert not bool((one.t == other.t).any())
        assert not bool((one.z["a"] == other.z["a"]).any())


def test_level_and_noise_are_independent() -> None:
    path, n = Trig(0.5), 4000
    draw = LogNormal(spread="independent").draw(path, torch.zeros(n, 2, dtype=torch.float64), Noise.of(1, n), 0)
    u = torch.as_tensor(stats.norm(-1.2, 1.2).cdf(path.noise_scale(draw.t).log()))
    assert isinstance(draw.z, Tensor)
    for values in (draw.z[:, 0], draw.z[:, 1], draw.z[:, 0] ** 2):
        assert abs(float(torch.corrcoef(torch.stack([u, values]))[0, 1])) < 4 / math.sqrt(n)


def test_an_independent_level_does_not_depend_on_the_batch() -> None:
    path, seeds = VariancePreserving(), torch.arange(10, 20)
    proposal = Uniform("independent")
    whole = proposal.draw(path, torch.zeros(10, 2), Noise.of(seeds, 10), 4)
    alone = proposal.draw(path, torch.zeros(1, 2), Noise.of(seeds[6:7], 1), 4)
    assert torch.equal(whole.t[6:7], alone.t)
    assert isinstance(whole.z, Tensor)
    assert isinstance(alone.z, Tensor)
    assert torch.equal(whole.z[6:7], alone.z)


def test_take_moves_levels_noise_and_weights_together() -> None:
    t = torch.arange(4.0)
    draw = Draw(t, {"a": t[:, None], "b": -t}, 10 * t).take(torch.tensor([2, 0, 2]))
    want = torch.tensor([2.0, 0.0, 2.0])
    assert isinstance(draw.z, dict)
    assert draw.weight is not None
    assert torch.equal(draw.t, want)
    assert torch.equal(draw.z["a"], want[:, None])
    assert torch.equal(draw.z["b"], -want)
    assert torch.equal(draw.weight, 10 * want)
    assert Draw(t, t).take(torch.tensor([1])).weight is None


@pytest.mark.parametrize("proposal", [LogNormal, LogitNormal, Uniform])
def test_an_unknown_spread_is_refused(proposal: Any) -> None:
    # the annotations are checked in tests, which refuses it already; without them the draw itself says it
    with pytest.raises(Exception, match="spread"):
        times(proposal(spread="sobol"), Trig(0.5), 4)


def test_the_draw_names_the_spreads_there_are() -> None:
    from kedge.fit.draw import uniforms

    unchecked: Any = getattr(uniforms, "__wrapped__", uniforms)
    with pytest.raises(ValueError, match="unknown spread='sobol': one of independent, stratified, lattice"):
        unchecked("sobol", 4, Noise.of(0, 4), 0)
