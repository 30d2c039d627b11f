"""Policies that denoise chunks of actions: what they learn from, what they are told, how they act."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kedge import Cond, Denoiser, Walk, evaluate, grids, solvers
from kedge.data import Normaliser, Trajectories
from kedge.errors import InputError
from kedge.fit import DenoisingLoss
from kedge.paths import Trig
from kedge.policy import ActionChunks, Chunked, ChunkPolicy
from kedge.rl.replay import World
from kedge.train import AdamW, Tick, Trainer

PATH = Trig(sigma_data=1.0)
SEEN, DONE = Normaliser(torch.tensor([1.0]), torch.tensor([2.0])), Normaliser(torch.zeros(1), torch.tensor([0.5]))


def logs(episodes: int = 3, steps: int = 7) -> Trajectories:
    """Observation 10 e + k, action (10 e + k) / 100."""
    seen = np.concatenate([10.0 * e + np.arange(steps) for e in range(episodes)])[:, None]
    return Trajectories.of(seen, seen / 100, steps * np.arange(1, episodes + 1))


class Told(nn.Module):
    """Denoises to what it is told: entry i of a chunk is the observation, less i tenths."""

    def __init__(self) -> None:
        super().__init__()
        self.path = PATH
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor, t: Any, cond: Cond) -> Tensor:
        """The estimate."""
        self.asked.append(cond.fields["observation"])
        return (cond.fields["observation"] - 0.1 * torch.arange(x.shape[1]))[..., None].to(x)


def policy(execute: int | None = None, **options: Any) -> ChunkPolicy:
    return ChunkPolicy(Walk(Told(), solvers.DDIM(), grids.LogSNR(2)), (4, 1), SEEN, DONE, execute, **options)


def test_a_batch_is_what_was_done_after_what_was_seen() -> None:
    batch = ActionChunks(logs(), 3, 64, SEEN, DONE).next(Tick(0, 0))
    seen = batch["observation"][:, 0] * 2 + 1
    following = seen[:, None] + torch.arange(3)
    there = (seen % 10)[:, None] + torch.arange(3) < 7
    done = torch.where(there, following / 100, 0.0) / 0.5
    torch.testing.assert_close(batch["x"][..., 0], done)
    assert len(seen.unique()) > 15
    assert not bool(there.all()), "some windows reach past an end"


def test_acting_tells_and_undoes() -> None:
    made = policy()
    actions = made.draw(np.array([[1.4], [0.0]]), seeds=3)
    told = (np.array([1.4, 0.0]) - 1) / 2
    np.testing.assert_allclose(actions[..., 0], 0.5 * (told[:, None] - 0.1 * np.arange(4)), atol=1e-6)
    wide = policy().draw(np.array([[9.0]]), seeds=3)
    assert wide.max() == 1.0
    assert policy(limit=None).draw(np.array([[9.0]]), seeds=3).max() == pytest.approx(2.0)


@pytest.mark.parametrize("execute", [None, 1, 3])
def test_a_chunk_is_done_before_the_next_is_drawn(execute: int | None) -> None:
    made = policy(execute)
    controller, denoiser = made.controller(), made.walk.denoiser
    controller.reset([5, 6])
    each, told = 4 if execute is None else execute, np.zeros((2, 1))
    for step in range(9):
        seen = np.array([[0.1 * step], [-0.1 * step]])
        if step % each == 0:
            told = seen
        found = controller.act(seen, np.ones(2, bool))
        np.testing.assert_allclose(found, 0.5 * ((told - 1) / 2 - 0.1 * (step % each)), atol=1e-6)
    assert len(denoiser.asked) == 2 * -(-9 // each)


class Noisy(nn.Module):
    """Whose samples are random."""

    def __init__(self) -> None:
        super().__init__()
        self.path = PATH

    def forward(self, x: Tensor, t: Any, cond: Cond) -> Tensor:
        """The estimate."""
        return 0.5 * x / (1 + PATH.sigma(t))


def test_an_episode_acts_by_its_seed_whoever_is_beside_it() -> None:
    made = ChunkPolicy(Walk(Noisy(), solvers.DDPM(), grids.LogSNR(3)), (2, 1), SEEN, DONE, limit=None)
    three, one = made.controller(), made.controller()
    three.reset([5, 6, 7])
    one.reset([7])
    acted = []
    for step in range(6):
        active = np.array([step < 3, True, True])
        many = three.act(np.zeros((3, 1)), active)
        np.testing.assert_allclose(one.act(np.zeros((1, 1)), np.ones(1, bool))[0], many[2], rtol=1e-5, atol=1e-6)
        acted.append(many[1, 0])
    assert len(set(acted)) == 6, "each chunk has noise of its own"


class Still:
    """One number that never moves; it is solved by an action within .15 of .3."""

    name, horizon, count = "still", 8, 0

    def simulator(self, count: int) -> Still:
        """That many."""
        self.count = count
        return self

    def reset(self, seeds: Any) -> np.ndarray:
        """At rest."""
        return np.zeros((len(seeds), 2))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The reward."""
        return np.zeros((len(actions), 2)), (np.abs(actions[:, 0] - 0.3) < 0.15).astype(float)

    def score(self, returns: np.ndarray) -> np.ndarray:
        """As they are."""
        return returns


class Small(nn.Module):
    """One layer for each part."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 32), nn.SiLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Of x's shape."""
        return self.layers(torch.cat([x.flatten(1), t[:, None], cond.fields["observation"]], 1)).reshape(x.shape)


def test_what_was_cloned_is_scored_by_the_one_evaluation() -> None:
    rng = np.random.default_rng(0)
    done = 0.3 + 0.05 * rng.standard_normal((600, 1))
    data = Trajectories.of(np.zeros((600, 2)), done, [600])
    seen, scale = Normaliser(torch.zeros(2), torch.ones(2)), Normaliser(torch.zeros(1), torch.ones(1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = Denoiser(Small(), Trig(sigma_data=0.3), "edm")
    source = ActionChunks(data, 2, 128, seen, scale)

    def solved() -> float:
        made = ChunkPolicy(
            Walk(denoiser, solvers.DDPM(), grids.LogSNR(6, 0.02, 5.0)), (2, 1), seen, scale, name="cloned"
        )
        scores = evaluate(made, Still(), 100, hold=None)
        assert scores.label == "cloned"
        return float((scores.solved_at == 0).mean())

    before = solved()
    Trainer([DenoisingLoss(denoiser).part(AdamW(1e-2, warmup=0))], source, 120, progress=False).train()
    assert before < 0.5
    assert solved() > 0.9


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(InputError, match="between 1 and all"):
        policy(5)
    with pytest.raises(InputError, match="between 1 and all"):
        ChunkPolicy(policy().walk, (4,), SEEN, DONE)


def test_its_place_is_kept_with_the_run() -> None:
    one, other = (ActionChunks(logs(), 3, 8, SEEN, DONE, seed=seed) for seed in (0, 1))
    one.load(one.state())
    with pytest.raises(InputError, match="drew other batches"):
        other.load(one.state())


def test_a_walk_may_begin_with_noise_that_is_picked() -> None:
    """Which is told what is seen; at the first level's scale the deterministic walk keeps it."""

    class Kept(Told):
        def forward(self, x: Tensor, t: Any, cond: Cond) -> Tensor:
            self.asked.append(x)
            return torch.zeros_like(x)

    kept = Kept()
    walk = Walk(kept, solvers.DDIM(), grids.LogSNR(2))
    made = policy().on(walk, lambda state, noise: state * torch.arange(4.0))
    made.draw(np.array([[1.4], [0.0]]), seeds=3)
    first = float(PATH.sigma(walk.grid.levels(PATH).t[0]))
    told = (torch.tensor([1.4, 0.0]) - 1) / 2
    torch.testing.assert_close(kept.asked[0][..., 0], first * told[:, None] * torch.arange(4.0))


class Adding:
    """Its state is the sum of what was done; it earns where that is 1 at least."""

    count = 2

    def reset(self, seeds: Any) -> np.ndarray:
        self.at = np.zeros((2, 1))
        return self.at.copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.at = self.at + actions
        return self.at.copy(), (self.at[:, 0] >= 1).astype(float)


@pytest.mark.parametrize(("once", "earned"), [(False, 2.0), (True, 1.0)])
def test_chunks_are_the_actions_of_an_environment(once: bool, earned: float) -> None:
    """To the network's scale: half of what it says is done, and what is seen is told in its own units."""
    world = Chunked(Adding(), policy(execute=3), once=once)
    assert isinstance(world, World)
    np.testing.assert_allclose(world.reset([0, 1]), [[-0.5], [-0.5]])
    seen, reward = world.step(np.array([[1.0, 1.0, 0.2, 9.0], [0.2, 0.2, 0.2, 9.0]]))
    np.testing.assert_allclose(seen[:, 0], (np.array([1.1, 0.3]) - 1) / 2, atol=1e-6)
    assert reward.tolist() == [earned, 0.0]
