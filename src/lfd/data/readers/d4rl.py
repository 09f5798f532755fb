"""D4RL's HDF5: flat rows with `terminals` and, in most files, `timeouts` and `next_observations`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from lfd.data.episode import Episode
from lfd.data.readers.flat import breaks, ends_of, episodes, flags_of, time_limit
from lfd.data.readers.hdf5 import NUMBERS, alike, plain
from lfd.errors import Refused

REQUIRED = ("observations", "actions", "rewards", "terminals")
_NUMBERS, _FLAGS = (*REQUIRED[:-1], "next_observations"), (REQUIRED[-1], "timeouts")


def read_d4rl(path: Path, file: h5py.File, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of an open D4RL file.

    `next_observations` give final observations, and a row whose successor the next row contradicts ends an episode.
    Where an end has neither flag and `max_episode_steps` rows, it was the time limit.

    Raises:
        Refused: a column is missing, is a pickle or has another length; or nothing says where episodes were truncated.
    """
    # a link to nothing is there too, and is refused
    names, flags = (
        tuple(name for name in names if name in REQUIRED or file.id.links.exists(name.encode()))
        for names in (_NUMBERS, _FLAGS)
    )
    columns = alike(path, file, names, flags)
    count = len(columns["rewards"])
    told = {name: flags_of(path, name, columns.pop(name)) for name in flags}
    terminals, timeouts = told["terminals"], told.get("timeouts")
    successors = columns.pop("next_observations", None)
    if timeouts is None and successors is None and max_episode_steps is None:
        raise Refused(
            f"data: {path} has neither timeouts nor next_observations, so nothing says where the time limit struck; "
            "give dataset.max_episode_steps"
        )
    over = terminals if timeouts is None else terminals | timeouts
    if successors is not None:
        if successors.shape != columns["observations"].shape:
            raise Refused(
                f"data: {path}: next_observations have the shape {successors.shape}; expected that of observations, "
                f"{columns['observations'].shape}"
            )
        over = over | breaks(columns["observations"], successors)
    if timeouts is None and max_episode_steps is not None:
        timeouts = time_limit(over, max_episode_steps) & ~terminals
        over = over | timeouts
    ends = ends_of(over)
    truncated = np.zeros(len(ends), bool) if timeouts is None else timeouts[ends - 1]
    known = None if successors is None else {"observations": successors}
    infos = {name: plain(path, file, name) for name in _info_names(file, count)}
    yield from episodes(path, columns | infos, ends, terminals[ends - 1], truncated, known)


def _info_names(file: h5py.File, count: int) -> list[str]:
    infos = file.get("infos")
    if not isinstance(infos, h5py.Group):
        return []
    arrays = {name: item for name, item in infos.items() if isinstance(item, h5py.Dataset)}
    kept = [name for name, item in arrays.items() if item.shape[:1] == (count,) and item.dtype.kind in NUMBERS]
    return [f"infos/{name}" for name in kept]
