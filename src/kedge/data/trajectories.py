"""One store of logged behaviour: every step of every episode in a row, in memory or mapped from disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from kedge.data.columns import CHUNK, WHOLE, check_name, checked_ends, column, plain_provenance, refuse_nonfinite
from kedge.data.folder import Writer, digest_of, is_store, kind, read_meta, read_store
from kedge.errors import InputError


class Dimensions(NamedTuple):
    """How many numbers describe a step."""

    observation: int
    action: int


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Logged behaviour: what was seen, what was done, what it earned, step after step, episode after episode.

    Row i of `observations` is what was seen before row i of `actions` was done, and `rewards[i]` is what that earned.
    Episode e ends before row `ends[e]`, where the next one begins. Build it with `of`, or `write` it episode by
    episode where it is larger than memory; `save` and `kedge.data.open` keep it as a folder.
    """

    columns: Mapping[str, np.ndarray]
    """`observations`, `actions`, `rewards` where there are any, then whatever else was recorded at each step."""
    ends: Int64[np.ndarray, " e"]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the data is from: whatever JSON can hold."""
    sealed: str | None = field(default=None, repr=False)
    """The digest, where it is known already."""

    @classmethod
    def of(
        cls,
        observations: Any,
        actions: Any,
        ends: Any,
        rewards: Any = None,
        provenance: Mapping[str, Any] | None = None,
        finite: bool = True,
        where: str = "trajectories",
        **extra: Any,
    ) -> Trajectories:
        """Checks the arrays and puts them together, in float32.

        Args:
            observations: `[N, S]`.
            actions: `[N, A]`.
            ends: `[E]` ascending exclusive ends of the episodes; the last is N.
            rewards: `[N]`; None where nothing was earned or noted.
            provenance: where the data is from, how it was made, with what seed.
            finite: False lets infinities and nan pass, so that they can be counted and looked at.
            where: what to call the data in an error.
            extra: further columns `[N, ...]`, kept in their own type.
        """
        given = {"observations": observations, "actions": actions, "rewards": rewards} | extra
        columns = {name: column(name, value, where) for name, value in given.items() if value is not None}
        count = len(columns["observations"])
        for name, values in columns.items():
            if len(values) != count:
                raise InputError(f"{where}: {name} has {len(values)} steps, but observations {count}")
        found = checked_ends(ends, count, where)
        if finite:
            for name, values in columns.items():
                refuse_nonfinite(name, values, where)
        return cls(columns, found, plain_provenance(provenance, where))

    @classmethod
    def write(
        cls,
        folder: Path | str,
        episodes: Iterable[Mapping[str, Any]],
        provenance: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> Trajectories:
        """Writes episodes as they come, holding one at a time, and opens the result; for what exceeds memory.

        Args:
            folder: where to. It appears when all is written; what a killed process leaves is never opened.
            episodes: each a mapping with `observations [T, S]`, `actions [T, A]`, `rewards [T]` and other columns,
                the same ones for every episode.
            provenance: where the data is from.
            replace: True puts it in the place of a folder of trajectories that is there.
        """
        folder, ends, count = Path(folder), list[int](), 0
        with Writer(folder, plain_provenance(provenance, str(folder)), replace) as writer:
            for number, episode in enumerate(episodes):
                where = f"{folder}, episode {number}"
                if missing := {"observations", "actions"} - episode.keys():
                    raise InputError(f"{where}: no {min(missing)}; it holds {', '.join(episode) or 'nothing'}")
                for name in episode:
                    check_name(name, where)
                observations = column("observations", episode["observations"], where)
                given = {**episode, "observations": observations}
                one = cls.of(**given, ends=[len(observations)], where=where)
                writer.append(one.columns, where)
                count += len(one)
                ends.append(count)
            writer.finish(checked_ends(ends, count, str(folder)))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path | str) -> Trajectories:
        """Opens a folder that `save` or `write` has made. Its columns stay on disk and are read where they are used."""
        meta = read_meta(Path(folder))
        columns = read_store(Path(folder), meta)
        ends = checked_ends(columns.pop("ends"), len(columns["observations"]), f"{Path(folder) / 'ends.npy'}")
        return cls(columns, ends, meta["provenance"], meta["digest"])

    def save(self, folder: Path | str, replace: bool = False) -> Path:
        """Writes all of it as a folder of `.npy` files and `meta.json`, whole or not at all.

        A folder that holds the very same data is left alone; any other is refused, unless `replace` says otherwise.
        """
        folder = Path(folder)
        if not replace and is_store(folder) and read_meta(folder)["digest"] == self.digest:
            return folder
        with Writer(folder, self.provenance, replace) as writer:
            for name, values in self.columns.items():
                refuse_nonfinite(name, values, f"{folder}, not written")
            for chunk in self.chunks():
                writer.append(chunk, str(folder))
            writer.finish(self.ends)
        return folder

    def __len__(self) -> int:
        return len(self.columns["observations"])

    @property
    def observations(self) -> Float32[np.ndarray, "n s"]:
        """What was seen."""
        return self.columns["observations"]

    @property
    def actions(self) -> Float32[np.ndarray, "n a"]:
        """What was then done."""
        return self.columns["actions"]

    @property
    def rewards(self) -> Float32[np.ndarray, " n"]:
        """What that earned; an error where nothing was noted."""
        if "rewards" not in self.columns:
            raise InputError(f"rewards are needed, but the data holds only {', '.join(self.columns)}")
        return self.columns["rewards"]

    @property
    def rewarded(self) -> bool:
        """Whether rewards were noted."""
        return "rewards" in self.columns

    @property
    def extra(self) -> dict[str, np.ndarray]:
        """The columns without a fixed meaning."""
        return {name: values for name, values in self.columns.items() if name not in WHOLE}

    @property
    def starts(self) -> Int64[np.ndarray, " e"]:
        """The first row of each episode."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])

    @property
    def lengths(self) -> Int64[np.ndarray, " e"]:
        """The number of steps in each episode."""
        return self.ends - self.starts

    @property
    def dimensions(self) -> Dimensions:
        """How many numbers describe a step."""
        return Dimensions(self.observations.shape[1], self.actions.shape[1])

    @property
    def digest(self) -> str:
        """A hash of every number in it and of its ends, not of its provenance; taken once."""
        if self.sealed is None:
            hashes = {name: hashlib.sha256() for name in self.columns}
            for chunk in self.chunks():
                for name, values in chunk.items():
                    hashes[name].update(np.ascontiguousarray(values).data)
            kinds = {name: kind(values) for name, values in self.columns.items()}
            sums = {name: one.hexdigest() for name, one in hashes.items()}
            object.__setattr__(self, "sealed", digest_of(kinds, sums, self.ends))
        assert self.sealed is not None
        return self.sealed

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """The columns of one episode; negative numbers count from the last."""
        if not -len(self.ends) <= index < len(self.ends):
            raise IndexError(f"episode {index} of {len(self.ends)}")
        rows = slice(int(self.starts[index]), int(self.ends[index]))
        return {name: values[rows] for name, values in self.columns.items()}

    def split(self, share: float) -> tuple[Trajectories, Trajectories]:
        """The first `share` of the steps, and the rest; an episode that lies across is cut. Nothing is copied."""
        cut = round(share * len(self))
        if not 0 < cut < len(self):
            raise InputError(f"split: a share of {share} of {len(self)} steps leaves one of the two parts empty")
        ends = np.union1d(self.ends, [cut])
        first, rest = ends[ends <= cut], ends[ends > cut] - cut
        head = {name: values[:cut] for name, values in self.columns.items()}
        tail = {name: values[cut:] for name, values in self.columns.items()}
        return Trajectories(head, first, self.provenance), Trajectories(tail, rest, self.provenance)

    def chunks(self, size: int = CHUNK) -> Iterator[dict[str, np.ndarray]]:
        """All rows in order, some at a time."""
        for first in range(0, len(self), size):
            yield {name: values[first : first + size] for name, values in self.columns.items()}
