"""MiniGrid and BabyAI: egocentric grid observations and missions in words."""

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, ClassVar, final

import gymnasium as gym

from lfd.envs.env import Env
from lfd.envs.make import import_package, make_gym_env
from lfd.envs.spaces import Cells, Words
from lfd.errors import UserError

# The words of BabyAI's grammar (Chevalier-Boisvert et al. 2019), then those that only other levels use. An agent and a
# dataset keep the words that they were made with, so a change here makes stored ones unusable.
VOCABULARY = tuple(
    "a after and ball behind blue box door front go green grey in key left next of on open pick purple put red right"
    " the then to up yellow you your"
    " object at avoid end fetch find from get goal hallway lava matching must near opening reach room rooms square"
    " traverse unlock use".split()
)
CELL_SIZES = (11, 6, 4)  # numbers of objects, colors and states (a door has 3, an agent 4 directions) in MiniGrid
_COLORS = "red green blue purple yellow grey".split()
_OBJECTS = "ball box key door object".split()


@final
@dataclass
class MiniGrid(Env):
    """A level of MiniGrid or BabyAI.

    An observation is a dict: `image` [7, 7, 3] uint8 (object, color and state of each visible cell, by x and y; space
    `Cells`), `direction` (0 right, 1 down, 2 left, 3 up) and `mission` [mission_length] uint8, ids of words (space
    `Words`).
    """

    film_fps: ClassVar[float] = 3
    film_episodes: ClassVar[int] = 5  # an episode may have five steps

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

    def caption(self, env: gym.Env[Any, Any]) -> str:
        level: Any = env.unwrapped
        return str(level.mission)

    def packages(self) -> tuple[str, ...]:
        return ("minigrid",)


def kind_of_mission(mission: str) -> str:
    """The mission with colors, objects and articles abstracted: "go to the red ball" is "go to a COLOR OBJECT"."""
    kinds = dict.fromkeys(_COLORS, "COLOR") | dict.fromkeys(_OBJECTS, "OBJECT") | {"the": "a"}
    return " ".join(kinds.get(word, word) for word in mission.split())


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

    _keep_view(level)

    def act(obs: Any, last_action: Any) -> int:
        nonlocal bot
        for action in (last_action, None):
            try:
                return int(bot.replan(action))
            except plan_errors:
                bot = BabyAIBot(env)  # type: ignore[no-untyped-call]
        return int(level.actions.done)

    return act


def _keep_view(level: Any) -> None:
    """Makes a level compute its view once a step: its bot asks again for the one that the observation shows.

    That is a fifth of the time of collecting demonstrations.
    """
    compute, state, grid, view = type(level).gen_obs_grid, None, None, None

    def gen_obs_grid(agent_view_size: int | None = None) -> Any:
        nonlocal state, grid, view
        now = (level.step_count, *level.agent_pos, level.agent_dir, id(level.carrying), agent_view_size)
        if grid is not level.grid or now != state:
            state, grid, view = now, level.grid, compute(level, agent_view_size)
        return view

    level.gen_obs_grid = gen_obs_grid


@final
class _TokenizedMission(gym.Wrapper[Any, Any, Any, Any]):
    """Replaces the mission by word ids and reports success: a positive reward, which comes only at the end."""

    def __init__(self, env: gym.Env[Any, Any], length: int) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Dict) or "mission" not in space.spaces:
            raise UserError(f"env.id: expected MiniGrid-… or BabyAI-…, got {env}")
        parts = {key: part for key, part in space.spaces.items() if key != "mission"}
        image = parts["image"]
        if isinstance(image, gym.spaces.Box) and image.shape[2:] == (len(CELL_SIZES),):
            parts["image"] = Cells((image.shape[0], image.shape[1]), CELL_SIZES)
        self._words = Words(VOCABULARY, length) if length else None
        if self._words is not None:
            parts["mission"] = self._words
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
        return parts | {"mission": self._words.encode(obs["mission"])} if self._words is not None else parts
