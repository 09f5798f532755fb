"""DI-engine's expert data: a pickled list with one dict a transition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lfd.data.episode import Array, Episode, flatten
from lfd.data.readers.flat import breaks, ends_of, episodes, reasons
from lfd.data.readers.unpickle import load
from lfd.errors import Refused

_REQUIRED = ("obs", "action", "reward", "done")


def read_di_engine(path: Path, max_episode_steps: int | None) -> Iterator[Episode]:
    """Episodes of a list of transitions in time order.

    `done` is set by a time limit too: `max_episode_steps` tells the two apart, without it each is a termination, as
    DI-engine takes it. `next_obs` give final observations, and where the next row contradicts one an episode was cut.

    Raises:
        Refused: it is no list of such dicts, or holds more than arrays and plain containers.
    """
    steps = load(path)
    if not isinstance(steps, list) or not steps or not isinstance(steps[0], dict):
        raise Refused(f"data: {path} holds no list of dicts, one a transition, as DI-engine's do")
    missing = [key for key in _REQUIRED if key not in steps[0]]
    if missing:
        raise Refused(f"data: {path}: a transition has no {', '.join(missing)}; it has {', '.join(map(str, steps[0]))}")
    try:
        columns = {"actions": _column(steps, "action"), "rewards": _column(steps, "reward")} | _observed(steps, "obs")
        done = _column(steps, "done").reshape(-1).astype(bool)
        successors = _observed(steps, "next_obs") if "next_obs" in steps[0] else None
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"data: {path}: its transitions are not all alike: {error}") from error
    flags = done.copy()
    for name, column in (successors or {}).items():
        flags |= breaks(columns[name], column)
    ends = ends_of(flags)
    terminated, truncated = reasons(ends, max_episode_steps, otherwise=True)
    return episodes(columns, ends, terminated & done[ends - 1], truncated & done[ends - 1], successors)


def _observed(steps: list[dict[str, Any]], key: str) -> dict[str, Array]:
    if isinstance(steps[0][key], dict):
        return flatten({part: np.stack([np.asarray(step[key][part]) for step in steps]) for part in steps[0][key]})
    return flatten(_column(steps, key))


def _column(steps: list[dict[str, Any]], key: str) -> Array:
    return np.stack([np.asarray(step[key]) for step in steps])
