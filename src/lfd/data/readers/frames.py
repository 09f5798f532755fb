"""Other people's frames for an environment that stacks them: it keeps single ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import final

import gymnasium as gym
import numpy as np

from lfd.data.episode import Array, Episode
from lfd.envs.spaces import Spaces
from lfd.errors import Refused

_LOSSY = 0.05  # share of the rows


@final
class Frames:
    """Single frames of the episodes of a file, whose observations are frames or stacks of `stack` of them."""

    def __init__(self, spaces: Spaces | None, stack: int) -> None:
        self._stack = stack
        self._frame: tuple[int, ...] = ()
        if spaces is not None and stack > 1:
            assert isinstance(spaces.observation, gym.spaces.Box)
            self._frame = spaces.observation.shape[1:]
        self._rows = self._lost = 0

    def single(self, episode: Episode) -> Episode:
        """The episode with the newest frame of each stack. Raises Refused if stacks are not made of a step's frames."""
        column = episode.observations
        if not self._frame or isinstance(column, dict):
            return episode
        return replace(episode, observations=self._of(np.asarray(column), len(episode)))

    def _of(self, column: Array, steps: int) -> Array:
        shape, frame = column.shape[1:], self._frame
        if [size for size in shape if size != 1] == [size for size in frame if size != 1]:
            return column.reshape(len(column), *frame)
        if shape == (*frame, self._stack):
            column = np.moveaxis(column, -1, 1)
        elif shape != (self._stack, *frame):
            return column  # of another shape, which is told of where shapes are compared
        if not np.array_equal(column[1:, :-1], column[:-1, 1:]):
            raise Refused(
                f"its observations are stacks of {self._stack} that do not go on by one frame a step; expected rows in "
                "time order and the oldest frame first, or single frames"
            )
        first = column[0]
        if any(earlier.any() and not np.array_equal(earlier, first[-1]) for earlier in first[:-1]):
            self._lost += min(steps, self._stack - 1)
        self._rows += steps
        return np.ascontiguousarray(column[:, -1])

    def check(self, path: Path) -> None:
        """Raise Refused if much of what the stacks show is lost: before an episode, its first frame is repeated."""
        if self._lost > _LOSSY * self._rows:
            raise Refused(
                f"data: {path}: {self._lost:,} of its {self._rows:,} stacks show frames from before their episode, "
                "which would be lost; expected rows in time order from each reset on (env=none keeps stacks whole)"
            )
