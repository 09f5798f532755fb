"""BabyAI's demonstrations (Chevalier-Boisvert et al. 2019): a pickled list of missions with images and actions.

An item is `(mission, blosc-packed images [T, 7, 7, 3], directions, actions)`, with one direction and one action a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lfd.data.episode import Episode
from lfd.data.readers.unpickle import load_pickle
from lfd.envs.minigrid import CELL_SIZES, VOCABULARY
from lfd.envs.spaces import Cells, Spaces, Words
from lfd.errors import UserError

_SIDE = 7  # cells, of an observation
_ACTIONS = 7


def is_babyai(content: Any) -> bool:
    """True if the content of a pickle has the form of BabyAI's demonstrations."""
    if not (isinstance(content, list) and content and isinstance(content[0], tuple) and len(content[0]) == 4):
        return False
    return isinstance(content[0][0], str) and isinstance(content[0][1], bytes)


def babyai_spaces(content: list[Any]) -> Spaces:
    """Spaces of the demonstrations, with room for the longest mission."""
    longest = max(len(mission.split()) for mission, *_ in content)
    parts = {
        "direction": gym.spaces.Discrete(4),
        "image": Cells((_SIDE, _SIDE), CELL_SIZES),
        "mission": Words(VOCABULARY, longest),
    }
    return Spaces(gym.spaces.Dict(parts), gym.spaces.Discrete(_ACTIONS))


def read_babyai(
    path: Path, content: list[Any], spaces: Spaces | None, max_episode_steps: int | None
) -> Iterator[Episode]:
    """Episodes of a pickle's `content`; missions are ids of words by `spaces`.

    The files hold successes only, without rewards and without the observation after the last action. The last reward is
    that of MiniGrid, 1 - 0.9 * steps / max_episode_steps, or 1 if the time limit is not given.

    Raises:
        UserError: blosc is not installed, an item has another form, or a mission is too long for the spaces.
    """
    try:
        decompress = import_module("blosc").decompress
    except ImportError as error:
        raise UserError(
            f'data: {path}: demonstrations of BabyAI need blosc, which is not installed: pip install -e ".[blosc]"'
        ) from error
    observation = (spaces or babyai_spaces(content)).observation
    words = observation.spaces.get("mission") if isinstance(observation, gym.spaces.Dict) else None
    for index, item in enumerate(content):
        try:
            mission, packed, directions, actions = item
            # blosc.unpack_array would run any pickle
            images = np.asarray(load_pickle(path, decompress(packed)))
            observations = {"image": images, "direction": np.array(directions, np.int64)}
            taken = np.array([int(action) for action in actions], np.int64)
            if not len(images) == len(directions) == len(taken):
                raise ValueError(f"{len(images)} images, {len(directions)} directions and {len(taken)} actions")
        except (TypeError, ValueError) as error:
            raise UserError(
                f"data: {path}, episode {index}: expected (mission, images, directions, actions), got other content "
                f"({error}); copy the file again"
            ) from error
        if isinstance(words, Words):
            observations["mission"] = np.tile(words.encode(str(mission)), (len(images), 1))
        rewards = np.zeros(len(taken), np.float32)
        rewards[-1:] = 1 - 0.9 * len(taken) / max_episode_steps if max_episode_steps else 1
        yield Episode(observations, taken, rewards, terminated=True, truncated=False)
