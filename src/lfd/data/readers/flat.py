"""Splits flat columns, one row a step, into episodes, and finds where and why these end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lfd.data.episode import Episode, unflatten_observations
from lfd.envs.spaces import Array
from lfd.errors import UserError

BoolArray = npt.NDArray[np.bool_]

_BLOCK_ROWS = 16_384
# Files round observations differently in `observations` and `next_observations`; a reset is a far larger difference.
# The first is in standard deviations of a dimension, the second in those of the dimension that varies most.
_RESET_STDS, _MIN_RELATIVE_STD = 1e-2, 1e-6


class ColumnLike(Protocol):
    """An array, or a column of an open HDF5 file that is read as it is sliced."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Array: ...


def check_same_length(path: Path, columns: Mapping[str, ColumnLike]) -> None:
    """Raises UserError unless all columns have the same number of rows, one at least."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise UserError(f"data: {path}: expected one row a step in each column, got {got}; write the missing rows")
    if not next(iter(lengths.values())):
        raise UserError(f"data: {path}: expected transitions, got empty columns ({', '.join(lengths)}); record some")


def parse_flags(path: Path, name: str, column: ColumnLike) -> BoolArray:
    """[N] booleans of a column of flags, [N] or [N, 1] of any dtype. Raises UserError if a flag is not 0 or 1."""
    values = np.asarray(column[:])
    if values.size != len(values):
        raise UserError(f"data: {path}: {name}: expected one flag a row, got the shape {values.shape}; write [N] flags")
    values = values.reshape(-1)
    is_bad = ~((values == 0) | (values >= 1))  # NaN included
    if is_bad.any():
        row = int(is_bad.argmax())
        raise UserError(f"data: {path}: {name} of row {row}: expected 0 or 1, got {values[row]:g}; correct it")
    return np.asarray(values >= 1)


def check_file_memory(path: Path, needed: int) -> None:
    """Raises UserError if `needed` bytes of a file do not fit into free memory."""
    free = _free_memory()
    if needed > free:
        raise UserError(
            f"data: {path}: expected episodes that fit into memory ({free / 1e9:,.1f} GB are free), got "
            f"{needed / 1e9:,.1f} GB at once; split the file"
        )


def _free_memory() -> int:
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not on Linux: all physical memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def episode_ends(flags: BoolArray) -> npt.NDArray[np.int64]:
    """[E] exclusive ends of the episodes, given `flags` [N] that are True on last rows; row N - 1 is always one."""
    ends = np.flatnonzero(flags) + 1
    return ends if len(ends) and ends[-1] == len(flags) else np.append(ends, len(flags))


def find_resets(observations: ColumnLike, successors: ColumnLike) -> BoolArray:
    """[N] True where a row's next observation differs from the next row's observation: a reset lies between.

    `observations` and `successors` are [N, ...]. The threshold scales with the standard deviation of each dimension, so
    that units do not matter.
    """
    is_reset = np.zeros(len(observations), bool)
    std: Any = 0.0
    rounding = max((np.finfo(c.dtype).eps for c in (observations, successors) if c.dtype.kind == "f"), default=0.0)
    for start in range(0, len(observations) - 1, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(observations) - 1)
        after = np.asarray(successors[start:stop], np.float64).reshape(stop - start, -1)
        following = np.asarray(observations[start + 1 : stop + 1], np.float64).reshape(stop - start, -1)
        std = np.maximum(std, following.std(0))
        threshold = np.maximum(_RESET_STDS * std, _MIN_RELATIVE_STD * std.max())
        is_reset[start:stop] = (np.abs(after - following) > threshold + 4 * rounding * np.abs(following)).any(axis=1)
    return is_reset


def time_limit_flags(flags: BoolArray, max_episode_steps: int) -> BoolArray:
    """[N] True on each `max_episode_steps`-th row since the last flag: the time limit truncated the episode there."""
    is_truncated, start = np.zeros(len(flags), bool), 0
    for end in episode_ends(flags):
        is_truncated[start + max_episode_steps - 1 : end : max_episode_steps] = True
        start = end
    return is_truncated


def end_reasons(ends: Array, max_episode_steps: int | None, default_terminated: bool) -> tuple[BoolArray, BoolArray]:
    """([E] terminated, [E] truncated) for files that mark where an episode ended but not why; `ends` are [E].

    An episode as long as the time limit was truncated and a shorter one terminated. Without a limit, all episodes
    terminated if `default_terminated`, else all were cut.
    """
    lengths = np.diff(ends, prepend=0)
    if max_episode_steps is None:
        return np.full(len(ends), default_terminated), np.zeros(len(ends), bool)
    return lengths < max_episode_steps, lengths >= max_episode_steps


def split_episodes(
    path: Path,
    columns: Mapping[str, ColumnLike],
    ends: Array,
    terminated: BoolArray,
    truncated: BoolArray,
    successors: Mapping[str, ColumnLike] | None,
) -> Iterator[Episode]:
    """Episodes of flat columns [N, ...], named as on disk, given their exclusive `ends` and how they ended, [E] each.

    `successors` are the next observations [N, ...] by column; the last one of an episode is its final observation.
    """
    row_bytes = sum(
        column.dtype.itemsize * int(np.prod(column.shape[1:], dtype=np.int64)) for column in columns.values()
    )
    check_file_memory(path, row_bytes * int(np.diff(ends, prepend=0).max()))
    start = 0
    for index, end in enumerate(ends.tolist()):
        parts: dict[str, Any] = {name: column[start:end] for name, column in columns.items()}
        observations = {name: part for name, part in parts.items() if name.startswith("observations")}
        if successors is not None:
            final = {name: column[end - 1 : end] for name, column in successors.items()}
            observations = {name: np.concatenate([rows, final[name]]) for name, rows in observations.items()}
        yield Episode(
            observations=unflatten_observations(observations),
            actions=parts["actions"],
            rewards=parts["rewards"],
            terminated=bool(terminated[index]),
            truncated=bool(truncated[index]),
            infos={name.removeprefix("infos/"): part for name, part in parts.items() if name.startswith("infos/")},
        )
        start = end
