"""Vector environments of Gymnasium and others, whichever way they reset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from lfd.envs.checked import LARGEST, Observations, Unfit, close_all, refusal
from lfd.envs.spaces import Spaces
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
        name: str = "",
    ) -> None:
        """`tell` names the infos that are handed on; `seeds` gives the seeds in the form that `env.reset` takes.

        `name` stands in refusals.
        """
        self.num_envs, self.spaces = env.num_envs, spaces
        self._env, self._tell, self._seeds = env, tuple(tell), seeds
        self._name = name or type(env).__name__
        self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._over = np.zeros(self.num_envs, np.bool_)
        self._seen = Observations(spaces.observation, self._name)
        self._tally = Tally(self.num_envs)

    def reset(self, seeds: Sequence[int]) -> Observation:
        try:
            obs, _ = self._env.reset(seed=self._seeds([int(seed) for seed in seeds]))
            seen = self._seen.batch(obs, self.num_envs, look=True)
        except BaseException as error:
            raise refusal(f"environment {self._name}: reset", error) from error
        self._over[:] = False
        self._tally.begin()
        return seen

    def step(self, action: Array) -> Step:
        taken = to_env(action, self.spaces.action, self._env.single_action_space)
        try:
            return self._checked(*self._env.step(taken))
        except BaseException as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        close_all(self._name, [self._env])

    def _checked(self, theirs: Any, reward: Any, terminated: Any, truncated: Any, infos: dict[str, Any]) -> Step:
        only_reset = self._over if self._mode is AutoresetMode.NEXT_STEP else np.zeros_like(self._over)
        valid = ~only_reset
        rewards = self._rewards(reward, valid)
        terminated, truncated = terminated & valid, truncated & valid & ~terminated
        over = terminated | truncated
        next_obs = obs = self._seen.batch(theirs, self.num_envs)
        if over.any() and self._mode is AutoresetMode.SAME_STEP:
            next_obs = self._with_final(obs, infos["final_obs"], over)
        if over.any() and self._mode is AutoresetMode.DISABLED:
            theirs, _ = self._env.reset(options={"reset_mask": over.copy()})
            obs = self._seen.batch(theirs, self.num_envs)
        self._over = over
        finished = self._tally.add(rewards, valid, over)
        told = {name: infos[name] for name in self._tell}
        return Step(obs, next_obs, rewards, terminated, truncated, valid, finished, told)

    def _rewards(self, given: Any, valid: Array) -> Array:
        rewards = np.asarray(given)
        if rewards.dtype.kind not in "biuf" or rewards.size != self.num_envs:
            raise Unfit(f"the rewards are {rewards.dtype} {list(rewards.shape)}; one number an environment is expected")
        rewards = np.where(valid, rewards.reshape(-1), 0)
        wrong = np.flatnonzero(~(np.abs(rewards.astype(np.float64)) <= LARGEST))
        if len(wrong):
            raise Unfit(f"the reward is {rewards[wrong[0]]:g}, which is no finite number of float32", int(wrong[0]))
        return rewards.astype(np.float32)

    def _with_final(self, obs: Observation, final: Any, over: Array) -> Observation:
        """The observation, with the last of the old episode where a new one has begun."""
        columns = obs if isinstance(obs, dict) else {"": obs}
        changed = {key: column.copy() for key, column in columns.items()}
        for index in np.flatnonzero(over):
            last = self._seen.stack([final[index]])
            for key, column in changed.items():
                column[index] = (last[key] if isinstance(last, dict) else last)[0]
        return changed if isinstance(obs, dict) else changed[""]

    def _refusal(self, error: BaseException) -> BaseException:
        row = error.row if isinstance(error, Unfit) else None
        place = "a step" if row is None else f"step {self._tally.lengths[row] + 1} of an episode in lane {row}"
        return refusal(f"environment {self._name}: {place}", error)
