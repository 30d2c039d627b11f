"""The kitchen's rules and physics, held to hand-computed cases and to gymnasium-robotics' own kitchen."""

from __future__ import annotations

import gc
import importlib.util
import os
import pickle
import resource
import xml.etree.ElementTree as ET
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from kedge.envs import Chores, Kitchen, Kitchens, Simulator, Task, franka
from kedge.envs.chores import CHORES, SETS, done
from kedge.envs.franka import AMPLITUDES, FRAMES, HIGH, LOW, STANDING, STEP, compiled, targets
from kedge.errors import InputError


def wild(steps: int, seed: int = 3) -> np.ndarray:
    """Actions that last ten steps each, some of them outside of [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1.3, 1.3, (-(-steps // 10), 9)).repeat(10, 0)[:steps]


@pytest.mark.parametrize("name", SETS)
def test_gymnasium_has_nothing_to_say(name: str) -> None:
    env = gymnasium.make(f"kedge/Kitchen-{name}-v1").unwrapped
    check_env(env, skip_render_check=True)
    assert isinstance(env, Kitchen)
    assert isinstance(env, Task)
    assert isinstance(env.simulator(2), Simulator)
    assert (env.name, env.horizon) == (f"kitchen-{name}", 280)


def test_without_noise_the_physics_are_gymnasium_robotics_to_the_bit() -> None:
    """Through contacts: the arm is thrown about for 60 steps. Its own positions are 0 to 8 and 18 to 38."""
    from gymnasium_robotics.envs.franka_kitchen import KitchenEnv

    peer = KitchenEnv(tasks_to_complete=list(SETS["partial"]), object_noise_ratio=0.0, robot_noise_ratio=0.0)
    ours = Kitchen("partial", noise=0.0)
    a, b = peer.reset(seed=0)[0]["observation"], ours.reset(seed=0)[0]
    for action in wild(60):
        np.testing.assert_array_equal(b[:30], np.r_[a[:9], a[18:39]])
        a, b = peer.step(action)[0]["observation"], ours.step(action)[0]
    np.testing.assert_array_equal(b[:30], np.r_[a[:9], a[18:39]])
    assert np.abs(b[9:30] - STANDING[9:]).max() > 0.05  # something was hit


def test_amplitudes_and_bounds_are_those_of_the_robots_own_file() -> None:
    """The entry of each joint at its own place; gymnasium-robotics takes the objects' from one place before."""
    found = importlib.util.find_spec("gymnasium_robotics")
    assert found is not None
    file = Path(str(found.origin)).parent / "envs/assets/kitchen_franka/franka_assets/franka_config.xml"
    entries = {node.tag: node.attrib for node in ET.parse(file).getroot()}

    def numbers(what: str, count: int) -> np.ndarray:
        return np.array([entries[f"qpos{i}"][what].split() for i in range(count)], dtype=float)

    np.testing.assert_array_equal(AMPLITUDES, numbers("pos_noise_amp", 30)[:, 0])
    np.testing.assert_array_equal(np.stack([LOW, HIGH], 1), numbers("pos_bound", 9))
    np.testing.assert_array_equal(numbers("vel_bound", 9), [[-franka.FASTEST, franka.FASTEST]] * 9)


def test_what_is_seen_is_the_truth_and_a_tenth_of_the_amplitudes() -> None:
    """2,000 looks at the start. Of U(-1, 1): at most 1, standard deviation 1/sqrt(3) with s.e. 1.0%; five of these."""
    kitchens = Kitchens("partial", 2000)
    seen = kitchens.reset(range(2000))
    np.testing.assert_array_equal(seen[:, 30:], np.tile(Chores.of("partial").goal, (2000, 1)))
    noise = (seen[:, :30] - STANDING) / (0.1 * AMPLITUDES)
    assert 0.99 < np.abs(noise).max() < 1 + 1e-9
    np.testing.assert_allclose(noise.std(0), 3**-0.5, rtol=0.05)
    assert np.abs(np.corrcoef(noise.T) - np.eye(30)).max() < 0.11  # 5 / sqrt(2000)
    # By hand: the arm within 0.01, a knob within 0.00005, the microwave's door within 0.01.
    off = np.abs(seen[:, :30] - STANDING).max(0)
    assert [round(float(off[i]), 5) for i in (0, 11, 22)] == [0.01, 0.00005, 0.01]


def test_the_goal_is_zero_but_for_the_four_chores() -> None:
    partial, mixed = np.zeros(30), np.zeros(30)
    kettle, light = [-0.23, 0.75, 1.62, 0.99, 0, 0, -0.06], [-0.69, -0.05]
    partial[17:19], partial[19], partial[22], partial[23:] = light, 0.37, -0.75, kettle
    mixed[11:13], mixed[17:19], mixed[22], mixed[23:] = [-0.88, -0.01], light, -0.75, kettle
    np.testing.assert_array_equal(Chores.of("partial").goal, partial)
    np.testing.assert_array_equal(Chores.of("complete").goal, partial)
    np.testing.assert_array_equal(Chores.of("mixed").goal, mixed)


def test_a_motor_is_sent_from_what_was_seen_at_twice_the_action() -> None:
    """By hand: 0.1 seen, action 0.5: 1 rad/s for 0.08 s is 0.18. Cut: action 3 as 1, joint 4 at 0, a finger at 0.04."""
    seen = np.array([[0.1, 0, 0, -0.05, 0, 0.02, 0, 0.03, 0.0]])
    action = np.array([[0.5, -1, 3, 1, 0, -1, 0.25, 1, -1]])
    np.testing.assert_allclose(targets(seen, action), [[0.18, -0.16, 0.16, 0, 0, 0, 0.04, 0.04, 0]], atol=1e-15)
    kitchens = Kitchens("partial", 1)
    seen = kitchens.reset([4])[:, :9]
    kitchens.step(np.full((1, 9), 0.5))
    data = kitchens._data[0]
    np.testing.assert_allclose(data.ctrl, np.clip(seen[0] + 0.08, LOW, HIGH), atol=1e-15)
    assert (STEP, FRAMES, compiled().opt.timestep) == (0.08, 40, 0.002)


@pytest.mark.parametrize("chore", CHORES)
def test_a_chore_is_done_within_three_tenths_of_its_goal(chore: str) -> None:
    """By hand: 0.29 away on one axis is done, 0.31 is not, nor 0.22 on each of two, nor the start."""
    places, there = CHORES[chore]
    positions = np.tile(STANDING, (4, 1))
    positions[:3, list(places)] = there
    positions[:2, places[0]] += (0.29, 0.31)
    positions[2, places[0]] -= 0.22
    positions[2, places[-1]] += 0.22
    assert done(chore, positions).tolist() == [True, False, len(places) == 1, False]


def test_rewards_count_what_is_newly_done_and_the_fourth_ends_the_episode() -> None:
    env = Kitchen("partial")
    env.reset(seed=0)
    there, still, earned = STANDING.copy(), np.zeros(9), []
    for chore in ("slide cabinet", "kettle", "bottom burner", "microwave", "light switch"):
        places, goal = CHORES[chore]
        there[list(places)] = goal
        env._one.place(there[None])
        reward, terminated, truncated, info = env.step(still)[1:]
        again = env.step(still)[1]
        earned.append((reward, again, terminated, truncated, len(info["left"])))
    none = (0.0, 0.0, False, False)
    assert earned == [
        (1.0, *none[1:], 3),
        (1.0, *none[1:], 2),
        (*none, 2),
        (1.0, *none[1:], 1),
        (1.0, 0.0, True, False, 0),
    ]
    env._one.place(there[None])
    both = Kitchen(["microwave", "kettle"])
    both.reset(options={"positions": there})
    assert both.step(still)[1:4] == (2.0, True, False)


def test_rewards_look_at_what_is_seen_not_at_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A microwave 0.301 from its goal, at rest, is done whenever its noise, U(-0.01, 0.01), brings it below 0.3: in 45%
    of looks, here 1,000 of them; s.e. 1.6%, five of these. gymnasium-robotics would never reward it.
    """
    kitchens = Kitchens(["microwave"], 1000)
    kitchens.reset(range(1000))
    where = STANDING.copy()
    where[22] = -0.75 + 0.301
    kitchens._now[:, 1:31] = where
    monkeypatch.setattr(Kitchens, "_move", lambda *_: None)
    rewards = kitchens.step(np.zeros((1000, 9)))[1]
    assert rewards.mean() == pytest.approx(0.45, abs=0.08)


def test_scores_are_d4rls_and_the_clock_runs_out() -> None:
    env = Kitchen("mixed", horizon=3)
    assert env.score(np.array([0.0, 1.0, 4.0])).tolist() == [0, 25, 100]
    env.reset(seed=0)
    assert [env.step(np.zeros(9))[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]
    assert env.name == "kitchen-mixed-steps-3"
    assert Kitchen("partial", noise=0.01).name == "kitchen-partial-noise-0.01"
    assert Kitchen(["hinge cabinet"]).name == "kitchen-hingecabinet"


def test_a_copy_is_the_single_kitchen_to_the_bit_on_one_thread_and_on_three() -> None:
    seeds, actions = [3, 1_000_000, 7], np.stack([wild(20, seed) for seed in range(3)], 1)
    runs = []
    for threads in (1, 3):
        kitchens = Kitchens("partial", 3, threads=threads)
        seen = [kitchens.reset(seeds)]
        seen += [kitchens.step(a)[0] for a in actions]
        runs.append(np.stack(seen))
    np.testing.assert_array_equal(*runs)
    env = Kitchen("partial")
    alone = [env.reset(seed=seeds[1])[0]] + [env.step(a)[0] for a in actions[:, 1]]
    np.testing.assert_array_equal(np.stack(alone), runs[0][:, 1])


def test_a_kitchen_goes_on_in_another_process() -> None:
    env = Kitchen("mixed")
    env.reset(seed=2)
    env.step(np.full(9, 0.5))
    copy = pickle.loads(pickle.dumps(env))
    for action in wild(5):
        np.testing.assert_array_equal(env.step(action)[0], copy.step(action)[0])


def grown(resets: int) -> float:
    """Megabytes that a kitchen and its process have grown by over that many episodes of a step each."""
    env = Kitchen("partial")
    for episode in range(resets + 20):
        if episode == 20:
            gc.collect()
            before = _resident()
        env.reset(seed=episode)
        env.step(np.zeros(9))
    gc.collect()
    return _resident() - before


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if os.path.exists("/proc") else 0
    return (pages * resource.getpagesize() if pages else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1e6


def test_resets_leak_nothing() -> None:
    """MuJoCo's data take 57 MB of which some 2 are touched: one forgotten in each reset would be 400."""
    assert grown(200) < 20


@pytest.mark.slow
def test_ten_thousand_resets_leak_nothing() -> None:
    assert grown(10_000) < 20


def test_bad_use_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^no kitchen is called 'partal'; known are .*; did you mean 'partial'\?$"):
        Kitchen("partal")
    with pytest.raises(InputError, match=r"no chore 'ketle'.*did you mean 'kettle'"):
        Chores.of(["ketle"])
    with pytest.raises(InputError, match="each of them once"):
        Chores.of(["kettle", "kettle"])
    kitchens = Kitchens("partial", 2, threads=1)
    with pytest.raises(ValueError, match=r"^Kitchens: 2 copies need as many seeds, got 3$"):
        kitchens.reset([1, 2, 3])
    with pytest.raises(ValueError, match="the action of copy 1 is not finite"):
        kitchens.step(np.array([[0.0] * 9, [np.nan] * 9]))
    with pytest.raises(ValueError, match="at least one copy"):
        Kitchens("partial", 0)
    with pytest.raises(ValueError, match="rgb_array"):
        Kitchen(render_mode="human")
    compiled.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'kedge\[kitchen\]'"):
        compiled()
