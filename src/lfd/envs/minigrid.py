"""MiniGrid and BabyAI: grids seen from the agent's place, and missions in words."""

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from lfd.envs.env import Env
from lfd.envs.making import make_single, need
from lfd.errors import Refused

# The words of BabyAI's grammar (Chevalier-Boisvert et al. 2019), then those that only other levels use. A word's id is
# its place, from 1; 0 is padding. New words go to the end, for trained agents know the ids.
VOCABULARY = tuple(
    "a after and ball behind blue box door front go green grey in key left next of on open pick purple put red right"
    " the then to up yellow you your"
    " object at avoid end fetch find from get goal hallway lava matching must near opening reach room rooms square"
    " traverse unlock use".split()
)
_IDS = {word: place for place, word in enumerate(VOCABULARY, 1)}


@final
@dataclass
class MiniGrid(Env):
    """A level of MiniGrid or BabyAI.

    An observation is a dict: `image` [7, 7, 3] uint8 (object, colour, state of each cell in view, by x and y),
    `direction` (0 right, 1 down, 2 left, 3 up) and `mission` [mission_length] uint8, ids of words.
    """

    mission: bool = True  # show the mission; False where all episodes of the level have the same
    mission_length: int = 72  # words; shorter missions are padded with 0. 72 is the longest that BabyAI can say
    max_episode_steps: int = 0  # steps after which an episode is cut off; 0 = the level's own limit

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mission_length < 1:
            raise Refused(f"env.mission_length is {self.mission_length}: expected 1 word or more")
        if self.max_episode_steps < 0:
            raise Refused(f"env.max_episode_steps is {self.max_episode_steps}: expected 0 (its own limit) or more")

    def single(self, render: bool = False) -> gym.Env[Any, Any]:
        need("minigrid", self.id)
        env = make_single(self.id, self.kwargs, render, self.max_episode_steps)
        return _Observed(env, self.mission_length if self.mission else 0)

    def action_names(self) -> list[str]:
        from minigrid.core.actions import Actions

        return [action.name for action in Actions]

    def packages(self) -> tuple[str, ...]:
        return ("minigrid",)


def tokens(mission: str, length: int) -> NDArray[np.uint8]:
    """The ids of a mission's words, [length], padded with 0. Raises Refused for unknown words and too many."""
    words = re.findall("[a-z]+", mission.lower())
    unknown = [word for word in words if word not in _IDS]
    if unknown:
        raise Refused(f"mission {mission!r} has words that are not known: {', '.join(unknown)}; set env.mission=false")
    if len(words) > length:
        raise Refused(f"mission {mission!r} has {len(words)} words: set env.mission_length to that or more")
    ids = np.zeros(length, np.uint8)
    ids[: len(words)] = [_IDS[word] for word in words]
    return ids


def babyai_bot(env: gym.Env[Any, Any]) -> Callable[[Any, Any], int]:
    """An expert: the bot of BabyAI (Chevalier-Boisvert et al. 2019), which plans from what it has seen of the level.

    It advises another whose actions differ from its own. Where these have left it without a plan it begins anew, and
    where the mission can no longer be done, for its box is open, it advises to be done. Raises Refused outside of
    BabyAI.
    """
    from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

    # It asserts what its plan took for granted, and looks up what is no longer there.
    lost = (DisappearedBoxError, AssertionError, LookupError, AttributeError, TypeError)
    level: Any = env.unwrapped
    try:
        bot: Any = BabyAIBot(env)  # type: ignore[no-untyped-call]
    except AttributeError as error:
        raise Refused(f"{env} is no level of BabyAI, and its bot knows no others ({error}); take another") from error

    def advise(obs: Any, before: Any) -> int:
        nonlocal bot
        for done in (before, None):
            try:
                return int(bot.replan(done))
            except lost:
                bot = BabyAIBot(env)  # type: ignore[no-untyped-call]
        return int(level.actions.done)

    return advise


@final
class _Observed(gym.Wrapper[Any, Any, Any, Any]):
    """Words as ids, and success: an episode's reward, which comes only at its end, is positive."""

    def __init__(self, env: gym.Env[Any, Any], length: int) -> None:
        super().__init__(env)
        self._length = length
        space = env.observation_space
        if not isinstance(space, gym.spaces.Dict) or "mission" not in space.spaces:
            raise Refused(f"{env} is no level of MiniGrid: expected env.id=MiniGrid-… or BabyAI-…")
        parts = {key: part for key, part in space.spaces.items() if key != "mission"}
        if length:
            parts["mission"] = gym.spaces.Box(0, len(VOCABULARY), (length,), np.uint8)
        self.observation_space = gym.spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with redirect_stdout(None):  # BabyAI prints each level that it rejects
            obs, info = self.env.reset(seed=seed, options=options)
        return self._shown(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._shown(obs), float(reward), terminated, truncated, info | {"success": float(reward) > 0}

    def _shown(self, obs: dict[str, Any]) -> dict[str, Any]:
        shown = {key: obs[key] for key in self.observation_space.spaces if key != "mission"}  # type: ignore[attr-defined]
        return shown | {"mission": tokens(obs["mission"], self._length)} if self._length else shown
