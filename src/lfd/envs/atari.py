"""Atari games with the preprocessing that published results use."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, final

import gymnasium as gym
import numpy as np
import torch

from lfd.envs.env import Env
from lfd.envs.gym_vec_env import GymVecEnv
from lfd.envs.make import construction_errors, import_package, make_gym_env
from lfd.envs.spaces import Array, Spaces
from lfd.envs.sync_vec_env import SyncVecEnv
from lfd.envs.vec_env import EnvHandle, EnvObservation, Step, VecEnv
from lfd.errors import UserError

_FRAME_SIZE = 84  # pixels of each side of a processed frame
_MAX_NOOPS = 30  # maximum number of no-ops at the start of an episode
_FRAME_SKIP = 4  # frames for which an action is repeated


@final
@dataclass
class Atari(Env):
    """A game of the Arcade Learning Environment, processed as in Mnih et al. (2015) and Machado et al. (2018).

    An observation is 4 frames [4, 84, 84] uint8, oldest first. Each frame is grayscale, the maximum of the last two of
    the 4 frames for which the action is repeated. An episode begins with FIRE in games that have it, and up to 30
    no-ops. The first action after a lost life is replaced by FIRE, because some games wait for it. Data and scores are
    of whole games with the game's rewards.
    """

    stack: ClassVar[int] = 4
    sign_reward: ClassVar[bool] = True

    terminal_on_life_loss: bool = True  # in training a lost life ends the episode; the game continues
    # probability that a frame repeats the previous action; 0.25 in Machado et al. (2018)
    repeat_action_probability: float = 0.0
    max_frames: int = 108_000  # frames after which a game is truncated: half an hour of play

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.id != "???" and not (self.id.startswith("ALE/") and self.id.endswith("-v5")):
            raise UserError(f"env.id: expected ALE/<Game>-v5, such as ALE/Pong-v5, got {self.id}")
        if not self.kwargs.keys() <= {"full_action_space"}:
            raise UserError(f"env.kwargs: expected full_action_space only, got {list(self.kwargs)}")
        if not 0 <= self.repeat_action_probability < 1:
            raise UserError(
                f"env.repeat_action_probability: expected 0 or more and below 1, got {self.repeat_action_probability}"
            )
        if self.max_frames < _FRAME_SKIP:
            raise UserError(f"env.max_frames: expected {_FRAME_SKIP} frames or more, got {self.max_frames}")

    def make(self, num_envs: int, training: bool, render: bool = False) -> VecEnv:
        frames = self._single_spaces
        if training:
            return self._make_ale_vec_env(num_envs, frames)
        games = SyncVecEnv(partial(self.make_single, render), frames, num_envs, False, self.id, self.endless_after)
        return FrameStack(games, self.stack)

    def spaces(self) -> Spaces:
        return _stacked_spaces(self._single_spaces, self.stack)

    def make_single(self, render: bool = False) -> gym.Env[Any, Any]:
        """Makes one game whose observations are single frames [84, 84] uint8."""
        ale_py = import_package("ale_py", self.id)
        import_package("cv2", self.id)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # otherwise it prints a banner
        settings = {
            "frameskip": 1,
            "obs_type": "grayscale",
            "repeat_action_probability": self.repeat_action_probability,
            "max_num_frames_per_episode": self.max_frames,
        }
        env = make_gym_env(self.id, {**self.kwargs, **settings}, render)
        return _FireAfterLifeLoss(
            gym.wrappers.AtariPreprocessing(_FireReset(env), _MAX_NOOPS, _FRAME_SKIP, _FRAME_SIZE)
        )

    def action_names(self) -> list[str]:
        env: Any = self.make_single()
        try:
            return [name.lower() for name in env.unwrapped.get_action_meanings()]
        finally:
            env.close()

    def packages(self) -> tuple[str, ...]:
        return ("ale-py",)

    def fingerprint(self) -> dict[str, Any]:
        # named only where it applies, so that games without it keep the key they had before FIRE was pressed
        return super().fingerprint() | ({"fire": "after a lost life"} if self._fires_after_life_loss else {})

    @cached_property
    def _fires_after_life_loss(self) -> bool:
        env: Any = self.make_single()
        try:
            _, info = env.reset(seed=0)
            return _fire_action(env.unwrapped.get_action_meanings()) is not None and info["lives"] > 0
        finally:
            env.close()

    def _make_ale_vec_env(self, num_envs: int, frames: Spaces) -> VecEnv:
        # From equal starts and actions ale-py's vector environment gives the same frames, rewards and ends as
        # SyncVecEnv, to the bit. With 8 games of Pong it makes 1.8-2.1 k steps per CPU second, SyncVecEnv 1.5-1.7 k,
        # and it can use several cores. EnvPool makes 1.8-1.9 k, and takes seeds only when it is made. But ale-py resets
        # the game at a lost life and fills the stack with black after a reset, so FrameStack does both; and it cannot
        # idle, so evaluation and collection use SyncVecEnv.
        from ale_py.vector_env import AtariVectorEnv

        with construction_errors(self.id):
            env = AtariVectorEnv(
                gym.spec(self.id).kwargs["game"],
                num_envs,
                num_threads=min(num_envs, torch.get_num_threads()),  # this job's share of the cores
                max_num_frames_per_episode=self.max_frames,
                repeat_action_probability=self.repeat_action_probability,
                autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
                stack_num=1,
                noop_max=_MAX_NOOPS,
                frameskip=_FRAME_SKIP,
                img_height=_FRAME_SIZE,
                img_width=_FRAME_SIZE,
                reward_clipping=False,
                **self.kwargs,
            )
        fire = _fire_action([action.name for action in env.ale.get_action_set()])
        games = GymVecEnv(env, frames, info_keys=("lives",), convert_seeds=np.array, name=self.id)
        return FrameStack(games, self.stack, self.terminal_on_life_loss, fire)


@final
class FrameStack(VecEnv):
    """Stacks the last `stack` frames of each environment, oldest first; an episode's first frame fills the stack.

    With `terminal_on_life_loss` a lost life ends the episode in environments whose infos have "lives". With `fire` the
    first action after a lost life is replaced by that action, as in `_FireAfterLifeLoss`.
    """

    def __init__(self, env: VecEnv, stack: int, terminal_on_life_loss: bool = False, fire: int | None = None) -> None:
        self.num_envs, self.spaces = env.num_envs, _stacked_spaces(env.spaces, stack)
        self._env, self._stack, self._terminal_on_life_loss, self._fire = env, stack, terminal_on_life_loss, fire
        self._obs: Array = np.zeros(0)
        self._lives = np.zeros(env.num_envs, np.int64)
        # [N] True if the last step lost a life and the game continues
        self._life_lost = np.zeros(env.num_envs, np.bool_)

    def reset(self, seeds: Sequence[int]) -> EnvObservation:
        self._obs = self._repeat_frame(self._env.reset(seeds))
        self._lives, self._life_lost = np.zeros_like(self._lives), np.zeros_like(self._life_lost)
        return self._obs

    def step(self, action: Array) -> Step:
        step = self._env.step(action if self._fire is None else np.where(self._life_lost, self._fire, action))
        next_obs = np.concatenate((self._obs[:, 1:], step.next_obs[:, None]), axis=1)
        done, terminated = step.terminated | step.truncated, step.terminated
        episode_starts = done
        if "lives" in step.infos:
            lives = step.infos["lives"]
            self._life_lost = (0 < lives) & (lives < self._lives) & ~done
            self._lives = lives
        if self._terminal_on_life_loss:
            episode_starts, terminated = done | self._life_lost, terminated | self._life_lost
        self._obs = next_obs
        if episode_starts.any():
            self._obs = next_obs.copy()
            self._obs[episode_starts] = self._repeat_frame(step.obs[episode_starts])
        return step._replace(obs=self._obs, next_obs=next_obs, terminated=terminated, infos={})

    def render(self) -> list[Array]:
        return self._env.render()

    def handles(self) -> list[EnvHandle]:
        return self._env.handles()

    def close(self) -> None:
        self._env.close()

    def _repeat_frame(self, frames: Array) -> Array:
        return np.repeat(frames[:, None], self._stack, axis=1)


@final
class _FireReset(gym.Wrapper[Any, Any, Any, Any]):
    """Presses FIRE after a reset in games that have it, because some start only then."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        fire = _fire_action(self.unwrapped.get_action_meanings())  # type: ignore[attr-defined]
        if fire is not None:
            obs, _, _, _, info = self.env.step(fire)
        return obs, info


@final
class _FireAfterLifeLoss(gym.Wrapper[Any, Any, Any, Any]):
    """Replaces the first action after a lost life by FIRE in games that have it, because some wait for it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._fire = _fire_action(self.unwrapped.get_action_meanings())  # type: ignore[attr-defined]
        self._lives, self._life_lost = 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._lives, self._life_lost = info["lives"], False
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(self._fire if self._life_lost else action)
        lives = result[-1]["lives"]
        self._life_lost, self._lives = self._fire is not None and 0 < lives < self._lives, lives
        return result


def _fire_action(action_names: Sequence[str]) -> int | None:
    """The index of the action FIRE; None in games without it."""
    return action_names.index("FIRE") if "FIRE" in action_names else None


def _stacked_spaces(frame_spaces: Spaces, stack: int) -> Spaces:
    space = frame_spaces.observation
    assert isinstance(space, gym.spaces.Box)
    low, high = (np.repeat(bound[None], stack, axis=0) for bound in (space.low, space.high))
    return Spaces(gym.spaces.Box(low, high, dtype=space.dtype.type), frame_spaces.action)
