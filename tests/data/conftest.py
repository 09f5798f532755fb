"""Spaces, episodes and a published dataset for the tests of datasets."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest

from lfd.data import Episode
from lfd.envs.spaces import Spaces


@pytest.fixture
def vector() -> Spaces:
    return Spaces(gym.spaces.Box(-10, 10, (3,)), gym.spaces.Discrete(4))


@pytest.fixture
def frames() -> Spaces:
    return Spaces(gym.spaces.Box(0, 255, (4, 6, 5), np.uint8), gym.spaces.Discrete(3))


@pytest.fixture
def dictionary() -> Spaces:
    observation = gym.spaces.Dict(
        {"image": gym.spaces.Box(0, 255, (4, 4, 3), np.uint8), "side": gym.spaces.Discrete(4)}
    )
    return Spaces(observation, gym.spaces.Box(-1, 1, (2,)))


@pytest.fixture
def make() -> Callable[..., Episode]:
    """An episode of `steps` transitions in the given spaces, different for each seed."""

    def build(spaces: Spaces, steps: int, seed: int = 0, stack: int = 1, **fields: object) -> Episode:
        generator = np.random.default_rng(seed)

        def column(space: gym.Space, rows: int) -> np.ndarray:
            if isinstance(space, gym.spaces.Discrete):
                return generator.integers(0, space.n, rows)
            shape = space.shape[1:] if stack > 1 and len(space.shape) == 3 else space.shape
            if space.dtype == np.uint8:
                return generator.integers(0, 256, (rows, *shape), np.uint8)
            return generator.uniform(-1, 1, (rows, *shape)).astype(space.dtype)

        space = spaces.observation
        if isinstance(space, gym.spaces.Dict):
            observations = {key: column(part, steps + 1) for key, part in space.spaces.items()}
        else:
            observations = column(space, steps + 1)
        rewards = generator.normal(size=steps).astype(np.float32)
        given = {"terminated": True, "truncated": False} | fields
        return Episode(observations, column(spaces.action, steps), rewards, **given)

    return build
