"""A loop over Gymnasium environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import gymnasium as gym
import numpy as np

from lfd.envs.spaces import Spaces, flatten
from lfd.envs.vector import Array, Observation, Single, Step, Tally, VecEnv, success_of, to_env
from lfd.errors import Refused


@final
class Sync(VecEnv):
    """Steps its environments one after the other, each with a stream of random numbers of its own."""

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], spaces: Spaces, num_envs: int, autoreset: bool) -> None:
        self.num_envs, self.spaces = num_envs, spaces
        self._envs = [make() for _ in range(num_envs)]
        self._autoreset = autoreset
        self._idle = np.ones(num_envs, np.bool_)
        self._last: list[Any] = [None] * num_envs
        self._taken: list[Any] = [None] * num_envs
        self._tally = Tally(num_envs)

    def reset(self, seeds: Sequence[int]) -> Observation:
        for index, (env, seed) in enumerate(zip(self._envs, seeds, strict=True)):
            self._last[index], _ = env.reset(seed=int(seed))
        self._taken = [None] * self.num_envs
        self._idle[:] = False
        self._tally.begin()
        return self._stack(self._last)

    def reset_one(self, index: int, seed: int) -> Observation:
        if self._autoreset:
            return super().reset_one(index, seed)
        self._last[index], _ = self._envs[index].reset(seed=int(seed))
        self._taken[index], self._idle[index] = None, False
        self._tally.begin(index)
        single = self._stack(self._last[index : index + 1])
        return {key: column[0] for key, column in single.items()} if isinstance(single, dict) else single[0]

    def step(self, action: Array) -> Step:
        taken: Any = to_env(action, self.spaces.action, self._envs[0].action_space)
        if self.spaces.actions == "discrete":
            taken = taken.tolist()  # environments check a number of Python's own far faster than one of numpy's
        self._taken = list(taken)
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        success = np.full(self.num_envs, np.nan, np.float32)
        valid = ~self._idle
        for index in np.flatnonzero(valid):
            self._last[index], reward[index], terminated[index], truncated[index], info = self._envs[index].step(
                taken[index]
            )
            told = success_of(info)
            if told is not None:
                success[index] = told
        over = terminated | truncated
        next_obs = obs = self._stack(self._last)
        if over.any():
            obs = self._begin_again(over, next_obs)
        finished = self._tally.add(reward, valid, over)
        infos = {} if np.isnan(success).all() else {"success": success}
        return Step(obs, next_obs, reward, terminated, truncated & ~terminated, valid, finished, infos)

    def render(self) -> list[Array]:
        try:
            frames = [env.render() for env in self._envs]
        except Exception as error:  # each drawing library fails in its own way
            raise Refused(
                f"{self._envs[0]} cannot be filmed: {error}; leave films out, or, if this machine has no screen "
                "and it is a MuJoCo environment, set MUJOCO_GL=egl"
            ) from error
        if not all(isinstance(frame, np.ndarray) for frame in frames):
            raise Refused(f"{self._envs[0]} gives no pictures: it has no render mode rgb_array; leave films out")
        return frames  # type: ignore[return-value]

    def singles(self) -> list[Single]:
        return [Single(env, self._taken[i], not self._idle[i]) for i, env in enumerate(self._envs)]

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _begin_again(self, over: Array, next_obs: Observation) -> Observation:
        if not self._autoreset:
            self._idle |= over
            return next_obs
        for index in np.flatnonzero(over):
            self._last[index], _ = self._envs[index].reset()
        return self._stack(self._last)

    def _stack(self, observations: Sequence[Any]) -> Observation:
        space = self.spaces.observation
        if not isinstance(space, gym.spaces.Dict):
            return _column(observations, space)
        flat = [flatten(observation) for observation in observations]
        return {key: _column([row[key] for row in flat], part) for key, part in space.spaces.items()}


def _column(rows: Sequence[Any], space: gym.Space[Any]) -> Array:
    assert space.shape is not None
    if isinstance(space, gym.spaces.Discrete):
        return np.array(rows, np.int64)
    column = np.empty((len(rows), *space.shape), space.dtype)
    for index, row in enumerate(rows):
        column[index] = row
    return column
