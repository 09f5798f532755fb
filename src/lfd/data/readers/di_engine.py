"""DI-engine's expert data: a pickled list with one dict a transition, or HDF5 (`*_demos.hdf5`) with the same names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lfd.data.episode import Array, Episode, flatten
from lfd.data.readers.flat import Flags, Rows, breaks, ends_of, episodes, flags_of, reasons
from lfd.data.readers.hdf5 import alike
from lfd.data.readers.unpickle import load
from lfd.errors import Refused

REQUIRED = ("obs", "action", "reward", "done")


def read_di_engine(path: Path, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of a list of transitions in time order, or of a list of such lists, one an episode.

    `done` is set by a time limit too: `max_episode_steps` tells the two apart, without it each is a termination, as
    DI-engine takes it. `next_obs` give final observations, and where the next row contradicts one an episode was cut.

    Raises:
        Refused: it is no list of such dicts, or holds more than arrays and plain containers.
    """
    steps, ends = _transitions(load(path))
    if not steps or not isinstance(steps[0], dict):
        raise Refused(f"data: {path} holds no list of dicts, one a transition, as DI-engine's do")
    missing = [key for key in REQUIRED if key not in steps[0]]
    if missing:
        raise Refused(f"data: {path}: a transition has no {', '.join(missing)}; it has {', '.join(map(str, steps[0]))}")
    try:
        columns: dict[str, Array] = {
            "actions": _column(steps, "action"),
            "rewards": _column(steps, "reward"),
        } | _observed(steps, "obs")
        done = flags_of(path, "done", _column(steps, "done"))
        successors = _observed(steps, "next_obs") if "next_obs" in steps[0] else None
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"data: {path}: its transitions are not all alike: {error}") from error
    known = np.zeros_like(done)
    known[ends] = True
    return _episodes(path, columns, successors, done, known, max_episode_steps)


def read_di_engine_hdf5(path: Path, file: h5py.File, max_episode_steps: int | None) -> Iterator[Episode]:
    """As `read_di_engine`, of an open HDF5 file.

    Raises:
        Refused: a column is missing, is not an array of numbers or has another length.
    """
    names = REQUIRED[:-1]
    columns = alike(path, file, (*names, "next_obs") if file.id.links.exists(b"next_obs") else names, ("done",))
    done = flags_of(path, "done", columns["done"])
    successors = {"observations": columns["next_obs"]} if "next_obs" in columns else None
    rows = {"observations": columns["obs"], "actions": columns["action"], "rewards": columns["reward"]}
    return _episodes(path, rows, successors, done, np.zeros_like(done), max_episode_steps)


def _episodes(
    path: Path,
    columns: Mapping[str, Rows],
    successors: Mapping[str, Rows] | None,
    done: Flags,
    known: Flags,
    max_episode_steps: int | None,
) -> Iterator[Episode]:
    """`known`: [N] True on last rows that the file tells beside `done`."""
    flags = done | known
    for name, column in (successors or {}).items():
        if column.shape != columns[name].shape:
            raise Refused(
                f"data: {path}: next_obs have the shape {column.shape}; expected that of obs, {columns[name].shape}"
            )
        flags |= breaks(columns[name], column)
    ends = ends_of(flags)
    terminated, truncated = reasons(ends, max_episode_steps, otherwise=True)
    ended = done[ends - 1]
    return episodes(path, columns, ends, terminated & ended, truncated & ended, successors)


def _transitions(content: Any) -> tuple[list[Any], list[int]]:
    """All transitions in one list, and the last index of each episode where these are lists of their own."""
    if not isinstance(content, list):
        return [], []
    if not all(isinstance(one, list) for one in content):
        return content, []
    ends = np.cumsum([len(episode) for episode in content]) - 1
    return [step for episode in content for step in episode], ends.tolist()


def _observed(steps: list[dict[str, Any]], key: str) -> dict[str, Array]:
    if isinstance(steps[0][key], dict):
        return flatten({part: np.stack([np.asarray(step[key][part]) for step in steps]) for part in steps[0][key]})
    return flatten(_column(steps, key))


def _column(steps: list[dict[str, Any]], key: str) -> Array:
    return np.stack([np.asarray(step[key]) for step in steps])
