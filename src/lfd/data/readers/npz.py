"""Archives of arrays: stable-baselines 2's `ExpertDataset` and imitation's older flat trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from lfd.data.episode import Array, Episode
from lfd.data.readers.flat import Rows, ends_of, episodes, reasons
from lfd.errors import Refused

_BASELINES = {"obs", "actions", "rewards", "episode_starts"}
_IMITATION = {"obs", "acts", "rews", "terminal", "indices"}


def read_npz(path: Path, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of an npz archive. Neither form says why an episode ended: `max_episode_steps` does, else it was cut.

    Raises:
        Refused: the archive is damaged or of another form, or an array in it is a pickle.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            if names >= _BASELINES:
                arrays = {name: _array(path, archive, name) for name in sorted(_BASELINES)}
                return _baselines(arrays, max_episode_steps)
            if names >= _IMITATION:
                arrays = {name: _array(path, archive, name) for name in sorted(_IMITATION)}
                return _imitation(arrays, max_episode_steps)
    except (BadZipFile, EOFError) as error:
        raise Refused(f"data: {path} is a damaged archive: {error}") from error
    raise Refused(
        f"data: {path} has {', '.join(sorted(names)) or 'no arrays'}; expected {', '.join(sorted(_BASELINES))} "
        f"(stable-baselines 2) or {', '.join(sorted(_IMITATION))} (imitation)"
    )


def _array(path: Path, archive: Any, name: str) -> Array:
    try:
        array: Array = archive[name]
    except ValueError as error:  # numpy's way to say that it would have to unpickle
        raise Refused(f"data: {path}: {name} is a pickled object array, not numbers ({error})") from error
    return array


def _baselines(arrays: dict[str, Array], max_episode_steps: int | None) -> Iterator[Episode]:
    columns: dict[str, Rows] = {
        "observations": arrays["obs"],
        "actions": arrays["actions"],
        "rewards": arrays["rewards"],
    }
    ends = ends_of(np.append(arrays["episode_starts"].reshape(-1)[1:].astype(bool), True))
    return episodes(columns, ends, *reasons(ends, max_episode_steps, otherwise=False), None)


def _imitation(arrays: dict[str, Array], max_episode_steps: int | None) -> Iterator[Episode]:
    ends = np.append(arrays["indices"], len(arrays["acts"]))
    # Each episode has one observation more than actions, all in one array.
    finals = ends + np.arange(len(ends))
    firsts = np.append(0, finals[:-1] + 1)
    columns: dict[str, Rows] = {
        "observations": np.delete(arrays["obs"], finals, axis=0),
        "actions": arrays["acts"],
        "rewards": arrays["rews"],
    }
    terminated, truncated = reasons(ends, max_episode_steps, otherwise=False)
    ended = arrays["terminal"].astype(bool)
    successors = {"observations": np.delete(arrays["obs"], firsts, axis=0)}
    return episodes(columns, ends, terminated & ended, truncated & ended, successors)
