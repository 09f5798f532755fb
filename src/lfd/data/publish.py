"""Copies shards into the published file: contiguous HDF5 columns under D4RL's names, crash-safe at every step.

HDF5 first creates an empty file with the space of all columns allocated (and not written, so it is sparse); rows are
then written at their byte offsets without HDF5. A kill can therefore never damage HDF5's own structures, and copying a
shard twice changes nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from lfd.data.layout import FORMAT_VERSION, ColumnLayout, open_hdf5, read_layout
from lfd.data.metadata import METADATA_FILE, compute_metadata
from lfd.envs.spaces import Array, Spaces
from lfd.errors import UserError
from lfd.files import fsync_path, save_json

_ALIGNMENT = 64
_METADATA_BYTES = 1 << 20  # far more than HDF5 needs for a few dozen columns


class ShardLog(NamedTuple):
    """Committed shards of packed step records: the T steps of an episode, then one record of its final observation."""

    folder: Path
    record_dtype: np.dtype[Any]  # see `step_dtype`
    records_per_shard: int
    episode_index: Array  # [E] of EPISODE_INDEX_DTYPE

    @property
    def shards(self) -> list[Path]:
        """The paths of all shards, also of those that `publish` has deleted."""
        records = int(self.episode_index["length"].sum()) + len(self.episode_index)
        return [self.folder / f"shard-{index:05d}.bin" for index in range(-(-records // self.records_per_shard))]


def publish(log: ShardLog, path: Path, spaces: Spaces, stack: int, metadata: dict[str, Any]) -> None:
    """Copies the log to `path`, deletes each shard once its rows are on disk, and writes metadata.json beside it.

    Raises:
        UserError: a shard is missing.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    remaining = [shard for shard in log.shards if shard.exists()]
    if remaining == log.shards:
        _create_empty(partial, log, spaces, stack)
    elif not partial.exists() or remaining != log.shards[len(log.shards) - len(remaining) :]:
        raise UserError(
            f"data: {log.folder}: expected {len(log.shards)} shards, got {len(remaining)}; remove it and collect again"
        )
    with open_hdf5(partial) as file:
        columns = read_layout(file)
    final_records = np.cumsum(log.episode_index["length"] + 1) - 1
    with partial.open("r+b") as out:
        for shard in remaining:
            _copy_shard(shard, log, columns, final_records, out)
            out.flush()
            os.fsync(out.fileno())
            shard.unlink()
    computed = compute_metadata(partial, columns, spaces, stack, log.episode_index)
    save_json(path.with_name(METADATA_FILE), {"format": FORMAT_VERSION, **metadata, **computed})
    for leftover in path.parent.glob(f"{METADATA_FILE}.*.tmp"):  # of a writer that was killed
        leftover.unlink()
    partial.rename(path)
    fsync_path(path.parent)


def _create_empty(partial: Path, log: ShardLog, spaces: Spaces, stack: int) -> None:
    """Creates the file with all columns at their final size; it gets the name `partial` once it is complete."""
    transitions, episodes = int(log.episode_index["length"].sum()), len(log.episode_index)
    ends = np.cumsum(log.episode_index["length"])
    terminals, timeouts = np.zeros(transitions, bool), np.zeros(transitions, bool)
    terminals[ends - 1], timeouts[ends - 1] = log.episode_index["terminated"], log.episode_index["truncated"]
    temporary = partial.with_name(partial.name + ".new")
    _check_disk_space(temporary, records=transitions + episodes, log=log)
    with h5py.File(temporary, "w", alignment_threshold=1, alignment_interval=_ALIGNMENT) as file:
        file.attrs["format"], file.attrs["stack"] = FORMAT_VERSION, stack
        file.attrs["spaces"] = json.dumps(spaces.to_json(), sort_keys=True)
        for name in log.record_dtype.names or ():
            field = log.record_dtype[name]
            _allocate(file, name, (transitions, *field.shape), field.base)
            if name.startswith("observations"):
                _allocate(file, f"final/{name}", (episodes, *field.shape), field.base)
        file["terminals"], file["timeouts"] = terminals, timeouts
        file["returns"] = log.episode_index["return"]
        file["starts"] = (ends - log.episode_index["length"]).astype(np.int64)
    fsync_path(temporary)
    temporary.replace(partial)
    fsync_path(partial.parent)


def _check_disk_space(path: Path, records: int, log: ShardLog) -> None:
    """Raises OSError if the empty file would not fit on the disk, from which HDF5 itself could not recover."""
    with path.open("wb") as file:
        file.write(bytes(_METADATA_BYTES + records * 2 + log.episode_index.nbytes))
        file.truncate(_METADATA_BYTES + records * log.record_dtype.itemsize)


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    file.create_dataset(name, shape, dtype, dcpl=creation)


def _copy_shard(
    shard: Path, log: ShardLog, columns: dict[str, ColumnLayout], final_records: Array, out: BinaryIO
) -> None:
    """Writes a shard's records to their columns; `final_records` [E] are the records of final observations."""
    records = np.fromfile(shard, log.record_dtype)
    first = int(shard.stem.removeprefix("shard-")) * log.records_per_shard
    # Each record of a final observation before this shard is one more episode, and one transition less.
    before, after = np.searchsorted(final_records, [first, first + len(records)])
    is_final = np.zeros(len(records), bool)
    is_final[final_records[before:after] - first] = True
    for name in log.record_dtype.names or ():
        _write_rows(out, columns[name], first - before, records[name][~is_final])
        if name.startswith("observations"):
            _write_rows(out, columns[f"final/{name}"], before, records[name][is_final])


def _write_rows(out: BinaryIO, column: ColumnLayout, row: int, rows: Array) -> None:
    out.seek(column.offset + row * column.row_bytes)
    out.write(rows.data.cast("B") if rows.size else b"")
