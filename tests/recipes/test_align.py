"""A planner that is aligned: it moves toward its reward, goes on where it was killed, and is loaded like any other."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kedge.errors import InputError
from kedge.noise import Noise
from kedge.plan import Agent, Planner
from kedge.recipes import AWM, DDPO, FV, VMPO
from kedge.recipes.align import Alignment, Held, InUnits, Starts
from small_maze import logs, maze

SMALL = FV(steps=3, batch=8, width=8, atlas=8, horizon=8, candidates=4, goals=0.5)
FEW: dict[str, Any] = {"steps": 8, "batch": 8, "each": 4, "evaluations": 4, "rate": 1e-3}


@functools.cache
def agent() -> Agent:
    return SMALL.train(logs(), progress=False)


def far(plans: Any, cond: Any = None) -> Tensor:
    """How far along the first axis a plan ends."""
    return plans[:, -2, 0]


def begins(plans: Any, cond: Any = None) -> Tensor:
    return plans[:, 0, 0]


def planner(agent: Agent) -> Planner:
    assert isinstance(agent.proposer, Planner)
    return agent.proposer


def weights(made: Agent) -> dict[str, Tensor]:
    return dict(planner(made).denoiser.state_dict())


@pytest.mark.parametrize("recipe", [VMPO(**FEW), DDPO(**FEW), AWM(**FEW)], ids=["vmpo", "ddpo", "awm"])
def test_plans_are_worth_more_afterwards_and_the_agent_that_was_given_is_as_it_was(recipe: Any) -> None:
    before = {name: value.clone() for name, value in weights(agent()).items()}
    here = np.stack([maze().reset(seed=seed)[0] for seed in range(16)])
    aligned = recipe.train(agent(), logs(), far, progress=False)
    one, other = (made.plan(here, candidates=16, seed=3).states[..., -2, 0].mean(1) for made in (agent(), aligned))
    gained = other - one
    assert gained.mean() > 3 * gained.std(ddof=1) / 16**0.5
    assert all(value.equal(before[name]) for name, value in weights(agent()).items())
    assert not any(p.requires_grad for p in planner(aligned).denoiser.parameters())


def test_the_temperature_is_a_deviation_of_the_reward_over_the_nats() -> None:
    made = Alignment(VMPO(**FEW, nats=4.0), agent(), logs(), far, progress=False)
    doubled = Alignment(VMPO(**FEW, nats=4.0), agent(), logs(), lambda x, cond: 2 * far(x), progress=False)
    assert doubled.spread == pytest.approx(2 * made.spread)
    assert made.method.beta == pytest.approx(made.spread / 4)
    here = np.stack([logs().observations[i] for i in range(0, 30_000, 300)]).astype(float)
    planned = agent().plan(here, candidates=8)
    apart = planned.states[..., -2, 0].std(1, ddof=1)
    assert 0.3 < made.spread / float(np.sqrt((apart**2).mean())) < 3, "of plans from one place"


def test_a_killed_alignment_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Also in the middle of a batch that is learned from twice."""
    recipe = DDPO(**FEW)

    def made(run: Path | None) -> Alignment:
        return Alignment(recipe, agent(), logs(), far, run, progress=False)

    whole = made(None)
    whole.trainer.train()
    cut = made(tmp_path)
    cut.trainer.resume()
    for _ in range(3):
        cut.trainer.advance()
    cut.trainer.save()
    again = made(tmp_path)
    again.trainer.train()
    assert again.trainer.step == 8
    found, expected = weights(again.agent()), weights(whole.agent())
    assert all(value.equal(expected[name]) for name, value in found.items())


def test_plans_begin_at_logged_states_and_end_where_the_agent_plans_to() -> None:
    starts = Starts(logs(), torch.device("cpu"))(500, Noise.of(3, 500))["states"]
    rows = {tuple(row) for row in np.asarray(logs().observations).tolist()}
    assert all(tuple(row) in rows for row in starts.tolist())
    assert len(starts.unique(dim=0)) > 480
    goal = np.array([1.0, 2.0], np.float32)
    told = {"states": starts[:5]}
    (pin,) = Held(planner(agent()), goal)(told)
    raw = planner(agent()).normaliser.undo(pin.values)  # type: ignore[attr-defined]
    torch.testing.assert_close(raw[:, 0], starts[:5], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(raw[:, -1, :2], torch.tensor([[1.0, 2.0]]).expand(5, 2), rtol=1e-5, atol=1e-5)
    (free,) = Held(planner(agent()), None)(told)
    assert free.mask[-1].any() == False  # type: ignore[attr-defined]  # noqa: E712


def test_a_reward_hears_plans_in_the_data_s_units_and_where_they_begin() -> None:
    heard: dict[str, Any] = {}

    def reward(plans: Any, cond: Any) -> Tensor:
        heard.update(plans=plans, cond=cond)
        return plans.sum((1, 2))

    x = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    InUnits(reward, planner(agent()))(x, {"states": x[:, 0]})
    torch.testing.assert_close(planner(agent()).normaliser(heard["plans"]), x, rtol=1e-4, atol=1e-5)
    assert heard["cond"]["states"] is not None


def test_what_cannot_be_is_one_line() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"steps": 0}, "VMPO: steps must be at least 1, got 0"),
        ({"batch": 6, "each": 4}, "each is 2 at least and divides batch, got 4 of 6"),
        ({"each": 1}, "each is 2 at least"),
        ({"nats": 0.0}, "nats must be positive, got 0.0"),
        ({"average": 0.5}, r"average is a share of the run below 0.29, got 0.5"),
    ]
    for fields, said in wrong:
        with pytest.raises(InputError, match=said):
            VMPO(**fields)
    with pytest.raises(InputError, match="the same for all plans from one place"):
        VMPO(**FEW).train(agent(), logs(), begins, progress=False)
    still = replace(agent(), proposer=replace(planner(agent()), denoiser=lambda x, t: x))
    with pytest.raises(InputError, match="does not denoise its plans by a network"):
        VMPO(**FEW).train(still, logs(), far, progress=False)
