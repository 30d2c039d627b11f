"""Keyed noise: it belongs to the sample, and it is noise."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
import torch
from scipy import stats
from torch import Tensor

from kedge.noise import AHEAD_KEPT, AHEAD_NUMBERS, AHEAD_STEPS, SLOTS, Noise, mix, normal_like

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
COUNTS = (1, 2, 3, 7, 16, 17, 64, 129, 1000, 1025)
"""Odd and even, shorter and longer than a vector register, drawn ahead in small batches but not in large ones."""


def keys(batch: int) -> Tensor:
    return torch.arange(batch) * 7919 - 50


@dtypes
@pytest.mark.parametrize("batch", [2, 7, 64])
def test_a_sample_has_the_same_noise_in_any_batch(batch: int, dtype: torch.dtype) -> None:
    seeds = keys(batch)
    together = Noise.of(seeds, batch)
    for count, step in itertools.product(COUNTS, (-1, 0, 3, AHEAD_STEPS, 1000)):
        z = together.normal((batch, count), step, dtype=dtype)
        u = together.uniform((batch, count), step, dtype=dtype)
        for i in (0, batch // 2, batch - 1):
            alone = Noise.of([int(seeds[i])], 1)
            assert torch.equal(z[i], alone.normal((1, count), step, dtype=dtype)[0]), (count, step, i)
            assert torch.equal(u[i], alone.uniform((1, count), step, dtype=dtype)[0]), (count, step, i)


def test_small_draws_are_made_ahead_and_large_ones_are_not() -> None:
    """The other tests compare the two: they must be two."""
    noise = Noise.of(0, 4)
    noise.normal((4, AHEAD_NUMBERS // 4 + 1), 0)
    assert not noise._ahead
    noise.normal((4, AHEAD_NUMBERS // 4), 0)
    assert len(noise._ahead) == 1


@dtypes
def test_position_and_company_do_not_matter(dtype: torch.dtype) -> None:
    seeds = keys(33)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(0))
    one = Noise.of(seeds, 33).normal((33, 5), 4, dtype=dtype)
    other = Noise.of(seeds[order], 33).normal((33, 5), 4, dtype=dtype)
    assert torch.equal(one[order], other)


def test_the_shape_of_an_event_does_not_matter() -> None:
    noise = Noise.of(1, 3)
    flat = noise.normal((3, 24), 2)
    assert torch.equal(noise.normal((3, 4, 6), 2), flat.view(3, 4, 6))
    assert noise.normal((3,), 2).shape == (3,)


def test_one_seed_for_the_call_gives_each_sample_its_own_and_longer_calls_the_same_beginning() -> None:
    long, short = Noise.of(5, 64), Noise.of(5, 3)
    assert len(set(long.key.tolist())) == 64
    assert torch.equal(long.key[:3], short.key)
    assert not set(long.key.tolist()) & set(Noise.of(6, 64).key.tolist())


@pytest.mark.parametrize("seeds", [[3, 1, 4], (3, 1, 4), torch.tensor([3, 1, 4]), torch.tensor([3, 1, 4]).int()])
def test_a_seed_for_each_sample(seeds: list[int] | tuple[int, ...] | Tensor) -> None:
    noise = Noise.of(seeds, 3)
    assert torch.equal(noise.key, Noise.of([3, 1, 4], 3).key)
    assert torch.equal(noise.key[1:2], Noise.of([1], 1).key)


def test_extreme_seeds() -> None:
    seeds = [-(2**63), -1, 0, 2**63 - 1]
    assert len(set(Noise.of(seeds, 4).key.tolist())) == 4
    assert all(Noise.of(seed, 2).normal((2, 3), 0).isfinite().all() for seed in seeds)


@pytest.mark.parametrize(
    "seeds", [[1, 2], torch.tensor([0.5, 1.5, 2.5]), torch.tensor(3), torch.zeros(3, 1, dtype=torch.int64)]
)
def test_seeds_that_do_not_fit_the_batch(seeds: list[int] | Tensor) -> None:
    with pytest.raises(ValueError, match="expected a whole number for each of 3 samples"):
        Noise.of(seeds, 3)


def test_a_draw_is_the_callers_own() -> None:
    noise = Noise.of(0, 2)
    first = noise.normal((2, 3), 0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(noise.normal((2, 3), 0), kept)


def test_what_is_kept_ahead_is_bounded_and_forgetting_changes_nothing() -> None:
    """A state of several fields and a hook that draws beside it take turns: each finds its own again."""
    noise, draws = Noise.of(0, 2), {}
    for step, slot in itertools.product(range(40), range(AHEAD_KEPT + 3)):
        draws[step, slot] = noise.normal((2, 3), step, slot)
        assert len(noise._ahead) <= AHEAD_KEPT
    for (step, slot), z in draws.items():
        assert torch.equal(z, Noise.of(0, 2).normal((2, 3), step, slot))


def test_streams_that_take_turns_are_computed_once_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    whole = Noise._normals
    monkeypatch.setattr(Noise, "_normals", lambda self, *args: computed.append(args) or whole(self, *args))
    x = {"a": torch.zeros(1, 3), "b": torch.zeros(1, 5)}
    noise = Noise.of(0, 1)
    for step in range(2 * AHEAD_STEPS):
        normal_like(x, noise, step)
    assert len(computed) == 2 * 2


@dtypes
def test_noise_follows_its_sample(dtype: torch.dtype) -> None:
    noise = Noise.of(9, 5)
    index = torch.tensor([4, 2, 2, 0, 2])
    before = noise.normal((5, 3), 7, dtype=dtype)
    clones = noise.take(index, fork=False).normal((5, 3), 7, dtype=dtype)
    forked = noise.take(index).normal((5, 3), 7, dtype=dtype)
    assert torch.equal(clones, before[index])
    once = torch.tensor([0, 3])
    assert torch.equal(forked[once], before[index[once]])
    for one, other in itertools.combinations([before[2], forked[1], forked[2], forked[4]], 2):
        assert not torch.isclose(one, other).any()


def test_a_forks_noise_does_not_depend_on_the_others_that_are_taken() -> None:
    noise = Noise.of(9, 5)
    alone = noise.take(torch.tensor([2, 2])).key
    among = noise.take(torch.tensor([0, 2, 4, 0, 2])).key
    assert torch.equal(alone, among[[1, 4]])


def test_generations_of_forks_stay_apart() -> None:
    """Six times, half of the samples are dropped and the rest copied: none has the noise of another, now or before."""
    noise = Noise.of(0, 64)
    seen = set(noise.key.tolist())
    for _ in range(6):
        noise = noise.take(torch.arange(0, 64, 2).repeat(2))
        fresh = set(noise.key.tolist())
        assert len(fresh) == 64
        assert not fresh & seen
        seen |= fresh


def test_the_fields_of_a_dictionary_have_streams_of_their_own() -> None:
    noise = Noise.of(2, 3)
    x = {"a": torch.zeros(3, 4), "b": torch.zeros(3, 4), "c": torch.zeros(3, 2, dtype=torch.float64)}
    z = normal_like(x, noise, 1)
    assert isinstance(z, dict)
    assert not torch.isclose(z["a"], z["b"]).any()
    assert torch.equal(z["a"], noise.normal((3, 4), 1, 0, torch.float32))
    assert torch.equal(z["b"], noise.normal((3, 4), 1, SLOTS, torch.float32))
    assert z["c"].dtype == torch.float64
    alone = normal_like(x["a"], noise, 1)
    assert isinstance(alone, Tensor)
    assert torch.equal(alone, z["a"])


def test_mix_is_splitmix64s_finaliser() -> None:
    """Against the definition in Python's integers."""

    def exact(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    points = [0, 1, 2**63 - 1, -1, -(2**63), 0x0123456789ABCDEF, -987654321]
    values = [value % 2**64 for value in mix(torch.tensor(points)).tolist()]
    assert values == [exact(point % 2**64) for point in points]


def drawn(dtype: torch.dtype) -> Tensor:
    return Noise.of(2024, 400).normal((400, 500), 3, dtype=dtype)


@dtypes
def test_moments_and_law(dtype: torch.dtype) -> None:
    """Moments within 4 standard errors of those of a standard normal, the law by Kolmogorov and Smirnov."""
    z = drawn(dtype).double().flatten()
    n = len(z)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean().item() - mean) < 4 * math.sqrt(variance / n), power
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
    tail = (z.abs() > 3).double().mean().item()
    share = 2 * stats.norm.sf(3)
    assert abs(tail - share) < 4 * math.sqrt(share / n)


@dtypes
def test_uniform_moments_and_law(dtype: torch.dtype) -> None:
    u = Noise.of(2024, 400).uniform((400, 500), 3, dtype=dtype).double().flatten()
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert abs(((u - 0.5) ** 2).mean().item() - 1 / 12) < 4 * math.sqrt(1 / 180 / len(u))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_within_the_open_unit_interval(dtype: torch.dtype) -> None:
    u = Noise.of(0, 1000).uniform((1000, 200), 0, dtype=dtype)
    assert u.dtype == dtype
    assert u.min() > 0
    assert u.max() < 1


def correlation(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).mean())


@pytest.mark.parametrize(
    "how", ["sample", "step", "block", "slot", "field", "seed", "fork", "half", "neighbour", "uniform"]
)
def test_streams_are_uncorrelated(how: str) -> None:
    """The mean product of two independent standard normals over n numbers is within 4 / sqrt(n) of 0, and so is that of
    their squares less 1 (2 / sqrt(n) each): a shared radius or angle shows in one of them.
    """
    batch, count = 200, 200
    noise = Noise.of(11, batch)
    z = noise.normal((batch, count), 5)
    other = {
        "sample": lambda: z.roll(1, 0),
        "step": lambda: noise.normal((batch, count), 6),
        "block": lambda: noise.normal((batch, count), 5 + AHEAD_STEPS),
        "slot": lambda: noise.normal((batch, count), 5, slot=1),
        "field": lambda: noise.normal((batch, count), 5, slot=SLOTS),
        "seed": lambda: Noise.of(12, batch).normal((batch, count), 5),
        "fork": lambda: Noise(noise.take(torch.arange(batch).repeat(2)).key[batch:]).normal((batch, count), 5),
        "half": lambda: z.roll(count // 2, 1),  # the cosine and the sine of one angle
        "neighbour": lambda: z.roll(1, 1),
        "uniform": lambda: (noise.uniform((batch, count), 5, slot=1) - 0.5) * math.sqrt(12),
    }[how]()
    n = batch * count
    assert abs(correlation(z, other)) < 4 / math.sqrt(n)
    assert abs(correlation(z**2 - 1, other**2 - 1)) < 4 * 2 / math.sqrt(n)
    assert abs(correlation(z**2 - 1, other)) < 4 * math.sqrt(2 / n)
    assert abs(correlation(z, other**2 - 1)) < 4 * math.sqrt(2 / n)


def test_float32_draws_are_the_float64_ones_to_their_own_resolution() -> None:
    """23 of the 52 bits: with `z = r cos(2 pi v)`, `r = sqrt(-2 log u)`, u and v differ by at most 2^-23, hence z by at
    most `2^-23 (1 / (u r) + 2 pi r)` to first order.
    """
    z, z32 = drawn(torch.float64), drawn(torch.float32).double()
    r = torch.hypot(*z.chunk(2, 1)).repeat(1, 2)
    bound = 2**-23 * (torch.exp(r**2 / 2) / r + 2 * math.pi * r)
    inside = (r > 0.05) & (r < 4.5)  # where first order is enough
    assert ((z32 - z).abs() < 1.1 * bound + 2e-6)[inside].all()


COMPILED = """
import torch
from kedge.noise import Noise

def drawn(key):
    noise = Noise(key)
    return noise._bits(40, 4, 2, 1), Noise.of(11, 9)._bits(5, 3, 1, 0)

torch.set_num_threads(1)
key = Noise.of(5, 7).key
for one, other in zip(drawn(key), torch.compile(drawn, fullgraph=True)(key)):
    assert one.equal(other)
"""


@pytest.mark.slow
def test_a_compiler_draws_the_same() -> None:
    """Inductor works out products of a range and a number in integers that do not wrap, unless it is kept from it. In
    a process of its own: checked annotations would break the graph.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_seeds_of_seeds_belong_to_the_sample_and_the_step() -> None:
    noise = Noise.of(3, 500)
    found = noise.seeds(2, 1)
    assert found.dtype == torch.int64
    assert len(found.unique()) == 500
    assert found[:7].equal(noise.take(torch.arange(7)).seeds(2, 1))
    assert not found.equal(noise.seeds(3, 1))
    assert not found.equal(noise.seeds(2, 2))
    assert int(found.min()) >= 0
    assert 2**51 < int(found.max()) < 2**53
