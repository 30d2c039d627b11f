"""A recipe at work: what it refuses before it begins, what it leaves behind, how it goes on after it was killed."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kedge
from data.logs import logs_of
from kedge.data import Trajectories
from kedge.errors import InputError
from kedge.plan import Agent
from kedge.recipes import FV, Diffuser, load
from kedge.recipes.landscape import Landscape
from kedge.recipes.training import HELD_OUT, Training, divided, home, rewarded_place
from kedge.train import CheckpointError, Tick, load_weights
from small_maze import logs

TINY: dict[str, Any] = {
    "steps": 8,
    "batch": 8,
    "width": 8,
    "mults": (1, 2),
    "horizon": 8,
    "candidates": 3,
    "goals": 0.0,
}
PLAIN = FV(**TINY)
WHOLE = Diffuser(
    **TINY | {"width": 16, "mults": (1, 2, 4), "evaluations": 3, "goals": 0.5, "follow": "inverse-diffusion"}
)


def training(recipe: Any = PLAIN, run: Path | None = None, data: Trajectories | None = None, **more: Any) -> Training:
    return Training(recipe, logs() if data is None else data, run, progress=False, **more)


def trained(recipe: Any = PLAIN, run: Path | None = None, **more: Any) -> dict[str, Tensor]:
    made = training(recipe, run, **more)
    made.trainer.train()
    return made.trainer.weights()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class KilledError(Exception):
    """As abrupt as it gets within a process."""


@pytest.mark.parametrize("recipe", [PLAIN, WHOLE], ids=["FV", "Diffuser"])
def test_a_killed_run_ends_in_the_same_weights(recipe: Any, tmp_path: Path) -> None:
    uninterrupted = training(recipe, tmp_path / "whole").trainer
    uninterrupted.log_every = 2
    uninterrupted.train()
    whole = uninterrupted.weights()
    trainer = training(recipe, tmp_path / "killed").trainer
    trainer.checkpoint_every, trainer.log_every, advance = 3, 2, trainer.advance

    def until_five() -> None:
        if trainer.step == 5:
            raise KilledError
        advance()

    trainer.advance = until_five
    with pytest.raises(KilledError):
        trainer.train()
    again = training(recipe, tmp_path / "killed")
    again.trainer.log_every = 2
    assert again.trainer.step == 3
    again.trainer.train()
    assert same(again.trainer.weights(), whole)
    for name in ("weights.safetensors", "measured.safetensors"):
        assert same(load_weights(tmp_path / "whole" / name), load_weights(tmp_path / "killed" / name))
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")


def rows(run: Path) -> list[str]:
    return (run / "landscape.csv").read_text().splitlines()


def test_the_landscape_does_not_touch_the_training(tmp_path: Path) -> None:
    """Weights with it, and without a folder, where there is none."""
    made = training(run=tmp_path)
    made.trainer.log_every = 2
    made.trainer.train()
    assert same(made.trainer.weights(), trained())
    with (tmp_path / "landscape.csv").open() as file:
        table = list(csv.DictReader(file))
    assert sorted({int(row["step"]) for row in table}) == [2, 4, 6, 8]
    assert len(table) == 4 * 25
    assert all(np.isfinite([float(v) for v in row.values()]).all() for row in table)


def test_data_that_are_copied_to_the_device_make_the_same_run() -> None:
    for recipe in (PLAIN, WHOLE):
        assert same(trained(recipe), trained(recipe, resident=True))
    for resident, held in ((True, 2), (None, 0)):
        plans: Any = training(WHOLE, resident=resident).trainer.source
        assert [len(source._rows.held) for source in (plans.windows, plans.told, plans.pairs)] == [held] * 3


@pytest.mark.parametrize(("room", "where"), [(2.1, "cuda:1"), (1.9, None)])
def test_data_are_copied_to_a_gpu_that_has_room_for_them(
    room: float, where: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fit four times, one for each source, into half of what is free."""
    data = logs()
    bytes_each = 4 * (data.observations.size + data.actions.size)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(4 * bytes_each * room), 0))
    assert home(data, "cuda:1", None) == (None if where is None else torch.device(where))
    assert home(data, "cuda:1", True) == torch.device("cuda:1")
    assert home(data, "cuda:1", False) is home(data, "cpu", None) is home(data, None, None) is None


def test_networks_are_compiled_and_nothing_but_they(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled noise would be made of other bits."""
    compiled: list[tuple[Any, str]] = []
    monkeypatch.setattr("kedge.train.trainer._compile", lambda module, backend: compiled.append((module, backend)))
    models: Any = training(WHOLE, compile="aot_eager").models
    nets = [models.planner.denoiser.net, models.critic.net, models.value.value.net, models.inverse.denoiser.net]
    assert [backend for _, backend in compiled] == ["aot_eager"] * 4
    assert all(module is net for (module, _), net in zip(compiled, nets, strict=True))
    compiled.clear()
    models = training(FV(**TINY, follow="inverse"), compile=True).models
    nets = [models.planner.denoiser.net, models.critic.net, models.inverse.layers]
    assert [backend for _, backend in compiled] == ["inductor"] * 3
    assert all(module is net for (module, _), net in zip(compiled, nets, strict=True))


COMPILED = """
import torch
from kedge.recipes import FV
from kedge.recipes.training import Training
from small_maze import logs

def weights(made):
    return torch.cat([value.flatten().double() for value in made.trainer.weights().values()])

ends = []
for compiled in (False, BACKEND):
    recipe = FV(steps=3, batch=8, width=8, horizon=8, candidates=3)
    made = Training(recipe, logs(), None, progress=False, compile=compiled)
    begun = weights(made)
    made.trainer.train()
    ends.append(weights(made))
apart, moved = (ends[0] - ends[1]).norm(), (ends[0] - begun).norm()
assert apart < 0.1 * moved, (apart, moved)  # Muon turns the rounding of a small gradient into a step of full length
"""


@pytest.mark.parametrize("backend", ['"eager"', pytest.param("True", marks=pytest.mark.slow)])
def test_compiled_networks_learn_the_same(backend: str) -> None:
    """In a process of its own: what checks types here cannot be compiled."""
    script, here = COMPILED.replace("BACKEND", backend), Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd=here)
    assert done.returncode == 0, done.stderr


def test_half_precision_reaches_the_networks() -> None:
    full, half = trained(), trained(precision="bf16")
    assert full.keys() == half.keys()
    assert not same(full, half)
    for name, value in half.items():
        assert value.dtype == full[name].dtype
        assert (value - full[name]).abs().max() < 0.1


def test_an_agent_is_a_copy_and_leaves_the_training_alone() -> None:
    made, plain = training(), training()
    for _ in range(4):
        made.trainer.advance()
        plain.trainer.advance()
    agent = made.agent()
    here = logs().observations[0].astype(float)
    before = agent.plan(here).states
    for _ in range(4):
        made.trainer.advance()
        plain.trainer.advance()
    assert np.array_equal(agent.plan(here).states, before)
    assert not np.array_equal(made.agent().plan(here).states, before)
    assert same(made.trainer.weights(), plain.trainer.weights())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"recipe": replace(PLAIN, degree=3, candidates=9)},
            "fields.candidates: 3 there, 9 here; fields.degree: 5 there",
        ),
        ({"seed": 1}, r"belongs to another recipe \(seed: 0 there, 1 here"),
        ({"data": logs_of([900, 700])}, "data.digest"),
    ],
)
def test_another_run_is_refused_by_its_fields(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    trained(run=tmp_path)
    before = (tmp_path / "weights.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=says):
        training(run=tmp_path, **change)
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(run=tmp_path)
    before = (tmp_path / "weights.safetensors").stat().st_mtime_ns
    again = PLAIN.train(logs(), tmp_path)
    assert "already trained, 8 of 8 steps; nothing to do" in "".join(capsys.readouterr())
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns == before
    assert isinstance(again, Agent)


def data_of(lengths: list[int], rewards: Any = None, **more: Any) -> Trajectories:
    made = logs_of(lengths)
    given: dict[str, Any] = {"observations": made.observations, "actions": made.actions, "ends": made.ends} | more
    return Trajectories.of(**given, rewards=made.rewards if rewards is None else rewards)


def without_rewards() -> Trajectories:
    made = logs_of([200])
    return Trajectories.of(made.observations, made.actions, made.ends)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (without_rewards, "the data carries none; add a column of rewards"),
        (lambda: data_of([200], np.zeros(200)), "no step of the data that it learns from earned a positive one"),
        (lambda: data_of([2000], np.arange(2000) > 1990), "no step of the data that it learns from"),
        (lambda: data_of([29] * 9), "the longest episode of the data has 29 steps, less than two strides"),
        (
            lambda: data_of([200], observations=np.ones((200, 5))),
            "an even number of dimensions, 4 at least; the data has 5",
        ),
        (lambda: data_of([200], observations=np.ones((200, 2))), "4 at least; the data has 2"),
        (lambda: data_of([200], actions=np.ones((200, 3))), "2 in all, and the actions of the data have 3 dimensions"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_line(data: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        training(data=data(), run=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_little_data_is_all_learned_from(tmp_path: Path) -> None:
    data = data_of([400, 300])
    assert divided(PLAIN, data) == (data, None)
    trained(run=tmp_path, data=data)
    assert not (tmp_path / "landscape.csv").exists()


def test_the_last_steps_are_held_out_rewarded_or_not(tmp_path: Path) -> None:
    rewards = np.zeros(4000)
    rewards[100:110] = 1
    data = data_of([2000, 2000], rewards)
    seen, held_out = divided(PLAIN, data)
    assert held_out is not None
    assert (len(seen), len(held_out)) == (round(4000 * (1 - HELD_OUT)), round(4000 * HELD_OUT))
    trained(run=tmp_path, data=data)
    assert len(rows(tmp_path)) > 25
    batch = training(data=data)._source(seen, training(data=data).models.normaliser).next(Tick(0, 0))
    assert batch["states"].shape == (8, 8, 4)


def test_a_loaded_agent_is_the_trained_one_and_needs_no_data(tmp_path: Path) -> None:
    for recipe in (PLAIN, WHOLE):
        run = tmp_path / type(recipe).__name__
        agent = recipe.train(logs(), run, progress=False)
        state = torch.get_rng_state()
        loaded = kedge.load(run)
        assert torch.equal(torch.get_rng_state(), state)
        here = logs().observations[[0, 50]].astype(float)
        ours, theirs = agent.plan(here, seed=3), loaded.plan(here, seed=3)
        for name in ("states", "values", "feasible", "best"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
        assert str(agent.goal) == str(loaded.goal)
        assert (loaded.goal is None) == (recipe is PLAIN)
        assert (loaded.candidates, loaded.replan, loaded.name) == (3, 15, type(recipe).__name__)
        first, second = agent.controller(), loaded.controller()
        for controller in (first, second):
            controller.reset([4, 5])
        active = np.ones(2, bool)
        assert np.array_equal(first.act(here, active), second.act(here, active))


def test_what_is_measured_of_rewards_is_measured_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As all at once: what is mapped from disk may be larger than memory."""
    some = logs_of([30, 12, 40], seed=1, rewarded=0.1)
    places = some.observations[some.rewards > 0, :2].astype(float)
    some.observations[some.rewards > 0, :2] = places * 0.01 + 3
    expected = (places * 0.01 + 3).mean(0)
    chunks = Trajectories.chunks
    monkeypatch.setattr(Trajectories, "chunks", lambda self, size=7: chunks(self, 7))
    found = rewarded_place(some)
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    some.rewards[:] = 1.0
    assert rewarded_place(some) is None, "earned all over"


def test_the_goal_is_where_rewards_were_earned() -> None:
    made = training(WHOLE)
    places = logs().observations[logs().rewards > 0, :2]
    assert made.goal is not None
    np.testing.assert_allclose(made.goal, [3.0, 4.0], atol=0.25)
    assert np.abs(made.goal - places.mean(0)).max() < 0.05
    assert made.agent().goal is not None
    assert training().agent().goal is None
    assert training(replace(WHOLE, aim=False)).agent().goal is None


def broken(run: Path, name: str, text: str | None) -> None:
    (run / name).unlink() if text is None else (run / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("recipe.json", None, "is no run: it has no recipe.json"),
        ("recipe.json", "{", "recipe.json cannot be read"),
        ("recipe.json", '{"recipe": "XY"}', "'XY', which is no recipe of this version"),
        ("recipe.json", '{"recipe": "FV", "fields": {"speed": 1}}', "by another version of FV"),
        ("recipe.json", '{"recipe": "FV", "fields": {"width": 8, "mults": [1, 2]}}', "are not those of its recipe"),
        ("recipe.json", '{"recipe": "FV", "sizes": {"state": 4, "action": 2}}', "are not those of its recipe"),
        ("recipe.json", '{"recipe": "FV", "fields": 3}', r"recipe.json cannot be used \(fields is 3\); train it again"),
        ("recipe.json", "[" * 9999, r"recipe.json cannot be read \(maximum recursion depth"),
        ("recipe.json", '{"environment": {"goal": [1]}}', "environment.goal has 1 numbers, not 2"),
        ("weights.safetensors", None, "has no weights that can be read .*; train it first"),
        ("measured.safetensors", "xx", "has no weights that can be read"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(name: str, text: str | None, says: str, tmp_path: Path) -> None:
    trained(run=tmp_path)
    broken(tmp_path, name, text)
    with pytest.raises(InputError, match=says) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600, "torch would list all names that do not fit"


def test_inverse_dynamics_hear_states_on_a_scale() -> None:
    """That of pairs from all over the data, in the weights that act as in those that learn."""
    made = training(WHOLE)
    pairing = made.models.inverse.pairing
    assert pairing.centre[:2].tolist() == [0, 0], "positions are counted from the first of a pair"
    assert pairing.scale[2:4].sub(1).abs().min() > 0.01
    averaged: Any = made.agent().follower
    assert torch.equal(averaged.dynamics.pairing.scale, pairing.scale)


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    first = training().trainer.weights()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = training().trainer.weights()
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, second)
    assert not same(first, training(seed=1).trainer.weights())


def test_a_landscape_goes_on_with_what_it_has_and_has_not(tmp_path: Path) -> None:
    made = training(run=tmp_path)
    (sink,) = [sink for sink in made.trainer.sinks if isinstance(sink, Landscape)]
    sink.due = [2, 3, 6]

    def steps() -> list[int]:
        return sorted({int(row.partition(",")[0]) for row in rows(tmp_path)[1:]})

    sink.open(tmp_path, 0)
    for step in (1, 2):
        sink.write(step, {})
    sink.close()
    sink.open(tmp_path, 3)  # killed after step 3, which was due but at which nothing was logged
    for step in (4, 5, 6, 7):
        sink.write(step, {})
    assert steps() == [2, 4, 6]
    sink.close()
    sink.open(tmp_path, 6)
    sink.write(7, {})
    sink.close()
    assert steps() == [2, 4, 6]
