"""Batches out of logged behaviour: windows to learn plans from, and pairs to learn what leads from here to there.

Both are sources of the trainer. What is random in a batch follows from the tick alone, so that a run that was killed
goes on with the batches that it would have had, and any batch can be made ahead of its time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from kedge.data.columns import CHUNK, at_once, single
from kedge.data.normaliser import Normaliser
from kedge.data.trajectories import Trajectories
from kedge.errors import InputError
from kedge.noise import MIX_1

Until = Literal["episode", "reward", "random", "success"]
WITHIN = 799
"""Steps before a success in which a window that ends there may begin."""
FIELDS = ("states", "actions", "valid", "steps", "start")
REWARDED = ("steps", "returns")
NEVER = np.iinfo(np.int64).max


class Runs:
    """Where rewards are positive: the first and the last step of every run of them. A run may go on into the next
    episode: whoever asks from a step of one episode looks no further than its end.
    """

    def __init__(self, rewards: np.ndarray, chunk: int = CHUNK) -> None:
        first, last, before = list[np.ndarray](), list[np.ndarray](), False
        for begin in range(0, len(rewards), chunk):
            good = np.concatenate([[before], rewards[begin : begin + chunk] > 0])
            first.append(begin + np.flatnonzero(good[1:] & ~good[:-1]))
            last.append(begin - 1 + np.flatnonzero(good[:-1] & ~good[1:]))
            before = bool(good[-1])
        if before:
            last.append(np.array([len(rewards) - 1]))
        # One entry beyond the last run, so that a search past it finds that nothing comes.
        self.first: np.ndarray = np.concatenate([*first, [NEVER]])
        self.last: np.ndarray = np.concatenate([*last, [NEVER]])

    def next(self, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first rewarded step at or after each, and the last step of its run; `NEVER` where there is none."""
        run = np.searchsorted(self.last, step, "left")
        return np.maximum(self.first[run], step), self.last[run]


class Rows:
    """Rows of some columns, in float32: from where they lie, or from a device to which they were copied once."""

    def __init__(self, logs: Trajectories, names: Sequence[str], device: torch.device | str | None) -> None:
        if missing := [name for name in names if name not in logs.columns]:
            raise InputError(f"no column {missing[0]!r} in the data: it holds {', '.join(logs.columns)}")
        # A view without the subclass that maps from disk: indexing it is quicker.
        self.columns = {name: logs.columns[name].view(np.ndarray) for name in names}
        self.device = torch.device("cpu" if device is None else device)
        self.held = dict[str, Tensor]()
        if device is not None:
            self.held = {name: _held(values, self.device) for name, values in self.columns.items()}

    def take(self, name: str, index: Int64[np.ndarray, "*b"]) -> Tensor:
        """The rows at `index`, in its shape."""
        if name in self.held:
            return self.held[name][torch.from_numpy(index).to(self.device)]
        return torch.from_numpy(single(self.columns[name].take(index, 0)))


def _held(values: np.ndarray, device: torch.device) -> Tensor:
    """A column on a device, in float32, copied there a chunk at a time."""
    held, size = torch.empty(values.shape, device=device), at_once(values)
    for begin in range(0, len(values), size):
        held[begin : begin + size] = torch.from_numpy(single(np.array(values[begin : begin + size])))
    return held


class Drawn:
    """A source whose batches follow from the tick: what is saved of it is only what it belongs to."""

    def __init__(self, logs: Trajectories, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise InputError(f"{type(self).__name__}: the batch size must be at least 1, got {batch_size}")
        self.logs, self.batch_size, self.seed = logs, batch_size, seed

    def uniform(self, tick: Any, columns: int) -> np.ndarray:
        """`[columns, B]` numbers in (0, 1) that belong to the tick and this source's seed."""
        # On the CPU whatever the tick's device: rows are looked up there, and waiting for the device would cost more.
        mine = replace(tick, seed=tick.seed + self.seed * MIX_1, device=torch.device("cpu"))
        return mine.noise(self.batch_size).uniform((self.batch_size, columns), step=tick.step).numpy().T

    def identity(self) -> dict[str, Any]:
        """What the batches are made from and how, as JSON."""
        return {"data": self.logs.digest, "batch_size": self.batch_size, "seed": self.seed}

    def state(self) -> dict[str, Any]:
        """What it belongs to; there is no position, for a batch follows from the tick."""
        return self.identity()

    def load(self, state: dict[str, Any]) -> None:
        """Makes sure that the saved run drew from the same data in the same way."""
        here = self.identity()
        if odd := [f"{k}: {state.get(k)} there, {v} here" for k, v in here.items() if state.get(k) != v]:
            raise InputError(f"{type(self).__name__}: the saved run drew other batches ({'; '.join(odd)})")


class Segments(Drawn):
    """Windows of logged behaviour: `horizon` points that lie `stride` steps apart.

    A window begins at any step i of any episode, each as likely as the other, and has its points at steps i, i +
    stride, i + 2 stride, ... Where it reaches past its end, its points repeat the state of the last step before the
    end, with the dimensions in `rest` (velocities) set to zero: at rest where it ended. So an episode that is shorter
    than a window is padded, and one does not lose the starts near an end. With `past`, so many points more lie before
    step i; before its episode began it stood, in the same way, where it began.

    The end of a window is, with `until`:

    episode  the end of its episode
    reward   the last step of the first run of positive rewards from step i on, the step before the goal is left, if
             that comes before the episode's end; where i lies in such a run, that run counts
    success  the first positive reward; only windows are drawn that begin at one, or so shortly before it that it comes
             within `WITHIN` steps, in the same episode and without another reward between
    random   a step drawn uniformly from i + 1, ..., i + (horizon - 1) stride within the episode: in hindsight any
             state that was reached was a goal, so all data shows how to reach one

    A batch is a dictionary of tensors:

    states   `[B, H, S]`, normalised if there is a normaliser
    actions  `[B, H, A]`, as done at those steps; zero past the end
    valid    `[B, H]`, whether a point lies before the end, and not before the episode
    steps    `[B]`, steps from i to the first positive reward in the episode: 0 where i is rewarded, infinite if none is
    start    `[B]`, the row i
    returns  `[B]`, the rewards from step i to the end of the episode, each discounted by `discount` a step; if `fields`
             names them

    and further columns of the data where `fields` names them: `[B, H, ...]`, repeated past the end.
    """

    def __init__(
        self,
        logs: Trajectories,
        horizon: int,
        stride: int,
        batch_size: int,
        *,
        normaliser: Normaliser | None = None,
        until: str = "episode",
        rest: Sequence[int] = (),
        fields: Sequence[str] | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        discount: float | int = 1.0,
        past: int = 0,
    ) -> None:
        """`fields` are all that the data can give, unless named; `device` keeps the data there, where it fits."""
        super().__init__(logs, batch_size, seed)
        _check_windows(logs, horizon, stride, until, rest)
        _check_normaliser(normaliser, logs)
        if fields is None:
            fields = [field for field in FIELDS if field not in REWARDED or logs.rewarded]
        self.horizon, self.stride, self.until, self.past = horizon, stride, until, past
        self.fields, self.rest = tuple(fields), tuple(rest)
        named = {"states": "observations", "actions": "actions"}
        made = ("valid", "start", *REWARDED)
        columns = {field: named.get(field, field) for field in self.fields if field not in made}
        self._rows, self._columns = Rows(logs, list(columns.values()), device), columns
        self._ends = logs.ends
        needed = until in ("reward", "success") or "steps" in self.fields
        self._runs = Runs(logs.rewards) if needed else None
        self.discount = float(discount)
        self._returns = returns_to_go(logs, self.discount).astype(np.float32) if "returns" in self.fields else None
        self._shift, self._before = self._stretches()
        self._normaliser = None if normaliser is None else deepcopy(normaliser).to(self._rows.device)
        resting = torch.zeros(logs.dimensions.observation, dtype=torch.bool)
        resting[list(self.rest)] = True
        self._resting = resting.to(self._rows.device)
        self._offsets = np.arange(-past, horizon, dtype=np.int64) * stride

    def next(self, tick: Any) -> dict[str, Tensor]:
        """The batch of a tick."""
        u = self.uniform(tick, 2)
        place = (u[0] * self._before[-1]).astype(np.int64)
        start = place + self._shift[np.searchsorted(self._before, place, "right")]
        return self.at(start, self._last(start, u[1]))

    def at(self, start: Int64[np.ndarray, " b"], last: Int64[np.ndarray, " b"] | None = None) -> dict[str, Tensor]:
        """The windows that begin at given rows, and end after row `last` of the same episode (by default where `until`
        says; with `"random"`, as far as the window reaches).
        """
        if last is None:
            last = self._last(start, np.full(len(start), 1 - 2.0**-53))
        index = start[:, None] + self._offsets
        first = self.logs.starts[np.searchsorted(self._ends, start, "right")]
        inside = (index >= first[:, None]) & (index <= last[:, None])
        index = np.clip(index, first[:, None], last[:, None])
        valid = torch.from_numpy(inside).to(self._rows.device)
        return {field: self._field(field, start, index, valid) for field in self.fields}

    def identity(self) -> dict[str, Any]:
        """What the batches are made from and how, as JSON."""
        windows = {"horizon": self.horizon, "stride": self.stride, "until": self.until}
        numbers = [] if self._normaliser is None else [self._normaliser.shift, self._normaliser.scale]
        told = b"".join(n.cpu().numpy().tobytes() for n in numbers)
        how = {"rest": list(self.rest), "fields": list(self.fields), "normaliser": hashlib.sha256(told).hexdigest()}
        how |= {"discount": self.discount} if self._returns is not None else {}
        how |= {"past": self.past} if self.past else {}
        return super().identity() | windows | how

    def _field(self, field: str, start: np.ndarray, index: np.ndarray, valid: Bool[Tensor, "b h"]) -> Tensor:
        if field == "valid":
            return valid
        if field == "start":
            return torch.from_numpy(start).to(self._rows.device)
        if field == "steps":
            return torch.from_numpy(self._steps(start)).to(self._rows.device)
        if field == "returns":
            assert self._returns is not None
            return torch.from_numpy(self._returns[start]).to(self._rows.device)
        values = self._rows.take(self._columns[field], index)
        if field == "actions":
            return values * valid[..., None]
        if field != "states":
            return values
        if self.rest:
            values = values.masked_fill(~valid[..., None] & self._resting, 0.0)
        if self._normaliser is None:
            return values
        with torch.no_grad():
            return self._normaliser(values)

    def _last(self, start: np.ndarray, u: np.ndarray) -> np.ndarray:
        """The last step of the window that begins at `start`; `u` in (0, 1) says where, if that is drawn."""
        last = self._ends[np.searchsorted(self._ends, start, "right")] - 1
        if self.until == "episode":
            return last
        if self.until in ("reward", "success"):
            assert self._runs is not None
            first, end = self._runs.next(start)
            return np.minimum(last, end if self.until == "reward" else first)
        room = np.minimum(last - start, self._offsets[-1])
        return start + np.where(room > 0, 1 + (u * room).astype(np.int64), 0)

    def _stretches(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows at which windows begin, as stretches of neighbours: how many rows there are before the end of each,
        all told, and by how much a place in that count falls short of its row.
        """
        if self.until != "success":
            return np.zeros(1, dtype=np.int64), np.array([len(self.logs)])
        assert self._runs is not None
        first, last = self._runs.first[:-1], self._runs.last[:-1]
        episode = self.logs.starts[np.searchsorted(self._ends, first, "right")]
        low = np.maximum.reduce([first - WITHIN, episode, np.append(-1, last[:-1]) + 1])
        before = np.cumsum(first - low + 1)
        return low - np.append(0, before[:-1]), before

    def _steps(self, start: np.ndarray) -> np.ndarray:
        assert self._runs is not None
        end = self._ends[np.searchsorted(self._ends, start, "right")]
        first = self._runs.next(start)[0]
        return np.where(first < end, first - start, np.inf).astype(np.float32)


def returns_to_go(logs: Trajectories, discount: float) -> Float64[np.ndarray, " n"]:
    """`v_t = sum_{k >= t} discount^(k - t) r_k` of every step, to the end of its episode.

    By doubling: what the next 2s steps earn is what the next s earn, and, discounted, the s after those.
    """
    v = np.asarray(logs.rewards, dtype=np.float64).copy()
    left = np.repeat(logs.ends, logs.lengths) - np.arange(len(v))  # steps to the end of the episode, this one included
    s = 1
    while s < int(logs.lengths.max()):
        later = np.concatenate([v[s:], np.zeros(s)])
        v = v + discount**s * np.where(left > s, later, 0.0)
        s *= 2
    return v


class Pairs(Drawn):
    """Two states of one episode, k steps apart, and what was done in the first: data for inverse dynamics.

    The first step i is drawn uniformly from all that have a step `offsets[0]` later in their episode, k uniformly from
    `offsets` (both ends count) as far as the episode reaches. A batch holds `state [B, S]`, `next [B, S]`,
    `offset [B]` (k) and `action [B, A]` (done at step i), none of them normalised. The dimensions in `relative`
    (positions) are counted from the first state: zero there, the displacement in the second.
    """

    def __init__(
        self,
        logs: Trajectories,
        offsets: int | tuple[int, int],
        batch_size: int,
        *,
        relative: Sequence[int] = (),
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(logs, batch_size, seed)
        self.low, self.high = (offsets, offsets) if isinstance(offsets, int) else offsets
        self.relative = tuple(relative)
        if not 1 <= self.low <= self.high:
            raise InputError(f"Pairs: offsets must be a range of at least 1 step, got {self.low} to {self.high}")
        _check_dimensions(self.relative, logs, "Pairs: relative")
        starts = np.maximum(logs.lengths - self.low, 0)
        if not starts.any():
            longest = int(logs.lengths.max())
            raise InputError(f"Pairs: no two steps lie {self.low} apart, for the longest episode has {longest} steps")
        self._before = np.cumsum(starts)
        self._shift = logs.starts - (self._before - starts)
        self._rows = Rows(logs, ["observations", "actions"], device)
        moving = torch.zeros(logs.dimensions.observation)
        moving[list(self.relative)] = 1.0
        self._moving = moving.to(self._rows.device)

    def next(self, tick: Any) -> dict[str, Tensor]:
        """The batch of a tick."""
        u = self.uniform(tick, 2)
        place = (u[0] * self._before[-1]).astype(np.int64)
        episode = np.searchsorted(self._before, place, "right")
        first = place + self._shift[episode]
        high = np.minimum(self.high, self.logs.ends[episode] - 1 - first)
        k = self.low + (u[1] * (high - self.low + 1)).astype(np.int64)
        state, after = self._rows.take("observations", first), self._rows.take("observations", first + k)
        if self.relative:
            origin = state * self._moving
            state, after = state - origin, after - origin
        offset = torch.from_numpy(k).float().to(self._rows.device)
        return {"state": state, "next": after, "offset": offset, "action": self._rows.take("actions", first)}

    def identity(self) -> dict[str, Any]:
        """What the batches are made from and how, as JSON."""
        return super().identity() | {"offsets": [self.low, self.high], "relative": list(self.relative)}


def _check_windows(logs: Trajectories, horizon: int, stride: int, until: str, rest: Sequence[int]) -> None:
    if until not in get_args(Until):
        raise InputError(f"Segments: unknown until={until!r}, choose one of {', '.join(get_args(Until))}")
    if horizon < 2:
        raise InputError(f"Segments: a window has at least 2 points, got horizon={horizon}")
    if stride < 1:
        raise InputError(f"Segments: the stride must be at least 1 step, got {stride}")
    longest = int(logs.lengths.max())
    if longest < 2 * stride:
        raise InputError(
            f"Segments: the longest episode has {longest} steps, less than two strides of {stride}: windows would hold "
            "little but padding; take a smaller stride"
        )
    if until in ("reward", "success") and not (logs.rewarded and any((c["rewards"] > 0).any() for c in logs.chunks())):
        why = "earns no positive reward anywhere" if logs.rewarded else "carries no rewards"
        raise InputError(f'Segments: the data {why}, so no window can end at one; take until="episode" or "random"')
    _check_dimensions(rest, logs, "Segments: rest")


def _check_normaliser(normaliser: Normaliser | None, logs: Trajectories) -> None:
    width = logs.dimensions.observation
    if normaliser is not None and len(normaliser.shift) != width:
        has = len(normaliser.shift)
        raise InputError(
            f"Segments: the normaliser is for {has} dimensions, but an observation has {width}: fit another"
        )


def _check_dimensions(named: Sequence[int], logs: Trajectories, what: str) -> None:
    width = logs.dimensions.observation
    if odd := [d for d in named if not 0 <= d < width]:
        raise InputError(f"{what} names dimension {odd[0]}, but an observation has 0 to {width - 1}")
