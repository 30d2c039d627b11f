"""Pinned entries: exact at the end, and on the way as the denoiser was trained to see them."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import kedge
from kedge.denoise import Pinning
from kedge.exact import GaussianMixture
from kedge.tree import lead
from kedge.walk import Hook, State
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Pin, Record
from kedge.walk.solvers import DDPM, Heun
from walk.oracles import PATHS, RANDOM, SOLVERS, Spy, f64, start

SHAPE = 3, 4, 2
GRID = LogSNR(5)


def pinning(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A mask and values for each sample."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(SHAPE, generator=generator) < 0.4, torch.randn(SHAPE, dtype=f64, generator=generator)


@pytest.mark.parametrize("pinned", ["clean", "noised"])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_exact_to_the_bit_at_the_end(path: str, name: str, pinned: Pinning) -> None:
    p, (mask, values) = PATHS[path], pinning()
    x = start(p, p.t_max, SHAPE)
    per_entry = Levels(torch.tensor(GRID.levels(p).t, dtype=f64)[:, None].expand(-1, 4))
    for grid in (GRID, per_entry):
        end = kedge.sample(Spy(p, pinned=pinned), x, grid, SOLVERS[name], [Pin(mask, values)], seeds=1)
        assert torch.equal(end[mask], values[mask])
        assert not bool((end[~mask] == values[~mask]).any())


@pytest.mark.parametrize("per_entry", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_clean_entries_are_clean_at_every_call(path: str, name: str, per_entry: bool) -> None:
    """Also at the points that a solver makes for itself inside a step."""
    p, (mask, values) = PATHS[path], pinning()
    D = Spy(p, pinned="clean")
    t = torch.tensor(GRID.levels(p).t, dtype=f64)
    grid = Levels(t[:, None].expand(-1, 4)) if per_entry else GRID
    kedge.sample(D, start(p, p.t_max, SHAPE), grid, SOLVERS[name], [Pin(mask, values, "clean")], seeds=1)
    assert len(D.calls) == SOLVERS[name].evaluations(5)
    for x_t, _ in D.calls:
        assert torch.equal(x_t[mask], values[mask])


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_noised_entries_are_at_the_level_of_the_call(path: str, name: str) -> None:
    """At each call alpha v + sigma z for a standard normal z: mean and std over many samples."""
    p, n = PATHS[path], 4000
    D = Spy(p)
    mask = torch.tensor([True, False])
    kedge.sample(D, start(p, p.t_max, (n, 2)), GRID, SOLVERS[name], [Pin(mask, torch.tensor([0.7, 0.0]))], seeds=1)
    for x_t, t in D.calls:
        z = (x_t[:, 0] - p.alpha(t) * 0.7) / p.sigma(t)
        assert abs(float(z.mean())) < 4.5 / n**0.5
        assert abs(float(z.std()) - 1) < 4.5 / (2 * n) ** 0.5


def test_noise_of_pinned_entries_is_the_samples_own() -> None:
    p = PATHS["VP"]
    mask, values = pinning()
    seeds = [11, 12, 13]
    x = start(p, p.t_max, SHAPE)
    whole, alone = Spy(p), Spy(p)
    kedge.sample(whole, x, GRID, DDPM(), [Pin(mask, values)], seeds=seeds)
    kedge.sample(alone, x[1:2], GRID, DDPM(), [Pin(mask[1:2], values[1:2])], seeds=seeds[1:2])
    for (a, _), (b, _) in zip(whole.calls, alone.calls, strict=True):
        assert torch.equal(a[1][mask[1]], b[0][mask[1]])


def test_noise_of_pinned_entries_is_not_the_steps() -> None:
    """The stream of the pinned entries is apart from that of the draw."""
    p = PATHS["VP"]
    D, record = Spy(p), Record()
    mask = torch.tensor([True, False])
    kedge.sample(D, start(p, p.t_max, (4000, 2)), GRID, DDPM(), [Pin(mask, torch.zeros(2)), record], seeds=1)
    for i in range(3):
        t = D.calls[i + 1][1]
        z_pin = record.x[i + 1][:, 0] / p.sigma(t)  # type: ignore[index]
        for step in record.steps[i : i + 2]:  # the one that led here, and the one that starts here
            kernel: Any = step.kernel
            z_step = ((step.drawn - kernel.mean) / kernel.std)[:, 0]  # type: ignore[operator]
            assert abs(float((z_pin * z_step).mean())) < 4.5 / 4000**0.5


class Conditional:
    """The exact E[x | x_2 at level t, x_1 clean] of a plane Gaussian: what training with x_1 clean teaches."""

    pinned: Pinning = "clean"

    def __init__(self, path: Any, mean: Tensor, covariance: Tensor) -> None:
        self.path, self.mean, self.covariance = path, mean, covariance

    def law(self, x_1: Tensor) -> tuple[Tensor, float]:
        """Of the second entry given the first."""
        slope = self.covariance[0, 1] / self.covariance[0, 0]
        return self.mean[1] + slope * (x_1 - self.mean[0]), float(self.covariance[1, 1] - slope * self.covariance[0, 1])

    def __call__(self, x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        m, v = self.law(x_t[:, 0])
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        if isinstance(t, Tensor):
            alpha, sigma = (lead(value, x_t)[:, 0] for value in (alpha, sigma))
        x_2 = m + alpha * v / (alpha**2 * v + sigma**2) * (x_t[:, 1] - alpha * m)
        return torch.stack([x_t[:, 0], x_2], 1)


@pytest.mark.parametrize("name", ["DDPM", "DDIM", "Heun", "2S", "3M", "SDE-2"])
@pytest.mark.parametrize("path", PATHS)
def test_the_rest_has_the_conditional_law(path: str, name: str) -> None:
    """Trained with clean entries, a pinned walk samples the conditional: its exact mean and variance."""
    p, n = PATHS[path], 4000
    D = Conditional(p, torch.tensor([0.2, -0.4], dtype=f64), torch.tensor([[0.5, 0.4], [0.4, 0.6]], dtype=f64))
    x = start(p, p.t_max, (n, 2), seed=3)
    grid = LogSNR(100, scale_min=0.01, scale_max=20.0)
    t = grid.levels(p).t[0]
    x_1 = torch.full((n,), 1.1, dtype=f64)
    m, v = D.law(x_1)
    x[:, 1] = p.alpha(t) * m + (p.alpha(t) ** 2 * v + p.sigma(t) ** 2) ** 0.5 * torch.randn(
        n, dtype=f64, generator=torch.Generator().manual_seed(0)
    )
    end = kedge.sample(D, x, grid, SOLVERS[name], [Pin(torch.tensor([True, False]), torch.tensor([1.1, 0.0]))], seeds=1)
    assert abs(float(end[:, 1].mean() - m[0])) < 4.5 * (v / n) ** 0.5
    assert abs(float(end[:, 1].var()) / v - 1) < 4.5 * (2 / n) ** 0.5


def test_masks_broadcast_and_may_be_numbers() -> None:
    p = PATHS["Rectified"]
    x = start(p, p.t_max, SHAPE)
    mask, values = pinning()
    full = mask[0, :, :1].expand(SHAPE)
    ends = [
        kedge.sample(Spy(p), x, GRID, Heun(), [Pin(m, v)], seeds=0)
        for m, v in (
            (mask[0, :, :1], values[0]),
            (full, values[0].expand(SHAPE)),
            (full.int(), values[0].float().double()),
        )
    ]
    assert torch.equal(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2], rtol=0, atol=1e-6)


def test_what_is_not_pinned_may_be_anything() -> None:
    p, (mask, values) = PATHS["VP"], pinning()
    x = start(p, p.t_max, SHAPE)
    junk = torch.where(mask, values, torch.nan)
    ends = [kedge.sample(Spy(p), x, GRID, DDPM(), [Pin(mask, v)], seeds=0) for v in (values, junk)]
    assert torch.equal(*ends)


@pytest.mark.parametrize("pinned", ["clean", "noised"])
@pytest.mark.parametrize("name", ["Heun", "3S", "SDE-3"])
def test_fields_of_a_dictionary(name: str, pinned: Pinning) -> None:
    p, (mask, values) = PATHS["Trig"], pinning()
    x = {"a": start(p, p.t_max, SHAPE), "b": start(p, p.t_max, (3, 5), 1)}
    D = Spy(p, lambda x, t: {name: 0.5 * leaf for name, leaf in x.items()}, pinned)
    pin = Pin({"a": mask, "b": torch.tensor([True, False, False, False, False])}, {"a": values, "b": torch.ones(5)})
    end = kedge.sample(D, x, GRID, SOLVERS[name], [pin], seeds=1)
    assert torch.equal(end["a"][mask], values[mask])
    assert end["b"][:, 0].tolist() == [1.0, 1.0, 1.0]
    assert not bool((end["b"][:, 1:] == 1).any())


@pytest.mark.parametrize("name", RANDOM)
def test_a_restart_keeps_them(name: str) -> None:
    p, (mask, values) = PATHS["VP"], pinning()
    D = Spy(p, pinned="clean")
    t = list(GRID.levels(p).t)
    end = kedge.sample(
        D, start(p, p.t_max, SHAPE), Levels([*t, *t[2:]], rise="noise"), SOLVERS[name], [Pin(mask, values)], seeds=1
    )
    assert torch.equal(end[mask], values[mask])
    assert all(torch.equal(x_t[mask], values[mask]) for x_t, _ in D.calls)


def refused(D: Any, hooks: list[Hook], line: str) -> None:
    with pytest.raises(ValueError, match=line) as error:
        kedge.sample(D, torch.zeros(3, 4, dtype=f64), GRID, DDPM(), hooks)
    assert "\n" not in str(error.value)


def test_mistakes_are_refused_in_one_line() -> None:
    p = PATHS["VP"]
    one = torch.ones(4, dtype=f64)
    trained = r"^Pin\(way='{}'\) on a denoiser trained with pinned entries {}: way='{}'$"
    refused(Spy(p), [Pin(one, one, "clean")], trained.format("clean", "noised", "noised"))
    refused(Spy(p, pinned="clean"), [Pin(one, one, "noised")], trained.format("noised", "clean", "clean"))
    refused(Spy(p), [Pin(one, one), Pin(one, one)], "^two Pin hooks in one walk: join their masks$")
    refused(Spy(p), [Pin(torch.ones(5), one)], "^Pin: mask and values must broadcast to the state: ")
    refused(Spy(p), [Pin(one, torch.ones(2, 4))], "^Pin: mask and values must broadcast to the state: ")
    refused(Spy(p), [Pin(one, one * torch.inf)], "^Pin: values under the mask are not finite$")
    refused(Spy(p), [Pin({"a": one}, {"a": one})], "^Pin: mask and values must be tensors for a tensor state,")
    D = Spy(p, lambda x, t: x)
    with pytest.raises(ValueError, match=r"^Pin: mask and values must be tensors for a tensor state, dictionaries"):
        kedge.sample(D, {"a": one[None]}, GRID, DDPM(), [Pin(one, one)])
    with pytest.raises(ValueError, match=r"^Pin: mask and values must broadcast to the state: 'b'$"):
        kedge.sample(D, {"a": one[None], "b": one[None]}, GRID, DDPM(), [Pin({"a": one}, {"a": one})])


def test_a_pruned_batch_keeps_its_pins() -> None:
    """A hook that takes half of the samples: each keeps its own mask and values."""
    p, (mask, values) = PATHS["VP"], pinning()

    class Prune(Hook):
        def before(self, state: State, s: Any) -> State:
            return state.take(torch.tensor([2, 0])) if state.step == 2 else state

    end = kedge.sample(Spy(p), start(p, p.t_max, SHAPE), GRID, Heun(), [Prune(), Pin(mask, values)], seeds=1)
    assert torch.equal(end[mask[[2, 0]]], values[[2, 0]][mask[[2, 0]]])


def test_noised_entries_pull_the_rest_only_in_part_and_restarts_mend_it() -> None:
    """Replacing entries on the way is no conditioning: with correlation .8 and the first entry held at 1, the second
    has mean .8, and even an exact denoiser falls well short of it. Going up and down again brings it closer.
    """
    path = PATHS["VP"]
    covariance = torch.tensor([[[1.0, 0.8], [0.8, 1.0]]], dtype=f64)
    exact = GaussianMixture([1.0], torch.zeros(1, 2, dtype=f64), covariance)
    t = list(LogSNR(20, scale_min=0.02).levels(path).t)
    again = [t[0]]
    for level, following in itertools.pairwise(t):
        again += [following] + [level, following] * 8 * (following > 0)
    pin = Pin(torch.tensor([True, False]), torch.tensor([1.0, 0.0], dtype=f64))
    x = path.prior((4000, 2), 0, dtype=f64)
    short, long = (
        kedge.sample(exact.denoiser(path), x, Levels(levels, rise="noise"), DDPM(), [pin], seeds=0)[:, 1].mean()
        for levels in (t, again)
    )
    assert short < 0.65
    assert 0.7 < long < 0.85
