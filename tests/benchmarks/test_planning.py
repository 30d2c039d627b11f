"""The planner's measurements: what differs between arms, and that looking at a training does not change it."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from kedge.envs import Maze2D
from kedge.recipes import FV

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
jobs: Any = importlib.import_module("measure.jobs")
planning: Any = importlib.import_module("measure.planning")
trained: Any = importlib.import_module("measure.trained")

ROOM = "######/#OOOO#/#OOOO#/#OOGO#/######"
TINY: dict[str, Any] = {
    "steps": 4, "batch": 4, "width": 8, "mults": (1, 2), "octaves": 2, "atlas": 0, "horizon": 8, "stride": 10,
    "optimiser": "adamw", "rate": 1e-3,
}  # fmt: skip


def tiny(name: str, checkpoints: list[int], **changes: Any) -> Any:
    return jobs.Job(
        name,
        {
            "kind": "curve", "maze": ROOM, "seed": 0, "demonstrations": 6_000, "episodes": 2, "starts": 1,
            "first_seed": 0, "fields": asdict(replace(FV(), **(TINY | changes))), "candidates": 2,
            "checkpoints": checkpoints, "walks": {name: {}}, "at_last": {},
        },
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Maze2D, "horizon", 40)
    return jobs.Store(tmp_path / "results", tmp_path / "scratch")


def planner_of(store: Any, job: Any) -> Any:
    from kedge.train import load_weights

    return load_weights(store.work(job) / "run" / "weights.safetensors")


def test_looking_does_not_disturb_the_training(store: Any) -> None:
    often, once = tiny("often", [1, 2, 4]), tiny("once", [4])
    seen = trained.curve(often, store)["checkpoints"]
    alone = trained.curve(once, store)["checkpoints"]
    a, b = planner_of(store, often), planner_of(store, once)
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)
    assert seen[-1]["walks"]["often"]["latched"] == alone[-1]["walks"]["once"]["latched"]
    assert seen[-1]["held_out"] == alone[-1]["held_out"] != seen[0]["held_out"]
    assert seen[-1]["critic"] == alone[-1]["critic"] != seen[0]["critic"]
    assert [(point["step"], len(point["walks"]["often"]["latched"])) for point in seen] == [(1, 1), (2, 1), (4, 2)]


def test_a_killed_curve_goes_on_to_the_same_end(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = tiny("whole", [2, 4]), tiny("killed", [2, 4])
    expected = trained.curve(whole, store)["checkpoints"]
    looked_at, looks = trained.looked_at, Counter[int]()

    def dies(training: Any, *rest: Any) -> Any:
        step = training.trainer.step
        looks[step] += 1
        if step == 4 and looks[step] == 1:
            raise KeyboardInterrupt
        return looked_at(training, *rest)

    monkeypatch.setattr(trained, "looked_at", dies)
    with pytest.raises(KeyboardInterrupt):
        trained.curve(killed, store)
    found = trained.curve(killed, store)["checkpoints"]
    assert looks == {2: 1, 4: 2}
    assert [point["step"] for point in found] == [2, 4]
    assert all(found[1][name] == expected[1][name] for name in ("held_out", "critic"))
    assert found[1]["walks"]["killed"]["latched"] == expected[1]["walks"]["whole"]["latched"]
    a, b = planner_of(store, whole), planner_of(store, killed)
    assert all(a[name].equal(b[name]) for name in a)


def test_arms_have_the_same_critic_and_other_planners(store: Any) -> None:
    made = {
        name: trained.curve(tiny(name, [3], **changes), store)["checkpoints"][-1]
        for name, changes in [("head", {"weighting": "head"}), ("conv", {"net": "conv"}), ("polynomial", {})]
    }
    assert len({point["critic"] for point in made.values()}) == 1
    assert len({str(point["held_out"]["log_loss"]) for point in made.values()}) == 3


def test_the_arms_of_the_ablation_differ_in_what_they_are_called_after_only() -> None:
    arms = {job.settings["arm"]: job for job in planning.ablation(planning.FULL) if job.settings["seed"] == 0}
    allowed = {"path", "predict", "weighting", "regress", "smooth"}
    base = arms["uniform"].settings
    for job in arms.values():
        fields = job.settings["fields"]
        assert {name for name in fields if fields[name] != base["fields"][name]} <= allowed
        shared = {"fields", "arm", "walks", "at_last"}
        assert {k: v for k, v in job.settings.items() if k not in shared} == {
            k: v for k, v in base.items() if k not in shared
        }
    for job in arms.values():
        for changes in [*job.settings["walks"].values(), *job.settings["at_last"].values()]:
            assert set(changes) <= {"solver", "rho"}, "as many evaluations in every walk"


def test_every_job_has_a_name_of_its_own_and_reports_on_starts_that_nothing_was_chosen_on() -> None:
    everything = planning.jobs()
    assert len({job.name for job in everything}) == len(everything)
    assert all(job.settings.get("first_seed", 10**6) >= 10**6 for job in everything)
    assert {job.name for job in planning.jobs(planning.SMOKE)} == {job.name for job in everything}
    seeds = [job.settings["seed"] for job in everything if job.name.startswith("ablation")]
    assert seeds == sorted(seeds), "all arms have the first seed first"
    for job in everything:
        if "fields" in job.settings:
            assert asdict(planning.recipe(jobs.plain(job.settings))) == job.settings["fields"]
