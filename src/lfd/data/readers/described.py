"""What a file shows of its environment, where no simulator tells it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, final

import gymnasium as gym
import numpy as np

from lfd.data.dataset import Dataset, is_own
from lfd.data.episode import Array, flatten
from lfd.data.readers import read
from lfd.envs.spaces import Spaces
from lfd.errors import Refused


class Described(NamedTuple):
    """What a file shows of the environment that it is from."""

    spaces: Spaces
    stack: int  # frames that an observation stacks; 1 is none
    tells_ends: bool  # does it say of any episode how that ended?


def described(path: Path, max_episode_steps: int | None = None) -> Described:
    """A look at a file in any form that is read.

    Our own files tell. Of other people's the values do: whole numbers are actions or observations from 0 to the largest
    one, bytes are pixels, other observations have no bounds; the bounds of continuous actions are -1 and 1 if all keep
    to these, as most collections have them, else those that were reached in each dimension.

    Raises:
        Refused: as `read` does; or nothing is in it, or its actions are in no form that can be learnt.
    """
    if not path.exists():
        raise Refused(f"data: {path} does not exist")
    if path.is_file() and is_own(path):
        data = Dataset.open(path)
        return Described(data.spaces, data.stack, True)
    stat = path.stat()
    return _found(path, max_episode_steps, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=8)
def _found(path: Path, max_episode_steps: int | None, version: tuple[int, int]) -> Described:
    """A file is read once in a process as long as its `version` stays."""
    columns: dict[str, _Range] = {}
    episodes, tells_ends = 0, False
    for episode in read(path, None, max_episode_steps):
        episodes, tells_ends = episodes + 1, tells_ends or episode.terminated or episode.truncated
        for name, column in [*flatten(episode.observations).items(), ("actions", episode.actions)]:
            columns.setdefault(name, _Range(np.asarray(column))).widen(np.asarray(column))
    if not episodes:
        raise Refused(f"data: {path} holds no episodes")
    action = _action(path, columns.pop("actions"))
    parts = {name.removeprefix("observations/"): _observation(one) for name, one in columns.items()}
    observation = parts["observations"] if "observations" in columns else gym.spaces.Dict(parts)
    return Described(Spaces(observation, action), 1, tells_ends or episodes == 1)


def _action(path: Path, values: _Range) -> gym.spaces.Space[Any]:
    size = values.low.size
    if values.kind == "f":
        low, high = values.low.ravel().astype(np.float32), values.high.ravel().astype(np.float32)
        if (low >= -1).all() and (high <= 1).all():
            low, high = -np.ones_like(low), np.ones_like(high)
        same = low == high  # a range without width could not be scaled
        return gym.spaces.Box(low - same, high + same, dtype=np.float32)
    if size > 1 or values.low.min() < 0:
        raise Refused(
            f"data: {path}: its actions are {size} whole numbers from {values.low.min()}, which no algorithm here "
            "takes: expected one from 0, or floats"
        )
    return gym.spaces.Discrete(int(values.high.max()) + 1)


def _observation(values: _Range) -> gym.spaces.Space[Any]:
    is_pixels = values.dtype == np.uint8 and values.low.ndim > 0
    if is_pixels:
        return gym.spaces.Box(0, 255, values.low.shape, np.uint8)
    if values.kind in "bui" and values.low.size == 1 and values.low.min() >= 0:
        return gym.spaces.Discrete(int(values.high.max()) + 1)
    return gym.spaces.Box(-np.inf, np.inf, values.low.shape or (1,), np.float32)


@final
class _Range:
    """The lowest and highest values of a column [T, ...], by dimension."""

    def __init__(self, column: Array) -> None:
        self.dtype, self.kind = column.dtype, column.dtype.kind
        self.low, self.high = column.min(0), column.max(0)

    def widen(self, column: Array) -> None:
        self.low, self.high = np.minimum(self.low, column.min(0)), np.maximum(self.high, column.max(0))
