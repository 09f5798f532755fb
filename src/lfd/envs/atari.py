"""Atari games with the preprocessing that published results use."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, final

import gymnasium as gym
import numpy as np
import torch

from lfd.envs.env import Env
from lfd.envs.making import make_single, need, refusals
from lfd.envs.spaces import Spaces
from lfd.envs.sync import Sync
from lfd.envs.vector import Array, Observation, Single, Step, VecEnv
from lfd.envs.vectorised import Vectorised
from lfd.errors import Refused

_SIDE = 84  # pixels of a processed frame
_NOOPS = 30  # the most no-ops at the start of an episode
_SKIP = 4  # frames that an action lasts


@final
@dataclass
class Atari(Env):
    """A game of the Arcade Learning Environment, processed as in Mnih et al. (2015) and Machado et al. (2018).

    An observation is 4 frames [4, 84, 84] uint8, oldest first; each is grey, the maximum of the last two of the 4 that
    the action lasted. An episode begins with FIRE in games that have it, and up to 30 no-ops. The first action after a
    lost life is FIRE, whatever was chosen: the next ball waits for it in some games. Data and scores are of whole games
    with true rewards.
    """

    stack: ClassVar[int] = 4
    sign_reward: ClassVar[bool] = True

    life_loss: bool = True  # in training, a lost life ends the episode (the game goes on)
    repeat_action_probability: float = 0.0  # that a frame repeats the action before; 0.25 is Machado et al.'s choice
    max_frames: int = 108_000  # frames after which a game is cut off: half an hour of play

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.id != "???" and not (self.id.startswith("ALE/") and self.id.endswith("-v5")):
            raise Refused(f"env.id={self.id} is not an Atari game: expected ALE/<Game>-v5, such as ALE/Pong-v5")
        if not self.kwargs.keys() <= {"full_action_space"}:
            raise Refused(f"env.kwargs of an Atari game takes full_action_space and no other, not {list(self.kwargs)}")
        if not 0 <= self.repeat_action_probability < 1:
            raise Refused(
                f"env.repeat_action_probability is {self.repeat_action_probability}: expected 0 or more and less than 1"
            )
        if self.max_frames < _SKIP:
            raise Refused(f"env.max_frames is {self.max_frames}: expected {_SKIP} or more")

    def make(self, num_envs: int, training: bool, render: bool = False) -> VecEnv:
        frames = self._single_spaces
        if training:
            return self._vectorised(num_envs, frames)
        games = Sync(partial(self.single, render), frames, num_envs, False, self.id, self.endless_after)
        return Stacked(games, self.stack)

    def spaces(self) -> Spaces:
        return _stacked(self._single_spaces, self.stack)

    def single(self, render: bool = False) -> gym.Env[Any, Any]:
        """One game, which shows single frames [84, 84]."""
        ale_py = need("ale_py", self.id)
        need("cv2", self.id)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else it greets on the console
        settings = {
            "frameskip": 1,
            "obs_type": "grayscale",
            "repeat_action_probability": self.repeat_action_probability,
            "max_num_frames_per_episode": self.max_frames,
        }
        env = make_single(self.id, {**self.kwargs, **settings}, render)
        return _Relaunch(gym.wrappers.AtariPreprocessing(_Fire(env), _NOOPS, _SKIP, _SIDE))

    def action_names(self) -> list[str]:
        env: Any = self.single()
        try:
            return [name.lower() for name in env.unwrapped.get_action_meanings()]
        finally:
            env.close()

    def packages(self) -> tuple[str, ...]:
        return ("ale-py",)

    def fingerprint(self) -> dict[str, Any]:
        # only where it changes the game, for there was a time when FIRE was not pressed after a lost life
        return super().fingerprint() | ({"fire": "after a lost life"} if self._relaunches else {})

    @cached_property
    def _relaunches(self) -> bool:
        env: Any = self.single()
        try:
            _, info = env.reset(seed=0)
            return _fire(env.unwrapped.get_action_meanings()) is not None and info["lives"] > 0
        finally:
            env.close()

    def _vectorised(self, num_envs: int, frames: Spaces) -> VecEnv:
        # From the same start and actions ale-py's own vector environment makes the same frames, rewards and ends as the
        # loop, to the bit. With 8 games of Pong it makes 1.8-2.1 k steps per CPU second, the loop 1.5-1.7 k, and it can
        # use several cores. EnvPool makes 1.8-1.9 k, and can be seeded only when it is made. But ale-py's resets the
        # game at a lost life and fills the stack with black after a reset, so lives and stacks are ours; and it cannot
        # idle, so the loop plays what is scored or collected.
        from ale_py.vector_env import AtariVectorEnv

        with refusals(self.id):
            env = AtariVectorEnv(
                gym.spec(self.id).kwargs["game"],
                num_envs,
                num_threads=min(num_envs, torch.get_num_threads()),  # this job's share of the cores
                max_num_frames_per_episode=self.max_frames,
                repeat_action_probability=self.repeat_action_probability,
                autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
                stack_num=1,
                noop_max=_NOOPS,
                frameskip=_SKIP,
                img_height=_SIDE,
                img_width=_SIDE,
                reward_clipping=False,
                **self.kwargs,
            )
        fire = _fire([action.name for action in env.ale.get_action_set()])
        games = Vectorised(env, frames, tell=("lives",), seeds=np.array, name=self.id)
        return Stacked(games, self.stack, self.life_loss, fire)


@final
class Stacked(VecEnv):
    """The last frames of each environment, oldest first; the first frame of an episode fills the stack.

    With `life_loss`, an environment that tells its "lives" begins another episode when one is lost; with `fire` that
    action takes the place of the next one, as in `_Relaunch`.
    """

    def __init__(self, env: VecEnv, stack: int, life_loss: bool = False, fire: int | None = None) -> None:
        self.num_envs, self.spaces = env.num_envs, _stacked(env.spaces, stack)
        self._env, self._stack, self._life_loss, self._fire = env, stack, life_loss, fire
        self._obs: Array = np.zeros(0)
        self._lives = np.zeros(env.num_envs, np.int64)
        self._lost = np.zeros(env.num_envs, np.bool_)  # a life in the step before, in a game that goes on

    def reset(self, seeds: Sequence[int]) -> Observation:
        self._obs = self._filled(self._env.reset(seeds))
        self._lives, self._lost = np.zeros_like(self._lives), np.zeros_like(self._lost)
        return self._obs

    def reset_one(self, index: int, seed: int) -> Observation:
        first = self._filled(self._env.reset_one(index, seed)[None])
        self._obs = self._obs.copy()
        self._obs[index] = first[0]
        return first[0]

    def step(self, action: Array) -> Step:
        step = self._env.step(action if self._fire is None else np.where(self._lost, self._fire, action))
        next_obs = np.concatenate((self._obs[:, 1:], step.next_obs[:, None]), axis=1)
        over, terminated = step.terminated | step.truncated, step.terminated
        begins = over
        if "lives" in step.infos:
            lives = step.infos["lives"]
            self._lost = (0 < lives) & (lives < self._lives) & ~over
            self._lives = lives
        if self._life_loss:
            begins, terminated = over | self._lost, terminated | self._lost
        self._obs = next_obs
        if begins.any():
            self._obs = next_obs.copy()
            self._obs[begins] = self._filled(step.obs[begins])
        return step._replace(obs=self._obs, next_obs=next_obs, terminated=terminated, infos={})

    def render(self) -> list[Array]:
        return self._env.render()

    def singles(self) -> list[Single]:
        return self._env.singles()

    def close(self) -> None:
        self._env.close()

    def _filled(self, frames: Array) -> Array:
        return np.repeat(frames[:, None], self._stack, axis=1)


@final
class _Fire(gym.Wrapper[Any, Any, Any, Any]):
    """Presses FIRE after a reset in games that have it: some do not begin without."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        fire = _fire(self.unwrapped.get_action_meanings())  # type: ignore[attr-defined]
        if fire is not None:
            obs, _, _, _, info = self.env.step(fire)
        return obs, info


@final
class _Relaunch(gym.Wrapper[Any, Any, Any, Any]):
    """Plays FIRE in place of the first action after a lost life, in games that have it: some wait for it for ever."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._fire = _fire(self.unwrapped.get_action_meanings())  # type: ignore[attr-defined]
        self._lives, self._lost = 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._lives, self._lost = info["lives"], False
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        answer = self.env.step(self._fire if self._lost else action)
        lives = answer[-1]["lives"]
        self._lost, self._lives = self._fire is not None and 0 < lives < self._lives, lives
        return answer


def _fire(names: Sequence[str]) -> int | None:
    """The number of the action FIRE, in games that have it."""
    return names.index("FIRE") if "FIRE" in names else None


def _stacked(single: Spaces, stack: int) -> Spaces:
    space = single.observation
    assert isinstance(space, gym.spaces.Box)
    low, high = (np.repeat(bound[None], stack, axis=0) for bound in (space.low, space.high))
    return Spaces(gym.spaces.Box(low, high, dtype=space.dtype.type), single.action)
