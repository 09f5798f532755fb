"""A vector environment that steps Gymnasium environments one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import gymnasium as gym
import numpy as np

from lfd.envs.spaces import Array, Spaces
from lfd.envs.validation import (
    MAX_REWARD,
    InvalidValue,
    ObservationChecker,
    check_flag,
    check_reward,
    close_all,
    env_error,
    reset_obs,
    success_from_info,
)
from lfd.envs.vec_env import EnvHandle, EnvObservation, EpisodeStats, Step, VecEnv, to_env_actions
from lfd.errors import PASS_THROUGH, UserError, external_error


@final
class SyncVecEnv(VecEnv):
    """Steps N Gymnasium environments in a loop; each has its own stream of random numbers."""

    def __init__(
        self,
        make: Callable[[], gym.Env[Any, Any]],
        spaces: Spaces,
        num_envs: int,
        autoreset: bool,
        name: str = "",
        endless_after: int | None = None,
    ) -> None:
        """Makes `num_envs` environments by calling `make`.

        `name` is the environment's name in error messages. Without `autoreset` and without a time limit, `step` raises
        UserError for an episode of more than `endless_after` steps. Raises UserError if an environment cannot be made.
        """
        self.num_envs, self.spaces, self._name = num_envs, spaces, name
        self._envs: list[gym.Env[Any, Any]] = []
        try:
            for _ in range(num_envs):
                self._envs.append(make())
        except UserError as error:
            self.close()
            raise self._too_many_envs(error) from error
        spec = self._envs[0].spec
        has_time_limit = spec is not None and (spec.max_episode_steps or 0) > 0
        self._name = name or type(self._envs[0].unwrapped).__name__
        self._endless_after = None if autoreset or has_time_limit else endless_after
        self._checker = ObservationChecker(spaces.observation, self._name)
        self._autoreset = autoreset
        self._idle = np.ones(num_envs, np.bool_)
        self._running_envs: list[int] = []  # indices of the environments that are not idle
        self._last_obs: list[Any] = [None] * num_envs
        self._last_actions: list[Any] = [None] * num_envs
        self._stats = EpisodeStats(num_envs)
        self._episode_numbers = [0] * num_envs  # numbers of the running episodes, from 1 in the order of their starts
        self._num_episodes = 0
        self._num_steps = 0  # calls of `step` since the last `reset`: an upper bound of every episode's length

    def reset(self, seeds: Sequence[int]) -> EnvObservation:
        for index, seed in zip(range(self.num_envs), seeds, strict=True):
            self._reset_env(index, int(seed))
        self._idle[:] = False
        self._running_envs, self._num_steps = list(range(self.num_envs)), 0
        self._stats.reset()
        return self._stack_obs(self._reset_location, check_bounds=True)

    def step(self, action: Array) -> Step:
        env_actions: Any = to_env_actions(action, self.spaces.action, self._envs[0].action_space)
        if self.spaces.actions == "discrete":
            env_actions = env_actions.tolist()  # environments check Python integers far faster than NumPy's
        self._last_actions = list(env_actions)
        rewards, terminations, truncations = [0.0] * self.num_envs, [False] * self.num_envs, [False] * self.num_envs
        infos: dict[str, Array] = {}
        valid, index = ~self._idle, 0
        try:
            for index in self._running_envs:
                obs, reward, ended, was_cut, info = self._envs[index].step(env_actions[index])
                # the usual values are checked inline: a call costs more than the check
                if type(reward) is not float or not -MAX_REWARD <= reward <= MAX_REWARD:
                    reward = check_reward(reward)
                if ended is not True and ended is not False:
                    ended = check_flag(ended, "terminated")
                if was_cut is not True and was_cut is not False:
                    was_cut = check_flag(was_cut, "truncated")
                if (type(info) is not dict or info) and (success := success_from_info(info)) is not None:
                    infos.setdefault("success", np.full(self.num_envs, np.nan, np.float32))[index] = success
                self._last_obs[index], rewards[index] = obs, reward
                terminations[index], truncations[index] = ended, was_cut
        except BaseException as error:
            raise env_error(self._step_location(index), error) from error
        reward, terminated, truncated = np.array(rewards, np.float32), np.array(terminations), np.array(truncations)
        done = terminated | truncated
        next_obs = obs = self._stack_obs(self._step_location)
        finished = self._stats.update(reward, valid, done)
        if finished:
            obs = self._reset_finished(done, next_obs)
        self._num_steps += 1
        if self._endless_after is not None and self._num_steps >= self._endless_after:
            self._check_endless(self._endless_after)
        return Step(obs, next_obs, reward, terminated, truncated & ~terminated, valid, finished, infos)

    def render(self) -> list[Array]:
        call = f"environment {self._name}: render"
        try:
            frames: list[Any] = [env.render() for env in self._envs]
        except PASS_THROUGH:
            raise
        except BaseException as error:  # each drawing library raises errors of its own
            hint = "set film=false, or, for a MuJoCo environment on a machine without a screen, set MUJOCO_GL=egl"
            raise external_error(call, error, hint) from error
        for frame in frames:
            if not isinstance(frame, np.ndarray):
                raise UserError(f"{call}: expected images, got none: it has no render mode rgb_array; set film=false")
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                got = f"{list(frame.shape)} {frame.dtype}"
                raise UserError(f"{call}: expected [height, width, 3] uint8, got {got}; set film=false")
        return frames

    def handles(self) -> list[EnvHandle]:
        return [EnvHandle(env, self._last_actions[i], not self._idle[i]) for i, env in enumerate(self._envs)]

    def close(self) -> None:
        close_all(self._name, self._envs)

    def _too_many_envs(self, error: UserError) -> UserError:
        """The error for an environment that could be made once, to read its spaces, but not `num_envs` times."""
        if not self._envs and isinstance(error.__cause__, TypeError):
            return error  # an argument that its constructor does not take
        return UserError(
            f"{error}; it was made before, so if only {len(self._envs) or 'one'} can be open at a time, lower the "
            "num_envs that applies (dataset.num_envs=1, score.num_envs=1, learn.eval.num_envs=1, "
            "algo.sources.<name>.num_envs=1) or set learn.eval.every=0"
        )

    def _reset_env(self, index: int, seed: int | None = None) -> None:
        self._num_episodes += 1
        self._last_actions[index] = None
        self._episode_numbers[index] = self._num_episodes
        try:
            self._last_obs[index] = reset_obs(self._envs[index].reset(seed=seed))
        except BaseException as error:
            raise env_error(self._reset_location(index), error) from error

    def _reset_finished(self, done: Array, next_obs: EnvObservation) -> EnvObservation:
        indices = np.flatnonzero(done).tolist()
        if not self._autoreset:
            self._idle[indices] = True
            self._running_envs = np.flatnonzero(~self._idle).tolist()
            return next_obs
        for index in indices:
            self._reset_env(index)
        return self._stack_obs(self._reset_location, check_bounds=True)

    def _check_endless(self, max_steps: int) -> None:
        index = int(self._stats.lengths.argmax())
        if self._stats.lengths[index] >= max_steps:
            raise UserError(
                f"environment {self._name}: episode {self._episode_numbers[index]} has not ended after {max_steps:,} "
                "steps; set env.max_episode_steps to cut episodes off, or a larger env.endless_after if episodes are "
                "that long"
            )

    def _stack_obs(self, location: Callable[[int], str], check_bounds: bool = False) -> EnvObservation:
        try:
            return self._checker.stack(self._last_obs, check_bounds)
        except InvalidValue as error:
            raise env_error(location(error.row or 0), error) from error

    def _step_location(self, index: int) -> str:
        step, episode = self._stats.lengths[index] + 1, self._episode_numbers[index]
        return f"environment {self._name}: step {step} of episode {episode}"

    def _reset_location(self, index: int) -> str:
        return f"environment {self._name}: the reset for episode {self._episode_numbers[index]}"
