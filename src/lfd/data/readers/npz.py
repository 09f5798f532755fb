"""Archives of arrays: stable-baselines 2's `ExpertDataset` and imitation's older flat trajectories."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from lfd.data.episode import Episode
from lfd.data.readers.flat import (
    ColumnLike,
    check_file_memory,
    check_same_length,
    end_reasons,
    episode_ends,
    parse_flags,
    split_episodes,
)
from lfd.envs.spaces import Array
from lfd.errors import UserError

_BASELINES = {"obs", "actions", "rewards", "episode_starts"}
_IMITATION = {"obs", "acts", "rews", "terminal", "indices"}


def read_npz(path: Path, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of an npz archive.

    Neither format stores why an episode ended: with `max_episode_steps`, shorter ones terminated and the others were
    truncated; without it, all episodes were cut.

    Raises:
        UserError: the archive is damaged or in another format, or an array in it is a pickle.
    """
    try:
        with ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            for required, read in ((_BASELINES, _read_baselines), (_IMITATION, _read_imitation)):
                if required <= names:
                    check_file_memory(path, sum(archive.getinfo(f"{name}.npy").file_size for name in required))
                    arrays = {name: _load_array(path, archive, name) for name in sorted(required)}
                    return read(path, arrays, max_episode_steps)
    except (BadZipFile, EOFError, KeyError, zlib.error) as error:
        raise UserError(f"data: {path} is a damaged archive: {error}; copy it again") from error
    raise UserError(
        f"data: {path}: expected {', '.join(sorted(_BASELINES))} (stable-baselines 2) or "
        f"{', '.join(sorted(_IMITATION))} (imitation), got {', '.join(sorted(names)) or 'no arrays'}; write them so"
    )


def _load_array(path: Path, archive: ZipFile, name: str) -> Array:
    with archive.open(f"{name}.npy") as file:
        try:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            if "pickle" in str(error):  # the only sign by which numpy reports an array of objects
                raise UserError(
                    f"data: {path}: {name}: expected numbers, got a pickled object array ({error}); write it as an "
                    "array of numbers"
                ) from error
            raise UserError(f"data: {path}: {name} is a damaged array: {error}; write it again") from error
    if not array.ndim:
        raise UserError(f"data: {path}: {name}: expected one row a step, got a single number; write an array")
    return array


def _read_baselines(path: Path, arrays: dict[str, Array], max_episode_steps: int | None) -> Iterator[Episode]:
    check_same_length(path, arrays)
    starts = parse_flags(path, "episode_starts", arrays["episode_starts"])
    if not starts.any():
        raise UserError(
            f"data: {path}: episode_starts: expected true at the first step of each episode, got false everywhere; "
            "correct it"
        )
    columns: dict[str, ColumnLike] = {
        "observations": arrays["obs"],
        "actions": arrays["actions"],
        "rewards": arrays["rewards"],
    }
    ends = episode_ends(np.append(starts[1:], True))
    return split_episodes(path, columns, ends, *end_reasons(ends, max_episode_steps, default_terminated=False), None)


def _read_imitation(path: Path, arrays: dict[str, Array], max_episode_steps: int | None) -> Iterator[Episode]:
    check_same_length(path, {name: arrays[name] for name in ("acts", "rews")})
    steps, indices = len(arrays["acts"]), arrays["indices"]
    ends = np.append(indices, steps)
    if indices.dtype.kind not in "iu" and indices.size or indices.ndim > 1 or (np.diff(ends, prepend=0) <= 0).any():
        raise UserError(
            f"data: {path}: indices: expected the first step of each episode but the first, rising from 1 to below "
            f"{steps}, the length of acts, got {_first_values(indices)}; correct them"
        )
    ends = ends.astype(np.int64)
    for name, expected in (("obs", steps + len(ends)), ("terminal", len(ends))):
        if len(arrays[name]) != expected:
            raise UserError(
                f"data: {path}: {name}: expected {expected}, for {len(ends)} episodes (by indices) with {steps} steps, "
                f"got {len(arrays[name])}; write the missing ones"
            )
    # Each episode has one observation more than actions, all in one array.
    finals = ends + np.arange(len(ends))
    firsts = np.append(0, finals[:-1] + 1)
    columns: dict[str, ColumnLike] = {
        "observations": np.delete(arrays["obs"], finals, axis=0),
        "actions": arrays["acts"],
        "rewards": arrays["rews"],
    }
    terminated, truncated = end_reasons(ends, max_episode_steps, default_terminated=False)
    ended = parse_flags(path, "terminal", arrays["terminal"])
    successors = {"observations": np.delete(arrays["obs"], firsts, axis=0)}
    return split_episodes(path, columns, ends, terminated & ended, truncated & ended, successors)


def _first_values(values: Array) -> str:
    return f"{values.reshape(-1)[:5].tolist()}{'…' if values.size > 5 else ''}"
