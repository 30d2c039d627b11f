"""What is exported: the same numbers as the agent's own, from the same noise, in the data's own units."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import kedge
from kedge.capture import Replay
from kedge.errors import InputError
from kedge.guide import keep_out
from kedge.noise import Given, Heard, Noise
from kedge.run.export import export
from kedge.run.graphs import Actions, Estimates, Plans, graph_of
from kedge.walk.solvers import DDIM
from plan.agents import agent_of
from recorded import Again
from run.exported import STATES, acting, planning
from run.program import program

SCRIPT = Path(__file__).with_name("exported.py")
SEEDS = torch.tensor([5, 9, 2])


def apart(folder: Path, *kinds: str) -> dict[str, dict[str, float]]:
    """How far the runtimes are from the agents."""
    command = [sys.executable, str(SCRIPT), str(folder), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not done.stderr, "the exporter's own remarks are kept from the reader"
    return json.loads(done.stdout)


def test_a_policy_of_actions_is_the_same_in_onnxruntime(tmp_path: Path) -> None:
    """With random steps, whose noise is an input; for a batch of another size than it was traced with."""
    found = apart(tmp_path, "onnx", "mlp")["mlp"]
    assert found.keys() == {"eager", "onnx"}
    assert max(found.values()) < 1e-5
    about = json.loads((tmp_path / "mlp" / "act.onnx.json").read_text())
    ports = {port["name"]: port["shape"] for port in [*about["inputs"], *about["outputs"]]}
    assert ports == {"noise": ["batch", 2, 3, 2], "observation": ["batch", 4], "actions": ["batch", 2, 2]}
    assert about["draws"] == [{"step": step, "slot": 0} for step in (-1, 0)]
    assert len(about["levels"]) == 3
    assert about["difference"] < 1e-5
    assert about["made"]["commit"]


def test_a_graph_of_plans_never_makes_the_host_wait() -> None:
    """On a device whose tensors have no values, what asks for one, or copies there from the host, is refused."""
    graph = deepcopy(graph_of(planning("conv")))  # the scales are shared by all agents here
    assert isinstance(graph, Plans)
    graph.planner = replace(graph.planner, still=(1,))
    inputs = [value.to("meta") for value in graph.example(3)]
    found = Replay(graph.to("meta"), recorder=Again)(*inputs)
    assert found.shape == (3, *graph.output.entries)


def test_a_graph_of_actions_never_makes_the_host_wait() -> None:
    graph = deepcopy(graph_of(acting()))
    inputs = [value.to("meta") for value in graph.example(3)]
    assert Replay(graph.to("meta"), recorder=Again)(*inputs).shape == (3, *graph.output.entries)


@pytest.mark.slow
def test_plans_are_the_same_in_every_runtime(tmp_path: Path) -> None:
    """Each kind of net that a recipe may name; compiled too."""
    found = apart(tmp_path, "everywhere", "unet", "dit", "conv", "mlp", "conv-alone", "mlp-alone")
    assert len(found) == 6
    for runtimes in found.values():
        assert runtimes.keys() == {"eager", "torch", "onnx", "compiled"}
        assert max(runtimes.values()) < 1e-5, found


def test_a_graph_of_plans_is_the_planner() -> None:
    """Bit for bit: to a goal, and without one."""
    agent = planning("conv")
    graph = graph_of(agent)
    assert isinstance(graph, Plans)
    noise, state, goal, aimed = graph.example(3)
    noise = graph.normals(SEEDS)
    found = graph(noise, state, goal, torch.tensor([True, False, True]))
    plain = agent.proposer.propose(state, SEEDS[:, None])[:, 0]
    told = agent.proposer.propose(state, SEEDS[:, None], goal)[:, 0]
    assert torch.equal(found[1], plain[1])
    assert torch.equal(found[::2], told[::2])
    assert not torch.equal(plain[0], told[0])
    torch.testing.assert_close(found[:, 0], state)
    torch.testing.assert_close(found[0, -1, :2], goal[0])
    assert [port.name for port in graph.inputs] == ["noise", "state", "goal", "aimed"]
    assert aimed.tolist() == [True, False, True]


def test_a_planner_that_heeds_no_goal_asks_for_none() -> None:
    graph = graph_of(planning("conv", goals=0.0, aim=False))
    assert [port.name for port in graph.inputs] == ["noise", "state"]
    noise, state = graph.example(2)
    assert graph(noise, state).shape == (2, 8, 4)


def test_a_policy_without_random_steps_takes_one_draw() -> None:
    graph = graph_of(acting(DDIM()))
    assert isinstance(graph, Actions)
    assert graph.inputs[0].entries == (1, 3, 2)
    noise, seen = graph.example(3, seed=5)
    assert torch.equal(graph(noise, seen), graph.truth(noise, seen, seeds=torch.arange(3) + 5).float())


def test_the_denoiser_alone_is_told_the_level() -> None:
    agent = planning("conv")
    graph = graph_of(agent, alone=True)
    assert isinstance(graph, Estimates)
    x_t, t = graph.example(3)
    expected = torch.stack([agent.proposer.denoiser(x[None], float(level))[0] for x, level in zip(x_t, t, strict=True)])
    torch.testing.assert_close(graph(x_t, t), expected, rtol=1e-4, atol=1e-5)
    assert graph.words()["normaliser"]["scale"] == STATES.scale.tolist()
    assert graph.words()["pinned"] == "clean"


def test_what_no_graph_can_hold_is_refused(tmp_path: Path) -> None:
    agent = planning("conv")
    with pytest.raises(InputError, match=r"guided by KeepOut.*--what denoiser"):
        graph_of(agent.with_guide(keep_out((1, 1, 2, 2))))
    with pytest.raises(InputError, match="nothing to export"):
        graph_of(agent_of())
    with pytest.raises(InputError, match="one of onnx, torch"):
        export(agent, tmp_path, form="coreml")


def test_the_command_writes_a_file_for_each_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"recipe": "FV", "fields": {"steps": 4}}
    (tmp_path / "recipe.json").write_text(json.dumps(told))
    monkeypatch.setattr(kedge, "load", lambda folder: planning("conv"))
    asked: list[tuple[Path, bool, str]] = []

    def written(agent: Any, folder: Path, *, alone: bool, form: str, recipe: Any) -> Path:
        assert recipe == told
        asked.append((folder, alone, form))
        path = folder / ("denoiser.onnx" if alone else "plan.onnx")
        folder.mkdir(exist_ok=True)
        path.with_name(f"{path.name}.json").write_text(json.dumps({"difference": 2e-6}))
        return path

    monkeypatch.setattr("kedge.run.export.export", written)
    code, out, _ = program(capsys)("export", str(tmp_path), "--format", "torch")
    assert code == 0
    assert asked == [(tmp_path / "export", False, "torch"), (tmp_path / "export", True, "torch")]
    assert out.count("off by at most 2e-06 of the data's scale") == 2
    code, out, _ = program(capsys)(
        "export", str(tmp_path), "--what", "denoiser", "--out", str(tmp_path / "x"), "--json"
    )
    assert asked[2:] == [(tmp_path / "x", True, "onnx")]
    assert [file["difference"] for file in json.loads(out)["files"]] == [2e-6]


def test_given_noise_is_handed_out_in_order() -> None:
    noise, heard = Noise.of(3, 4), Heard.of(3, 4)
    asked = [(-1, 0), (0, 0), (0, 1), (5, 0)]
    drawn = torch.stack([heard.normal((4, 2), step, slot) for step, slot in asked], 1)
    assert isinstance(heard, Heard)
    assert heard.asked == asked
    given = Given.drawn(drawn)
    for step, slot in asked:
        assert torch.equal(given.normal((4, 2), 99), noise.normal((4, 2), step, slot))
    with pytest.raises(ValueError, match="more noise was asked for"):
        given.normal((4, 2), 0)
    with pytest.raises(ValueError, match=r"noise of \[3\] was asked for, and \[2\] was given"):
        Given.drawn(drawn).normal((4, 3), 0)
    with pytest.raises(ValueError, match="normals alone"):
        given.uniform((4, 2), 0)
