"""Windows and pairs: against a loop that reads as the rules do, and against the uniform law."""

from __future__ import annotations

import math
import time
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import nn

import kedge.data
from data.logs import logs_of
from kedge.data import Normaliser, Pairs, Segments, Trajectories
from kedge.data.segments import Runs
from kedge.errors import InputError
from kedge.train import AdamW, Part, Tick, Trainer

LENGTHS = [1, 12, 5, 30, 2, 9]


def tick(step: int, seed: int = 0, turn: int = 0) -> Tick:
    return Tick(step, seed, -1, turn)


def slow_window(
    logs: Trajectories, i: int, last: int, horizon: int, stride: int, rest: list[int], past: int = 0
) -> dict[str, Any]:
    """The rules, point by point."""
    states, actions, valid = [], [], []
    begun = int(logs.starts[logs.starts <= i].max())
    for h in range(-past, horizon):
        step = i + h * stride
        inside = begun <= step <= last
        state = logs.observations[step if inside else last if h > 0 else begun].copy()
        if not inside:
            state[rest] = 0
        states.append(state)
        actions.append(logs.actions[step] if inside else np.zeros(2, np.float32))
        valid.append(inside)
    return {"states": np.stack(states), "actions": np.stack(actions), "valid": np.array(valid)}


def slow_last(logs: Trajectories, i: int, until: str) -> int:
    """The last step of the window from i."""
    end = int(logs.ends[logs.ends > i].min())
    if until == "episode":
        return end - 1
    step = i
    while step < end and not logs.rewards[step] > 0:
        step += 1
    if until == "success":
        return min(step, end - 1)
    while step + 1 < end and logs.rewards[step + 1] > 0:
        step += 1
    return min(step, end - 1)


def slow_steps(logs: Trajectories, i: int) -> float:
    end = int(logs.ends[logs.ends > i].min())
    rewarded = [step - i for step in range(i, end) if logs.rewards[step] > 0]
    return rewarded[0] if rewarded else math.inf


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.integers(2, 8),
    st.integers(1, 5),
    st.sampled_from(["episode", "reward", "success"]),
    st.sampled_from([0.03, 0.3, 0.8]),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_every_window_is_what_the_rules_say(
    lengths: list[int], horizon: int, stride: int, until: str, rewarded: float, seed: int, past: int
) -> None:
    lengths = [*lengths, 2 * stride]
    logs = logs_of(lengths, seed, rewarded)
    logs.rewards[-1] = 1.0
    segments = Segments(logs, horizon, stride, 4, until=until, rest=(2, 3), past=past)
    everywhere = range(len(logs))
    batch = segments.at(np.array(everywhere))
    for i in everywhere:
        wanted = slow_window(logs, i, slow_last(logs, i, until), horizon, stride, [2, 3], past)
        for name, values in wanted.items():
            np.testing.assert_array_equal(batch[name][i].numpy(), values)
    assert batch["steps"].tolist() == [slow_steps(logs, i) for i in everywhere]
    assert batch["start"].tolist() == list(everywhere)


def test_a_run_of_rewards_over_the_end_of_an_episode_is_two() -> None:
    """Steps 3 and 4 are rewarded, with the end of an episode between them."""
    rewards = np.array([0, 0, 0, 1, 1, 0, 1, 1], np.float32)
    batch = Segments(logs_of([4, 4], rewards=rewards), 4, 1, 8, until="reward").at(np.arange(8))
    assert batch["states"][:, -1, 0].tolist() == [3, 3, 3, 3, 4, 7, 7, 7]
    assert batch["steps"].tolist() == [3, 2, 1, 0, 0, 1, 0, 0]


@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 1000))
def test_windows_with_a_drawn_end(horizon: int, stride: int, step: int) -> None:
    logs = logs_of(LENGTHS)
    batch = Segments(logs, horizon, stride, 20, until="random", rest=(2, 3)).next(tick(step))
    for b, i in enumerate(batch["start"].tolist()):
        end = int(logs.ends[logs.ends > i].min())
        furthest = min(end - 1, i + (horizon - 1) * stride)
        # Without rewards in the way, the end shows in the last point: it is the state of the step that was drawn.
        last = int(batch["states"][b, -1, 0])
        assert min(i + 1, end - 1) <= last <= furthest
        for name, values in slow_window(logs, i, last, horizon, stride, [2, 3]).items():
            np.testing.assert_array_equal(batch[name][b].numpy(), values)


def uniformly(seen: np.ndarray, cells: int) -> None:
    """Against the chi-squared quantile of 1e-5."""
    assert seen.min() >= 0
    counts = np.bincount(seen, minlength=cells)
    assert len(counts) == cells
    expected = len(seen) / cells
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-5, cells - 1)


def test_windows_begin_at_any_step_alike() -> None:
    logs = logs_of(LENGTHS)
    segments = Segments(logs, 4, 2, 256, fields=("start",))
    uniformly(np.concatenate([segments.next(tick(s))["start"].numpy() for s in range(60)]), len(logs))


def test_drawn_ends_are_uniform() -> None:
    """Of a window that begins far from its episode's end, and of one that has 3 steps left."""
    logs = logs_of([200])
    segments = Segments(logs, 4, 3, 4096, until="random", fields=("states", "start"))
    batches = [segments.next(tick(s)) for s in range(8)]
    start = np.concatenate([b["start"].numpy() for b in batches])
    ahead = np.concatenate([b["states"][:, -1, 0].numpy() for b in batches]).astype(int) - start
    uniformly(ahead[start < 190] - 1, 9)
    uniformly(ahead[start == 196] - 1, 3)
    assert set(ahead[start == 199]) == {0}


def test_pairs_are_what_they_say() -> None:
    logs = logs_of(LENGTHS)
    pairs = Pairs(logs, (2, 6), 512)
    seen = set()
    for s in range(8):
        batch = pairs.next(tick(s))
        for state, after, k, action in zip(*(batch[n] for n in ("state", "next", "offset", "action")), strict=True):
            i, k = int(state[0]), int(k)
            assert 2 <= k <= 6
            assert int(after[0]) == i + k
            np.testing.assert_array_equal(state.numpy(), logs.observations[i])
            np.testing.assert_array_equal(after.numpy(), logs.observations[i + k])
            np.testing.assert_array_equal(action.numpy(), logs.actions[i])
            seen.add((i, k))
    ends = {i: int(logs.ends[logs.ends > i].min()) for i in range(len(logs))}
    assert seen == {(i, k) for i in ends for k in range(2, 7) if i + k < ends[i]}


def test_pairs_are_uniform() -> None:
    """The first step over all that have room for the smallest offset; the offset over what room there is."""
    logs = logs_of([40, 3, 2, 20])
    pairs = Pairs(logs, (3, 5), 4096)
    batches = [pairs.next(tick(s)) for s in range(8)]
    first = np.concatenate([b["state"][:, 0].numpy() for b in batches]).astype(int)
    offset = np.concatenate([b["offset"].numpy() for b in batches]).astype(int)
    able = np.array([*range(37), *range(45, 62)])
    assert np.isin(first, able).all()
    uniformly(np.searchsorted(able, first), len(able))
    uniformly(offset[first < 34] - 3, 3)
    uniformly(offset[first == 35] - 3, 2)


def test_pairs_count_positions_from_the_first_state() -> None:
    logs = logs_of(LENGTHS)
    plain, relative = (Pairs(logs, 3, 64, relative=r).next(tick(5)) for r in ((), (1, 3)))
    assert torch.equal(relative["state"][:, [1, 3]], torch.zeros(64, 2))
    assert torch.equal(relative["next"][:, [1, 3]], (plain["next"] - plain["state"])[:, [1, 3]])
    for name in ("state", "next"):
        assert torch.equal(relative[name][:, [0, 2]], plain[name][:, [0, 2]])
    assert torch.equal(relative["action"], plain["action"])


def test_states_are_normalised_after_they_come_to_rest() -> None:
    logs = logs_of(LENGTHS)
    normaliser = Normaliser.fit(logs, "limits")
    raw = Segments(logs, 6, 3, 64, rest=(2,)).next(tick(0))
    batch = Segments(logs, 6, 3, 64, rest=(2,), normaliser=normaliser).next(tick(0))
    assert torch.equal(batch["states"], normaliser(raw["states"]))
    at_rest = ((0 - normaliser.shift) / normaliser.scale)[2]
    assert (~raw["valid"]).any()
    assert torch.equal(batch["states"][..., 2][~raw["valid"]], at_rest.expand(int((~raw["valid"]).sum())))


def test_a_normaliser_that_changes_later_changes_no_batch() -> None:
    logs = logs_of(LENGTHS)
    normaliser = Normaliser.fit(logs)
    segments = Segments(logs, 4, 2, 16, normaliser=normaliser)
    before = segments.next(tick(0))["states"]
    normaliser.scale.mul_(2)
    assert torch.equal(segments.next(tick(0))["states"], before)


def test_fields_are_what_was_asked_for() -> None:
    logs = logs_of(LENGTHS, goal=np.arange(59 * 2).reshape(59, 2))
    batch = Segments(logs, 4, 2, 8, fields=("states", "goal", "start")).next(tick(0))
    assert list(batch) == ["states", "goal", "start"]
    last = [int(logs.ends[logs.ends > i].min()) - 1 for i in batch["start"].tolist()]
    rows = np.minimum(batch["start"].numpy()[:, None] + 2 * np.arange(4), np.array(last)[:, None])
    np.testing.assert_array_equal(batch["goal"].numpy(), logs.extra["goal"][rows].astype(np.float32))
    unrewarded = logs_of(LENGTHS, rewards=None)
    assert list(Segments(unrewarded, 4, 2, 8).next(tick(0))) == ["states", "actions", "valid", "start"]
    with pytest.raises(InputError, match=r"^rewards are needed, but the data holds only observations, actions$"):
        Segments(unrewarded, 4, 2, 8, fields=("steps",))
    with pytest.raises(
        InputError, match=r"^no column 'goals' in the data: it holds observations, actions, rewards, goal$"
    ):
        Segments(logs, 4, 2, 8, fields=("goals",))


def sources(logs: Trajectories) -> list[Any]:
    segments = [Segments(logs, 5, 3, 32, until=u, rest=(1,), seed=4) for u in ("episode", "reward", "random")]
    return [*segments, Pairs(logs, (1, 4), 32, relative=(0,), seed=4)]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("which", range(4))
def test_a_batch_follows_from_the_tick(which: int) -> None:
    one, other = (sources(logs_of(LENGTHS))[which] for _ in range(2))
    batches = [one.next(tick(s)) for s in range(3)]
    assert equal(other.next(tick(2)), batches[2])
    assert equal(one.next(tick(0)), batches[0])
    different = [one.next(t) for t in (tick(1), tick(0, seed=1), tick(0, turn=1))]
    other.seed = 5
    for batch in (*different, other.next(tick(0))):
        assert not equal(batch, batches[0])


@pytest.mark.parametrize("which", range(4))
def test_mapped_from_disk_and_held_on_a_device_they_are_the_same(which: int, tmp_path_factory: Any) -> None:
    logs = logs_of(LENGTHS)
    mapped = kedge.data.open(logs.save(tmp_path_factory.mktemp("logs") / "x"))
    batch = sources(logs)[which].next(tick(7))
    assert equal(sources(mapped)[which].next(tick(7)), batch)
    held = Segments(logs, 5, 3, 32, until="reward", rest=(1,), seed=4, device="cpu")
    if which == 1:
        assert equal(held.next(tick(7)), batch)


@pytest.mark.parametrize("kind", [">f8", ">i4", np.longdouble, bool], ids=str)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_fields_of_types_that_torch_does_not_know(kind: Any, device: str | None) -> None:
    """Bytes in the other order, long doubles: a batch is in float32, as of any other column."""
    goal = (np.arange(59 * 2).reshape(59, 2) % 7).astype(kind)
    batch = Segments(logs_of(LENGTHS, goal=goal), 4, 2, 8, fields=("goal",), device=device).at(np.array([40]))
    assert batch["goal"].dtype == torch.float32
    np.testing.assert_array_equal(batch["goal"][0].numpy(), goal[[40, 42, 44, 46]].astype(np.float32))


def test_columns_are_held_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = logs_of(LENGTHS)
    batch = Segments(logs, 5, 3, 32, device="cpu").next(tick(7))
    monkeypatch.setattr("kedge.data.columns.CHUNK", 4)
    assert equal(Segments(logs, 5, 3, 32, device="cpu").next(tick(7)), batch)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("rewarded", [0.0, 0.1, 0.7, 1.0])
def test_runs_of_rewards_do_not_depend_on_chunks(chunk: int, rewarded: float) -> None:
    rewards = np.append(0.0, (np.random.default_rng(0).random(40) < rewarded).astype(np.float32))
    good = [0, *(rewards > 0).astype(int), 0]
    runs = Runs(rewards, chunk)
    assert runs.first.tolist()[:-1] == [i for i in range(41) if good[i + 1] and not good[i]]
    assert runs.last.tolist()[:-1] == [i for i in range(41) if good[i + 1] and not good[i + 2]]


def test_runs_of_rewards_take_no_memory_for_each_step() -> None:
    """4 million steps, all rewarded, are one run; what is held is a few chunks of 65,536 flags and numbers."""
    tracemalloc.start()
    runs = Runs(np.broadcast_to(np.float32(1), 1 << 22))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert runs.first.tolist()[:-1] == [0]
    assert runs.last.tolist()[:-1] == [(1 << 22) - 1]
    assert peak < 4 << 20


def test_batches_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = logs_of(LENGTHS, rewarded=0.5)
    whole = Segments(logs, 5, 3, 8, until="reward").at(np.arange(59))
    monkeypatch.setattr("kedge.data.segments.Runs", partial(Runs, chunk=4))
    assert equal(Segments(logs, 5, 3, 8, until="reward").at(np.arange(59)), whole)


def test_a_killed_run_takes_up_its_batches(tmp_path: Any) -> None:
    """Stopped after 6 of 12 steps and taken up by another process' objects: the same weights, bit for bit."""

    def run(name: str, steps: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Linear(4, 2)

        def loss(batch: Any, _: Tick) -> Any:
            return (net(batch["states"]) - batch["actions"]).square().mean((1, 2)), {}

        part = Part(net, loss, AdamW(lr=1e-2))
        source = Segments(logs_of(LENGTHS), 5, 3, 32, until="random")
        trainer = Trainer([part], source, steps, tmp_path / name, progress=False)
        trainer.train()
        return trainer.weights()

    run("a", 6)
    resumed, whole = run("a", 12), run("b", 12)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_what_is_saved_belongs_to_the_same_batches() -> None:
    logs = logs_of(LENGTHS)
    saved = Segments(logs, 4, 2, 16, normaliser=Normaliser.fit(logs)).state()
    Segments(logs, 4, 2, 16, normaliser=Normaliser.fit(logs)).load(saved)
    with pytest.raises(InputError, match=r"^Segments: the saved run drew other batches \(stride: 2 there, 3 here\)$"):
        Segments(logs, 4, 3, 16, normaliser=Normaliser.fit(logs)).load(saved)
    with pytest.raises(InputError, match=r"other batches \(data: "):
        Segments(logs_of([59]), 4, 2, 16, normaliser=Normaliser.fit(logs)).load(saved)
    with pytest.raises(InputError, match=r"other batches \(normaliser: "):
        Segments(logs, 4, 2, 16, normaliser=Normaliser.fit(logs, "limits")).load(saved)
    with pytest.raises(InputError, match=r"^Pairs: the saved run drew other batches \(offsets: \[1, 3\] there"):
        Pairs(logs, 2, 8).load(Pairs(logs, (1, 3), 8).state())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"horizon": 1}, r"Segments: a window has at least 2 points, got horizon=1"),
    ({"stride": 0}, r"Segments: the stride must be at least 1 step, got 0"),
    ({"stride": 16}, r"Segments: the longest episode has 30 steps, less than two strides of 16: .*"),
    ({"batch_size": 0}, r"Segments: the batch size must be at least 1, got 0"),
    ({"until": "goal"}, r"Segments: unknown until='goal', choose one of episode, reward, random, success"),
    (
        {"normaliser": Normaliser(torch.zeros(1), torch.ones(1))},
        r"Segments: the normaliser is for 1 dimensions, but an observation has 4: fit another",
    ),
    ({"rest": (4,)}, r"Segments: rest names dimension 4, but an observation has 0 to 3"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[said[10:40] for _, said in BAD])
def test_bad_windows_are_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}$"):
        Segments(logs_of(LENGTHS), **(dict[str, Any](horizon=4, stride=2, batch_size=8) | change))


def test_windows_until_a_reward_need_one() -> None:
    with pytest.raises(InputError, match=r"^Segments: the data earns no positive reward anywhere, so no window"):
        Segments(logs_of(LENGTHS, rewarded=0.0), 4, 2, 8, until="reward")
    with pytest.raises(InputError, match=r"^Segments: the data carries no rewards, so no window"):
        Segments(logs_of(LENGTHS, rewards=None), 4, 2, 8, until="reward")


def test_bad_pairs_are_refused_in_one_line() -> None:
    logs = logs_of([3, 5])
    with pytest.raises(InputError, match=r"^Pairs: offsets must be a range of at least 1 step, got 0 to 2$"):
        Pairs(logs, (0, 2), 4)
    with pytest.raises(InputError, match=r"^Pairs: offsets must be a range of at least 1 step, got 3 to 2$"):
        Pairs(logs, (3, 2), 4)
    with pytest.raises(InputError, match=r"^Pairs: no two steps lie 5 apart, for the longest episode has 5 steps$"):
        Pairs(logs, 5, 4)
    with pytest.raises(InputError, match=r"^Pairs: relative names dimension -1"):
        Pairs(logs, 1, 4, relative=(-1,))


def test_a_batch_takes_milliseconds_at_most() -> None:
    """64 windows of 32 points from 300,000 steps: some 0.3 ms, here with the checks of every call on top."""
    segments = Segments(logs_of([1000] * 300), 32, 15, 64, until="reward", rest=(2, 3))
    took = []
    for s in range(20):
        begin = time.perf_counter()
        segments.next(tick(s))
        took.append(time.perf_counter() - begin)
    assert np.median(took) < 0.05


def test_windows_that_end_at_a_success_begin_shortly_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows from which a success comes within 7 steps of their episode are drawn, alike, and no others."""
    monkeypatch.setattr("kedge.data.segments.WITHIN", 7)
    logs = logs_of(LENGTHS, seed=2, rewarded=0.0)
    ends = logs.ends.tolist()
    for row in (4, 5, 12, 30, 31, 40, 55, int(ends[-1]) - 1):
        logs.rewards[row] = 1.0
    segments = Segments(logs, 4, 2, 512, until="success")
    counted = np.zeros(len(logs), int)
    for step in range(200):
        np.add.at(counted, segments.next(tick(step))["start"].numpy(), 1)
    runs = Runs(logs.rewards)
    after = np.append(False, logs.rewards[:-1] > 0)
    wanted = []
    for i in range(len(logs)):
        begun = logs.rewards[i] > 0 and after[i] and i - 1 not in (np.array(ends) - 1)
        wanted.append(slow_steps(logs, i) <= 7 and not begun)
    assert (counted > 0).tolist() == wanted
    some = counted[np.array(wanted)]
    expected = some.sum() / len(some)
    assert float(((some - expected) ** 2 / expected).sum()) < chi2.ppf(0.999, len(some) - 1)
    assert len(runs.first) > 3


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_returns_are_what_is_still_to_come_in_the_episode(discount: float) -> None:
    logs = logs_of([7, 1, 12], rewarded=0.3)
    windows = Segments(logs, 3, 2, 8, fields=["states", "returns"], discount=discount)
    found = windows.at(np.arange(20))["returns"].tolist()
    for i, end in enumerate([7] * 7 + [8] + [20] * 12):
        assert found[i] == pytest.approx(sum(discount**k * float(r) for k, r in enumerate(logs.rewards[i:end])))
    other = Segments(logs, 3, 2, 8, fields=["states", "returns"], discount=0.5)
    with pytest.raises(InputError, match=r"drew other batches \(discount: "):
        windows.load(other.state())
