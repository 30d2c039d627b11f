"""Recipes that act without a plan: what they refuse, what they leave behind, how they go on, and that they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.logs import logs_of
from kedge.errors import InputError
from kedge.plan import Agent
from kedge.policy import ChunkPolicy, Reactive
from kedge.recipes import DWM, IQL, TD3BC, DiffusionPolicy, PolicyGuidedDiffusion, load
from kedge.run.commands.runs import planning
from kedge.run.commands.train import RECIPES
from small_maze import arrived, logs

TINY: dict[str, Any] = {"batch": 8, "hidden": (8,), "octaves": 1, "stride": 5}
MODEL: dict[str, Any] = TINY | {"width": 8, "mults": (1,), "length": 4, "steps": 7, "model_steps": 3, "every": 2}
OFTEN: dict[str, Any] = MODEL | {"every": 3}
RUNS: dict[str, Any] = {
    "td3-bc": TD3BC(**TINY, steps=6),
    "iql": IQL(**TINY, steps=6),
    "dwm": DWM(**MODEL, horizon=2, evaluations=2, wanted=0.5, guidance=0.5),
    "policy-guided-diffusion": PolicyGuidedDiffusion(**OFTEN, evaluations=2, trajectories=6, learner="iql"),
    "diffusion-policy": DiffusionPolicy(steps=6, batch=8, horizon=4, execute=2, width=8, depth=1),
}


def done(agent: Any, here: np.ndarray) -> np.ndarray:
    """The first action in an episode that begins at each place."""
    controller = agent.controller()
    controller.reset(range(len(here)))
    return controller.act(here, np.ones(len(here), bool))


@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_goes_on_where_it_stopped_and_is_loaded_as_it_ended(name: str, tmp_path: Path) -> None:
    """Bit for bit, with what was imagined or made for the policy."""
    recipe = RUNS[name]
    whole = recipe.training(logs(), tmp_path / "whole", progress=False)
    whole.trainer.train()
    first = recipe.training(logs(), tmp_path / "parts", progress=False).trainer
    first.resume()
    for _ in range(5):
        first.advance()
    first.save()
    second = recipe.training(logs(), tmp_path / "parts", progress=False)
    second.trainer.train()
    weights, again = whole.trainer.weights(), second.trainer.weights()
    assert weights.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in weights.items())
    here = np.random.default_rng(0).normal(size=(5, 4))
    agent = load(tmp_path / "parts")
    assert isinstance(agent, ChunkPolicy if name == "diffusion-policy" else Reactive)
    assert not isinstance(agent, Agent)
    assert agent.label == type(recipe).__name__ == RECIPES[name]
    assert np.array_equal(done(agent, here), done(whole.agent(), here))


def test_the_model_is_trained_first_and_stays() -> None:
    training = RUNS["dwm"].training(logs(), None, progress=False)
    model, critic = (training.trainer.parts[i].module.state_dict() for i in (0, 1))
    seen = []
    for _ in range(7):
        before = [{name: value.clone() for name, value in module.items()} for module in (model, critic)]
        training.trainer.advance()
        seen.append(
            tuple(any(not b[n].equal(now[n]) for n in b) for b, now in zip(before, (model, critic), strict=True))
        )
    assert seen == [(True, False)] * 3 + [(False, True)] * 4


def test_what_cannot_be_trained_is_refused_in_one_line() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"stride": 0}, "stride must be at least 1"),
        ({"rate": 0.0}, "rate must be positive"),
        ({"discount": 1.5}, "discount is a share"),
    ]
    for odd, said in cases:
        with pytest.raises(InputError, match=said):
            TD3BC(**odd)
    with pytest.raises(InputError, match="leave none of 5 steps"):
        DWM(steps=5, model_steps=5)
    with pytest.raises(InputError, match="not horizon=8"):
        DWM(horizon=8)
    with pytest.raises(InputError, match="hears no return"):
        DWM(hears=False, wanted=1.0)
    with pytest.raises(InputError, match="a multiple of 2"):
        PolicyGuidedDiffusion(length=9)
    with pytest.raises(InputError, match="no step of the data earned"):
        TD3BC().check(logs_of([20], rewarded=0.0))
    with pytest.raises(InputError, match="of 4 actions of a chunk 5 cannot be done"):
        DiffusionPolicy(horizon=4, execute=5)
    with pytest.raises(InputError, match="sigma_data must be positive"):
        DiffusionPolicy(sigma_data=0.0)


def test_what_works_on_plans_says_that_there_are_none(tmp_path: Path) -> None:
    """But a graph can be made of chunks."""
    for name in ("td3-bc", "diffusion-policy"):
        run = tmp_path / name
        RUNS[name].training(logs(), run, progress=False).trainer.train()
        for what in ("kedge play", "--candidates"):
            with pytest.raises(InputError, match=rf"plans nothing \({RECIPES[name]}\): {what} works on plans"):
                planning(run, None, what)
    assert isinstance(planning(tmp_path / "diffusion-policy", None, "kedge export", also=ChunkPolicy), ChunkPolicy)
    with pytest.raises(InputError, match=r"plans nothing \(TD3BC\): kedge export"):
        planning(tmp_path / "td3-bc", None, "kedge export", also=ChunkPolicy)


def test_seconds_of_training_find_the_goal() -> None:
    """Around a ring, from where the shortest way is two cells and more: after 250 steps half of the episodes arrive,
    and hardly one before.
    """
    small = IQL(steps=250, batch=128, hidden=(48, 48), rate=3e-3, follow=0.97)
    training = small.training(logs(), None, progress=False)
    assert arrived(training.agent(), each=1).mean() < 0.3
    training.trainer.train()
    assert arrived(training.agent(), each=1).mean() > 0.5
