"""From shards to the published file: flat contiguous HDF5 columns under D4RL's names, crash-safe at every step.

The file's skeleton is made by HDF5 with all its space allocated (and none of it written, so it is sparse); rows then go
straight to their byte offsets. A kill can therefore never damage HDF5's own structures, and copying a shard twice
changes nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from lfd.data.episode import Array
from lfd.data.layout import FORMAT, Column, columns_of, opened
from lfd.data.passport import examine
from lfd.envs.spaces import Spaces
from lfd.errors import Refused
from lfd.files import save_json, sync

_ALIGNMENT = 64
_METADATA_BYTES = 1 << 20  # far more than HDF5 needs for a few dozen columns


class Log(NamedTuple):
    """Committed shards of packed step records. Each episode is its T steps and one record for its final observation."""

    folder: Path
    steps: np.dtype[Any]
    per_shard: int
    ledger: Array

    @property
    def shards(self) -> list[Path]:
        records = int(self.ledger["length"].sum()) + len(self.ledger)
        return [self.folder / f"shard-{index:05d}.bin" for index in range(-(-records // self.per_shard))]


def publish(log: Log, path: Path, spaces: Spaces, stack: int, passport: dict[str, Any]) -> None:
    """Copies the log to `path`, deleting each shard once its rows are safe, and writes the passport beside it."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    left = [shard for shard in log.shards if shard.exists()]
    if left == log.shards:
        _skeleton(partial, log, spaces, stack)
    elif not partial.exists() or left != log.shards[len(log.shards) - len(left) :]:
        raise Refused(f"data: shards are missing in {log.folder}; remove it and collect again")
    with opened(partial) as file:
        columns = columns_of(file)
    finals = np.cumsum(log.ledger["length"] + 1) - 1
    with partial.open("r+b") as out:
        for shard in left:
            _copy(shard, log, columns, finals, out)
            out.flush()
            os.fsync(out.fileno())
            shard.unlink()
    computed = examine(partial, columns, spaces, stack, log.ledger)
    save_json(path.parent / "passport.json", {"format": FORMAT, **passport, **computed})
    for stray in path.parent.glob("passport.json.*.tmp"):  # of a writer that was killed
        stray.unlink()
    partial.rename(path)
    sync(path.parent)


def _skeleton(partial: Path, log: Log, spaces: Spaces, stack: int) -> None:
    """The file with all columns at their final size; `partial` appears only when it is whole."""
    transitions, episodes = int(log.ledger["length"].sum()), len(log.ledger)
    ends = np.cumsum(log.ledger["length"])
    terminals, timeouts = np.zeros(transitions, bool), np.zeros(transitions, bool)
    terminals[ends - 1], timeouts[ends - 1] = log.ledger["terminated"], log.ledger["truncated"]
    beside = partial.with_name(partial.name + ".new")
    _probe(beside, records=transitions + episodes, log=log)
    with h5py.File(beside, "w", alignment_threshold=1, alignment_interval=_ALIGNMENT) as file:
        file.attrs["format"], file.attrs["stack"] = FORMAT, stack
        file.attrs["spaces"] = json.dumps(spaces.to_json(), sort_keys=True)
        for name in log.steps.names or ():
            field = log.steps[name]
            _allocate(file, name, (transitions, *field.shape), field.base)
            if name.startswith("observations"):
                _allocate(file, f"final/{name}", (episodes, *field.shape), field.base)
        file["terminals"], file["timeouts"] = terminals, timeouts
        file["returns"] = log.ledger["return"]
        file["starts"] = (ends - log.ledger["length"]).astype(np.int64)
    sync(beside)
    beside.replace(partial)
    sync(partial.parent)


def _probe(path: Path, records: int, log: Log) -> None:
    """Fails with a plain OSError where the skeleton would not fit: HDF5 cannot recover from a full disk itself."""
    with path.open("wb") as file:
        file.write(bytes(_METADATA_BYTES + records * 2 + log.ledger.nbytes))
        file.truncate(_METADATA_BYTES + records * log.steps.itemsize)


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    file.create_dataset(name, shape, dtype, dcpl=creation)


def _copy(shard: Path, log: Log, columns: dict[str, Column], finals: Array, out: BinaryIO) -> None:
    records = np.fromfile(shard, log.steps)
    first = int(shard.stem.removeprefix("shard-")) * log.per_shard
    # Records before this shard that were final observations: as many episodes, and so many fewer transitions.
    before, after = np.searchsorted(finals, [first, first + len(records)])
    is_final = np.zeros(len(records), bool)
    is_final[finals[before:after] - first] = True
    for name in log.steps.names or ():
        _put(out, columns[name], first - before, records[name][~is_final])
        if name.startswith("observations"):
            _put(out, columns[f"final/{name}"], before, records[name][is_final])


def _put(out: BinaryIO, column: Column, row: int, rows: Array) -> None:
    out.seek(column.offset + row * column.row_bytes)
    out.write(rows.data.cast("B") if rows.size else b"")
