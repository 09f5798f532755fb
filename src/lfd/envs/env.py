"""Environments as configuration: what `env=` chooses."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, final

import gymnasium as gym

from lfd.envs.making import make_single, packages_of, versions
from lfd.envs.spaces import Spaces, simplified
from lfd.envs.sync import Sync
from lfd.envs.vector import VecEnv
from lfd.errors import Refused


@dataclass
class Env(ABC):
    """One environment and all that decides its dynamics."""

    stack: ClassVar[int] = 1  # frames along the first axis of an observation; 1 = it is not a stack
    sign_reward: ClassVar[bool] = False  # learn from the sign of the reward; data and scores keep the true one

    id: str = "???"  # Gymnasium's name of it; "module:Name-v0" imports the module first
    kwargs: dict[str, Any] = field(default_factory=dict)  # further arguments of its constructor

    @abstractmethod
    def single(self, render: bool = False) -> gym.Env[Any, Any]:
        """One Gymnasium environment, wrapped. Raises Refused if it cannot be made."""

    def action_names(self) -> list[str]:
        """What its discrete actions are called, in their order; empty where it does not say."""
        return []

    def packages(self) -> tuple[str, ...]:
        """The distributions whose version decides the dynamics, besides Gymnasium."""
        return packages_of(self.id)

    def make(self, num_envs: int, training: bool, render: bool = False) -> VecEnv:
        """`num_envs` copies. With `training` they reset themselves, without they idle until `reset_one`.

        Raises Refused if the environment cannot be made, or cannot be learnt in.
        """
        # Measured with 8 environments, steps per CPU second: CartPole 38-42 k here, 68-80 k in Gymnasium's
        # CartPoleVectorEnv, 47-68 k in EnvPool; HalfCheetah 10-11 k here, 17 k in EnvPool. From equal states they make
        # equal steps, to rounding. But `reset(seeds)` must give the same bits at any time: EnvPool takes seeds only
        # when it is made, CartPoleVectorEnv one for all, and that one spends a call on each reset, which no replay can
        # store.
        return Sync(partial(self.single, render), self.spaces(), num_envs, autoreset=training)

    def spaces(self) -> Spaces:
        """Its spaces, found by making it once. Raises Refused if it cannot be made, or cannot be learnt in."""
        return self._single_spaces

    def fingerprint(self) -> dict[str, Any]:
        """All that changes the dynamics, as JSON: the settings and the versions of the simulator's packages."""
        return {"kind": type(self).__name__, **asdict(self), "versions": versions("gymnasium", *self.packages())}

    @cached_property
    def _single_spaces(self) -> Spaces:
        env = self.single()
        try:
            return simplified(env.observation_space, env.action_space, self.id)
        finally:
            env.close()


@final
@dataclass
class Gym(Env):
    """Any environment that Gymnasium knows."""

    max_episode_steps: int = 0  # steps after which an episode is cut off; 0 = the environment's own limit

    def __post_init__(self) -> None:
        if self.max_episode_steps < 0:
            raise Refused(f"env.max_episode_steps is {self.max_episode_steps}: expected 0 (its own limit) or more")

    def single(self, render: bool = False) -> gym.Env[Any, Any]:
        return make_single(self.id, self.kwargs, render, self.max_episode_steps)
