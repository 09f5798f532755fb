"""Vector environments of Gymnasium and other libraries, in each of Gymnasium's three autoreset modes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from lfd.envs.spaces import Array, Spaces
from lfd.envs.validation import MAX_REWARD, InvalidValue, ObservationChecker, close_all, env_error
from lfd.envs.vec_env import EnvObservation, EpisodeStats, Step, VecEnv, to_env_actions


@final
class GymVecEnv(VecEnv):
    """Wraps a Gymnasium VectorEnv for training; resets it here if its autoreset is disabled.

    In mode NEXT_STEP the call after an episode's last step only resets: its row is not `valid`, its action is ignored.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        spaces: Spaces,
        info_keys: Sequence[str] = (),
        convert_seeds: Callable[[list[int]], Any] = list,
        name: str = "",
    ) -> None:
        """Wraps `env`.

        `info_keys` names the infos that `Step.infos` keeps; `convert_seeds` gives the seeds in the form that
        `env.reset` takes; `name` is the environment's name in error messages.
        """
        self.num_envs, self.spaces = env.num_envs, spaces
        self._env, self._info_keys, self._convert_seeds = env, tuple(info_keys), convert_seeds
        self._name = name or type(env).__name__
        self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._done = np.zeros(self.num_envs, np.bool_)
        self._checker = ObservationChecker(spaces.observation, self._name)
        self._stats = EpisodeStats(self.num_envs)

    def reset(self, seeds: Sequence[int]) -> EnvObservation:
        try:
            env_obs, _ = self._env.reset(seed=self._convert_seeds([int(seed) for seed in seeds]))
            obs = self._checker.batch(env_obs, self.num_envs, check_bounds=True)
        except BaseException as error:
            raise env_error(f"environment {self._name}: reset", error) from error
        self._done[:] = False
        self._stats.reset()
        return obs

    def step(self, action: Array) -> Step:
        env_actions = to_env_actions(action, self.spaces.action, self._env.single_action_space)
        try:
            return self._to_step(*self._env.step(env_actions))
        except BaseException as error:
            raise self._step_error(error) from error

    def close(self) -> None:
        close_all(self._name, [self._env])

    def _to_step(self, env_obs: Any, reward: Any, terminated: Any, truncated: Any, infos: dict[str, Any]) -> Step:
        only_reset = self._done if self._mode is AutoresetMode.NEXT_STEP else np.zeros_like(self._done)
        valid = ~only_reset
        rewards = self._check_rewards(reward, valid)
        terminated, truncated = terminated & valid, truncated & valid & ~terminated
        done = terminated | truncated
        next_obs = obs = self._checker.batch(env_obs, self.num_envs)
        if done.any() and self._mode is AutoresetMode.SAME_STEP:
            next_obs = self._with_final_obs(obs, infos["final_obs"], done)
        if done.any() and self._mode is AutoresetMode.DISABLED:
            env_obs, _ = self._env.reset(options={"reset_mask": done.copy()})
            obs = self._checker.batch(env_obs, self.num_envs)
        self._done = done
        finished = self._stats.update(rewards, valid, done)
        kept_infos = {key: infos[key] for key in self._info_keys}
        return Step(obs, next_obs, rewards, terminated, truncated, valid, finished, kept_infos)

    def _check_rewards(self, reward: Any, valid: Array) -> Array:
        rewards = np.asarray(reward)
        if rewards.dtype.kind not in "biuf" or rewards.size != self.num_envs:
            raise InvalidValue(f"reward: expected {self.num_envs} numbers, got {rewards.dtype} {list(rewards.shape)}")
        rewards = np.where(valid, rewards.reshape(-1), 0)
        rows = np.flatnonzero(~(np.abs(rewards.astype(np.float64)) <= MAX_REWARD))
        if len(rows):
            raise InvalidValue(f"reward: expected a finite float32, got {rewards[rows[0]]:g}", int(rows[0]))
        return rewards.astype(np.float32)

    def _with_final_obs(self, obs: EnvObservation, final_obs: Any, done: Array) -> EnvObservation:
        """A copy of `obs` [N, ...] with the old episode's last observation in the rows that are done."""
        columns = obs if isinstance(obs, dict) else {"": obs}
        copies = {key: column.copy() for key, column in columns.items()}
        for index in np.flatnonzero(done):
            last_obs = self._checker.stack([final_obs[index]])
            for key, column in copies.items():
                column[index] = (last_obs[key] if isinstance(last_obs, dict) else last_obs)[0]
        return copies if isinstance(obs, dict) else copies[""]

    def _step_error(self, error: BaseException) -> BaseException:
        row = error.row if isinstance(error, InvalidValue) else None
        location = "a step" if row is None else f"step {self._stats.lengths[row] + 1} of an episode in env {row}"
        return env_error(f"environment {self._name}: {location}", error)
