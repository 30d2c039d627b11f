"""Every format that can be opened, from files that the tests write; and what is wrong with a file, in one line."""

from __future__ import annotations

import importlib
import inspect
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import zarr
from minari.data_collector import EpisodeBuffer

import kedge.data
from data.logs import logs_of
from kedge.data import Trajectories
from kedge.data.columns import WHOLE, WORDS
from kedge.errors import InputError

N = 12
RNG = np.random.default_rng(0)
O, A, R = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2)), RNG.normal(size=N)  # noqa: E741

HOLE = O.copy()
HOLE[2, 1] = np.nan


def flags(*steps: int) -> np.ndarray:
    found = np.zeros(N, bool)
    found[list(steps)] = True
    return found


def holds(logs: Trajectories, ends: list[int], rewarded: bool = True) -> None:
    np.testing.assert_array_equal(logs.observations, O.astype(np.float32))
    np.testing.assert_array_equal(logs.actions, A.astype(np.float32))
    if rewarded:
        np.testing.assert_array_equal(logs.rewards, R.astype(np.float32))
    assert logs.rewarded == rewarded
    assert logs.ends.tolist() == ends


# --- npz


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        ({"observations": O, "actions": A, "rewards": R, "ends": [5, N]}, [5, N]),
        ({"obs": O, "action": A, "reward": R[:, None], "episode_ends": np.array([5, 9, N])}, [5, 9, N]),
        ({"states": O, "acts": A, "rews": R, "dones": flags(3, N - 1)}, [4, N]),
        ({"state": O, "act": A, "rew": R, "terminals": flags(3), "timeouts": flags(6)}, [4, 7, N]),
        ({"observation": O, "actions": A, "rewards": R, "terminated": flags(0), "truncated": flags()}, [1, N]),
    ],
)
def test_npz_by_any_usual_name(tmp_path: Path, names: dict[str, Any], ends: list[int]) -> None:
    holds(kedge.data.open(npz(tmp_path / "my.npz", **names)), ends)


def test_npz_by_unusual_names_and_with_more_columns(tmp_path: Path) -> None:
    goal, odd = RNG.integers(0, 9, (N, 2)), np.zeros(3)
    path = npz(tmp_path / "my.npz", x=O, u=A, rewards=R, ends=[N], goal=goal, odd=odd, words=np.array(["a"] * N))
    logs = kedge.data.open(str(path), keys={"observations": "x", "actions": "u"})
    holds(logs, [N])
    assert list(logs.extra) == ["goal"]
    np.testing.assert_array_equal(logs.extra["goal"], goal)
    assert logs.provenance == {"from": "my.npz", "format": "npz"}


def test_npz_of_one_stream_and_of_discrete_actions(tmp_path: Path) -> None:
    path = npz(tmp_path / "my.npz", obs=O, actions=np.arange(N))
    logs = kedge.data.open(path, one_stream=True)
    assert logs.ends.tolist() == [N]
    assert logs.actions.tolist() == [[float(i)] for i in range(N)]


NO_NAMES = ("goal-xy", "2d", "where", "finite", "provenance", "cls", "meta")


def test_an_array_whose_name_can_name_no_column_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    path = npz(tmp_path / "my.npz", obs=O, actions=A, rewards=R, ends=[N], goal=O, **dict.fromkeys(NO_NAMES, A))
    logs = kedge.data.open(path)
    holds(logs, [N])
    assert list(logs.extra) == ["goal"]
    said = "goal-xy, 2d, where, finite, provenance, cls, meta (no names that further columns can have)"
    assert logs.provenance == {"from": "my.npz", "format": "npz", "left out": said}
    assert kedge.data.open(logs.save(tmp_path / "kept")).provenance["left out"] == said


def test_every_argument_of_trajectories_is_a_word_that_names_no_column() -> None:
    assert {"cls", *inspect.signature(Trajectories.of).parameters} - {"extra"} <= {*WHOLE, *WORDS}


def test_of_two_arrays_of_one_name_the_one_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    """`keys` names another array as the observations; of `info/goal` and `info.goal` the first in the file is kept."""
    path = hdf5(
        tmp_path / "my.hdf5", x=O, actions=A, rewards=R, ends=[N], observations=A, **{"info.goal": O, "info/goal": A}
    )
    logs = kedge.data.open(path, keys={"observations": "x"})
    holds(logs, [N])
    assert list(logs.extra) == ["info.goal"]
    np.testing.assert_array_equal(logs.extra["info.goal"], A)
    assert logs.provenance["left out"].startswith("info.goal, observations (")


def test_what_is_no_array_in_an_npz_is_passed_over(tmp_path: Path) -> None:
    path = npz(tmp_path / "my.npz", obs=O, actions=A, rewards=R, ends=[N])
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("readme.txt", "made by hand")
    holds(kedge.data.open(path), [N])


# --- HDF5


def hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip" if np.ndim(values) else None)
    return path


def test_d4rl_ends_at_terminals_and_timeouts(tmp_path: Path) -> None:
    path = hdf5(
        tmp_path / "maze.hdf5",
        observations=O,
        actions=A,
        rewards=R,
        terminals=flags(2),
        timeouts=flags(7),
        next_observations=O,
        **{"infos/goal": O[:, :2], "metadata/algorithm": "planner"},
    )
    logs = kedge.data.open(path)
    holds(logs, [3, 8, N])
    assert list(logs.extra) == ["infos.goal"]
    np.testing.assert_array_equal(logs.extra["infos.goal"], O[:, :2])
    assert kedge.data.open(logs.save(tmp_path / "kept")).digest == logs.digest


@pytest.mark.parametrize("names", [["terminals"], ["timeouts"], ["terminals", "timeouts"]])
def test_d4rl_with_flags_that_mark_nothing_is_one_stream(names: list[str], tmp_path: Path) -> None:
    path = hdf5(tmp_path / "maze.h5", observations=O, actions=A, rewards=R, **dict.fromkeys(names, flags()))
    holds(kedge.data.open(path), [N])


def test_d4rl_without_flags_is_one_stream_only_if_that_is_said(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "maze.h5", observations=O, actions=A, rewards=R)
    with pytest.raises(InputError, match=r"maze.h5: nothing says where episodes end; .*with one_stream=True$"):
        kedge.data.open(path)
    holds(kedge.data.open(path, one_stream=True), [N])


def test_flags_count_though_one_stream_is_said(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "maze.h5", observations=O, actions=A, rewards=R, timeouts=flags(7))
    holds(kedge.data.open(path, one_stream=True), [8, N])


def test_hdf5_with_an_array_without_a_shape(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "maze.h5", observations=O, actions=A, rewards=R, terminals=flags())
    with h5py.File(path, "a") as file:
        file["nothing"] = h5py.Empty("f")
    holds(kedge.data.open(path), [N])


# --- zarr


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_of_diffusion_policy(tmp_path: Path, version: Any) -> None:
    root = zarr.open_group(str(tmp_path / "pusht.zarr"), mode="w", zarr_format=version)
    data, meta = root.create_group("data"), root.create_group("meta")
    for name, values in {"state": O, "action": A, "keypoint": RNG.normal(size=(N, 9, 2))}.items():
        data.create_array(name, data=values)
    meta.create_array("episode_ends", data=np.array([4, N]))
    logs = kedge.data.open(tmp_path / "pusht.zarr")
    holds(logs, [4, N], rewarded=False)
    assert logs.extra["keypoint"].shape == (N, 9, 2)


def test_flat_zarr(tmp_path: Path) -> None:
    root = zarr.open_group(str(tmp_path / "flat"), mode="w")
    for name, values in {"observations": O, "actions": A, "rewards": R, "dones": flags(4)}.items():
        root.create_array(name, data=values)
    holds(kedge.data.open(tmp_path / "flat"), [5, N])


def test_zarr_whose_arrays_are_called_data_and_meta(tmp_path: Path) -> None:
    root = zarr.open_group(str(tmp_path / "flat"), mode="w")
    for name, values in {"data": O, "action": A, "reward": R, "meta": np.zeros(3)}.items():
        root.create_array(name, data=values)
    holds(kedge.data.open(tmp_path / "flat", keys={"observations": "data"}, one_stream=True), [N])
    with pytest.raises(InputError, match=r"flat: no observations; it holds .*data"):
        kedge.data.open(tmp_path / "flat")


# --- Minari


LENGTHS = [3, 9]


def cut(values: np.ndarray) -> list[np.ndarray]:
    """Each episode's rows, and one more: what is seen after the last action."""
    starts = np.cumsum([0, *LENGTHS[:-1]])
    beyond = np.full((1, *values.shape[1:]), 99.0)
    return [np.concatenate([values[s : s + n], beyond]) for s, n in zip(starts, LENGTHS, strict=True)]


def box(*shape: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-100, 100, shape, np.float64)


def dataset(home: Path, name: str, observations: list[Any], space: gymnasium.Space[Any], actions: Any = None) -> Path:
    """A Minari data set, made with Minari's own hands."""
    actions = [part[:-1] for part in cut(A)] if actions is None else actions
    buffers = [
        EpisodeBuffer(
            id=e,
            observations=observations[e],
            actions=actions[e],
            rewards=list(cut(R)[e][:-1]),
            terminations=[False] * n,
            truncations=[False] * (n - 1) + [True],
        )
        for e, n in enumerate(LENGTHS)
    ]
    act = box(2) if np.ndim(actions[0]) == 2 else gymnasium.spaces.Discrete(9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari would like to know the environment
        minari.create_dataset_from_buffers(
            name,
            buffers,
            observation_space=space,
            action_space=act,
        )
    return home / name


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_minari_by_name_and_by_path(home: Path) -> None:
    path = dataset(home, "ours/boxes-v0", cut(O), box(3))
    for source in ("ours/boxes-v0", path, path / "data"):
        logs = kedge.data.open(source)
        holds(logs, [3, N])
    assert logs.provenance["from"] == "ours/boxes-v0"


def test_minari_with_goals(home: Path) -> None:
    """PointMaze's dictionary: the entry `observation` is the observation, the others are columns."""
    goal, reached = RNG.normal(size=(2, N, 2))
    parts = zip(cut(O), cut(goal), cut(reached), strict=True)
    seen = [{"observation": o, "desired_goal": g, "achieved_goal": r} for o, g, r in parts]
    space = gymnasium.spaces.Dict({"observation": box(3), "desired_goal": box(2), "achieved_goal": box(2)})
    dataset(home, "pointmaze-v1", seen, space)
    logs = kedge.data.open("pointmaze-v1")
    holds(logs, [3, N])
    assert list(logs.extra) == ["achieved_goal", "desired_goal"]
    np.testing.assert_array_equal(logs.extra["desired_goal"], goal)


def test_minari_with_names_and_kinds_that_no_column_has(home: Path) -> None:
    others = {"where": box(2), "goal-xy": box(2), "observations": box(2), "goal": box(2)}
    said = gymnasium.spaces.Text(9)
    seen = [
        {"observation": o, **{name: np.zeros((len(o), 2)) for name in others}, "said": ["hello"] * len(o)}
        for o in cut(O)
    ]
    dataset(home, "odd-v0", seen, gymnasium.spaces.Dict({"observation": box(3), **others, "said": said}))
    logs = kedge.data.open("odd-v0")
    holds(logs, [3, N])
    assert list(logs.extra) == ["goal"]
    assert logs.provenance["left out"] == "goal-xy, observations, where (no names that further columns can have)"


def test_minari_with_actions_that_belong_to_the_episode_before_is_refused(home: Path) -> None:
    """All in all there are as many as rewards."""
    path = dataset(home, "boxes-v0", cut(O), box(3))
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        for name, rows in (("episode_0", A[:4]), ("episode_1", A[4:])):
            del file[f"{name}/actions"]
            file[f"{name}/actions"] = rows
    with pytest.raises(InputError, match=r"episode 0: 3 rewards, but 4 rows of actions$"):
        kedge.data.open(path)


def test_minari_of_other_dictionaries_and_discrete_actions(home: Path) -> None:
    """Laid end to end by sorted names: `a`, then `b.c`, though the space may say otherwise."""
    seen = [{"b": {"c": o[:, 1:]}, "a": o[:, :1]} for o in cut(O)]
    space = gymnasium.spaces.Dict({"b": gymnasium.spaces.Dict({"c": box(2)}), "a": box(1)})
    dataset(home, "dict-v0", seen, space, [np.arange(n) for n in LENGTHS])
    logs = kedge.data.open("dict-v0")
    np.testing.assert_array_equal(logs.observations, O.astype(np.float32))
    assert logs.actions[:, 0].tolist() == [*range(3), *range(9)]


def test_minari_of_images_is_refused(home: Path) -> None:
    images = [np.zeros((n + 1, 4, 4, 2)) for n in LENGTHS]
    dataset(home, "images-v0", images, box(4, 4, 2))
    with pytest.raises(
        InputError, match=r"episode 0: observations must be rows of numbers, got float64 \[4, 4, 4, 2\]$"
    ):
        kedge.data.open("images-v0")


def test_a_minari_name_that_is_not_there(home: Path) -> None:
    dataset(home, "ours/boxes-v0", cut(O), box(3))
    with pytest.raises(
        InputError, match=r"boxs-v0: no such file.*; no Minari .* but ours/boxes-v0: try `minari download"
    ):
        kedge.data.open("ours/boxs-v0")


# --- what is wrong, in one line


def text(path: Path) -> Path:
    path.write_text("hello")
    return path


def altered(path: Path, old: bytes, new: bytes) -> Path:
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    return path


def renamed(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


def plain(path: Path) -> Path:
    np.save(path / "x.npy", O)
    return renamed(path / "x.npy", "x.npz")


def squeezed(path: Path) -> Path:
    """Its first array begins with a block of a kind that does not exist."""
    np.savez_compressed(path, obs=O, actions=A, ends=[N])
    raw = bytearray(path.read_bytes())
    # After 30 bytes, two of which say how long the name is and two how long the rest of this header.
    raw[30 + sum(int.from_bytes(raw[i : i + 2], "little") for i in (26, 28))] = 255
    path.write_bytes(raw)
    return path


def scrambled(path: Path) -> Path:
    root = zarr.open_group(str(path), mode="w")
    for name, values in {"obs": O, "action": A, "ends": np.array([N])}.items():
        root.create_array(name, data=values)
    for chunk in (path / "obs" / "c").rglob("0"):
        if chunk.is_file():
            chunk.write_bytes(b"nothing")
    return path


def written(path: Path, said: str) -> Path:
    path.parent.mkdir()
    path.write_text(said)
    return path.parent


Make = Callable[[Path], Any]
BAD: dict[str, tuple[Make, str]] = {
    "missing, with near names": (
        lambda p: (npz(p / "maze-large.npz", a=O), p / "maze-larg.npz")[1],
        r"maze-larg.npz: no such file; did you mean maze-large.npz\?$",
    ),
    "no such folder": (lambda p: p / "there" / "x.npz", r"x.npz: no such file; there is no folder .*there either$"),
    "unknown suffix": (
        lambda p: text(p / "x.csv"),
        r"x.csv: unknown suffix '.csv', known are .npz, .hdf5, .h5, .zarr$",
    ),
    "not a data folder": (
        lambda p: p,
        r" is a folder, but no kedge trajectories \(meta.json\), no zarr, no Minari and no LeRobot",
    ),
    "text called npz": (lambda p: text(p / "x.npz"), r"x.npz is no .npz file$|x.npz cannot be read as .npz \("),
    "npz cut short": (
        lambda p: (npz(p / "x.npz", obs=O), (p / "x.npz").write_bytes((p / "x.npz").read_bytes()[:200]), p / "x.npz")[
            2
        ],
        r"x.npz cannot be read as .npz \(",
    ),
    "text called hdf5": (lambda p: text(p / "x.hdf5"), r"x.hdf5 cannot be read as HDF5 \("),
    "text called zarr": (lambda p: text(p / "x.zarr"), r"x.zarr cannot be read as zarr \("),
    "npy called npz": (plain, r"x.npz is no .npz file$"),
    "npz with a damaged array": (
        lambda p: squeezed(p / "x.npz"),
        r"x.npz cannot be read as .npz \(Error -3 while decompressing",
    ),
    "hdf5 with a damaged tree": (
        lambda p: altered(hdf5(p / "x.hdf5", observations=O, actions=A, terminals=R), b"TREE", b"tree"),
        r"x.hdf5 cannot be read as HDF5 \(.*signature",
    ),
    "zarr with a damaged array": (lambda p: scrambled(p / "x.zarr"), r"x.zarr cannot be read as zarr \(.*decompress"),
    "Minari with a list": (
        lambda p: written(p / "x" / "metadata.json", "[]"),
        r"x cannot be read as a Minari data set \('list'",
    ),
    "Minari with nothing": (
        lambda p: written(p / "x" / "metadata.json", "{}"),
        r"x cannot be read as a Minari data set \(AssertionError\)$",
    ),
    "of an unknown user": (
        lambda _: "~there-is-no-such-user/x.npz",
        r"^~there-is-no-such-user/x.npz: no such file; there is no user of that name$",
    ),
    "no observations": (
        lambda p: npz(p / "x.npz", o=O, actions=A, ends=[N]),
        r"x.npz: no observations; it holds o, actions, ends, accepted are observations, .*, or say which with keys=",
    ),
    "no actions": (
        lambda p: hdf5(p / "x.hdf5", observations=O),
        r"x.hdf5: no actions; it holds observations, accepted",
    ),
    "no ends": (
        lambda p: npz(p / "x.npz", obs=O, actions=A),
        r"x.npz: nothing says where episodes end; it holds obs, actions, accepted are ends, .*with one_stream=True$",
    ),
    "wrong length": (
        lambda p: npz(p / "x.npz", obs=O, actions=A[1:], ends=[N]),
        r"x.npz: actions has 11 steps, but observations 12$",
    ),
    "wrong dimensions": (
        lambda p: npz(p / "x.npz", obs=O[:, 0], actions=A, ends=[N]),
        r"x.npz: observations must be \[N, S\], a row of numbers for each step, got \[12\]$",
    ),
    "a single number": (
        lambda p: npz(p / "x.npz", obs=3, actions=A, ends=[N]),
        r"x.npz: observations must be a row of numbers for each step, got a single number$",
    ),
    "flags of another length": (
        lambda p: npz(p / "x.npz", obs=O, actions=A, dones=flags()[1:]),
        r"x.npz: dones must be \[N\], a flag for each of 12 steps, got \[11\]$",
    ),
    "ends out of order": (
        lambda p: npz(p / "x.npz", obs=O, actions=A, ends=[9, 5, N]),
        r"x.npz: ends must ascend from 1 on, but episode 1 ends at 5, after 9$",
    ),
    "empty": (
        lambda p: npz(p / "x.npz", obs=O[:0], actions=A[:0], dones=R[:0]),
        r"x.npz: empty, there is not a single step$",
    ),
    "nan": (
        lambda p: hdf5(p / "x.hdf5", observations=HOLE, actions=A, terminals=flags()),
        r"x.hdf5: observations holds 1 numbers that are infinite or nan, the first at step 2, dimension 1$",
    ),
    "python objects": (
        lambda p: npz(p / "x.npz", obs=np.array([{}] * N, object), actions=A, ends=[N]),
        r"x.npz: obs holds Python objects, which are not read, for they could run code: save plain arrays of numbers$",
    ),
    "words": (
        lambda p: npz(p / "x.npz", obs=np.array([["a"]] * N), actions=A, ends=[N]),
        r"x.npz: observations holds <U1, no numbers$",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_said_in_one_line(what: str, tmp_path: Path) -> None:
    make, said = BAD[what]
    with pytest.raises(InputError, match=said) as caught:
        kedge.data.open(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_keys_are_not_for_minari(home: Path) -> None:
    path = dataset(home, "boxes-v0", cut(O), box(3))
    for source in (path, "boxes-v0"):
        with pytest.raises(InputError, match=r"boxes-v0: keys are for files that others have written, .*Minari's$"):
            kedge.data.open(source, keys={"observations": "x"})


def test_keys_that_are_not_there(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", obs=O, actions=A, ends=[N])
    with pytest.raises(InputError, match=r"x.npz: no 'xs' for observations; it holds obs, actions, ends$"):
        kedge.data.open(path, keys={"observations": "xs"})
    with pytest.raises(
        InputError, match=r"^keys: there is no column 'goals', choose from observations, actions, rewards"
    ):
        kedge.data.open(path, keys={"goals": "obs"})
    with pytest.raises(InputError, match=r"keys are for files that others have written"):
        kedge.data.open(logs_of([4]).save(tmp_path / "logs"), keys={"observations": "obs"})


def test_what_is_not_finite_can_be_opened_on_demand(tmp_path: Path) -> None:
    holes = O.copy()
    holes[0] = np.nan
    path = npz(tmp_path / "x.npz", obs=holes, actions=A, ends=[N])
    assert kedge.data.summary(kedge.data.open(path, finite=False)).nonfinite == {"observations": 3}


@pytest.mark.parametrize(("package", "extra"), [("h5py", "hdf5"), ("zarr", "zarr"), ("minari", "minari")])
def test_an_absent_extra_is_named(package: str, extra: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    paths = {
        "h5py": hdf5(home / "x.hdf5", a=O),
        "zarr": home / "x.zarr",
        "minari": dataset(home, "boxes-v0", cut(O), box(3)),
    }
    zarr.open_group(str(home / "x.zarr"), mode="w")
    real = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(
        InputError, match=rf"^{package}, which reads this, is not installed: pip install 'kedge\[{extra}\]'$"
    ):
        kedge.data.open(paths[package])


def test_an_array_that_is_declared_larger_than_any_memory_is_one_line(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "huge.hdf5", "w") as file:
        file.create_dataset("observations", shape=(10**9, 10**6), dtype="f4", chunks=(1000, 1000))
        file["actions"] = np.zeros((10, 1))
    with pytest.raises(InputError, match=r"huge.hdf5 cannot be read as HDF5 \(Unable to allocate") as caught:
        kedge.data.open(tmp_path / "huge.hdf5")
    assert "\n" not in str(caught.value)
