"""A loop over Gymnasium environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import gymnasium as gym
import numpy as np

from lfd.envs.checked import LARGEST, Observations, Unfit, close_all, first, flag, number, refusal, success_of
from lfd.envs.spaces import Spaces
from lfd.envs.vector import Array, Observation, Single, Step, Tally, VecEnv, to_env
from lfd.errors import PASSING, Refused, foreign_error


@final
class Sync(VecEnv):
    """Steps its environments one after the other, each with a stream of random numbers of its own."""

    def __init__(
        self,
        make: Callable[[], gym.Env[Any, Any]],
        spaces: Spaces,
        num_envs: int,
        autoreset: bool,
        name: str = "",
        endless_after: int | None = None,
    ) -> None:
        """`name` stands in refusals; an episode of more than `endless_after` steps without a time limit is refused.

        Raises Refused if so many environments cannot be made.
        """
        self.num_envs, self.spaces, self._name = num_envs, spaces, name
        self._envs: list[gym.Env[Any, Any]] = []
        try:
            for _ in range(num_envs):
                self._envs.append(make())
        except Refused as refused:
            self.close()
            raise self._too_many(refused) from refused
        spec = self._envs[0].spec
        limited = spec is not None and (spec.max_episode_steps or 0) > 0
        self._name = name or type(self._envs[0].unwrapped).__name__
        self._endless_after = None if autoreset or limited else endless_after
        self._seen = Observations(spaces.observation, self._name)
        self._autoreset = autoreset
        self._idle = np.ones(num_envs, np.bool_)
        self._running: list[int] = []  # where it is not idle
        self._last: list[Any] = [None] * num_envs
        self._taken: list[Any] = [None] * num_envs
        self._tally = Tally(num_envs)
        self._episode = [0] * num_envs  # the number of each one's episode, in the order in which they begin, from 1
        self._begun = 0
        self._calls = 0  # of `step` since all were reset: no episode has more steps

    def reset(self, seeds: Sequence[int]) -> Observation:
        for index, seed in zip(range(self.num_envs), seeds, strict=True):
            self._begin(index, int(seed))
        self._taken = [None] * self.num_envs
        self._idle[:] = False
        self._running, self._calls = list(range(self.num_envs)), 0
        self._tally.begin()
        return self._stack(range(self.num_envs), self._reset_of, look=True)

    def reset_one(self, index: int, seed: int) -> Observation:
        if self._autoreset:
            return super().reset_one(index, seed)
        self._begin(index, int(seed))
        self._taken[index], self._idle[index] = None, False
        self._running = np.flatnonzero(~self._idle).tolist()
        self._tally.begin(index)
        single = self._stack([index], self._reset_of, look=True)
        return {key: column[0] for key, column in single.items()} if isinstance(single, dict) else single[0]

    def step(self, action: Array) -> Step:
        taken: Any = to_env(action, self.spaces.action, self._envs[0].action_space)
        if self.spaces.actions == "discrete":
            taken = taken.tolist()  # environments check a number of Python's own far faster than one of numpy's
        self._taken = list(taken)
        rewards, ends, cuts = [0.0] * self.num_envs, [False] * self.num_envs, [False] * self.num_envs
        infos: dict[str, Array] = {}
        valid, index = ~self._idle, 0
        try:
            for index in self._running:
                obs, reward, ended, was_cut, info = self._envs[index].step(taken[index])
                # what most environments give is looked at here, for a call would cost more than the look
                if type(reward) is not float or not -LARGEST <= reward <= LARGEST:
                    reward = number(reward)
                if ended is not True and ended is not False:
                    ended = flag(ended, "terminated")
                if was_cut is not True and was_cut is not False:
                    was_cut = flag(was_cut, "truncated")
                if (type(info) is not dict or info) and (told := success_of(info)) is not None:
                    infos.setdefault("success", np.full(self.num_envs, np.nan, np.float32))[index] = told
                self._last[index], rewards[index], ends[index], cuts[index] = obs, reward, ended, was_cut
        except BaseException as error:
            raise refusal(self._step_of(index), error) from error
        reward, terminated, truncated = np.array(rewards, np.float32), np.array(ends), np.array(cuts)
        over = terminated | truncated
        next_obs = obs = self._stack(range(self.num_envs), self._step_of)
        finished = self._tally.add(reward, valid, over)
        if finished:
            obs = self._begin_again(over, next_obs)
        self._calls += 1
        if self._endless_after is not None and self._calls >= self._endless_after:
            self._check_endless(self._endless_after)
        return Step(obs, next_obs, reward, terminated, truncated & ~terminated, valid, finished, infos)

    def render(self) -> list[Array]:
        what = f"environment {self._name}: render"
        try:
            frames: list[Any] = [env.render() for env in self._envs]
        except PASSING:
            raise
        except BaseException as error:  # each drawing library fails in its own way
            hint = (
                "leave films out, or, if this machine has no screen and it is a MuJoCo environment, set MUJOCO_GL=egl"
            )
            raise foreign_error(what, error, hint) from error
        for frame in frames:
            if not isinstance(frame, np.ndarray):
                raise Refused(f"{what} gives no pictures: it has no render mode rgb_array; leave films out")
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                given = f"{list(frame.shape)} {frame.dtype}"
                raise Refused(f"{what} gives {given}; [height, width, 3] uint8 is expected: leave films out")
        return frames

    def singles(self) -> list[Single]:
        return [Single(env, self._taken[i], not self._idle[i]) for i, env in enumerate(self._envs)]

    def close(self) -> None:
        close_all(self._name, self._envs)

    def _too_many(self, refused: Refused) -> Refused:
        """What stands against another one, when one could be made before, to learn its spaces."""
        if not self._envs and isinstance(refused.__cause__, TypeError):
            return refused  # an argument that its constructor does not take
        return Refused(
            f"{refused}; it was made before, so if only {len(self._envs) or 'one'} can be open at a time, set num_envs "
            "of what plays in it (dataset.num_envs=1, score.num_envs=1, learn.check.num_envs=1, "
            "algo.sources.<name>.num_envs=1), or learn.check.every=0"
        )

    def _begin(self, index: int, seed: int | None = None) -> None:
        self._begun += 1
        self._episode[index] = self._begun
        try:
            self._last[index] = first(self._envs[index].reset(seed=seed))
        except BaseException as error:
            raise refusal(self._reset_of(index), error) from error

    def _begin_again(self, over: Array, next_obs: Observation) -> Observation:
        ended = np.flatnonzero(over).tolist()
        if not self._autoreset:
            self._idle[ended] = True
            self._running = np.flatnonzero(~self._idle).tolist()
            return next_obs
        for index in ended:
            self._begin(index)
        return self._stack(range(self.num_envs), self._reset_of, look=True)

    def _check_endless(self, most: int) -> None:
        index = int(self._tally.lengths.argmax())
        if self._tally.lengths[index] >= most:
            raise Refused(
                f"environment {self._name}: episode {self._episode[index]} has not ended after {most:,} steps; set "
                "env.max_episode_steps to cut episodes off, or a larger env.endless_after if they are that long"
            )

    def _stack(self, which: Sequence[int], doing: Callable[[int], str], look: bool = False) -> Observation:
        try:
            return self._seen.stack([self._last[index] for index in which], look)
        except Unfit as error:
            raise refusal(doing(which[error.row or 0]), error) from error

    def _step_of(self, index: int) -> str:
        return f"environment {self._name}: step {self._tally.lengths[index] + 1} of episode {self._episode[index]}"

    def _reset_of(self, index: int) -> str:
        return f"environment {self._name}: the reset for episode {self._episode[index]}"
