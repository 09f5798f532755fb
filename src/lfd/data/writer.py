"""Collecting: an append-only log of steps in shards, with a journal of what is safe."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lfd.data.episode import Array, Episode, conform, flatten, kept_of, step_dtype, unflatten
from lfd.data.passport import LEDGER
from lfd.data.publish import Log, publish
from lfd.envs.spaces import Spaces
from lfd.errors import Refused
from lfd.files import full_disk_told, load_json, save_json, sync

_BLOCK_BYTES = 4 << 20


class Writer:
    """Streams episodes to `folder`, survives kill -9, and publishes them as one HDF5 file.

    Reopening a folder drops what was added after the last `commit`. Memory use is one block of a few megabytes beside
    the episode being added.

    Raises:
        Refused: the folder holds data of other spaces, or is damaged; an episode does not fit.
        DiskFull: reopen the folder to go on.
    """

    def __init__(self, folder: Path, spaces: Spaces, stack: int = 1, shard_bytes: int = 64 << 20) -> None:
        self._folder, self._spaces, self._stack, self._shard_bytes = folder, spaces, stack, shard_bytes
        self._open: BinaryIO | None = None
        self._unsynced: set[Path] = set()
        self._steps: np.dtype[Any] | None = None
        self._per_shard = 0
        self._infos: dict[str, Any] = {}
        self._ledger: list[tuple[int, float, bool, bool, bool]] = []
        self._committed = 0
        self.cursor: dict[str, Any] = {}
        self.transitions = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._recover()

    @property
    def episodes(self) -> int:
        return len(self._ledger)

    @property
    def returns(self) -> list[float]:
        """The undiscounted return of each episode."""
        return [row[1] for row in self._ledger]

    def add(self, episode: Episode) -> None:
        """Appends an episode. It is safe after the next `commit`.

        Where the final observation is not known, the last transition of an episode that did not terminate has no
        successor and is dropped (an episode of that one transition altogether).
        """
        episode = conform(episode, self._spaces, self._stack)
        complete, value = episode.is_complete, float(episode.rewards.sum(dtype=np.float64))
        if not complete:
            if not kept_of(episode):
                return
            episode = _completed(episode)
        self._check_infos(episode.infos)
        with full_disk_told(self._folder):
            self._append(episode)
        self._ledger.append((len(episode), value, episode.terminated, episode.truncated, complete))
        self.transitions += len(episode)

    def commit(self, cursor: dict[str, Any]) -> None:
        """Makes everything added so far durable, together with `cursor` (JSON), in one atomic step."""
        with full_disk_told(self._folder):
            self._close()
            for shard in self._unsynced:
                sync(shard)
            self._unsynced.clear()
            with (self._folder / "episodes.bin").open("ab") as file:
                file.write(np.array(self._ledger[self._committed :], LEDGER).tobytes())
                file.flush()
                os.fsync(file.fileno())
            journal = {
                "spaces": self._spaces.to_json(),
                "stack": self._stack,
                "infos": self._infos,
                "per_shard": self._per_shard,
                "episodes": self.episodes,
                "cursor": cursor,
            }
            save_json(self._folder / "journal.json", journal)
        self._committed = self.episodes
        self.cursor = cursor

    def finalise(self, path: Path, passport: dict[str, Any]) -> None:
        """Publishes everything as `path` (contiguous HDF5) with `passport.json` beside it.

        `passport` (JSON: `env`, `made_by`) is completed with what the data says. Each shard is deleted once it is
        copied, so the peak is one copy and one shard. Killed at any moment, the same call continues and ends with the
        same bytes; after success it does nothing. The folder keeps its small ledger and is the caller's to delete.
        """
        if self.transitions == 0:
            raise Refused(f"data: {path} would be empty: no transition was recorded")
        if self._committed < self.episodes:
            self.commit(self.cursor)
        assert self._steps is not None
        log = Log(self._folder, self._steps, self._per_shard, np.array(self._ledger, LEDGER))
        with full_disk_told(path.parent):
            publish(log, path, self._spaces, self._stack, passport)

    def _append(self, episode: Episode) -> None:
        assert self._steps is not None
        columns: dict[str, Array] = {"actions": episode.actions, "rewards": episode.rewards}
        columns |= flatten(episode.observations)
        columns |= {f"infos/{key}": column for key, column in episode.infos.items()}
        records, block = len(episode) + 1, max(1, _BLOCK_BYTES // self._steps.itemsize)
        first = self.transitions + self.episodes
        done = 0
        while done < records:
            shard, used = divmod(first + done, self._per_shard)
            count = min(block, records - done, self._per_shard - used)
            rows = np.zeros(count, self._steps)
            for name, column in columns.items():
                part = column[done : done + count]
                rows[name][: len(part)] = part
            self._write(shard, rows)
            done += count

    def _write(self, shard: int, rows: Array) -> None:
        path = self._shard(shard)
        if self._open is None or self._open.name != str(path):
            self._close()
            self._open = path.open("ab")
            self._unsynced.add(path)
        self._open.write(rows.data.cast("B"))

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _shard(self, index: int) -> Path:
        return self._folder / f"shard-{index:05d}.bin"

    def _check_infos(self, infos: dict[str, Array]) -> None:
        if self._steps is None:
            self._set_steps(infos)
        described = _described(infos)
        if described != self._infos:
            raise Refused(f"data: an episode's infos are {described}, but the first episode's were {self._infos}")

    def _set_steps(self, infos: dict[str, Array]) -> None:
        self._infos = _described(infos)
        self._steps = step_dtype(self._spaces, self._stack, infos)
        self._per_shard = self._per_shard or max(1, self._shard_bytes // self._steps.itemsize)

    def _recover(self) -> None:
        """Goes back to the last commit: what the journal does not count is cut off."""
        journal_path, ledger_path = self._folder / "journal.json", self._folder / "episodes.bin"
        journal = load_json(journal_path) if journal_path.exists() else None
        if journal is None:
            for stray in [*self._folder.glob("shard-*.bin"), ledger_path]:
                stray.unlink(missing_ok=True)
            return
        if (journal["spaces"], journal["stack"]) != (self._spaces.to_json(), self._stack):
            raise Refused(f"data: {self._folder} was recorded with other spaces or stacking; remove it or use another")
        self.cursor, self._per_shard = journal["cursor"], journal["per_shard"]
        ledger = np.fromfile(ledger_path, LEDGER, journal["episodes"])
        os.truncate(ledger_path, ledger.nbytes)
        self._ledger = ledger.tolist()
        self._committed = len(ledger)
        self.transitions = int(ledger["length"].sum())
        if self._per_shard:
            self._set_steps({key: np.empty((0, *shape), dtype) for key, (dtype, shape) in journal["infos"].items()})
            self._cut_shards(self.transitions + self.episodes)

    def _cut_shards(self, records: int) -> None:
        assert self._steps is not None
        for path in sorted(self._folder.glob("shard-*.bin")):
            index = int(path.stem.removeprefix("shard-"))
            kept = int(np.clip(records - index * self._per_shard, 0, self._per_shard)) * self._steps.itemsize
            if path.stat().st_size < kept:
                raise Refused(f"data: {path} is shorter than its journal says; remove {self._folder} and collect again")
            os.truncate(path, kept)
            if kept == 0:
                path.unlink()


def _described(infos: dict[str, Array]) -> dict[str, Any]:
    return {key: [column.dtype.str, list(column.shape[1:])] for key, column in sorted(infos.items())}


def _completed(episode: Episode) -> Episode:
    """An episode whose final observation is not known, as one that has its final observation."""
    if episode.terminated:
        # Nothing bootstraps from what follows a termination; the row only has to be there.
        columns = flatten(episode.observations)
        repeated = {name: np.concatenate([column, column[-1:]]) for name, column in columns.items()}
        return replace(episode, observations=unflatten(repeated))
    infos = {key: column[:-1] for key, column in episode.infos.items()}
    return replace(episode, actions=episode.actions[:-1], rewards=episode.rewards[:-1], infos=infos)
