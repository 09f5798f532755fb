"""The configuration group `env`: one environment and the settings that decide its dynamics."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from typing import Any, ClassVar, final

import gymnasium as gym
import numpy as np

from lfd.envs.make import construction_errors, env_packages, make_gym_env, package_versions
from lfd.envs.spaces import Spaces, simplify_spaces
from lfd.envs.sync_vec_env import SyncVecEnv
from lfd.envs.validation import close_all
from lfd.envs.vec_env import VecEnv
from lfd.errors import UserError
from lfd.log.progress import print_message_once
from lfd.registry import part_of


@dataclass
class Env(ABC):
    """One environment, by Gymnasium id, and all settings that decide its dynamics."""

    stack: ClassVar[int] = 1  # frames along the first axis of an observation; 1 = no stack
    film_fps: ClassVar[float] = 30  # frames per second of a film
    film_episodes: ClassVar[int] = 1  # episodes in the film of a run
    sign_reward: ClassVar[bool] = False  # training uses the sign of the reward; data and scores keep the reward

    id: str = "???"  # name in messages and keys; of Gym the id, where "module:Name-v0" imports the module first
    kwargs: dict[str, Any] = field(default_factory=dict)  # further arguments of the environment's constructor
    # Steps after which an episode without a time limit counts as endless, in evaluation and collection.
    endless_after: int = field(default=100_000, kw_only=True, metadata={"key": False})

    def __post_init__(self) -> None:
        if self.endless_after < 1:
            raise UserError(f"env.endless_after: expected 1 step or more, got {self.endless_after}")

    @abstractmethod
    def make_single(self, render: bool = False) -> gym.Env[Any, Any]:
        """Makes one wrapped Gymnasium environment. Raises UserError if it cannot be made."""

    def action_names(self) -> list[str]:
        """Names of the discrete actions, in order; empty if the environment has none."""
        return []

    def caption(self, env: gym.Env[Any, Any]) -> str:
        """A line below the film of an episode, beside which actions are named; empty for a film without text."""
        return ""

    def packages(self) -> tuple[str, ...]:
        """Distributions whose versions decide the dynamics, besides Gymnasium; none unless a family names some."""
        return ()

    def make(self, num_envs: int, training: bool, render: bool = False) -> VecEnv:
        """Makes `num_envs` copies; with `training` they reset themselves, otherwise they idle after an episode.

        Raises UserError if the environment cannot be made or its spaces are not supported.
        """
        # Measured with 8 environments, steps per CPU second: CartPole 38-42 k here, 68-80 k in Gymnasium's
        # CartPoleVectorEnv, 47-68 k in EnvPool; HalfCheetah 10-11 k here, 17 k in EnvPool. From equal states they make
        # equal steps, to rounding. But `reset(seeds)` must give the same bits at any time: EnvPool takes seeds only
        # when it is made; CartPoleVectorEnv takes one seed for all environments and spends a call on each reset, which
        # a replay buffer cannot store.
        make = partial(self.make_single, render)
        return SyncVecEnv(make, self.spaces(), num_envs, training, self.id, self.endless_after)

    def spaces(self) -> Spaces:
        """The spaces, read from one environment that is made, reset twice and closed.

        Raises UserError if the environment cannot be made or its spaces are not supported.
        """
        return self._single_spaces

    def fingerprint(self) -> dict[str, Any]:
        """All that decides the dynamics, as JSON: the settings and the versions of the simulator's packages."""
        values = asdict(self)
        settings = {item.name: values[item.name] for item in fields(self) if item.metadata.get("key", True)}
        return {"part": part_of(self), **settings, "versions": package_versions("gymnasium", *self.packages())}

    @cached_property
    def _single_spaces(self) -> Spaces:
        probe = self.make_single()
        try:
            with construction_errors(self.id):  # an environment may lack a space
                spaces = simplify_spaces(probe.observation_space, probe.action_space, self.id)
            env = SyncVecEnv(lambda: probe, spaces, 1, autoreset=True, name=self.id)
            first, second = _as_columns(env.reset([0])), _as_columns(env.reset([0]))
            if not all(np.array_equal(column, second[key]) for key, column in first.items()):
                print_message_once(
                    f"environment {self.id}: two resets with the same seed return different observations, so its runs "
                    "cannot be repeated; it should draw from self.np_random, as seeded by super().reset"
                )
            return spaces
        finally:
            close_all(self.id, [probe])


def _as_columns(observation: Any) -> dict[str, Any]:
    return observation if isinstance(observation, dict) else {"": observation}


@final
@dataclass
class Gym(Env):
    """Any environment that is registered with Gymnasium and has supported spaces."""

    max_episode_steps: int = 0  # steps after which an episode is truncated; 0 = the environment's own limit

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_episode_steps < 0:
            raise UserError(
                f"env.max_episode_steps: expected 0 (the environment's own limit) or more, got {self.max_episode_steps}"
            )

    def packages(self) -> tuple[str, ...]:
        return env_packages(self.id)

    def make_single(self, render: bool = False) -> gym.Env[Any, Any]:
        return make_gym_env(self.id, self.kwargs, render, self.max_episode_steps)
