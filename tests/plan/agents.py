"""Agents whose plans are known beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kedge import Denoiser
from kedge.data import Normaliser
from kedge.nets import MLP, UNet1D
from kedge.paths import Trig
from kedge.plan import Agent, Chase, Judge, Nearby, Planner
from kedge.walk.grids import Rho
from kedge.walk.solvers import DPMSolverPP


class Straight:
    """From where we are along the first axis, each candidate as far as its index says, a unit a point."""

    def __init__(self, horizon: int = 4, stride: int = 2) -> None:
        self.horizon, self.stride = horizon, stride
        self.calls: list[dict[str, Any]] = []

    def propose(self, states: Tensor, seeds: Tensor, goal: Any = None, kept: Any = None, frames: Any = None) -> Tensor:
        self.calls.append({"states": states.clone(), "seeds": seeds.clone(), "goal": goal, "kept": kept})
        way = torch.zeros(len(states), seeds.shape[1], self.horizon, 4) + states[:, None, None]
        way[..., 0] += torch.arange(self.horizon) * torch.arange(seeds.shape[1])[:, None]
        return way


def furthest(plans: Tensor) -> Tensor:
    return plans[:, -1, 0]


def agent_of(proposer: Any = None, critic: Any = furthest, **more: Any) -> Agent:
    settings: dict[str, Any] = {"candidates": 3, "replan": 3} | more
    judge = Judge(critic, Normaliser(torch.zeros(4), torch.ones(4)))
    return Agent(proposer or Straight(), judge, Chase(2), **settings)


def drawn_agent(candidates: int = 6, follower: Any = None, horizon: int = 8, seed: int = 0) -> Agent:
    """With networks that were never trained: what it does is of no use, and depends on all that an agent hears."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UNet1D(4, width=8, mults=(1, 2)).eval().requires_grad_(False)
        critic = MLP((horizon, 4), width=16).eval().requires_grad_(False)
    same = Normaliser(torch.zeros(4), torch.ones(4))
    near = Nearby(Rho(2, 3.0, 0.2, 2.0))
    planner = Planner(
        Denoiser(net, Trig(1.0), predict="trig"), same, horizon, 3, DPMSolverPP(order=2), Rho(3, 3.0, 0.2, 10.0), 4,
        nearby=near,
    )  # fmt: skip
    judge = Judge(lambda plans: critic(plans, torch.zeros(len(plans))).flatten(1).sum(1), same)
    return Agent(planner, judge, follower or Chase(2), candidates=candidates, replan=4, name="drawn")
