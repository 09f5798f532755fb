"""Unstacks the frames of foreign files for an environment that stacks frames: datasets store single ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import final

import gymnasium as gym
import numpy as np

from lfd.data.episode import Episode
from lfd.envs.spaces import Array, Spaces
from lfd.errors import UserError

_MAX_LOST_SHARE = 0.05  # of the rows


@final
class FrameUnstacker:
    """Keeps the newest frame of each observation of a file, if observations are stacks of `stack` frames."""

    def __init__(self, spaces: Spaces | None, stack: int) -> None:
        self._stack = stack
        self._frame: tuple[int, ...] = ()
        if spaces is not None and stack > 1:
            assert isinstance(spaces.observation, gym.spaces.Box)
            self._frame = spaces.observation.shape[1:]
        self._num_rows = self._num_lost = 0

    def unstack(self, episode: Episode) -> Episode:
        """The episode with the newest frame of each stack. Raises UserError if a stack skips or repeats a frame."""
        column = episode.observations
        if not self._frame or isinstance(column, dict):
            return episode
        return replace(episode, observations=self._newest_frames(np.asarray(column), len(episode)))

    def _newest_frames(self, column: Array, steps: int) -> Array:
        shape, frame = column.shape[1:], self._frame
        if [size for size in shape if size != 1] == [size for size in frame if size != 1]:
            return column.reshape(len(column), *frame)
        if shape == (*frame, self._stack):
            column = np.moveaxis(column, -1, 1)
        elif shape != (self._stack, *frame):
            return column  # `cast_to_spaces` refuses the shape
        if not np.array_equal(column[1:, :-1], column[:-1, 1:]):
            raise UserError(
                f"observations: expected stacks of {self._stack} that go on by one frame a step, the oldest first, got "
                "others; write rows in time order, or single frames"
            )
        first = column[0]
        if any(earlier.any() and not np.array_equal(earlier, first[-1]) for earlier in first[:-1]):
            self._num_lost += min(steps, self._stack - 1)
        self._num_rows += steps
        return np.ascontiguousarray(column[:, -1])

    def check_lost_frames(self, path: Path) -> None:
        """Raises UserError if more than 5 % of the stacks show frames from before their episode, which are lost."""
        if self._num_lost > _MAX_LOST_SHARE * self._num_rows:
            raise UserError(
                f"data: {path}: expected rows in time order from each reset on, got {self._num_lost:,} of "
                f"{self._num_rows:,} stacks with frames from before their episode, which would be lost; env=none keeps "
                "stacks whole"
            )
