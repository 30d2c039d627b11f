"""Fine-tunes a weak imitation policy in the small maze: success against steps of the environment, method by method."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kedge import Denoiser, Walk, grids, solvers
from kedge.align import (
    FromNoise,
    Kept,
    Matching,
    Measured,
    PolicyGradient,
    Rollouts,
    StateCritic,
    Steered,
    Widening,
)
from kedge.align.rollouts import DPPO
from kedge.data import Normaliser, Trajectories
from kedge.envs import Maze2D
from kedge.fit import DenoisingLoss
from kedge.guide import Relay
from kedge.nets import MLP
from kedge.paths import Trig
from kedge.policy import ActionChunks, Chunked, ChunkPolicy
from kedge.policy.chunks import FIELD
from kedge.rl import ActionValues, OwnEpisodes, Replay, RunningScale, SoftActorCritic, SquashedGaussian, StateMLP
from kedge.run.evaluate import REPORTING, evaluate
from kedge.train import AdamW, Part, Trainer
from kedge.walk.hooks import Explore, Threshold
from measure.jobs import Job, Store
from measure.planning import Scale
from measure.trained import logged, outcome

Settings = dict[str, Any]

SEEDS = 3
CLONE: Settings = {"chunk": 8, "steps": 600, "batch": 256, "width": 256, "depth": 2, "lr": 1e-3}
"""Few steps of behaviour cloning: what comes of them finds the goal some of the time."""
WALK: Settings = {"levels": 10, "scale_min": 0.05, "scale_max": 20.0}
BUDGET: Settings = {"copies": 50, "env_steps": 500_000, "looks": 10, "times": 10, "discount": 0.99, "trace": 0.95}
"""The same for all arms: how many steps of the environment, and at how many moments the policy is looked at."""
ARMS: dict[str, Settings] = {
    "dppo": {"last": 6, "std": 0.1, "clip": [1e-2, 1e-1], "lr": 1e-3, "critic_lr": 1e-3},
    "fpo": {"clip": 0.05, "draws": 8, "lr": 3e-4, "critic_lr": 1e-3},
    "dsrl": {
        "limit": 1.5,
        "alpha": 1e-4,
        "every": 600,
        "batch": 256,
        "lr": 1e-3,
        "discount": 0.95,
        "follow": 0.97,
    },
}
"""What each method sets for itself. One more is one more entry here, and its builder in `BUILDERS`."""


@dataclass
class Learner:
    """A method at work.

    parts:    that are trained
    source:   of their batches
    steps:    of the environment so far
    policy:   as it is looked at, with the weights as they are
    """

    parts: Sequence[Part]
    source: Any
    steps: Callable[[], int]
    policy: ChunkPolicy


def jobs(scale: Scale) -> list[Job]:
    """Each method and seed, at equal steps of the environment."""
    clone, budget = dict(CLONE), dict(BUDGET)
    if scale.small:
        clone |= {"steps": 10, "batch": 16, "width": 16, "depth": 1}
        budget |= {"copies": 4, "env_steps": 2000, "looks": 2, "times": 2}
    shared = {"kind": "finetuned", "maze": "umaze", "demonstrations": min(scale.demonstrations, 50_000)}
    shared |= {"clone": clone, "walk": WALK, "budget": budget, "episodes": min(100, scale.episodes)}
    return [
        Job(f"finetune-{name}-{seed}", shared | {"arm": name, "method": method, "seed": seed})
        for seed in range(SEEDS)
        for name, method in ARMS.items()
    ]


def finetuned(job: Job, store: Store) -> dict[str, Any]:
    """One policy, looked at before, on the way and at the end."""
    settings = job.settings
    maze, logs = logged(settings, store)
    policy = cloned(settings, logs)
    with torch.random.fork_rng():
        torch.manual_seed(settings["seed"])
        learner = BUILDERS[settings["arm"]](policy, maze, settings)
    budget = settings["budget"]
    moments = np.linspace(0, budget["env_steps"], budget["looks"] + 1)[1:]
    trainer = Trainer(learner.parts, learner.source, 10**9, seed=settings["seed"], progress=False)
    points, cpu = [looked(learner, maze, settings, 0.0)], 0.0
    for moment in moments:
        begun = time.process_time()
        while learner.steps() < moment:
            trainer.advance()
        cpu += time.process_time() - begun
        points.append(looked(learner, maze, settings, cpu))
    first, last = (points[i]["outcome"]["success"] for i in (0, -1))
    return {"said": f"{settings['arm']}: {first:.0%} to {last:.0%}; {cpu:.0f} s", "points": points}


def looked(learner: Learner, maze: Maze2D, settings: Settings, cpu: float) -> dict[str, Any]:
    """What the policy does now, without what explores."""
    scores = evaluate(learner.policy, maze, episodes=settings["episodes"], first_seed=REPORTING)
    return {
        "env_steps": learner.steps(),
        "cpu": cpu,
        "outcome": outcome(scores),
        "solved_at": scores.solved_at.tolist(),
    }


def cloned(settings: Settings, logs: Trajectories) -> ChunkPolicy:
    """The weak policy to begin with: the same for all arms of a seed."""
    clone, walk, shape = settings["clone"], settings["walk"], (settings["clone"]["chunk"], 2)
    seen, done = Normaliser.fit(logs, shared=((0, 1), (2, 3))), Normaliser.fit(logs.actions, "limits")
    with torch.random.fork_rng():
        torch.manual_seed(settings["seed"])
        net = MLP(shape, clone["width"], clone["depth"], cond={"observation": 4})
    part = DenoisingLoss(Denoiser(net, Trig(sigma_data=0.6), "edm")).part(AdamW(clone["lr"], decay="cosine"))
    source = ActionChunks(logs, shape[0], clone["batch"], seen, done, seed=settings["seed"])
    Trainer([part], source, clone["steps"], seed=settings["seed"], progress=False).train()
    weights: Any = part.weights()
    grid = grids.LogSNR(walk["levels"], walk["scale_min"], walk["scale_max"])
    return ChunkPolicy(Walk(weights.denoiser, solvers.DDPM(), grid, [Threshold(1.0)]), shape, seen, done)


def rollouts(walk: Walk, policy: ChunkPolicy, maze: Maze2D, settings: Settings) -> tuple[Rollouts, StateCritic]:
    """Whole episodes, to the first time at the goal."""
    budget = settings["budget"]
    critic = StateCritic(StateMLP(4), policy.state)
    source = Rollouts(
        walk, policy, maze.simulator(budget["copies"]), maze.horizon // policy.steps, critic=critic, once=True,
        final=True, discount=budget["discount"], trace=budget["trace"], scale=RunningScale(budget["discount"]),
    )  # fmt: skip
    return source, critic


def parts(method: Any, critic: StateCritic, settings: Settings) -> list[Part]:
    """The policy's and the critic's."""
    return [
        method.part(AdamW(settings["method"]["lr"], warmup=0), name="policy", shadows=()),
        critic.part(AdamW(settings["method"]["critic_lr"], warmup=0), name="critic"),
    ]


def by_dppo(policy: ChunkPolicy, maze: Maze2D, settings: Settings) -> Learner:
    """The policy gradient of the last denoising steps."""
    own, base = settings["method"], policy.walk
    late = copy.deepcopy(base.denoiser).requires_grad_(True)
    relay = Relay.last(late, base.grid.levels(base.path).t, own["last"])
    plain = Walk(relay, base.solver, base.grid, base.hooks)
    noisy = Walk(relay, base.solver, base.grid, [Explore(own["std"]), *base.hooks])
    source, critic = rollouts(noisy, policy, maze, settings)
    published: Settings = {"discount": 0.99, "average": True, "within": (-5.0, 2.0), "stop": 1.0}
    method = PolicyGradient(noisy, DPPO, clip=Widening(*own["clip"]), last=own["last"], **published)
    kept = Kept(source, settings["budget"]["times"], parts=2, spent=method.far)
    return Learner(parts(method, critic, settings), kept, lambda: source.steps, policy.on(plain))


def by_fpo(policy: ChunkPolicy, maze: Maze2D, settings: Settings) -> Learner:
    """Ratios of denoising errors, at all levels."""
    own, base = settings["method"], policy.walk
    walk = Walk(copy.deepcopy(base.denoiser).requires_grad_(True), base.solver, base.grid, base.hooks)
    source, critic = rollouts(walk, policy, maze, settings)
    method = Matching(walk, DPPO, clip=own["clip"], ratio="sample", draws=own["draws"], space="eps")
    kept = Kept(Measured(source, method), settings["budget"]["times"], parts=2)
    return Learner(parts(method, critic, settings), kept, lambda: source.steps, policy.on(walk))


def by_dsrl(policy: ChunkPolicy, maze: Maze2D, settings: Settings) -> Learner:
    """The noise of the frozen policy, picked by soft actor-critic; a decision is a chunk.

    The critic's own errors have to wear off before the actor follows them, for a reward is rare: hence a discount and a
    target that forget sooner than in its paper, and an entropy that is worth less, over 16 numbers, than a reward.
    """
    own, base, dim = settings["method"], policy.walk, math.prod(policy.shape)
    walk = Walk(base.denoiser, solvers.DDIM(), base.grid, base.hooks)
    actor = SquashedGaussian(4, dim, limit=own["limit"])
    chosen = {name: own[name] for name in ("alpha", "discount", "follow")}
    method = SoftActorCritic(actor, ActionValues(4, dim), **chosen)
    world = Chunked(maze.simulator(settings["budget"]["copies"]), policy, once=True)
    source = OwnEpisodes(
        FromNoise(world, Steered(walk, policy.shape, FIELD)), actor.act, Replay(), own["batch"],
        horizon=maze.horizon // policy.steps, every=own["every"], once=True, ends=True,
    )  # fmt: skip
    made = method.parts(AdamW(own["lr"], warmup=0, weight_decay=0.0))
    return Learner(
        made, source, lambda: source.lived * policy.steps,
        policy.on(walk, lambda state, noise: actor.act(state, noise, 0)),
    )  # fmt: skip


BUILDERS: dict[str, Callable[[ChunkPolicy, Maze2D, Settings], Learner]] = {
    "dppo": by_dppo,
    "fpo": by_fpo,
    "dsrl": by_dsrl,
}
