"""Reading: a published file, memory-mapped."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lfd.data.episode import Array, Episode, Observations, flatten, unflatten
from lfd.data.layout import FORMAT, Column, columns_of, opened
from lfd.data.passport import LEDGER, content_sha256, described, examine
from lfd.envs.spaces import Spaces
from lfd.errors import Refused
from lfd.files import load_object

Rows = npt.NDArray[np.int64]


class Dataset:
    """All transitions of a published file, in time order; row i is transition i. Nothing is read until it is used.

    Attributes:
        passport: What the data says about itself; worked out anew where the file lies without it.
        spaces: Of the environment; observations there are stacked.
        stack: How many frames an observation stacks on axis 0; 1 is none.
        columns: `observations` [N, ...] (single frames when stacked; a dict for dict spaces), `actions`, `rewards`,
            `terminals`, `timeouts` and `infos/*`, all [N, ...] and mapped read-only.
        final: The observation after each episode's last action, [E, ...] or a dict of those.
        starts, ends: int64 [E], the rows `starts[e] : ends[e]` of episode e.
        nbytes: Of all columns.
    """

    def __init__(
        self, path: Path, passport: dict[str, Any] | None, spaces: Spaces, stack: int, mapped: dict[str, Array]
    ):
        self.path, self.spaces, self.stack = path, spaces, stack
        if passport is not None:
            self.passport = passport
        self.starts, self._returns = np.array(mapped.pop("starts")), np.array(mapped.pop("returns"))
        self.nbytes = sum(column.nbytes for column in mapped.values())
        self.final = unflatten(_take_out(mapped, "final/"))
        self._frames = unflatten({name: mapped.pop(name) for name in sorted(mapped) if name.startswith("observations")})
        self.columns: dict[str, Any] = {"observations": self._frames, **mapped}
        self.ends = np.append(self.starts[1:], len(self))
        # Four bytes a row: a search in `starts` instead would cost as much as gathering a batch.
        self._episode = np.repeat(np.arange(len(self.starts), dtype=np.int32), self.ends - self.starts)

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Maps a published file.

        Raises:
            Refused: there is no such file, it is not in this form, or the passport beside it is another file's.
        """
        if not path.is_file():
            raise Refused(f"data: {path} does not exist")
        if not is_own(path):
            raise Refused(f"data: {path} was not written by lfd; read foreign files with dataset=file")
        with opened(path) as file:
            if file.attrs["format"] != FORMAT:
                raise Refused(f"data: {path} has format {file.attrs['format']}, this version reads {FORMAT}")
            spaces, stack = Spaces.from_json(json.loads(file.attrs["spaces"])), int(file.attrs["stack"])
            columns = columns_of(file)
        passport = _passport(path, columns)
        raw = np.asarray(np.memmap(path, np.uint8, "r"))
        return cls(path, passport, spaces, stack, {name: _view(raw, column) for name, column in columns.items()})

    def __len__(self) -> int:
        return len(self.columns["rewards"])

    @cached_property
    def passport(self) -> dict[str, Any]:
        with opened(self.path) as file:
            columns = columns_of(file)
        last = self.ends - 1
        ledger = np.zeros(len(last), LEDGER)
        ledger["length"], ledger["return"], ledger["complete"] = self.ends - self.starts, self._returns, True
        ledger["terminated"], ledger["truncated"] = (self.columns[name][last] for name in ("terminals", "timeouts"))
        return {"format": FORMAT} | examine(self.path, columns, self.spaces, self.stack, ledger)

    def verify(self) -> None:
        """Read the whole file. Raises Refused if its content is not what its passport says."""
        with opened(self.path) as file:
            columns = columns_of(file)
        if content_sha256(self.path, columns) != self.passport["sha256"]:
            raise Refused(f"data: the content of {self.path} is not that of its passport; make or import it again")

    def episode_of(self, rows: Rows) -> npt.NDArray[np.int32]:
        """The episode that each row belongs to."""
        return self._episode.take(rows)

    def observations(self, rows: Rows) -> Observations:
        """[B, ...] what was seen before the action; with stacking, an episode's first frame is repeated before it."""
        if self.stack == 1:
            return _taken(self._frames, rows)
        assert isinstance(self._frames, np.ndarray)
        return self._frames.take(self._stacked(rows, 0), axis=0)

    def successors(self, rows: Rows) -> Observations:
        """[B, ...] what was seen after the action, never across an end; after a termination it carries no value."""
        episode = self.episode_of(rows)
        last = np.flatnonzero(rows == self.ends[episode] - 1)
        if self.stack > 1:
            assert isinstance(self._frames, np.ndarray) and isinstance(self.final, np.ndarray)
            frames = self._frames.take(self._stacked(rows, 1), axis=0)
            frames[last, -1] = self.final[episode[last]]
            return frames
        found = _taken(self._frames, np.minimum(rows + 1, len(self) - 1))
        if isinstance(found, dict):
            assert isinstance(self.final, dict)
            for key, column in found.items():
                column[last] = self.final[key][episode[last]]
        else:
            assert isinstance(self.final, np.ndarray)
            found[last] = self.final[episode[last]]
        return found

    def episode(self, index: int) -> Episode:
        """Episode `index`, with its frames not stacked; copied out of the file."""
        rows = slice(int(self.starts[index]), int(self.ends[index]))
        frames, final = flatten(self._frames), flatten(self.final)
        both = {name: np.concatenate([column[rows], final[name][index : index + 1]]) for name, column in frames.items()}
        infos = {n.removeprefix("infos/"): c[rows].copy() for n, c in self.columns.items() if n.startswith("infos/")}
        return Episode(
            observations=unflatten(both),
            actions=self.columns["actions"][rows].copy(),
            rewards=self.columns["rewards"][rows].copy(),
            terminated=bool(self.columns["terminals"][rows][-1]),
            truncated=bool(self.columns["timeouts"][rows][-1]),
            infos=infos,
        )

    def returns(self) -> npt.NDArray[np.float64]:
        """[E] undiscounted return of each episode as it was collected."""
        return self._returns

    def whole(self) -> npt.NDArray[np.bool_]:
        """[E] which episodes went on to their end; all of them, if each was cut."""
        last = self.ends - 1
        ended: npt.NDArray[np.bool_] = self.columns["terminals"][last] | self.columns["timeouts"][last]
        return ended if ended.any() else np.ones_like(ended)

    def select(
        self, transitions: int | None = None, episodes: int | None = None, min_return: float | None = None
    ) -> Rows:
        """The rows of the first `episodes` whose return is at least `min_return`, and of those the first `transitions`.

        Raises:
            Refused: the file has fewer than asked for.
        """
        returns = self.returns()
        kept = np.flatnonzero(returns >= (-np.inf if min_return is None else min_return))
        which = "" if min_return is None else f" with a return of at least {min_return:g} (best: {returns.max():g})"
        if len(kept) < (episodes or 1):
            raise Refused(f"data: {episodes or 1} episodes{which} were asked for, {self.path} has {len(kept)}")
        kept = kept[:episodes]
        rows = np.concatenate([np.arange(self.starts[e], self.ends[e]) for e in kept])
        if len(rows) < (transitions or 1):
            raise Refused(f"data: {transitions} transitions{which} were asked for, {self.path} has {len(rows)}")
        return rows[:transitions]

    def _stacked(self, rows: Rows, shift: int) -> Rows:
        """[B, stack] frames of the observation `shift` steps after each row, oldest first.

        A frame after the episode's end is the last row's; `successors` puts the final observation there.
        """
        episode = self.episode_of(rows)
        wanted = rows[:, None] + np.arange(1 - self.stack + shift, 1 + shift)
        clipped: Rows = np.clip(wanted, self.starts[episode][:, None], self.ends[episode][:, None] - 1)
        return clipped


def is_own(path: Path) -> bool:
    """Whether a file is a published one of ours, of whatever version."""
    if not h5py.is_hdf5(path):
        return False
    with opened(path) as file:
        return "format" in file.attrs and "spaces" in file.attrs


def _passport(path: Path, columns: dict[str, Column]) -> dict[str, Any] | None:
    """The one beside a file; None if there is none."""
    beside = path.parent / "passport.json"
    if not beside.exists():
        return None
    passport = load_object(beside, "transitions", "episodes", "columns", "sha256", "returns", "lengths")
    counts = {"transitions": columns["rewards"].shape[0], "episodes": columns["starts"].shape[0]}
    if not counts.items() <= passport.items() or passport["columns"] != described(columns):
        raise Refused(f"data: {beside} is not the passport of {path.name}; move it away, and one is made anew")
    return passport


def _view(raw: Array, column: Column) -> Array:
    size = column.row_bytes * column.shape[0]
    return raw[column.offset : column.offset + size].view(column.dtype).reshape(column.shape)


def _take_out(columns: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): columns.pop(name) for name in sorted(columns) if name.startswith(prefix)}


def _taken(frames: Observations, rows: Rows) -> Observations:
    if isinstance(frames, dict):
        return {key: column.take(rows, axis=0) for key, column in frames.items()}
    return frames.take(rows, axis=0)
