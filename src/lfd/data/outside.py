"""Actions, and counted observations, that an environment does not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import final

import gymnasium as gym
import numpy as np

from lfd.data.episode import Array, Episode, flatten
from lfd.envs.spaces import Spaces
from lfd.errors import Refused

# Files and networks round: actions that reach beyond their bounds by less than this share of half the range.
_ROUNDING = 1e-3


@final
class Outside:
    """Counts what lies outside of the spaces while episodes pass."""

    def __init__(self, spaces: Spaces | None) -> None:
        self._spaces = spaces
        self._seen = self._outside = 0
        self._first = ""
        self._low, self._high = np.inf, -np.inf

    def look(self, episode: Episode, index: int) -> None:
        assert self._spaces is not None
        observation = self._spaces.observation
        parts = observation.spaces if isinstance(observation, gym.spaces.Dict) else {"": observation}
        for key, space in parts.items():
            if isinstance(space, gym.spaces.Discrete):
                name = f"observations/{key}" if key else "observations"
                column = flatten(episode.observations)[name].reshape(-1)
                wrong = (column < 0) | (column >= space.n)
                if wrong.any():
                    row = int(wrong.argmax())
                    raise Refused(
                        f"data: {name} of episode {index}, step {row} is {column[row]}; expected a whole number from 0 "
                        f"to {space.n - 1}, as the environment has them"
                    )
        self._look_at(episode.actions, index)

    def judge(self, path: Path, clip: bool) -> Iterator[str]:
        """A line of what will be clipped. Raises Refused where the environment cannot do what was done."""
        if not self._outside:
            return
        assert self._spaces is not None
        count = f"{self._outside:,} of {self._seen:,} actions"
        if isinstance(self._spaces.action, gym.spaces.Discrete):
            most = int(self._spaces.action.n) - 1
            counted = "; they count from 1: subtract 1" if (self._low, self._high) == (1, most + 1) else ""
            raise Refused(
                f"data: {path}: {count} are none of the environment's (the first: {self._first}); expected whole "
                f"numbers from 0 to {most}{counted or '; choose the environment that they are from, or correct them'}"
            )
        if not clip:
            raise Refused(
                f"data: {path}: {count} lie beyond the bounds (the first: {self._first}); choose the environment that "
                "they are from, scale them, or clip them by dataset.clip_actions=true"
            )
        yield f"{path.name}: {count} lie beyond the bounds and are clipped (the first: {self._first})"

    def _look_at(self, actions: Array, index: int) -> None:
        assert self._spaces is not None
        space = self._spaces.action
        self._seen += len(actions)
        if isinstance(space, gym.spaces.Discrete):
            low, high = int(actions.min()), int(actions.max())
            self._low, self._high = min(self._low, low), max(self._high, high)
            if low >= 0 and high < space.n:
                return
            wrong, bounds = (actions < 0) | (actions >= space.n), ""
        else:
            assert isinstance(space, gym.spaces.Box)
            least = _ROUNDING * (space.high - space.low) / 2
            each = (actions < space.low - least) | (actions > space.high + least)
            if not each.any():
                return
            wrong = each.any(axis=1)
            dimension = int(each[wrong.argmax()].argmax())
            bounds = f" in a dimension from {space.low[dimension]:g} to {space.high[dimension]:g}"
            actions = actions[:, dimension]
        row = int(wrong.argmax())
        self._first = self._first or f"{actions[row]:g}{bounds} of episode {index}, step {row}"
        self._outside += int(wrong.sum())
