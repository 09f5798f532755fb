"""Archives of arrays: stable-baselines 2's `ExpertDataset` and imitation's older flat trajectories."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from lfd.data.episode import Array, Episode
from lfd.data.readers.flat import Rows, check_memory, ends_of, episodes, flags_of, reasons, same_lengths
from lfd.errors import Refused

_BASELINES = {"obs", "actions", "rewards", "episode_starts"}
_IMITATION = {"obs", "acts", "rews", "terminal", "indices"}


def read_npz(path: Path, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of an npz archive. Neither form says why an episode ended: `max_episode_steps` does, else it was cut.

    Raises:
        Refused: the archive is damaged or of another form, or an array in it is a pickle.
    """
    try:
        with ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            for wanted, form in ((_BASELINES, _baselines), (_IMITATION, _imitation)):
                if wanted <= names:
                    check_memory(path, sum(archive.getinfo(f"{name}.npy").file_size for name in wanted))
                    return form(path, {name: _array(path, archive, name) for name in sorted(wanted)}, max_episode_steps)
    except (BadZipFile, EOFError, KeyError, zlib.error) as error:
        raise Refused(f"data: {path} is a damaged archive: {error}; copy it again") from error
    raise Refused(
        f"data: {path} has {', '.join(sorted(names)) or 'no arrays'}; expected {', '.join(sorted(_BASELINES))} "
        f"(stable-baselines 2) or {', '.join(sorted(_IMITATION))} (imitation)"
    )


def _array(path: Path, archive: ZipFile, name: str) -> Array:
    with archive.open(f"{name}.npy") as file:
        try:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            if "pickle" in str(error):  # numpy's way to say that it would have to unpickle
                raise Refused(f"data: {path}: {name} is a pickled object array, not numbers ({error})") from error
            raise Refused(f"data: {path}: {name} is a damaged array: {error}; write it again") from error
    if not array.ndim:
        raise Refused(f"data: {path}: {name} is a single number; expected one row a step")
    return array


def _baselines(path: Path, arrays: dict[str, Array], max_episode_steps: int | None) -> Iterator[Episode]:
    same_lengths(path, arrays)
    starts = flags_of(path, "episode_starts", arrays["episode_starts"])
    if not starts.any():
        raise Refused(f"data: {path}: episode_starts is never true; expected it at the first step of each episode")
    columns: dict[str, Rows] = {
        "observations": arrays["obs"],
        "actions": arrays["actions"],
        "rewards": arrays["rewards"],
    }
    ends = ends_of(np.append(starts[1:], True))
    return episodes(path, columns, ends, *reasons(ends, max_episode_steps, otherwise=False), None)


def _imitation(path: Path, arrays: dict[str, Array], max_episode_steps: int | None) -> Iterator[Episode]:
    same_lengths(path, {name: arrays[name] for name in ("acts", "rews")})
    steps, indices = len(arrays["acts"]), arrays["indices"]
    ends = np.append(indices, steps)
    if indices.dtype.kind not in "iu" and indices.size or indices.ndim > 1 or (np.diff(ends, prepend=0) <= 0).any():
        raise Refused(
            f"data: {path}: indices are {_listed(indices)}; expected where each episode but the first begins, rising "
            f"from 1 to below the {steps} of acts"
        )
    ends = ends.astype(np.int64)
    for name, expected in (("obs", steps + len(ends)), ("terminal", len(ends))):
        if len(arrays[name]) != expected:
            raise Refused(
                f"data: {path} has {len(arrays[name])} {name}; expected {expected}, as its indices tell of {len(ends)} "
                f"episodes with {steps} steps"
            )
    # Each episode has one observation more than actions, all in one array.
    finals = ends + np.arange(len(ends))
    firsts = np.append(0, finals[:-1] + 1)
    columns: dict[str, Rows] = {
        "observations": np.delete(arrays["obs"], finals, axis=0),
        "actions": arrays["acts"],
        "rewards": arrays["rews"],
    }
    terminated, truncated = reasons(ends, max_episode_steps, otherwise=False)
    ended = flags_of(path, "terminal", arrays["terminal"])
    successors = {"observations": np.delete(arrays["obs"], firsts, axis=0)}
    return episodes(path, columns, ends, terminated & ended, truncated & ended, successors)


def _listed(values: Array) -> str:
    return f"{values.reshape(-1)[:5].tolist()}{'…' if values.size > 5 else ''}"
