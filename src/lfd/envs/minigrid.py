"""MiniGrid and BabyAI: egocentric grid observations and missions in words."""

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lfd.envs.env import Env
from lfd.envs.make import import_package, make_gym_env
from lfd.errors import UserError

# The words of BabyAI's grammar (Chevalier-Boisvert et al. 2019), then those that only other levels use. A word's id is
# its position, from 1; 0 is padding. New words go to the end, as trained agents depend on the ids.
VOCABULARY = tuple(
    "a after and ball behind blue box door front go green grey in key left next of on open pick purple put red right"
    " the then to up yellow you your"
    " object at avoid end fetch find from get goal hallway lava matching must near opening reach room rooms square"
    " traverse unlock use".split()
)
_WORD_IDS = {word: position for position, word in enumerate(VOCABULARY, 1)}


@final
@dataclass
class MiniGrid(Env):
    """A level of MiniGrid or BabyAI.

    An observation is a dict: `image` [7, 7, 3] uint8 (object, color and state of each visible cell, by x and y),
    `direction` (0 right, 1 down, 2 left, 3 up) and `mission` [mission_length] uint8, ids of words.
    """

    mission: bool = True  # observe the mission; false for levels in which every episode has the same one
    mission_length: int = 72  # words; shorter missions are padded with 0; 72 is the longest mission of BabyAI
    max_episode_steps: int = 0  # steps after which an episode is truncated; 0 = the level's own limit

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mission_length < 1:
            raise UserError(f"env.mission_length: expected 1 word or more, got {self.mission_length}")
        if self.max_episode_steps < 0:
            raise UserError(
                f"env.max_episode_steps: expected 0 (the level's own limit) or more, got {self.max_episode_steps}"
            )

    def make_single(self, render: bool = False) -> gym.Env[Any, Any]:
        import_package("minigrid", self.id)
        env = make_gym_env(self.id, self.kwargs, render, self.max_episode_steps)
        return _TokenizedMission(env, self.mission_length if self.mission else 0)

    def action_names(self) -> list[str]:
        from minigrid.core.actions import Actions

        return [action.name for action in Actions]

    def packages(self) -> tuple[str, ...]:
        return ("minigrid",)


def tokenize_mission(mission: str, length: int) -> NDArray[np.uint8]:
    """The ids of a mission's words, [length] uint8, padded with 0. Raises UserError for unknown or too many words."""
    words = re.findall("[a-z]+", mission.lower())
    unknown = [word for word in words if word not in _WORD_IDS]
    if unknown:
        raise UserError(f"mission {mission!r}: expected known words, got {', '.join(unknown)}; set env.mission=false")
    if len(words) > length:
        raise UserError(
            f"mission {mission!r}: expected at most {length} words, got {len(words)}; set a larger env.mission_length"
        )
    ids = np.zeros(length, np.uint8)
    ids[: len(words)] = [_WORD_IDS[word] for word in words]
    return ids


def babyai_bot(env: gym.Env[Any, Any]) -> Callable[[Any, Any], int]:
    """The bot of BabyAI (Chevalier-Boisvert et al. 2019), an expert that plans from the cells it has seen.

    It labels states that another policy visits. If the policy's actions have made its plan impossible, it plans anew;
    if the mission can no longer be done, because its box was opened, it returns the action "done". Raises UserError for
    an environment that is no level of BabyAI.
    """
    from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

    # raised by the bot when its plan no longer fits the level
    plan_errors = (DisappearedBoxError, AssertionError, LookupError, AttributeError, TypeError)
    level: Any = env.unwrapped
    try:
        bot: Any = BabyAIBot(env)  # type: ignore[no-untyped-call]
    except AttributeError as error:
        raise UserError(
            f"expert.script: expected a level of BabyAI for its bot, got {env} ({error}); choose another expert"
        ) from error

    def act(obs: Any, last_action: Any) -> int:
        nonlocal bot
        for action in (last_action, None):
            try:
                return int(bot.replan(action))
            except plan_errors:
                bot = BabyAIBot(env)  # type: ignore[no-untyped-call]
        return int(level.actions.done)

    return act


@final
class _TokenizedMission(gym.Wrapper[Any, Any, Any, Any]):
    """Replaces the mission by word ids and reports success: a positive reward, which comes only at the end."""

    def __init__(self, env: gym.Env[Any, Any], length: int) -> None:
        super().__init__(env)
        self._length = length
        space = env.observation_space
        if not isinstance(space, gym.spaces.Dict) or "mission" not in space.spaces:
            raise UserError(f"env.id: expected MiniGrid-… or BabyAI-…, got {env}")
        parts = {key: part for key, part in space.spaces.items() if key != "mission"}
        if length:
            parts["mission"] = gym.spaces.Box(0, len(VOCABULARY), (length,), np.uint8)
        self.observation_space = gym.spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with redirect_stdout(None):  # BabyAI prints every level that it rejects
            obs, info = self.env.reset(seed=seed, options=options)
        return self._convert(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._convert(obs), float(reward), terminated, truncated, info | {"success": float(reward) > 0}

    def _convert(self, obs: dict[str, Any]) -> dict[str, Any]:
        parts = {key: obs[key] for key in self.observation_space.spaces if key != "mission"}  # type: ignore[attr-defined]
        return parts | {"mission": tokenize_mission(obs["mission"], self._length)} if self._length else parts
