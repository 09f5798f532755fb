"""DI-engine's expert data: a pickled list with one dict a transition, or HDF5 (`*_demos.hdf5`) with the same names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lfd.data.episode import Episode, flatten_observations
from lfd.data.readers.flat import (
    BoolArray,
    ColumnLike,
    end_reasons,
    episode_ends,
    find_resets,
    parse_flags,
    split_episodes,
)
from lfd.data.readers.hdf5 import numeric_columns
from lfd.envs.spaces import Array
from lfd.errors import UserError

DI_ENGINE_COLUMNS = ("obs", "action", "reward", "done")


def read_di_engine(path: Path, content: Any, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of a pickle's content: a list of transitions in time order, or a list of such lists, one an episode.

    A time limit sets `done` too: `max_episode_steps` separates it from terminations; without it, each is a termination,
    as in DI-engine. `next_obs` give final observations; an episode was cut where they differ from the next row's `obs`.

    Raises:
        UserError: the content is no list of such dicts.
    """
    steps, ends = _join_episodes(content)
    if not steps or not isinstance(steps[0], dict):
        raise UserError(f"data: {path}: expected a list of dicts, one a transition, got other content; write it so")
    missing = [key for key in DI_ENGINE_COLUMNS if key not in steps[0]]
    if missing:
        raise UserError(
            f"data: {path}: expected {', '.join(missing)} in each transition, got {', '.join(map(str, steps[0]))}; "
            "write the missing ones"
        )
    try:
        columns: dict[str, Array] = {
            "actions": _stack(steps, "action"),
            "rewards": _stack(steps, "reward"),
        } | _stack_observations(steps, "obs")
        done = parse_flags(path, "done", _stack(steps, "done"))
        successors = _stack_observations(steps, "next_obs") if "next_obs" in steps[0] else None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"data: {path}: expected the same keys and shapes in all transitions, got others ({error}); correct them"
        ) from error
    is_last = np.zeros_like(done)
    is_last[ends] = True
    return _episodes(path, columns, successors, done, is_last, max_episode_steps)


def read_di_engine_hdf5(path: Path, file: h5py.File, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of an open HDF5 file, by the rules of `read_di_engine`.

    Raises:
        UserError: a column is missing, is not an array of numbers or has another length.
    """
    names = DI_ENGINE_COLUMNS[:-1]
    columns = numeric_columns(
        path, file, (*names, "next_obs") if file.id.links.exists(b"next_obs") else names, ("done",)
    )
    done = parse_flags(path, "done", columns["done"])
    successors = {"observations": columns["next_obs"]} if "next_obs" in columns else None
    rows = {"observations": columns["obs"], "actions": columns["action"], "rewards": columns["reward"]}
    return _episodes(path, rows, successors, done, np.zeros_like(done), max_episode_steps)


def _episodes(
    path: Path,
    columns: Mapping[str, ColumnLike],
    successors: Mapping[str, ColumnLike] | None,
    done: BoolArray,
    is_last: BoolArray,
    max_episode_steps: int | None,
) -> Iterator[Episode]:
    """`is_last` is True [N] on the last rows of episodes that are lists of their own, whether `done` or not."""
    is_end = done | is_last
    for name, column in (successors or {}).items():
        if column.shape != columns[name].shape:
            raise UserError(
                f"data: {path}: next_obs: expected the shape of obs, {columns[name].shape}, got {column.shape}; "
                "write one row a step in each"
            )
        is_end |= find_resets(columns[name], column)
    ends = episode_ends(is_end)
    terminated, truncated = end_reasons(ends, max_episode_steps, default_terminated=True)
    ended = done[ends - 1]
    return split_episodes(path, columns, ends, terminated & ended, truncated & ended, successors)


def _join_episodes(content: Any) -> tuple[list[Any], list[int]]:
    """All transitions in one list, and the last index of each episode if episodes are lists of their own."""
    if not isinstance(content, list):
        return [], []
    if not all(isinstance(item, list) for item in content):
        return content, []
    ends = np.cumsum([len(episode) for episode in content]) - 1
    return [step for episode in content for step in episode], ends.tolist()


def _stack_observations(steps: list[dict[str, Any]], key: str) -> dict[str, Array]:
    if isinstance(steps[0][key], dict):
        return flatten_observations(
            {part: np.stack([np.asarray(step[key][part]) for step in steps]) for part in steps[0][key]}
        )
    return flatten_observations(_stack(steps, key))


def _stack(steps: list[dict[str, Any]], key: str) -> Array:
    return np.stack([np.asarray(step[key]) for step in steps])
