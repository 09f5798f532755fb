"""Several environments stepped together, with resets that no transition crosses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lfd.envs.spaces import Spaces

Array = NDArray[Any]
Observation = Any  # an array [N, ...], or a flat dict of such arrays


class Step(NamedTuple):
    """What one action in each of N environments led to. The arrays are new in every call; do not write into them."""

    obs: Observation  # [N, ...] to act on next: after a reset the new episode's first
    next_obs: Observation  # [N, ...] true successor of the action, never a reset observation
    reward: Array  # [N] float32, the true reward
    terminated: Array  # [N] bool
    truncated: Array  # [N] bool, never together with `terminated`
    valid: Array  # [N] bool: False where no transition was made, because the call only reset or the env is idle
    finished: list[tuple[int, float, int]]  # (env index, true return, length) of episodes that ended; no lost lives
    infos: dict[str, Array]  # {"success": [N] float32, NaN where it was not told} if the environment tells it


class Single(NamedTuple):
    """One of N environments, for whoever has to look inside."""

    env: gym.Env[Any, Any]
    action: Any  # what was done last in this episode; None at its start
    running: bool


class VecEnv(ABC):
    """N copies of one environment. Equal seeds and actions give equal bits."""

    num_envs: int
    spaces: Spaces

    @abstractmethod
    def reset(self, seeds: Sequence[int]) -> Observation:
        """Begin a new episode in each, one seed per environment; the seeds also decide all later episodes."""

    @abstractmethod
    def step(self, action: Array) -> Step:
        """Act: [N] integers, or [N, A] floats, which are clipped to the Box.

        Made with `training=True`, an environment whose episode ended is reset. Otherwise it idles until `reset_one`.
        """

    def reset_one(self, index: int, seed: int) -> Observation:
        """Begin a new episode in one environment and return its first observation, without the leading axis.

        RuntimeError if it was made with `training=True`.
        """
        raise RuntimeError("environments made with training=True reset themselves")

    def render(self) -> list[Array]:
        """A picture [H, W, 3] uint8 of each, if made with `render=True`. Raises Refused if no picture can be made."""
        raise RuntimeError("only environments made with render=True give pictures")

    def singles(self) -> list[Single]:
        """Its environments one by one. RuntimeError if it was made with `training=True`."""
        raise RuntimeError("environments made with training=True need not be single ones")

    @abstractmethod
    def close(self) -> None:
        """Release the simulators."""


class Tally:
    """Running returns and lengths of N episodes."""

    def __init__(self, num_envs: int) -> None:
        self._returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)

    def begin(self, index: Any = slice(None)) -> None:
        """Forget what the episodes at `index` have so far."""
        self._returns[index] = 0
        self.lengths[index] = 0

    def add(self, reward: Array, valid: Array, over: Array) -> list[tuple[int, float, int]]:
        """Count one step where `valid`, elsewhere the reward is 0; returns and forgets the episodes that are `over`."""
        self._returns += reward
        self.lengths += valid
        ended = np.flatnonzero(over)
        if not len(ended):
            return []
        finished = [(int(i), float(self._returns[i]), int(self.lengths[i])) for i in ended]
        self.begin(ended)
        return finished


def to_env(action: Array, ours: gym.Space[Any], theirs: gym.Space[Any]) -> Array:
    """Actions as the environments' own space wants them: clipped, shaped and typed."""
    if not isinstance(ours, gym.spaces.Box):
        return np.asarray(action, np.int64)
    assert theirs.shape is not None
    clipped = np.clip(action, ours.low, ours.high)
    return clipped.reshape(len(action), *theirs.shape).astype(theirs.dtype, copy=False)
