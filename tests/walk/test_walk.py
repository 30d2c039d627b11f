"""A whole walk: bad input, dtypes, dictionaries, one sample, one graph."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge.walk import Hook, State, Walk
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.hooks import Record
from kedge.walk.solvers import DDPM, DPMSolverPP
from walk.oracles import PATHS, RANDOM, SOLVERS, Factorised, Spy, f64, mixture, start

VP = PATHS["VP"]
GRID = LogSNR(5)


def refused(line: str, D: Any, x: Any, grid: Any = GRID, solver: Any = None, **more: Any) -> None:
    with pytest.raises(ValueError, match=line) as error:
        kedge.sample(D, x, grid, solver, **more)
    assert "\n" not in str(error.value)


def test_bad_starts() -> None:
    D = Factorised(VP)
    bad = torch.tensor([[1.0, math.nan]])
    refused("^the walk's start holds numbers that are not finite$", D, bad)
    refused("^the walk's start holds numbers that are not finite$", D, {"a": torch.zeros(1, 2), "b": bad / 0})
    refused(
        r"^a walk starts from floating-point noise with a batch axis, got torch.int64 \(3, 2\)$",
        D,
        torch.ones(3, 2).long(),
    )
    refused(r"^a walk starts from floating-point noise with a batch axis, got torch.float32 \(\)$", D, torch.zeros(()))
    refused("^the walk's start is a dictionary without fields$", D, {})
    two = {"a": torch.zeros(3, 2), "b": torch.zeros(4, 2)}
    refused(r"^the fields of the walk's start differ in batch: \[3, 4\] samples$", D, two)


def test_wrong_output_of_the_network() -> None:
    x = torch.zeros(3, 2)
    refused(
        r"^the network returned \(3, 1\) for a state of shape \(3, 2\): they must agree$",
        Spy(VP, lambda x, t: x[:, :1]),
        x,
    )
    D = kedge.Denoiser(lambda x, told: x.mean(1), VP)
    refused(r"^the network returned \(3,\) for a state of shape \(3, 2\): they must agree$", D, x)
    refused("^the network returned dict for a state of shape", Spy(VP, lambda x, t: {"a": x}), x)
    refused(r"^the network returned the fields \['b'\] for", Spy(VP, lambda x, t: {"b": x["a"]}), {"a": x})


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("per_entry", [False, True])
def test_a_network_that_turns_nan_is_placed(name: str, per_entry: bool) -> None:
    """The line names the step and its levels: the third step asks at the third level, Heun's second step too."""
    t = list(GRID.levels(VP).t)

    def f(x: Tensor, u: Any) -> Tensor:
        return x * (math.nan if float(torch.as_tensor(u, dtype=f64).max()) <= t[2] else 0.5)

    step = 2 if name == "Heun" else 3
    line = (
        f"^the walk left the finite numbers in step {step} of 5, from level {t[step - 1]:.6g} to {t[step]:.6g}: the "
        "network's output there is not finite, or too large for torch.float64$"
    )
    grid = Levels(torch.tensor(t, dtype=f64)[:, None].expand(-1, 2)) if per_entry else GRID
    refused(line, Spy(VP, f), start(VP, 1.0, (3, 2)), grid, SOLVERS[name], seeds=1)


def test_one_bad_sample_among_many_is_enough() -> None:
    def f(x: Tensor, t: Any) -> Tensor:
        x = 0.5 * x
        x[2, 1] = math.inf
        return x

    refused("^the walk left the finite numbers in step 1 of 5", Spy(VP, f), start(VP, 1.0, (4, 2)))


def test_options_nobody_knows() -> None:
    """Without the checked annotations of the tests: in a process of its own."""
    script = """
import torch, kedge
p = kedge.paths.VariancePreserving()
class D:
    path = p
    def __call__(self, x, t): return x
x = torch.zeros(2, 2)
grid, hooks, Levels = kedge.grids.LogSNR(3), kedge.hooks, kedge.grids.Levels
class Nowhere(kedge.walk.Hook):
    place = "nowhere"
    def __repr__(self): return "Nowhere()"
GRAD = 'grad is True, False, "checkpoint", "adjoint" or a number of last steps, not '
NO_HOOK = " is no kedge.walk.Hook whose place is one of move, project, pin, record, weigh"
tries = {
    GRAD + "'all'": lambda: kedge.sample(D(), x, grid, grad="all"),
    GRAD + "-1": lambda: kedge.sample(D(), x, grid, grad=-1),
    "unknown rise='up': one of refuse, noise, solve": lambda: kedge.sample(D(), x, Levels([0.5, 0.6], rise="up")),
    "Project works on \\"state\\" or \\"clean\\", not 'x_hat'": lambda: hooks.Project(lambda x: x, on="x_hat"),
    "solver must be an object from kedge.solvers, such as DDPM(), not <class 'kedge.walk.solvers.ddpm.DDPM'>":
        lambda: kedge.sample(D(), x, grid, kedge.solvers.DDPM),
    "grid must be an object from kedge.grids, such as LogSNR(20), not 20": lambda: kedge.sample(D(), x, 20),
    "Nowhere()" + NO_HOOK:
        lambda: kedge.sample(D(), x, grid, hooks=[Nowhere()]),
    "<class 'kedge.walk.hooks.record.Record'>" + NO_HOOK:
        lambda: kedge.sample(D(), x, grid, hooks=[hooks.Record]),
    "DPM-Solver++ has order 1, 2 or 3, not 4": lambda: kedge.solvers.DPMSolverPP(4),
    "start is \\"lower\\" or \\"own\\", not 'mine'": lambda: kedge.solvers.DPMSolverPP(3, start="mine"),
}
for line, run in tries.items():
    try:
        run()
    except (ValueError, TypeError) as error:
        assert str(error) == line, (str(error), line)
    else:
        raise AssertionError(line)
"""
    environment = os.environ | {"KEDGE_NO_HOOK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_denoiser_needs_a_path() -> None:
    with pytest.raises(TypeError, match=r"^a denoiser is a callable with a .path; got function with path None$"):
        kedge.sample(lambda x, t: x, torch.zeros(2, 2), GRID)


@pytest.mark.parametrize("dtype", [f64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SOLVERS)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """Each in its own type, and near the float64 walk as far as that type goes."""
    ends = []
    for kind in (f64, dtype):
        D = kedge.Denoiser(lambda x, told: torch.tanh(x), PATHS["Rectified"], "clean")
        x = start(PATHS["Rectified"], 0.9, (1, 3)).to(kind)
        ends.append(kedge.sample(D, x, GRID, SOLVERS[name], seeds=2))
    assert ends[1].dtype == dtype
    assert bool(ends[1].isfinite().all())
    if name in ("2M", "2S", "DDIM", "Euler"):
        # five steps with a few roundings of numbers below 4 each
        torch.testing.assert_close(ends[1].double(), ends[0], rtol=0, atol=80 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_a_dictionary_is_walked_field_by_field(path: str, name: str) -> None:
    p = PATHS[path]
    x = {"a": start(p, p.t_max, (3, 4, 2)), "b": start(p, p.t_max, (3, 5), 1)}
    record = Record()
    end = kedge.sample(Factorised(p), x, GRID, SOLVERS[name], [record], seeds=2)
    alone = kedge.sample(
        Factorised(p), x["a"], GRID, SOLVERS[name], seeds=2
    )  # the first field has the stream of a tensor
    torch.testing.assert_close(end["a"], alone, rtol=0, atol=1e-13)
    assert end["b"].shape == (3, 5)
    if name not in RANDOM:
        torch.testing.assert_close(
            end["b"], kedge.sample(Factorised(p), x["b"], GRID, SOLVERS[name]), rtol=0, atol=1e-13
        )
    else:
        assert record.log_prob().shape == (4, 3)
        kernel: Any = record.steps[0].kernel
        exact = sum(
            torch.distributions.Normal(kernel.mean[k], kernel.std).log_prob(record.steps[0].drawn[k]).flatten(1).sum(1)  # type: ignore
            for k in "ab"
        )
        torch.testing.assert_close(record.log_prob()[0], exact, rtol=0, atol=1e-11)


def test_the_streams_of_two_fields_are_apart() -> None:
    x = {"a": torch.zeros(3, 4, dtype=f64), "b": torch.zeros(3, 4, dtype=f64)}
    end = kedge.sample(Factorised(VP), x, LogSNR(3), DDPM(), seeds=1)
    assert not bool((end["a"] == end["b"]).any())


def test_the_condition_is_encoded_once() -> None:
    class Net(nn.Module):
        encoded = 0

        def prepare(self, cond: Tensor) -> Tensor:
            self.encoded += 1
            return 2 * cond

        def forward(self, x: Tensor, told: Tensor, cond: Tensor) -> Tensor:
            return x * 0 + cond

    net = Net()
    x = kedge.sample(kedge.Denoiser(net, VP, "clean"), torch.zeros(3, 1), GRID, cond=torch.full((3, 1), 4.0))
    assert net.encoded == 1
    assert x.flatten().tolist() == [8.0, 8.0, 8.0]


def test_plans_of_equal_value_are_shared_and_others_are_not() -> None:
    plan = kedge.walk.walk.planned
    path = kedge.paths.VariancePreserving
    assert plan(path(), LogSNR(5), DPMSolverPP(3)) is plan(path(), LogSNR(5), DPMSolverPP(3))
    for other in (
        plan(path(), LogSNR(6), DPMSolverPP(3)),
        plan(path(), LogSNR(5), DPMSolverPP(2)),
        plan(path(beta_max=10.0), LogSNR(5), DPMSolverPP(3)),
    ):
        assert other.coefficients != plan(path(), LogSNR(5), DPMSolverPP(3)).coefficients
    levels = torch.tensor([0.5, 0.0])
    first = plan(path(), Levels(levels), DPMSolverPP(1)).rows
    levels[0] = 0.4
    assert plan(path(), Levels(levels), DPMSolverPP(1)).rows != first


def test_the_start_is_left_alone() -> None:
    x = start(VP, 1.0, (3, 2))
    before = x.clone()
    for name in SOLVERS:
        kedge.sample(mixture().denoiser(VP), x, GRID, SOLVERS[name], seeds=1)
    assert torch.equal(x, before)


def test_under_inference_mode() -> None:
    x = start(VP, 1.0, (3, 2))
    with torch.inference_mode():
        end = kedge.sample(Factorised(VP), x, GRID, DDPM(), seeds=1)
    assert torch.equal(end, kedge.sample(Factorised(VP), x, GRID, DDPM(), seeds=1))


def test_the_last_state_says_where_it_is() -> None:
    seen: list[int] = []

    class Steps(Hook):
        def before(self, state: State, s: Any) -> State:
            seen.append(state.step)
            return state

    state = Walk(Factorised(VP), DDPM(), GRID, (Steps(),)).run(start(VP, 1.0, (3, 2)), seeds=1)
    assert (state.t, state.step, state.batch) == (0.0, 5, 3)
    assert seen == [0, 1, 2, 3, 4]


COMPILE = """
import torch
torch.set_num_threads(1)
import kedge
from torch import nn
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2).double()
    def forward(self, x, told):
        return torch.tanh(self.layer(torch.cat([x, told[:, None]], 1)))
p = kedge.paths.VariancePreserving()
D = kedge.Denoiser(Net(), p, "clean")
x = torch.randn(4, 2, dtype=torch.float64)
grid = kedge.grids.LogSNR(4)
def walk(x):
    return kedge.sample(D, x, grid, SOLVER, seeds=3)
eager = walk(x)
for fullgraph in (False, True):
    torch._dynamo.reset()
    compiled = torch.compile(walk, backend="eager", fullgraph=fullgraph)(x)
    torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-12)
"""


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["DDIM()", "DDPM()", "DPMSolverPP(3)", "Heun()"])
def test_compiled_as_a_whole(solver: str) -> None:
    script = COMPILE.replace("SOLVER", f"kedge.solvers.{solver}")
    environment = os.environ | {"KEDGE_NO_HOOK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
