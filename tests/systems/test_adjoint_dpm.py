"""AdjointDPM: gradients of a walk's end by the adjoint equation, against what they are, and another who solves it."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor, nn

import kedge
from kedge import Cond, solvers
from kedge.errors import InputError
from kedge.exact import GaussianMixture
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Pin
from walk.oracles import DETERMINISTIC, PATHS, Factorised, geometric, mixture, start

pytestmark = pytest.mark.system

f64 = torch.float64
VP = PATHS["VP"]
S = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=f64)
WIDE = GaussianMixture([1.0], torch.tensor([[0.3, -0.2]], dtype=f64), S[None])
W = torch.tensor([1.0, -0.5], dtype=f64)


def known(t: float, s: float, S: Tensor = S) -> Tensor:
    """Of a Gaussian, `d (w x_s) / d x_t = (alpha_s^2 S + sigma_s^2)^(1/2) (alpha_t^2 S + sigma_t^2)^(-1/2) w`."""
    e, U = torch.linalg.eigh(S)
    spread = [(VP.alpha(v) ** 2 * e + VP.sigma(v) ** 2).sqrt() for v in (s, t)]
    return U @ (spread[0] / spread[1] * (U.T @ W))


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def pulled(D: Any, levels: list[float], solver: Any, grad: Any = "adjoint") -> Tensor:
    x = WIDE.marginal(VP, levels[0]).sample(4, 0).requires_grad_()
    end = kedge.sample(D, x, Levels(levels), solver, grad=grad)
    return torch.autograd.grad((end @ W).sum(), x)[0]


def even(n: int) -> list[float]:
    """Equal steps of the noise scale."""
    return [VP.time_at(3.0 + i / n * (0.1 - 3.0)) for i in range(n + 1)]


def test_of_a_gaussian_it_is_the_known_matrix() -> None:
    levels = geometric(VP, 100.0, 0.02, 20)
    found = pulled(WIDE.denoiser(VP), levels, solvers.RungeKutta())
    fourth = off(found, known(levels[0], levels[-1]).expand(4, 2))
    first = off(pulled(WIDE.denoiser(VP), even(50), solvers.DDIM()), known(even(1)[0], even(1)[1]).expand(4, 2))
    whole = off(found, pulled(WIDE.denoiser(VP), levels, solvers.RungeKutta(), True))
    print(f"rk4 {fourth:.2g}, euler {first:.2g}, rk4 against autograd {whole:.2g}")
    assert fourth < 0.001
    assert whole < 0.001
    assert first < 0.01


def test_few_steps_of_low_order_are_not_enough_for_the_equation() -> None:
    """Over the whole range the walk's own gradient is near the matrix, and the equation's is not: it is solved upwards,
    where a slope that should fall by the ratio of two noise scales is made to fall by a straight line.
    """
    wanted = known(VP.time_at(100.0), VP.time_at(0.02)).expand(4, 2)
    for solver, n in ((solvers.DDIM(), 50), (solvers.DPMSolverPP(2), 20)):
        levels = geometric(VP, 100.0, 0.02, n)
        adjoint, own = (off(pulled(WIDE.denoiser(VP), levels, solver, grad), wanted) for grad in ("adjoint", True))
        print(f"{solver}: adjoint {adjoint:.2g}, the walk's own {own:.2g}")
        assert own < 0.1 < adjoint


class Flow(nn.Module):
    """`du/dr` (`of="noise scale"`) or `dx/dt` for torchdiffeq."""

    def __init__(self, D: Any, in_time: bool) -> None:
        super().__init__()
        self.D, self.in_time = D, in_time

    def forward(self, now: Tensor, x: Tensor) -> Tensor:
        now = now.detach()
        if self.in_time:
            return VP.drift(x, self.D(x, float(now)), float(now))
        t = VP.time_at(float(now))
        x_t = VP.alpha(t) * x
        return VP.convert(self.D(x_t, t), x_t, t, "clean", "eps")


def theirs(D: Any, x: Tensor, times: list[float], method: str, in_time: bool, parameters: Any = ()) -> Tensor:
    """torchdiffeq's adjoint, which keeps the end alone, over the same levels."""
    over = torch.tensor(times if in_time else [VP.noise_scale(t) for t in times], dtype=f64)

    def grid(f: Any, y: Any, t: Tensor) -> Tensor:
        """It counts falling times by their negatives."""
        return (over if t[0].abs() > t[1].abs() else over.flip(0)) * t[0].sign()

    first, last = (1.0, 1.0) if in_time else (VP.alpha(times[0]), VP.alpha(times[-1]))
    found: Any = torchdiffeq.odeint_adjoint(
        Flow(D, in_time),
        x / first,
        over[[0, -1]],
        method=method,
        options={"grid_constructor": grid},
        adjoint_params=tuple(parameters),
    )
    return last * found[-1]


class Net(nn.Module):
    """A small network with a condition that it encodes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.code = nn.Linear(4, 2, dtype=f64), nn.Linear(1, 1, dtype=f64)

    def prepare(self, cond: Cond) -> Cond:
        return cond.told(c=self.code(cond.fields["c"]))

    def forward(self, x: Tensor, told: Tensor, cond: Cond) -> Tensor:
        return torch.tanh(self.layer(torch.cat([x, told[:, None], cond.fields["c"]], 1)))


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_it_is_torchdiffeqs_adjoint(method: Any) -> None:
    """Of the start and of the weights, over the same levels; to rounding."""
    D, levels = kedge.Denoiser(Net(), VP, "clean"), geometric(VP, 5.0, 0.1, 6)
    net: Any = D.net
    cond = Cond.of(c=torch.linspace(-1, 1, 3, dtype=f64)[:, None])
    code = net.prepare(cond)
    wanted = [start(VP, levels[0], (3, 2)).requires_grad_(), *net.layer.parameters()]
    told = code.told(c=code.fields["c"].detach())
    other = theirs(lambda x, t: D(x, t, told), wanted[0], levels, method, False, net.layer.parameters())
    end = kedge.sample(D, wanted[0], Levels(levels), solvers.RungeKutta(method), cond=cond, grad="adjoint")
    torch.testing.assert_close(end, other, rtol=1e-11, atol=1e-12)
    ours, exact = (torch.autograd.grad(value.square().sum(), wanted) for value in (end, other))
    for got, want in zip(ours, exact, strict=True):
        assert float(want.norm()) > 1e-3
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_without_the_change_of_variables_narrow_data_are_out_of_reach() -> None:
    """Ten steps by one method: evenly in the linear schedule's own time, or in noise scales. The equation in time is
    stiff where data are narrow, and errs more the narrower they are; the other one does not care.
    """
    high, low, ours, plain = VP.t_max, VP.time_at(0.02), [], []
    levels = geometric(VP, VP.noise_scale(high) * (1 - 1e-9), 0.02, 10)
    for variance in (1.0, 0.01):
        S = variance * torch.eye(2, dtype=f64)
        D, exact = GaussianMixture([1.0], torch.zeros(1, 2, dtype=f64), S[None]).denoiser(VP), known(high, low, S)
        x = start(VP, high, (2, 2)).requires_grad_()
        even_in_time = [high + i / 10 * (low - high) for i in range(11)]
        found = torch.autograd.grad((theirs(D, x, even_in_time, "rk4", True) @ W).sum(), x)[0]
        plain.append(off(found, exact.expand(2, 2)))
        ours.append(off(pulled(D, levels, solvers.RungeKutta()), exact.expand(4, 2)))
    print(f"in time {plain}, in noise scale {ours}")
    assert plain[1] >= 5 * ours[1]
    assert ours[1] < 2 * ours[0]
    assert plain[1] > 100 * plain[0]


def kept(n: int, grad: Any) -> int:
    """The most tensors that autograd has kept at once, over a walk of n steps and its way back."""
    alive, most = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    class Held:
        def __init__(self, value: Tensor) -> None:
            self.value = value.detach()  # an output would hold the node that holds it

    def pack(value: Tensor) -> Held:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        held = Held(value)
        weakref.finalize(held, gone)
        return held

    net = nn.Sequential(nn.Linear(2, 8, dtype=f64), nn.Tanh(), nn.Linear(8, 2, dtype=f64))
    D = kedge.Denoiser(lambda x, told: net(x), VP, "clean")
    x = start(VP, 1.0, (4, 2)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.value):
        kedge.sample(D, x, LogSNR(n), solvers.DDIM(), grad=grad).square().sum().backward()
    return most


def test_its_memory_does_not_grow_with_the_steps() -> None:
    few, many = kept(5, "adjoint"), kept(40, "adjoint")
    assert few == many
    assert kept(40, True) > 8 * many
    assert kept(40, True) > 6 * kept(5, True)


def slopes(D: Any, x: Tensor, grad: Any, grid: Any, solver: Any) -> list[Tensor]:
    cond = Cond.of(c=torch.linspace(-1, 1, 4, dtype=f64)[:, None])
    net: Any = D.net
    end = kedge.sample(D, x, grid, solver, cond=cond, grad=grad)
    return list(torch.autograd.grad(end.square().sum(), [x, net.layer.weight, net.code.weight]))


@pytest.mark.parametrize(("name", "least"), [("DDIM", 1.6), ("2M", 2.5), ("Heun", 2.5), ("RK4", 7.0)])
def test_of_the_start_the_weights_and_the_condition_with_any_solver(name: str, least: float) -> None:
    """They come to those through the walk as steps get shorter, the step to clean included."""
    solver = solvers.RungeKutta() if name == "RK4" else DETERMINISTIC[name]
    D, x = kedge.Denoiser(Net(), VP, "clean"), start(VP, 1.0, (4, 2)).requires_grad_()
    exact = slopes(D, x, True, LogSNR(41, 0.1, 3.0), solvers.RungeKutta())
    for wanted, *ends in zip(
        exact, *(slopes(D, x, "adjoint", LogSNR(n + 1, 0.1, 3.0), solver) for n in (8, 16)), strict=True
    ):
        errors = [off(end, wanted) for end in ends]
        assert errors[0] > least * errors[1], errors


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_numbers_are_those_of_the_walk(name: str) -> None:
    D, x = mixture().denoiser(VP), start(VP, 1.0, (4, 2))
    plain = kedge.sample(D, x, LogSNR(5), DETERMINISTIC[name])
    assert torch.equal(plain, kedge.sample(D, x.requires_grad_(), LogSNR(5), DETERMINISTIC[name], grad="adjoint"))


def test_states_of_several_fields_and_guides() -> None:
    """A dictionary is as good as its tensors; what a guide depends on is found without a list."""
    force = torch.tensor(0.3, dtype=f64, requires_grad=True)
    grid, found = LogSNR(20, 0.1, 3.0), []
    both: Any = {name: start(VP, 1.0, (2, n), n).requires_grad_() for name, n in (("a", 2), ("b", 3))}

    def pushed(x_t: Any, t: Any) -> Any:
        D = Factorised(VP)
        return {name: D.one(leaf, t) + force * leaf.tanh() for name, leaf in x_t.items()}

    pushed.path = VP  # pyright: ignore[reportFunctionMemberAccess]
    for grad in (True, "adjoint"):
        end: Any = kedge.sample(pushed, both, grid, solvers.RungeKutta(), grad=grad)
        loss = end["a"].square().sum() + (end["b"] ** 3).sum()
        found.append(torch.autograd.grad(loss, [force, *both.values()]))
    for got, want in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)


def test_noise_is_led_to_the_other_mode() -> None:
    """Adam on the start, gradients by the adjoint: all of them end where a classifier wants them."""
    law = GaussianMixture([0.5, 0.5], torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=f64), [0.02, 0.02])
    D, walk = law.denoiser(VP), (LogSNR(6, 0.1, 5.0), solvers.RungeKutta("midpoint"))
    x = start(VP, VP.time_at(5.0), (24, 2)).requires_grad_()
    assert 0.2 < float((kedge.sample(D, x, *walk)[:, 0] > 0.5).double().mean()) < 0.8
    adam = torch.optim.Adam([x], 1.0)
    for _ in range(12):
        adam.zero_grad()
        nn.functional.softplus(-4 * kedge.sample(D, x, *walk, grad="adjoint")[:, 0]).sum().backward()
        adam.step()
    assert float((kedge.sample(D, x, *walk)[:, 0] > 0.5).double().mean()) >= 0.95


@pytest.mark.parametrize(
    ("walk", "line"),
    [
        (lambda x: kedge.sample(Factorised(VP), x, LogSNR(4), solvers.DDPM(), grad="adjoint"), "draws noise"),
        (lambda x: kedge.sample(Factorised(VP), x, LogSNR(4), hooks=[pin()], grad="adjoint"), "hooks change the state"),
        (lambda x: kedge.sample(Factorised(VP), x, LogSNR(1), grad="adjoint"), "no step between two levels"),
        (lambda x: kedge.sample(Factorised(VP), x, Levels(torch.tensor([[0.9], [0.1]])), grad="adjoint"), "tensors"),
        (lambda x: kedge.sample(Factorised(VP), x, Levels([0.9, 0.2, 0.5], "noise"), grad="adjoint"), "rises by noise"),
        (lambda x: kedge.sample(Factorised(VP), x, LogSNR(4), cond=Opaque(), grad="adjoint"), "of Opaque: give a Cond"),
    ],
)
def test_what_is_no_such_equation_is_refused(walk: Callable[[Tensor], Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        walk(start(VP, 0.9, (2, 2)).requires_grad_())


def pin() -> Pin:
    return Pin(torch.tensor([True, False]), torch.zeros(2, dtype=f64))


class Opaque:
    """A condition whose tensors nobody sees."""

    def take(self, index: Tensor) -> Opaque:
        return self
