"""Walks in one piece: the same walks, whatever the seeds; and none of them asks the host for a value on the way."""

# A Tree may be a dictionary; in these tests it is the tensor that went in.
# pyright: reportArgumentType=false
from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge import Cond, Denoiser, hooks
from kedge.denoise import Accelerating
from kedge.errors import InputError
from kedge.paths import PhaseBridge, VariancePreserving
from kedge.walk import Captured, Compiled, Walk
from kedge.walk.grids import Levels, LogSNR
from kedge.walk.solvers import DDIM, DDPM, LinearMultistep
from recorded import Again

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
claims: Any = importlib.import_module("measure.every_solver")
LINES = [*(line for line, case in claims.ALL.items() if case.compiled), *claims.APART.values()]
CHOOSING = [line for line, case in claims.ALL.items() if not case.compiled]
PATH, SHAPE, f64 = VariancePreserving(), (2, 32, 4), torch.float64


class Once(Again):
    """Leaves what was recorded as it is."""

    def replay(self) -> None:
        """Nothing."""


class Net(nn.Module):
    """A layer that hears its level."""

    def __init__(self, inputs: int = 4, dtype: torch.dtype = f64) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 4).to(dtype)

    def forward(self, x: Tensor, told: Tensor, cond: Cond | None = None) -> Tensor:
        shift = 0.0 if cond is None else cond.fields["goal"][:, None]
        return torch.tanh(self.layer(x) + told[:, None, None]) + shift


def walk_by(line: str) -> Walk:
    solver, steps = claims.made(line), 20 if "Mixed" in line else 3
    if isinstance(solver, LinearMultistep):
        return Walk(Accelerating(Net(8), PhaseBridge()), solver, LogSNR(steps))
    return Walk(Denoiser(Net(), PATH, "eps"), solver, LogSNR(steps))


def begun(walk: Walk, seed: int, dtype: torch.dtype = f64) -> Any:
    shape = {"x": SHAPE, "v": SHAPE} if isinstance(walk.path, PhaseBridge) else SHAPE
    return walk.path.prior(shape, seeds=seed, dtype=dtype)


@pytest.mark.parametrize("line", LINES)
def test_replayed_with_another_start_and_other_seeds(line: str) -> None:
    walk = walk_by(line)
    captured = Captured(walk, recorder=Again)
    for seed in (1, 2):
        x = begun(walk, seed)
        end = walk.run(x, seeds=seed).x  # first: what is computed on the host, once for each level, lies here as well
        torch.testing.assert_close(captured(x, None, seed), end, rtol=0, atol=1e-12)


@pytest.mark.parametrize("line", LINES)
def test_it_never_makes_the_host_wait(line: str) -> None:
    """On a device whose tensors have no values, what asks for one, or copies there from the host, is seen."""
    walk = walk_by(line)
    walk.denoiser.to("meta")
    x = kedge.tree.tree_map(lambda leaf: leaf.to("meta"), begun(walk, 0))
    end = Captured(walk, check=False, recorder=Again)(x, None, 1)
    assert kedge.tree.first_leaf(end).device.type == "meta"


@pytest.mark.parametrize("line", CHOOSING)
def test_steps_that_are_chosen_are_refused(line: str) -> None:
    walk = walk_by(line)
    with pytest.raises(InputError, match=r"^a walk by Adaptive has no CUDA graph: _walked \(adaptive.py:\d+\) asks"):
        Captured(walk, recorder=Again)(begun(walk, 0), None, 0)


@pytest.mark.parametrize("whole", [Captured, Compiled])
def test_what_keeps_is_refused(whole: Any) -> None:
    with pytest.raises(InputError, match="Record keeps what it sees"):
        whole(Walk(Denoiser(Net(), PATH), DDPM(), LogSNR(3), (hooks.Record(),)))


def test_seeds_of_all_kinds() -> None:
    walk = Walk(Denoiser(Net(), PATH), DDPM(), LogSNR(3))
    captured, x = Captured(walk, recorder=Again), begun(walk, 0)
    for seeds in (3, [5, 6], torch.tensor([6, 5]), kedge.Noise.of(9, 2)):
        assert torch.equal(captured(x, None, seeds), walk.run(x, seeds=seeds).x)
    assert not torch.equal(captured(x), captured(x))


def test_conditions_are_inputs_and_what_hooks_hold_is_written_into() -> None:
    mask, values = torch.zeros(32, 4, dtype=torch.bool), torch.ones(32, 4, dtype=f64)
    mask[0] = True
    walk = Walk(Denoiser(Net(), PATH), DDIM(), LogSNR(3), (hooks.Pin(mask, values),))
    captured, x = Captured(walk, recorder=Again), begun(walk, 0)
    for goal, held in ((1.0, 2.0), (-1.0, 3.0)):
        values.fill_(held)
        cond = Cond.of(goal=torch.full((2, 4), goal, dtype=f64))
        end = captured(x, cond, 0)
        assert torch.equal(end, walk.run(x, cond, seeds=0).x)
        assert (end[:, 0] == held).all()


def test_what_lies_on_the_host_is_refused() -> None:
    pin = hooks.Pin(torch.ones(32, 4, dtype=torch.bool), torch.zeros(32, 4))
    walk = Walk(Denoiser(Net().to("meta"), PATH), DDIM(), LogSNR(3), (pin,))
    with pytest.raises(InputError, match=r"<lambda> \(pin.py:\d+\) copies from one device to another"):
        Captured(walk, check=False, recorder=Again)(torch.empty(SHAPE, device="meta", dtype=f64), None, 0)


def test_an_end_that_is_not_finite_is_placed() -> None:
    def broken(x: Tensor, t: Any) -> Tensor:
        return x / 0.0 if t < 0.5 else x

    setattr(broken, "path", PATH)  # noqa: B010
    walk = Walk(broken, DDIM(), Levels([0.9, 0.6, 0.3, 0.1]))
    x = begun(walk, 0)
    with pytest.raises(ValueError, match="left the finite numbers in step 3 of 3"):
        Captured(walk, recorder=Once)(x, None, 0)
    assert not Captured(walk, check=False, recorder=Once)(x, None, 0).isfinite().all()


COMPILED = """
import torch, kedge
from torch import nn
from kedge.walk import Compiled, Walk
torch.set_num_threads(1)
torch.manual_seed(0)
made = []
def backend(graph, inputs):
    made.append(graph)
    return graph.forward
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2).double()
    def forward(self, x, told):
        return torch.tanh(self.layer(x) + told[:, None])
path = kedge.paths.VariancePreserving()
D = kedge.Denoiser(Net(), path, "eps")
def whole(n=3, **how):
    return Compiled(Walk(D, kedge.solvers.DDPM(), kedge.grids.LogSNR(n)), backend, **how)
def counted(compiled, x, seeds):
    before, end = len(made), compiled(x, None, seeds)
    torch.testing.assert_close(end, compiled.walk.run(x, seeds=seeds).x, rtol=0, atol=1e-12)
    return len(made) - before
def start(batch):
    return torch.randn(batch, 2, dtype=torch.float64)
one = whole()
assert [counted(one, start(4), seeds) for seeds in (1, 2, [4, 3, 2, 1])] == [1, 0, 0]
with torch.no_grad():
    D.net.layer.weight.mul_(2)
assert counted(one, start(4), 1) == 0
assert [counted(one, start(batch), 1) for batch in (5, 6, 7)] == [1, 0, 0]
each = whole(dynamic=False)
assert [counted(each, start(batch), 1) for batch in (4, 5, 4)] == [1, 1, 0]
assert [counted(whole(n), start(4), 1) for n in (2, 4)] == [1, 1]
try:
    Compiled(Walk(D, kedge.solvers.Adaptive(), kedge.grids.LogSNR(2)), backend)(start(4))
except kedge.errors.InputError as error:
    assert str(error).startswith("a walk by Adaptive is no one graph: "), error
    assert "\\n" not in str(error)
else:
    raise AssertionError
"""


@pytest.mark.slow
def test_compiled_once_for_all_seeds_and_weights() -> None:
    """Once more for a second batch size, which torch then takes for any; each grid is a graph of its own."""
    environment = os.environ | {"KEDGE_NO_HOOK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_captured_on_a_gpu() -> None:
    for line in LINES:
        walk = walk_by(line)
        walk.denoiser.to("cuda")
        captured = Captured(walk)
        for seed in (1, 2):
            x = kedge.tree.tree_map(lambda leaf: leaf.to("cuda"), begun(walk, seed))
            torch.testing.assert_close(captured(x, None, seed), walk.run(x, seeds=seed).x, rtol=0, atol=1e-12)
