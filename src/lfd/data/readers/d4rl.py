"""D4RL's HDF5: flat rows with `terminals` and, in most files, `timeouts` and `next_observations`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from lfd.data.episode import Episode
from lfd.data.readers.flat import Flags, breaks, ends_of, episodes, time_limit
from lfd.data.readers.hdf5 import NUMBERS, alike, plain
from lfd.errors import Refused

REQUIRED = ("observations", "actions", "rewards", "terminals")


def read_d4rl(path: Path, file: h5py.File, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of an open D4RL file.

    `next_observations` give final observations, and a row whose successor the next row contradicts ends an episode.
    Where an end has neither flag and `max_episode_steps` rows, it was the time limit.

    Raises:
        Refused: a column is missing, is a pickle or has another length; or nothing says where episodes were truncated.
    """
    columns = alike(path, file, REQUIRED)
    count = len(columns["rewards"])
    terminals = _flags(columns.pop("terminals"))
    timeouts = _flags(plain(path, file, "timeouts")) if "timeouts" in file else None
    successors = plain(path, file, "next_observations") if "next_observations" in file else None
    if timeouts is None and successors is None and max_episode_steps is None:
        raise Refused(
            f"data: {path} has neither timeouts nor next_observations, so nothing says where the time limit struck; "
            "give max_episode_steps"
        )
    flags = terminals if timeouts is None else terminals | timeouts
    if successors is not None:
        flags = flags | breaks(columns["observations"], successors)
    if timeouts is None and max_episode_steps is not None:
        timeouts = time_limit(flags, max_episode_steps) & ~terminals
        flags = flags | timeouts
    ends = ends_of(flags)
    truncated = np.zeros(len(ends), bool) if timeouts is None else timeouts[ends - 1]
    known = None if successors is None else {"observations": successors}
    infos = {name: plain(path, file, name) for name in _info_names(file, count)}
    yield from episodes(columns | infos, ends, terminals[ends - 1], truncated, known)


def _flags(column: h5py.Dataset) -> Flags:
    # Some files keep flags as (N, 1), some as floats.
    return np.asarray(column[:]).reshape(-1) > 0.5


def _info_names(file: h5py.File, count: int) -> list[str]:
    infos = file.get("infos")
    if not isinstance(infos, h5py.Group):
        return []
    arrays = {name: item for name, item in infos.items() if isinstance(item, h5py.Dataset)}
    kept = [name for name, item in arrays.items() if item.shape[:1] == (count,) and item.dtype.kind in NUMBERS]
    return [f"infos/{name}" for name in kept]
