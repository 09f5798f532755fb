"""D4RL's HDF5: flat rows with `terminals` and, in most files, `timeouts` and `next_observations`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from lfd.data.episode import Episode
from lfd.data.readers.flat import episode_ends, find_resets, parse_flags, split_episodes, time_limit_flags
from lfd.data.readers.hdf5 import NUMERIC_KINDS, numeric_column, numeric_columns
from lfd.errors import UserError

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_ARRAYS, _FLAGS = (*_REQUIRED[:-1], "next_observations"), (_REQUIRED[-1], "timeouts")


def read_d4rl(path: Path, file: h5py.File, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of an open D4RL file.

    `next_observations` give final observations; an episode also ends where they differ from the next row's observation.
    Without `timeouts`, every `max_episode_steps`-th row of an episode was truncated.

    Raises:
        UserError: a column is missing, is a pickle or has another length; or nothing marks truncations.
    """
    # A link to nothing is among the names, so that it is refused.
    names, flags = (
        tuple(name for name in names if name in _REQUIRED or file.id.links.exists(name.encode()))
        for names in (_ARRAYS, _FLAGS)
    )
    columns = numeric_columns(path, file, names, flags)
    count = len(columns["rewards"])
    parsed = {name: parse_flags(path, name, columns.pop(name)) for name in flags}
    terminals, timeouts = parsed["terminals"], parsed.get("timeouts")
    next_observations = columns.pop("next_observations", None)
    if timeouts is None and next_observations is None and max_episode_steps is None:
        raise UserError(
            f"data: {path}: expected timeouts or next_observations, which show truncated episodes, got neither; "
            "give dataset.max_episode_steps"
        )
    is_end = terminals if timeouts is None else terminals | timeouts
    if next_observations is not None:
        if next_observations.shape != columns["observations"].shape:
            raise UserError(
                f"data: {path}: next_observations: expected the shape of observations, "
                f"{columns['observations'].shape}, got {next_observations.shape}; write one row a step in each"
            )
        is_end = is_end | find_resets(columns["observations"], next_observations)
    if timeouts is None and max_episode_steps is not None:
        timeouts = time_limit_flags(is_end, max_episode_steps) & ~terminals
        is_end = is_end | timeouts
    ends = episode_ends(is_end)
    truncated = np.zeros(len(ends), bool) if timeouts is None else timeouts[ends - 1]
    successors = None if next_observations is None else {"observations": next_observations}
    infos = {name: numeric_column(path, file, name) for name in _info_names(file, count)}
    yield from split_episodes(path, columns | infos, ends, terminals[ends - 1], truncated, successors)


def _info_names(file: h5py.File, count: int) -> list[str]:
    """The numeric arrays of the group `infos` with `count` rows."""
    infos = file.get("infos")
    if not isinstance(infos, h5py.Group):
        return []
    arrays = {name: item for name, item in infos.items() if isinstance(item, h5py.Dataset)}
    names = [name for name, item in arrays.items() if item.shape[:1] == (count,) and item.dtype.kind in NUMERIC_KINDS]
    return [f"infos/{name}" for name in names]
