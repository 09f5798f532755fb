"""Cutting flat columns, one row a step, into episodes: where they end, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lfd.data.episode import Array, Episode, unflatten
from lfd.errors import Refused

Flags = npt.NDArray[np.bool_]

_BLOCK_ROWS = 16_384
# Files round observations differently in `observations` and `next_observations`; a reset is a far larger step. In
# standard deviations of each dimension; one that hardly moves beside the others tells nothing.
_RESET, _HARDLY = 1e-2, 1e-6


class Rows(Protocol):
    """An array, or a column of an open HDF5 file that is read as it is sliced."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Array: ...


def same_lengths(path: Path, columns: Mapping[str, Rows]) -> None:
    """Raises Refused unless all columns have the same number of rows, and some."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise Refused(f"data: {path} has {told}; expected one row a step in each")
    if not next(iter(lengths.values())):
        raise Refused(f"data: {path} holds no transitions; its columns are empty: {', '.join(lengths)}")


def flags_of(path: Path, name: str, column: Rows) -> Flags:
    """[N] booleans of a column of flags, (N,) or (N, 1) of any type. Raises Refused if one is not 0 or 1."""
    values = np.asarray(column[:])
    if values.size != len(values):
        raise Refused(f"data: {path}: {name} has the shape {values.shape}; expected one flag a row")
    values = values.reshape(-1)
    wrong = ~((values == 0) | (values >= 1))  # not a number included
    if wrong.any():
        row = int(wrong.argmax())
        raise Refused(f"data: {path}: {name} of row {row} is {values[row]:g}; expected 0 or 1")
    return np.asarray(values >= 1)


def check_memory(path: Path, needed: int) -> None:
    """Raises Refused if so many bytes of a file cannot be held at once."""
    free = _free_memory()
    if needed > free:
        raise Refused(
            f"data: {path} needs {needed / 1e9:,.1f} GB of memory at once, of {free / 1e9:,.1f} GB that are free; "
            "expected episodes that fit; split it"
        )


def _free_memory() -> int:
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not on Linux: all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def ends_of(flags: Flags) -> npt.NDArray[np.int64]:
    """Exclusive ends [E] of the episodes in `flags` [N], True on last rows; the file's end is the last one's."""
    ends = np.flatnonzero(flags) + 1
    return ends if len(ends) and ends[-1] == len(flags) else np.append(ends, len(flags))


def breaks(observations: Rows, successors: Rows) -> Flags:
    """[N] True where a row's successor is not the next row's observation, so that something was reset between.

    What counts as different is measured by how far the observations spread, whatever their units.
    """
    found = np.zeros(len(observations), bool)
    spread: Any = 0.0
    rounding = max((np.finfo(c.dtype).eps for c in (observations, successors) if c.dtype.kind == "f"), default=0.0)
    for start in range(0, len(observations) - 1, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(observations) - 1)
        after = np.asarray(successors[start:stop], np.float64).reshape(stop - start, -1)
        following = np.asarray(observations[start + 1 : stop + 1], np.float64).reshape(stop - start, -1)
        spread = np.maximum(spread, following.std(0))
        least = np.maximum(_RESET * spread, _HARDLY * spread.max())
        found[start:stop] = (np.abs(after - following) > least + 4 * rounding * np.abs(following)).any(axis=1)
    return found


def time_limit(flags: Flags, max_episode_steps: int) -> Flags:
    """[N] True on each `max_episode_steps`-th row since the last flag: where a time limit must have struck."""
    found, start = np.zeros(len(flags), bool), 0
    for end in ends_of(flags):
        found[start + max_episode_steps - 1 : end : max_episode_steps] = True
        start = end
    return found


def reasons(ends: Array, max_episode_steps: int | None, otherwise: bool) -> tuple[Flags, Flags]:
    """([E] terminated, [E] truncated) for files that say where an episode ended but not why.

    An episode as long as the time limit was truncated and a shorter one terminated. Without a limit, `otherwise` says
    whether an end counts as a termination.
    """
    lengths = np.diff(ends, prepend=0)
    if max_episode_steps is None:
        return np.full(len(ends), otherwise), np.zeros(len(ends), bool)
    return lengths < max_episode_steps, lengths >= max_episode_steps


def episodes(
    path: Path,
    columns: Mapping[str, Rows],
    ends: Array,
    terminated: Flags,
    truncated: Flags,
    successors: Mapping[str, Rows] | None,
) -> Iterator[Episode]:
    """The rows of `columns` (named as on disk) between `ends`, with the last one's successor where they are known."""
    row = sum(column.dtype.itemsize * int(np.prod(column.shape[1:], dtype=np.int64)) for column in columns.values())
    check_memory(path, row * int(np.diff(ends, prepend=0).max()))
    start = 0
    for index, end in enumerate(ends.tolist()):
        parts: dict[str, Any] = {name: column[start:end] for name, column in columns.items()}
        observations = {name: part for name, part in parts.items() if name.startswith("observations")}
        if successors is not None:
            final = {name: column[end - 1 : end] for name, column in successors.items()}
            observations = {name: np.concatenate([rows, final[name]]) for name, rows in observations.items()}
        yield Episode(
            observations=unflatten(observations),
            actions=parts["actions"],
            rewards=parts["rewards"],
            terminated=bool(terminated[index]),
            truncated=bool(truncated[index]),
            infos={name.removeprefix("infos/"): part for name, part in parts.items() if name.startswith("infos/")},
        )
        start = end
