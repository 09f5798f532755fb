"""Reading a published dataset: columns are memory-mapped from its HDF5 file."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lfd.data.episode import Episode, ObservationArrays, flatten_observations, unflatten_observations
from lfd.data.layout import FORMAT_VERSION, ColumnLayout, open_hdf5, read_layout
from lfd.data.metadata import EPISODE_INDEX_DTYPE, METADATA_FILE, column_schema, compute_metadata, content_sha256
from lfd.envs.spaces import Array, Spaces
from lfd.errors import UserError
from lfd.files import load_json_object

RowIndices = npt.NDArray[np.int64]
_OLD_METADATA_FILE = "passport.json"  # the name before version 2 of the store


class Dataset:
    """All transitions of a published file, in time order; row i is transition i. A column is read when it is used.

    Attributes:
        metadata: The metadata of the dataset; computed from the columns if the file has no metadata.json beside it.
        spaces: Spaces of the environment; their observations are stacked frames.
        stack: Frames that an observation stacks on axis 0; 1 is no stacking.
        columns: `observations` [N, ...] (single frames when stacked; a dict for dict spaces), `actions`, `rewards`,
            `terminals`, `timeouts` and `infos/*`, all [N, ...] and mapped read-only.
        final_observations: The observation after each episode's last action, [E, ...] or a dict of those.
        starts, ends: int64 [E], the rows `starts[e] : ends[e]` of episode e.
        nbytes: Bytes of all columns.
    """

    def __init__(
        self, path: Path, metadata: dict[str, Any] | None, spaces: Spaces, stack: int, columns: dict[str, Array]
    ):
        self.path, self.spaces, self.stack = path, spaces, stack
        if metadata is not None:
            self.metadata = metadata
        self.starts, self._returns = np.array(columns.pop("starts")), np.array(columns.pop("returns"))
        self.nbytes = sum(column.nbytes for column in columns.values())
        self.final_observations = unflatten_observations(_pop_prefixed(columns, "final/"))
        names = sorted(name for name in columns if name.startswith("observations"))
        self._frames = unflatten_observations({name: columns.pop(name) for name in names})
        self.columns: dict[str, Any] = {"observations": self._frames, **columns}
        self.ends = np.append(self.starts[1:], len(self))
        # Four bytes a row: a search in `starts` instead would cost as much as gathering a batch.
        self._episode = np.repeat(np.arange(len(self.starts), dtype=np.int32), self.ends - self.starts)

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Maps a published file.

        Raises:
            UserError: the file does not exist, lfd did not write it, or the metadata beside it are another file's.
        """
        if not path.is_file():
            raise UserError(f"data: {path} does not exist; expected a data.hdf5 that lfd wrote")
        if not is_lfd_file(path):
            raise UserError(f"data: {path} was not written by lfd; read foreign files with dataset=file")
        with open_hdf5(path) as file:
            if file.attrs["format"] != FORMAT_VERSION:
                raise UserError(
                    f"data: {path}: expected format {FORMAT_VERSION}, got {file.attrs['format']}; "
                    "make or import it again with this version of lfd"
                )
            spaces, stack = Spaces.from_json(json.loads(file.attrs["spaces"])), int(file.attrs["stack"])
            layout = read_layout(file)
        metadata = _load_metadata(path, layout)
        raw = np.asarray(np.memmap(path, np.uint8, "r"))
        return cls(path, metadata, spaces, stack, {name: _view(raw, column) for name, column in layout.items()})

    def __len__(self) -> int:
        return len(self.columns["rewards"])

    @cached_property
    def metadata(self) -> dict[str, Any]:
        with open_hdf5(self.path) as file:
            layout = read_layout(file)
        last = self.ends - 1
        index = np.zeros(len(last), EPISODE_INDEX_DTYPE)
        index["length"], index["return"], index["final_known"] = self.ends - self.starts, self._returns, True
        index["terminated"], index["truncated"] = (self.columns[name][last] for name in ("terminals", "timeouts"))
        return {"format": FORMAT_VERSION} | compute_metadata(self.path, layout, self.spaces, self.stack, index)

    def verify(self) -> None:
        """Reads the whole file. Raises UserError if its sha256 differs from the one in its metadata."""
        with open_hdf5(self.path) as file:
            layout = read_layout(file)
        if content_sha256(self.path, layout) != self.metadata["sha256"]:
            raise UserError(f"data: the sha256 of {self.path} differs from its metadata; make or import it again")

    def episode_of(self, rows: RowIndices) -> npt.NDArray[np.int32]:
        """[B] the index of the episode of each row."""
        return self._episode.take(rows)

    def observations(self, rows: RowIndices) -> ObservationArrays:
        """[B, ...] observations before the action; stacks repeat an episode's first frame before its start."""
        if self.stack == 1:
            return _take_rows(self._frames, rows)
        assert isinstance(self._frames, np.ndarray)
        return self._frames.take(self._stacked(rows, 0), axis=0)

    def next_observations(self, rows: RowIndices) -> ObservationArrays:
        """[B, ...] observations after the action, never of another episode; after a termination they have no value."""
        episode = self.episode_of(rows)
        last = np.flatnonzero(rows == self.ends[episode] - 1)
        if self.stack > 1:
            assert isinstance(self._frames, np.ndarray) and isinstance(self.final_observations, np.ndarray)
            frames = self._frames.take(self._stacked(rows, 1), axis=0)
            frames[last, -1] = self.final_observations[episode[last]]
            return frames
        result = _take_rows(self._frames, np.minimum(rows + 1, len(self) - 1))
        if isinstance(result, dict):
            assert isinstance(self.final_observations, dict)
            for key, column in result.items():
                column[last] = self.final_observations[key][episode[last]]
        else:
            assert isinstance(self.final_observations, np.ndarray)
            result[last] = self.final_observations[episode[last]]
        return result

    def episode(self, index: int) -> Episode:
        """Episode `index` with single frames, copied out of the file."""
        rows = slice(int(self.starts[index]), int(self.ends[index]))
        frames, final = flatten_observations(self._frames), flatten_observations(self.final_observations)
        joined = {name: np.concatenate([frames[name][rows], final[name][index : index + 1]]) for name in frames}
        infos = {n.removeprefix("infos/"): c[rows].copy() for n, c in self.columns.items() if n.startswith("infos/")}
        return Episode(
            observations=unflatten_observations(joined),
            actions=self.columns["actions"][rows].copy(),
            rewards=self.columns["rewards"][rows].copy(),
            terminated=bool(self.columns["terminals"][rows][-1]),
            truncated=bool(self.columns["timeouts"][rows][-1]),
            infos=infos,
        )

    def returns(self) -> npt.NDArray[np.float64]:
        """[E] undiscounted return of each episode as it was collected."""
        return self._returns

    def evaluate(self, *_: object) -> dict[str, Any]:
        """Scores of its whole episodes (of all, if each was cut), as JSON; nothing is played for them."""
        returns = self.returns()[self.complete_episodes()]
        return {
            "return_mean": float(returns.mean()), "return_std": float(returns.std()),
            "return_min": float(returns.min()), "return_max": float(returns.max()), "episodes": len(returns),
            "success_rate": None, "success_once_rate": None,
        }  # fmt: skip

    def complete_episodes(self) -> npt.NDArray[np.bool_]:
        """[E] mask of terminated or truncated episodes; all True if every episode was cut."""
        last = self.ends - 1
        complete: npt.NDArray[np.bool_] = self.columns["terminals"][last] | self.columns["timeouts"][last]
        return complete if complete.any() else np.ones_like(complete)

    def _stacked(self, rows: RowIndices, shift: int) -> RowIndices:
        """[B, stack] row of each frame of the observation `shift` steps after each row, oldest first.

        A frame after the episode's end is the last row's; `next_observations` puts the final observation there.
        """
        episode = self.episode_of(rows)
        frame_rows = rows[:, None] + np.arange(1 - self.stack + shift, 1 + shift)
        clipped: RowIndices = np.clip(frame_rows, self.starts[episode][:, None], self.ends[episode][:, None] - 1)
        return clipped


def is_lfd_file(path: Path) -> bool:
    """True if lfd published the file, in any version of its format."""
    if not h5py.is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return "format" in file.attrs and "spaces" in file.attrs


def _load_metadata(path: Path, layout: dict[str, ColumnLayout]) -> dict[str, Any] | None:
    """The metadata file beside a dataset; None if there is none."""
    file, old = path.with_name(METADATA_FILE), path.with_name(_OLD_METADATA_FILE)
    if not file.exists():
        if old.exists():
            raise UserError(f"data: {old} is called {METADATA_FILE} in this version of lfd; rename it")
        return None
    metadata = load_json_object(file, "transitions", "episodes", "columns", "sha256", "returns", "lengths")
    counts = {"transitions": layout["rewards"].shape[0], "episodes": layout["starts"].shape[0]}
    if not counts.items() <= metadata.items() or metadata["columns"] != column_schema(layout):
        raise UserError(f"data: {file} does not describe {path.name}; move it away, and lfd computes it again")
    return metadata


def _view(raw: Array, column: ColumnLayout) -> Array:
    size = column.row_bytes * column.shape[0]
    return raw[column.offset : column.offset + size].view(column.dtype).reshape(column.shape)


def _pop_prefixed(columns: dict[str, Array], prefix: str) -> dict[str, Array]:
    """Removes the columns of a prefix from `columns` and returns them without it."""
    return {name.removeprefix(prefix): columns.pop(name) for name in sorted(columns) if name.startswith(prefix)}


def _take_rows(frames: ObservationArrays, rows: RowIndices) -> ObservationArrays:
    if isinstance(frames, dict):
        return {key: column.take(rows, axis=0) for key, column in frames.items()}
    return frames.take(rows, axis=0)
