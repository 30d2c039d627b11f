"""CLoSD: goals one after the other, a mass that is pushed about, and a tracker that keeps to velocities.

The planner's law is known: smooth paths that continue what came before and end at a goal.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from kedge.data import Normaliser, Segments
from kedge.errors import InputError
from kedge.exact import PinnedGaussian
from kedge.paths import Trig
from kedge.plan import Agent, Chase, Judge, Paths, Planner, Track
from kedge.plan.proposer import candidate_seeds
from kedge.recipes import CLoSD
from kedge.recipes.networks import known
from kedge.train import Tick
from kedge.walk.grids import Rho
from kedge.walk.solvers import DPMSolverPP
from small_maze import logs

pytestmark = pytest.mark.system

f64 = torch.float64
DT, PAST, H, EVERY, TIME, EPISODES, REACH, MOST = 0.1, 8, 13, 6, 36, 30, 0.2, 4.0
GOALS = ((1.0, 0.5), (0.0, 1.0), (-1.0, 0.0))
UNITS = Normaliser(torch.zeros(4), torch.ones(4))
ROUGH = torch.tensor([0.001, 0.001, 0.03, 0.03], dtype=f64)
"""Variances of what its paths are besides smooth, in each number of a state."""
TRACK = Track(0.5, 1 / DT, 0.0, MOST)


@cache
def planner(evaluations: int = 10) -> Planner:
    """Exact: of a smooth process of positions and their velocities, past and end being told."""
    s = torch.arange(PAST + H, dtype=f64) * DT
    apart, scale = s[:, None] - s, 0.8
    k = torch.exp(-(apart**2) / (2 * scale**2))
    place, speed = k, (1 / scale**2 - apart**2 / scale**4) * k
    mixed = k * apart / scale**2  # of a position with a velocity
    joint = torch.stack([torch.stack([place, mixed], -1), torch.stack([-mixed, speed], -1)], -2)
    cov = torch.einsum("ijab,xy->iaxjby", joint, torch.eye(2, dtype=f64)).reshape(4 * (PAST + H), -1)
    told = torch.zeros(PAST + H, 4, dtype=torch.bool)
    told[: PAST + 1] = told[-1] = True
    law = PinnedGaussian(torch.zeros(PAST + H, 4, dtype=f64), cov + torch.diag(ROUGH.repeat(PAST + H)), told, Trig())
    grid = Rho(evaluations, 5.0, 0.02, 20.0)
    return Planner(law, UNITS, H, 1, DPMSolverPP(order=2), grid, 4, temperature=0.0, past=PAST, rest=(2, 3))


def pushed(x: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A step of the mass; one in eight shoves it."""
    shove = (rng.random((len(x), 1)) < 0.125) * rng.normal(0, 0.8, (len(x), 2))
    v = x[:, 2:] + DT * np.clip(action, -MOST, MOST) + shove
    return np.concatenate([x[:, :2] + DT * v, v], 1)


def starts() -> np.ndarray:
    return np.concatenate([np.random.default_rng(1).normal(0, 0.1, (EPISODES, 2)), np.zeros((EPISODES, 2))], 1)


@cache
def lived(closed: bool, evaluations: int = 10, goals: int = 3) -> float:
    """The share of goals that are reached in their time. Each `EVERY` steps it is planned again: from what was
    executed, or from what was planned; a plan ends at the goal.
    """
    rng, x = np.random.default_rng(2), starts()
    been, hits = [x] * (PAST + 1), np.zeros((goals, EPISODES), bool)
    planned, paths, count = list(been), Paths(EPISODES, H, 1, 4), 0
    for i, goal in enumerate(GOALS[:goals]):
        for k in range(TIME):
            if k % EVERY == 0:
                heard = np.stack((been if closed else planned)[-PAST - 1 :], 1)
                told = torch.from_numpy(heard).float()
                to = torch.tensor([goal], dtype=torch.float32).expand(EPISODES, -1)
                seeds = candidate_seeds(np.arange(EPISODES), count, 1)
                plan = planner(evaluations).propose(told[:, -1], seeds, to, before=told[:, :-1])[:, 0].numpy()
                paths.put(np.arange(EPISODES), plan.astype(float))
                planned += list(plan[:, 1 : EVERY + 1].swapaxes(0, 1).astype(float))
                count += 1
            paths.at[:] = k % EVERY
            x = pushed(x, TRACK.act(x, paths), rng)
            been.append(x)
            hits[i] |= np.linalg.norm(x[:, :2] - goal, axis=1) < REACH
    return float(hits.mean())


def test_under_shoves_a_loop_through_the_world_reaches_what_a_planner_fed_by_itself_misses() -> None:
    assert lived(True) >= 0.9
    assert lived(True) >= lived(False) + 0.25


def test_ten_steps_of_denoising_do_as_well_as_fifty() -> None:
    assert abs(lived(True, 10, 1) - lived(True, 50, 1)) <= 0.05


def test_an_agent_plans_from_what_it_did() -> None:
    """What its planner hears before now is what was executed, a stride apart; before it began it stood there."""
    told: list[np.ndarray] = []

    class Hears(Planner):
        def propose(self, *args: Any, before: Any = None, **more: Any) -> Any:
            told.append(before.numpy())
            return super().propose(*args, before=before, **more)

    made = planner()
    heard = Hears(**{name: getattr(made, name) for name in made.__dataclass_fields__})
    agent = Agent(heard, Judge(None, UNITS), Chase(2), candidates=1, replan=5, keep=False)
    controller = agent.controller()
    controller.reset([0, 1])
    seen = np.random.default_rng(0).normal(size=(11, 2, 4)).astype(np.float32)
    for k in range(11):
        controller.act(seen[k].astype(float), np.ones(2, bool))
    still = seen[0] * np.array([1, 1, 0, 0], np.float32)
    assert len(told) == 3
    assert told[0].tolist() == np.stack([still] * PAST, 1).tolist()
    assert told[1].tolist() == np.stack([still] * 3 + list(seen[:5]), 1).tolist()
    assert told[2].tolist() == np.stack(list(seen[2:10]), 1).tolist()


def test_what_was_executed_is_part_of_what_is_known() -> None:
    rng, made = torch.Generator().manual_seed(0), planner()
    now, before = torch.randn(2, 4, generator=rng), torch.randn(2, PAST, 4, generator=rng)
    mask, values = made.known(now, None, before)
    assert mask[: PAST + 1].all()
    assert not mask[PAST + 1 :].any()
    heard = made.normaliser.undo(values)[:, : PAST + 1]
    torch.testing.assert_close(heard, torch.cat([before, now[:, None]], 1))


def test_a_recipe_learns_from_what_came_before() -> None:
    """What it was told of the past it is told in training; critics hear what is ahead, and count from now."""
    recipe = CLoSD(steps=2, batch=4, width=8, past=2, horizon=14, candidates=2, evaluations=2)
    agent = recipe.train(logs(), progress=False)
    assert isinstance(agent.proposer, Planner)
    assert (agent.proposer.past, agent.proposer.horizon) == (2, 14)
    assert agent.plan(np.array([1.0, 1.0, 0.0, 0.0])).states.shape == (1, 2, 14, 4)
    batch = {"states": torch.zeros(3, 16, 4), "told": torch.tensor([True, False, False])}
    mask = known(batch, 4, past=2)
    assert mask[:, :3].all()
    assert mask[:, 3:].flatten(1).sum(1).tolist() == [4, 0, 0]
    assert agent.proposer.rest == (2, 3)
    for worth in ("success", "rewards"):
        source: Any = replace(recipe, worth=worth).training(logs(), None, progress=False).trainer.source
        batch, judged = source.next(Tick(0, 0)), {"success": "steps", "rewards": "returns"}[worth]
        same = {"until": source.windows.until, "fields": [judged], "discount": recipe.discount}
        now = Segments(source.windows.logs, 14, 15, 4, **same).next(Tick(0, 0))
        assert batch["states"].shape[1] == 16
        assert torch.equal(batch[judged], now[judged])
    with pytest.raises(InputError, match="a value that guides hears no past"):
        CLoSD(guidance=0.1)
