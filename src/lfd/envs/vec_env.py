"""Vector environments: N copies of one environment, stepped together; no transition crosses a reset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import gymnasium as gym
import numpy as np

from lfd.envs.spaces import Array, Spaces
from lfd.errors import UserError

EnvObservation = Any  # an array [N, ...], or a flat dict of such arrays


class Step(NamedTuple):
    """Result of one action in each of N environments. The arrays are new in every call; do not write into them."""

    obs: EnvObservation  # [N, ...] the next action's observation: after a reset the new episode's first one
    next_obs: EnvObservation  # [N, ...] true successor of the action, never a reset observation
    reward: Array  # [N] float32, the environment's reward
    terminated: Array  # [N] bool
    truncated: Array  # [N] bool, never together with `terminated`
    valid: Array  # [N] bool: False where the row is no transition, because the call only reset or the env is idle
    finished: list[tuple[int, float, int]]  # (env index, return, length in steps) of ended episodes; no lost lives
    infos: dict[str, Array]  # {"success": [N] float32, NaN where unknown} if the environment reports success


class EnvHandle(NamedTuple):
    """One of N environments, for experts that read the simulator's state."""

    env: gym.Env[Any, Any]
    action: Any  # the last action of this episode; None at its start
    running: bool  # False if the environment is idle


class VecEnv(ABC):
    """N copies of one environment. Equal seeds and actions give equal bits."""

    num_envs: int
    spaces: Spaces

    @abstractmethod
    def reset(self, seeds: Sequence[int]) -> EnvObservation:
        """Resets every environment and returns observations [N, ...].

        Takes one seed per environment; the seeds also decide all later episodes.
        """

    @abstractmethod
    def step(self, action: Array) -> Step:
        """Applies actions: [N] integers, or [N, A] floats, which are clipped to the Box.

        With `training=True` an environment whose episode ended is reset. Otherwise it idles until `reset`.
        """

    def render(self) -> list[Array]:
        """An image [H, W, 3] uint8 of each environment.

        Raises UserError if an environment cannot be drawn, RuntimeError if it was made without `render=True`.
        """
        raise RuntimeError("render: expected environments made with render=True, got render=False")

    def handles(self) -> list[EnvHandle]:
        """A handle of each environment. Raises UserError for training environments that step outside Python."""
        raise UserError(
            "expert: expected a trained expert, as a script reads single environments, and the training environments "
            "of this env step outside Python, got a script; choose expert=trained, or an interactive source"
        )

    @abstractmethod
    def close(self) -> None:
        """Releases the simulators."""


@final
class SingleEnvView(VecEnv):
    """One of the environments of another `VecEnv`, for policies that read it; the owner resets and steps it."""

    def __init__(self, env: VecEnv, index: int) -> None:
        self.num_envs, self.spaces = 1, env.spaces
        self._env, self._index = env, index

    def reset(self, seeds: Sequence[int]) -> EnvObservation:
        raise RuntimeError("reset: expected the owner of the environment")

    def step(self, action: Array) -> Step:
        raise RuntimeError("step: expected the owner of the environment")

    def handles(self) -> list[EnvHandle]:
        return [self._env.handles()[self._index]]

    def close(self) -> None:
        raise RuntimeError("close: expected the owner of the environment")


class EpisodeStats:
    """Returns and lengths so far of the running episodes of N environments."""

    def __init__(self, num_envs: int) -> None:
        self._returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)  # [N] steps

    def reset(self, index: Any = slice(None)) -> None:
        """Sets returns and lengths at `index` to 0."""
        self._returns[index] = 0
        self.lengths[index] = 0

    def update(self, reward: Array, valid: Array, done: Array) -> list[tuple[int, float, int]]:
        """Counts one step of rewards [N] (0 where not valid); returns and resets the episodes that are done."""
        self._returns += reward
        self.lengths += valid
        indices = np.flatnonzero(done)
        if not len(indices):
            return []
        finished = [(int(i), float(self._returns[i]), int(self.lengths[i])) for i in indices]
        self.reset(indices)
        return finished


def to_env_actions(action: Array, space: gym.Space[Any], env_space: gym.Space[Any]) -> Array:
    """Converts actions [N] or [N, A] of `space` to the environment's own space: clipped, reshaped, cast."""
    if not isinstance(space, gym.spaces.Box):
        return np.asarray(action, np.int64)
    assert env_space.shape is not None
    clipped = np.clip(action, space.low, space.high)
    return clipped.reshape(len(action), *env_space.shape).astype(env_space.dtype, copy=False)
