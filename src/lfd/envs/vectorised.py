"""Vector environments of Gymnasium and others, whichever way they reset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from lfd.envs.spaces import Spaces, flatten
from lfd.envs.vector import Array, Observation, Step, Tally, VecEnv, to_env


@final
class Vectorised(VecEnv):
    """A VectorEnv that resets itself, or is reset here if its autoreset is disabled. For training only.

    In mode NEXT_STEP the call after an episode's last only resets: that row is not `valid`, and its action is ignored.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        spaces: Spaces,
        tell: Sequence[str] = (),
        seeds: Callable[[list[int]], Any] = list,
    ) -> None:
        """`tell` names the infos that are handed on; `seeds` gives the seeds in the form that `env.reset` takes."""
        self.num_envs, self.spaces = env.num_envs, spaces
        self._env, self._tell, self._seeds = env, tuple(tell), seeds
        self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._over = np.zeros(self.num_envs, np.bool_)
        self._tally = Tally(self.num_envs)

    def reset(self, seeds: Sequence[int]) -> Observation:
        obs, _ = self._env.reset(seed=self._seeds([int(seed) for seed in seeds]))
        self._over[:] = False
        self._tally.begin()
        return self._ours(obs)

    def step(self, action: Array) -> Step:
        taken = to_env(action, self.spaces.action, self._env.single_action_space)
        theirs, reward, terminated, truncated, infos = self._env.step(taken)
        only_reset = self._over if self._mode is AutoresetMode.NEXT_STEP else np.zeros_like(self._over)
        valid = ~only_reset
        terminated, truncated = terminated & valid, truncated & valid & ~terminated
        self._over = terminated | truncated
        next_obs = obs = self._ours(theirs)
        if self._over.any() and self._mode is AutoresetMode.SAME_STEP:
            next_obs = self._with_final(obs, infos["final_obs"])
        if self._over.any() and self._mode is AutoresetMode.DISABLED:
            theirs, _ = self._env.reset(options={"reset_mask": self._over.copy()})
            obs = self._ours(theirs)
        reward = np.where(valid, reward, 0).astype(np.float32)
        finished = self._tally.add(reward, valid, self._over)
        told = {name: infos[name] for name in self._tell}
        return Step(obs, next_obs, reward, terminated, truncated, valid, finished, told)

    def close(self) -> None:
        self._env.close()

    def _ours(self, observation: Any) -> Observation:
        space = self.spaces.observation
        if not isinstance(space, gym.spaces.Dict):
            return self._column(observation, space)
        flat = flatten(observation)
        return {key: self._column(flat[key], part) for key, part in space.spaces.items()}

    def _column(self, values: Any, space: gym.Space[Any]) -> Array:
        assert space.shape is not None
        # copied, because some environments give the same array again and again
        return np.array(values, space.dtype).reshape(self.num_envs, *space.shape)

    def _with_final(self, obs: Observation, final: Any) -> Observation:
        """The observation, with the last of the old episode where a new one has begun."""
        columns = obs if isinstance(obs, dict) else {"": obs}
        changed = {key: column.copy() for key, column in columns.items()}
        for index in np.flatnonzero(self._over):
            last = flatten(final[index]) if isinstance(obs, dict) else {"": final[index]}
            for key, column in changed.items():
                column[index] = np.reshape(last[key], column.shape[1:])
        return changed if isinstance(obs, dict) else changed[""]
