"""Checks that actions, and discrete observations, lie in the spaces of the environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import final

import gymnasium as gym
import numpy as np

from lfd.data.episode import Episode, flatten_observations
from lfd.envs.spaces import Array, Spaces
from lfd.errors import UserError

# Files and networks round: actions may exceed their bounds by this share of half the range.
_TOLERANCE = 1e-3


@final
class BoundsChecker:
    """Counts the actions of episodes that lie out of bounds, and remembers the first."""

    def __init__(self, spaces: Spaces) -> None:
        self._spaces = spaces
        self._num_actions = self._num_out_of_bounds = 0
        self._first = ""
        self._low, self._high = np.inf, -np.inf  # of discrete actions

    def add(self, episode: Episode, index: int) -> None:
        """Counts the actions of episode `index`. Raises UserError for a discrete observation that is out of bounds."""
        observation = self._spaces.observation
        parts = observation.spaces if isinstance(observation, gym.spaces.Dict) else {"": observation}
        for key, space in parts.items():
            if isinstance(space, gym.spaces.Discrete):
                name = f"observations/{key}" if key else "observations"
                column = flatten_observations(episode.observations)[name].reshape(-1)
                is_outside = (column < 0) | (column >= space.n)
                if is_outside.any():
                    row = int(is_outside.argmax())
                    raise UserError(
                        f"data: {name} of episode {index}, step {row}: expected a whole number from 0 to "
                        f"{space.n - 1}, as the environment has it, got {column[row]}; choose the environment that "
                        "recorded the data, or correct it"
                    )
        self._add_actions(episode.actions, index)

    def report(self, path: Path, clip: bool) -> Iterator[str]:
        """A line about the actions that will be clipped, if any.

        Raises:
            UserError: discrete actions are out of bounds, or continuous ones are and `clip` is False.
        """
        if not self._num_out_of_bounds:
            return
        count = f"{self._num_out_of_bounds:,} of {self._num_actions:,} actions"
        if isinstance(self._spaces.action, gym.spaces.Discrete):
            highest = int(self._spaces.action.n) - 1
            counts_from_1 = (self._low, self._high) == (1, highest + 1)
            remedy = (
                "they count from 1: subtract 1"
                if counts_from_1
                else ("choose the environment that recorded the data, or correct them")
            )
            raise UserError(
                f"data: {path}: expected actions that are whole numbers from 0 to {highest}, as the environment has "
                f"them; {count} are not (the first: {self._first}); {remedy}"
            )
        if not clip:
            raise UserError(
                f"data: {path}: {count} lie beyond the bounds (the first: {self._first}); choose the environment that "
                "recorded the data, scale them, or clip them by dataset.clip_actions=true"
            )
        yield f"{path.name}: {count} lie beyond the bounds and are clipped (the first: {self._first})"

    def _add_actions(self, actions: Array, index: int) -> None:
        space = self._spaces.action
        self._num_actions += len(actions)
        if isinstance(space, gym.spaces.Discrete):
            low, high = int(actions.min()), int(actions.max())
            self._low, self._high = min(self._low, low), max(self._high, high)
            if low >= 0 and high < space.n:
                return
            is_outside, bounds = (actions < 0) | (actions >= space.n), ""
        else:
            assert isinstance(space, gym.spaces.Box)
            tolerance = _TOLERANCE * (space.high - space.low) / 2
            is_beyond = (actions < space.low - tolerance) | (actions > space.high + tolerance)
            if not is_beyond.any():
                return
            is_outside = is_beyond.any(axis=1)
            dimension = int(is_beyond[is_outside.argmax()].argmax())
            bounds = f" in a dimension from {space.low[dimension]:g} to {space.high[dimension]:g}"
            actions = actions[:, dimension]
        row = int(is_outside.argmax())
        self._first = self._first or f"{actions[row]:g}{bounds} of episode {index}, step {row}"
        self._num_out_of_bounds += int(is_outside.sum())
