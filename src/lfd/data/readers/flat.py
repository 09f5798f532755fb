"""Cutting flat columns, one row a step, into episodes: where they end, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lfd.data.episode import Array, Episode, unflatten

Flags = npt.NDArray[np.bool_]

_BLOCK_ROWS = 16_384
# Files round observations differently in `observations` and `next_observations`; a reset is a far larger step.
_TOLERANCE = 1e-3


class Rows(Protocol):
    """An array, or a column of an open HDF5 file that is read as it is sliced."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Array: ...


def ends_of(flags: Flags) -> npt.NDArray[np.int64]:
    """Exclusive ends [E] of the episodes in `flags` [N], True on last rows; the file's end is the last one's."""
    ends = np.flatnonzero(flags) + 1
    return ends if len(ends) and ends[-1] == len(flags) else np.append(ends, len(flags))


def breaks(observations: Rows, successors: Rows) -> Flags:
    """[N] True where a row's successor is not the next row's observation, so that something was reset between."""
    found = np.zeros(len(observations), bool)
    for start in range(0, len(observations) - 1, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(observations) - 1)
        after, following = successors[start:stop], observations[start + 1 : stop + 1]
        same = np.isclose(after, following, rtol=_TOLERANCE, atol=_TOLERANCE)
        found[start:stop] = ~same.reshape(stop - start, -1).all(axis=1)
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
    columns: Mapping[str, Rows], ends: Array, terminated: Flags, truncated: Flags, successors: Mapping[str, Rows] | None
) -> Iterator[Episode]:
    """The rows of `columns` (named as on disk) between `ends`, with the last one's successor where they are known."""
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
            rewards=np.asarray(parts["rewards"], np.float32).reshape(-1),
            terminated=bool(terminated[index]),
            truncated=bool(truncated[index]),
            infos={name.removeprefix("infos/"): part for name, part in parts.items() if name.startswith("infos/")},
        )
        start = end
