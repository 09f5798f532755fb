"""Collecting: an append-only log of steps in shards, with a commit file that says how many episodes are durable."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lfd.data.episode import (
    Episode,
    cast_to_spaces,
    flatten_observations,
    num_usable_steps,
    step_dtype,
    unflatten_observations,
)
from lfd.data.metadata import EPISODE_INDEX_DTYPE
from lfd.data.publish import ShardLog, publish
from lfd.envs.spaces import Array, Spaces
from lfd.errors import UserError
from lfd.files import fsync_path, load_json, save_json, translate_os_errors

_BLOCK_BYTES = 4 << 20
_COMMIT_FILE = "commit.json"


class Writer:
    """Streams episodes to `folder`, survives kill -9, and publishes them as one HDF5 file.

    Reopening a folder drops episodes that were added after the last `commit`. Memory use is the
    episode being added and one block of 4 MiB.

    Attributes:
        cursor: The JSON of the last commit, from which the caller continues; empty in a new folder.
        transitions: Number of transitions that were added.

    Raises:
        UserError: the folder holds data of other spaces, or is damaged; an episode does not fit.
        DiskFull: the disk is full; reopening the folder continues from the last commit.
    """

    def __init__(self, folder: Path, spaces: Spaces, stack: int = 1, shard_bytes: int = 64 << 20) -> None:
        self._folder, self._spaces, self._stack, self._shard_bytes = folder, spaces, stack, shard_bytes
        self._open: BinaryIO | None = None
        self._unsynced: set[Path] = set()
        self._record_dtype: np.dtype[Any] | None = None
        self._records_per_shard = 0
        self._info_schema: dict[str, Any] = {}
        self._episode_index: list[tuple[int, float, bool, bool, bool]] = []
        self._committed = 0
        self.cursor: dict[str, Any] = {}
        self.transitions = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._recover()

    @property
    def episodes(self) -> int:
        """Number of episodes that were added."""
        return len(self._episode_index)

    def add(self, episode: Episode) -> None:
        """Appends an episode; the next `commit` makes it durable.

        If the final observation is not known, the last transition of an episode that did not terminate has no next
        observation and is dropped; an episode of one such transition is not added.
        """
        episode = cast_to_spaces(episode, self._spaces, self._stack)
        final_known, episode_return = episode.has_final_observation, float(episode.rewards.sum(dtype=np.float64))
        if not final_known:
            if not num_usable_steps(episode):
                return
            episode = _with_final_observation(episode)
        self._check_infos(episode.infos)
        with translate_os_errors(self._folder):
            self._append(episode)
        row = (len(episode), episode_return, episode.terminated, episode.truncated, final_known)
        self._episode_index.append(row)
        self.transitions += len(episode)

    def commit(self, cursor: dict[str, Any]) -> None:
        """Makes everything added so far durable, together with `cursor` (JSON), in one atomic step."""
        with translate_os_errors(self._folder):
            self._close()
            for shard in self._unsynced:
                fsync_path(shard)
            self._unsynced.clear()
            with (self._folder / "episodes.bin").open("ab") as file:
                file.write(np.array(self._episode_index[self._committed :], EPISODE_INDEX_DTYPE).tobytes())
                file.flush()
                os.fsync(file.fileno())
            commit = {
                "spaces": self._spaces.to_json(),
                "stack": self._stack,
                "infos": self._info_schema,
                "records_per_shard": self._records_per_shard,
                "episodes": self.episodes,
                "cursor": cursor,
            }
            save_json(self._folder / _COMMIT_FILE, commit)
        self._committed = self.episodes
        self.cursor = cursor

    def finalize(self, path: Path, metadata: dict[str, Any]) -> None:
        """Publishes all episodes as `path` (contiguous HDF5) with metadata.json beside it.

        `metadata` (JSON: `env`, `made_by`) is completed with counts, statistics and the audit of the columns. Each
        shard is deleted once it is copied, so the peak of disk use is one copy and one shard. Killed at any moment, the
        same call continues and ends with the same bytes; after success it does nothing. The folder keeps the commit
        file and the episode index (19 bytes an episode), and is the caller's to delete.

        Raises:
            UserError: no transition was added, or shards are missing.
        """
        if self.transitions == 0:
            raise UserError(
                f"data: {path}: expected at least one transition, got none; collect or import episodes first"
            )
        if self._committed < self.episodes:
            self.commit(self.cursor)
        assert self._record_dtype is not None
        index = np.array(self._episode_index, EPISODE_INDEX_DTYPE)
        log = ShardLog(self._folder, self._record_dtype, self._records_per_shard, index)
        with translate_os_errors(path.parent):
            publish(log, path, self._spaces, self._stack, metadata)

    def _append(self, episode: Episode) -> None:
        assert self._record_dtype is not None
        columns: dict[str, Array] = {"actions": episode.actions, "rewards": episode.rewards}
        columns |= flatten_observations(episode.observations)
        columns |= {f"infos/{key}": column for key, column in episode.infos.items()}
        records, block = len(episode) + 1, max(1, _BLOCK_BYTES // self._record_dtype.itemsize)
        first = self.transitions + self.episodes
        written = 0
        while written < records:
            shard, used = divmod(first + written, self._records_per_shard)
            count = min(block, records - written, self._records_per_shard - used)
            rows = np.zeros(count, self._record_dtype)
            for name, column in columns.items():
                part = column[written : written + count]
                rows[name][: len(part)] = part
            self._write(shard, rows)
            written += count

    def _write(self, shard: int, rows: Array) -> None:
        path = self._folder / f"shard-{shard:05d}.bin"
        if self._open is None or self._open.name != str(path):
            self._close()
            self._open = path.open("ab")
            self._unsynced.add(path)
        self._open.write(rows.data.cast("B"))

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _check_infos(self, infos: dict[str, Array]) -> None:
        if self._record_dtype is None:
            self._set_record_dtype(infos)
        schema = _info_schema(infos)
        if schema != self._info_schema:
            raise UserError(
                f"data: infos: expected {self._info_schema}, as in the first episode, got {schema} in episode "
                f"{self.episodes}; record the same infos in every episode"
            )

    def _set_record_dtype(self, infos: dict[str, Array]) -> None:
        self._info_schema = _info_schema(infos)
        self._record_dtype = step_dtype(self._spaces, self._stack, infos)
        self._records_per_shard = self._records_per_shard or max(1, self._shard_bytes // self._record_dtype.itemsize)

    def _recover(self) -> None:
        """Goes back to the last commit: truncates the files to the episodes that it counts."""
        commit_path, index_path = self._folder / _COMMIT_FILE, self._folder / "episodes.bin"
        commit = load_json(commit_path) if commit_path.exists() else None
        if commit is None:
            for leftover in [*self._folder.glob("shard-*.bin"), index_path]:
                leftover.unlink(missing_ok=True)
            return
        if (commit["spaces"], commit["stack"]) != (self._spaces.to_json(), self._stack):
            raise UserError(
                f"data: {self._folder} was recorded with other spaces or stacking; remove it or use another"
            )
        self.cursor, self._records_per_shard = commit["cursor"], commit["records_per_shard"]
        index = np.fromfile(index_path, EPISODE_INDEX_DTYPE, commit["episodes"])
        os.truncate(index_path, index.nbytes)
        self._episode_index = index.tolist()
        self._committed = len(index)
        self.transitions = int(index["length"].sum())
        if self._records_per_shard:
            no_rows = {key: np.empty((0, *shape), dtype) for key, (dtype, shape) in commit["infos"].items()}
            self._set_record_dtype(no_rows)
            self._truncate_shards(self.transitions + self.episodes)

    def _truncate_shards(self, records: int) -> None:
        assert self._record_dtype is not None
        for path in sorted(self._folder.glob("shard-*.bin")):
            index = int(path.stem.removeprefix("shard-"))
            count = int(np.clip(records - index * self._records_per_shard, 0, self._records_per_shard))
            size = count * self._record_dtype.itemsize
            if path.stat().st_size < size:
                raise UserError(
                    f"data: {path}: expected {size} bytes, got {path.stat().st_size}; "
                    f"remove {self._folder} and collect again"
                )
            os.truncate(path, size)
            if size == 0:
                path.unlink()


def _info_schema(infos: dict[str, Array]) -> dict[str, Any]:
    return {key: [column.dtype.str, list(column.shape[1:])] for key, column in sorted(infos.items())}


def _with_final_observation(episode: Episode) -> Episode:
    """The episode with its last observation repeated if it terminated, else without its last transition."""
    if episode.terminated:
        # The observation after a termination has no value; the row only has to be there.
        columns = flatten_observations(episode.observations)
        repeated = {name: np.concatenate([column, column[-1:]]) for name, column in columns.items()}
        return replace(episode, observations=unflatten_observations(repeated))
    infos = {key: column[:-1] for key, column in episode.infos.items()}
    return replace(episode, actions=episode.actions[:-1], rewards=episode.rewards[:-1], infos=infos)
