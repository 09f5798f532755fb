"""Environments as configuration: what `env=` chooses."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from typing import Any, ClassVar, final

import gymnasium as gym
import numpy as np

from lfd.envs.checked import close_all
from lfd.envs.making import make_single, packages_of, refusals, versions
from lfd.envs.spaces import Spaces, simplified
from lfd.envs.sync import Sync
from lfd.envs.vector import VecEnv
from lfd.errors import Refused
from lfd.log.progress import tell_once
from lfd.registry import part_of


@dataclass
class Env(ABC):
    """One environment and all that decides its dynamics."""

    stack: ClassVar[int] = 1  # frames along the first axis of an observation; 1 = it is not a stack
    sign_reward: ClassVar[bool] = False  # learn from the sign of the reward; data and scores keep the true one

    id: str = "???"  # Gymnasium's name of it; "module:Name-v0" imports the module first
    kwargs: dict[str, Any] = field(default_factory=dict)  # further arguments of its constructor
    # Steps after which an episode that nothing limits is taken for one that never ends, where whole ones are played.
    endless_after: int = field(default=100_000, kw_only=True, metadata={"key": False})

    def __post_init__(self) -> None:
        if self.endless_after < 1:
            raise Refused(f"env.endless_after is {self.endless_after}: expected 1 step or more")

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
        single = partial(self.single, render)
        return Sync(single, self.spaces(), num_envs, training, self.id, self.endless_after)

    def spaces(self) -> Spaces:
        """Its spaces, found by making it once, and a look at what it shows.

        Raises Refused if it cannot be made, or cannot be learnt in.
        """
        return self._single_spaces

    def fingerprint(self) -> dict[str, Any]:
        """All that changes the dynamics, as JSON: the settings and the versions of the simulator's packages."""
        settings, known = asdict(self), fields(self)
        kept = {one.name: settings[one.name] for one in known if one.metadata.get("key", True)}
        return {"part": part_of(self), **kept, "versions": versions("gymnasium", *self.packages())}

    @cached_property
    def _single_spaces(self) -> Spaces:
        probe = self.single()
        try:
            with refusals(self.id):  # it may have none
                spaces = simplified(probe.observation_space, probe.action_space, self.id)
            one = Sync(lambda: probe, spaces, 1, autoreset=True, name=self.id)
            once, again = _columns(one.reset([0])), _columns(one.reset([0]))
            if not all(np.array_equal(column, again[key]) for key, column in once.items()):
                tell_once(
                    f"environment {self.id}: after two resets with the same seed it shows different observations, so "
                    "runs of it cannot be repeated; it should draw from self.np_random, as seeded by super().reset"
                )
            return spaces
        finally:
            close_all(self.id, [probe])


def _columns(observation: Any) -> dict[str, Any]:
    return observation if isinstance(observation, dict) else {"": observation}


@final
@dataclass
class Gym(Env):
    """Any environment that Gymnasium knows."""

    max_episode_steps: int = 0  # steps after which an episode is cut off; 0 = the environment's own limit

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_episode_steps < 0:
            raise Refused(f"env.max_episode_steps is {self.max_episode_steps}: expected 0 (its own limit) or more")

    def single(self, render: bool = False) -> gym.Env[Any, Any]:
        return make_single(self.id, self.kwargs, render, self.max_episode_steps)
