"""What is per sample goes with the sample: through permutations and branches, in any batch."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge import Cond, Noise
from kedge.walk import Hook, State, Step, Walk
from kedge.walk.grids import LogSNR
from kedge.walk.hooks import Pin
from kedge.walk.solvers import DDPM, DPMSolverPP
from walk.oracles import PATHS, SOLVERS, Factorised, f64, mixture, start

SHAPE = 8, 3, 2


class Shuffle(Hook):
    """Permutes the samples at every step; `order` says who stands where."""

    def __init__(self, moment: str) -> None:
        self.moment, self.order = moment, torch.arange(0)
        self.generator = torch.Generator().manual_seed(0)

    def begin(self, state: State) -> State:
        self.order = torch.arange(state.batch)
        return state

    def before(self, state: State, s: Any) -> State:
        return self.shuffled(state) if self.moment == "before" else state

    def after(self, state: State, step: Step) -> State:
        return self.shuffled(state) if self.moment == "after" else state

    def shuffled(self, state: State) -> State:
        index = torch.randperm(state.batch, generator=self.generator)
        self.order = self.order[index]
        return state.take(index)


class Conditioned:
    """E[x | x_t] of a Gaussian whose mean is the condition."""

    pinned = "noised"

    def __init__(self, path: Any) -> None:
        self.path = path

    def __call__(self, x_t: Tensor, t: Any, cond: Any = None) -> Tensor:
        mean = cond.fields["mean"] * cond.keep["mean"][:, None]
        return Factorised(self.path, mean[:, :, None]).one(x_t, t)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", SOLVERS)
def test_permuted_at_every_step_and_put_back(name: str, moment: str) -> None:
    """Multistep memory, noise, condition and pinned values all follow; undone at the end, nothing has changed."""
    p = PATHS["VP"]
    x = start(p, p.t_max, SHAPE)
    cond = Cond({"mean": torch.randn(8, 3, dtype=f64)}, {"mean": torch.arange(8) % 3 > 0})
    pin = Pin(torch.rand(SHAPE) < 0.3, torch.randn(SHAPE, dtype=f64))
    shuffle = Shuffle(moment)
    walks = [
        Walk(Conditioned(p), SOLVERS[name], LogSNR(9), hooks).run(x, cond, seeds=5)
        for hooks in ((pin,), (shuffle, pin))
    ]
    assert not torch.equal(shuffle.order, torch.arange(8))
    torch.testing.assert_close(walks[1].x, walks[0].x[shuffle.order], rtol=0, atol=1e-13)
    assert torch.equal(walks[1].noise.key, walks[0].noise.key[shuffle.order])
    assert torch.equal(walks[1].cond.keep["mean"], cond.keep["mean"][shuffle.order])


def state(**more: Any) -> State:
    walk = Walk(mixture().denoiser(PATHS["VP"]), DDPM(), LogSNR(3))
    fields = {"x": torch.arange(8.0).reshape(4, 2), "t": 0.5, "cond": None, "noise": Noise.of(0, 4), "walk": walk}
    return State(**fields | more)


def test_take_carries_all_that_is_per_sample() -> None:
    one = torch.arange(4.0)[:, None]
    was = state(
        cond=Cond.of(a=one),
        memory={"x_hat_0": one + 10},
        notes={"mask": one + 20, "both": {"a": one, "b": one + 1}},
        step=7,
    )
    index = torch.tensor([2, 0, 2])
    now = was.take(index)
    assert torch.equal(now.x, was.x[index])
    assert torch.equal(now.cond.fields["a"], one[index])
    assert torch.equal(now.memory["x_hat_0"], one[index] + 10)
    assert torch.equal(now.notes["mask"], one[index] + 20)
    assert torch.equal(now.notes["both"]["b"], one[index] + 1)
    assert (now.t, now.step, now.batch) == (0.5, 7, 3)
    assert now.walk is was.walk
    assert torch.equal(now.parent, index)
    assert torch.equal(now.take(torch.tensor([1, 0])).parent, torch.tensor([0, 2]))
    plain = state(cond={"a": one}).take(index).cond
    assert torch.equal(plain["a"], one[index])
    assert torch.equal(state(cond=one).take(index).cond, one[index])


def test_copies_of_one_sample_get_noise_of_their_own() -> None:
    was = state()
    index = torch.tensor([1, 1, 1, 3])
    forked, same = was.take(index), was.take(index, fork=False)
    z = was.noise.normal((4, 50), 3)
    y = forked.noise.normal((4, 50), 3)
    assert torch.equal(y[3], z[3])  # taken once: the noise that it would have had
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not bool((y[i] == y[j]).any())
    assert torch.equal(same.noise.normal((4, 50), 3), z[index])


def test_branches_of_a_walk_part_and_are_independent() -> None:
    """Many copies of one x_t: their draws of the posterior have its mean and std."""
    p, n = PATHS["VP"], 20_000

    class Branch(Hook):
        def before(self, state: State, s: Any) -> State:
            return state.take(torch.zeros(n, dtype=torch.int64)) if state.batch == 1 else state

    x = start(p, 0.6, (1, 1))
    levels = kedge.grids.Levels([0.6, 0.4])
    D = mixture_1d(p)
    x_s = kedge.sample(D, x, levels, DDPM(), hooks=[Branch()], seeds=1)
    kernel = p.down(x, D(x, 0.6), 0.6, 0.4)
    assert abs(float(x_s.mean() - kernel.mean)) < 4.5 * kernel.std / n**0.5  # type: ignore[attr-defined]
    assert abs(float(x_s.std() / kernel.std) - 1) < 4.5 / (2 * n) ** 0.5  # type: ignore[attr-defined]
    assert len(x_s.unique()) == n


def mixture_1d(path: Any) -> Factorised:
    return Factorised(path, 0.2, 0.3)


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(7, 64), nn.SiLU(), nn.Linear(64, 6)).to(dtype)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), told[:, None]], 1)).reshape(x.shape)


@pytest.mark.parametrize(("dtype", "tolerance"), [(f64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["DDPM", "DDIM-.3", "SDE-3"])
def test_a_seeded_sample_is_the_same_in_any_batch(name: str, dtype: torch.dtype, tolerance: float) -> None:
    p = PATHS["VP"]
    D = kedge.Denoiser(Net(dtype), p, "clean")
    seeds = torch.randint(2**40, (64,), generator=torch.Generator().manual_seed(1))
    x = p.prior((64, 3, 2), Noise.of(seeds, 64), dtype)
    whole = kedge.sample(D, x, LogSNR(20), SOLVERS[name], seeds=seeds)
    for i in (0, 1, 37, 63):
        alone = kedge.sample(D, x[i : i + 1], LogSNR(20), SOLVERS[name], seeds=seeds[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=tolerance)
    among = kedge.sample(D, x[[5, 63]], LogSNR(20), SOLVERS[name], seeds=seeds[[5, 63]].tolist())
    torch.testing.assert_close(among, whole[[5, 63]], rtol=0, atol=tolerance)


class Echo(Hook):
    """Keeps the noise that was drawn: the draw of a kernel whose mean is 0 and std 1."""

    def __init__(self) -> None:
        self.drawn: list[Any] = []

    def kernel(self, state: State, step: Step) -> tuple[State, Step]:
        step.kernel = kedge.kernels.Gaussian(torch.zeros_like(state.x), 1.0)  # type: ignore[arg-type]
        return state, step

    def after(self, state: State, step: Step) -> State:
        self.drawn.append(step.drawn)
        return state


@pytest.mark.parametrize("dtype", [f64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 5, 33, 2000])
def test_the_noise_is_bitwise_the_same_in_any_batch(size: int, dtype: torch.dtype) -> None:
    p, echoes = PATHS["VP"], []
    for rows in (list(range(64)), [37], [63, 37, 2]):
        echo = Echo()
        x = torch.zeros(len(rows), size, dtype=dtype)
        kedge.sample(Factorised(p), x, LogSNR(4), DDPM(), hooks=[echo], seeds=[100 + row for row in rows])
        echoes.append(torch.stack(echo.drawn))
    assert torch.equal(echoes[0][:, 37], echoes[1][:, 0])
    assert torch.equal(echoes[0][:, [63, 37, 2]], echoes[2])
    assert len(echoes[0][:, :, 0].float().unique()) > 200  # not the same number again and again


def test_one_seed_for_the_call() -> None:
    p, D = PATHS["VP"], Factorised(PATHS["VP"])
    x = start(p, p.t_max, (6, 4))
    walks = [kedge.sample(D, x, LogSNR(6), DDPM(), seeds=seed) for seed in (3, 3, 4)]
    assert torch.equal(walks[0], walks[1])
    assert not bool((walks[0] == walks[2]).any())
    # a sample's noise then depends on its place in the call, not on the batch's size
    torch.testing.assert_close(kedge.sample(D, x[:2], LogSNR(6), DDPM(), seeds=3), walks[0][:2], rtol=0, atol=1e-13)
    equal = kedge.sample(D, torch.zeros(6, 4, dtype=f64), LogSNR(6), DDPM(), seeds=3)
    assert len(equal[:, 0].unique()) == 6


def test_without_seeds_torchs_generator_decides() -> None:
    p, D = PATHS["VP"], Factorised(PATHS["VP"])
    x = start(p, p.t_max, (6, 4))
    walks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        walks.append(kedge.sample(D, x, LogSNR(6), DDPM()))
    assert torch.equal(walks[0], walks[1])
    assert not bool((walks[0] == walks[2]).any())
    assert not bool((kedge.sample(D, x, LogSNR(6), DDPM()) == walks[2]).any())


def test_wrong_number_of_seeds() -> None:
    with pytest.raises(
        ValueError, match=r"^seeds: expected a whole number for each of 6 samples, got torch.int64 of \(5,\)$"
    ):
        kedge.sample(Factorised(PATHS["VP"]), torch.zeros(6, 2), LogSNR(3), DDPM(), seeds=list(range(5)))


@pytest.mark.parametrize("name", ["SDE-3", "3M-own", "DDPM"])
def test_a_walk_goes_on_where_it_stopped(name: str) -> None:
    """The state carries all: the rest of the steps from a state kept half way gives the same end."""
    p = PATHS["Cosine"]
    walk = Walk(mixture().denoiser(p), SOLVERS[name], LogSNR(8))
    kept: list[State] = []

    class Keep(Hook):
        place = "record"

        def before(self, state: State, s: Any) -> State:
            kept.append(state.take(torch.arange(state.batch)))
            return state

    x = start(p, p.t_max, (5, 2))
    end = Walk(walk.denoiser, walk.solver, walk.grid, (Keep(),)).run(x, seeds=2)
    assert [state.step for state in kept] == list(range(8))
    plan = kedge.walk.walk.planned(p, LogSNR(8), SOLVERS[name])
    rest = walk._steps(kept[4], plan, 4, 8)
    assert torch.equal(rest.x, end.x)


def test_third_order_memory_is_bounded() -> None:
    p, sizes = PATHS["VP"], []

    class Sizes(Hook):
        def after(self, state: State, step: Step) -> State:
            sizes.append(list(state.memory))
            return state

    kedge.sample(Factorised(p), start(p, 1.0, (2, 2)), LogSNR(5), DPMSolverPP(3), hooks=[Sizes()])
    assert sizes == [["x_hat_0"], *[["x_hat_0", "x_hat_1"]] * 4]
