"""Sizes of observations and transitions in bytes, and the time to copy them."""

from typing import Any

import gymnasium as gym
import numpy as np

from lfd.envs import Spaces
from lfd.log.progress import TimeEstimate

COPY_SPEED = 100e6  # bytes per second at which data is read and written, or read by a network


def observation_bytes(spaces: Spaces, stack: int = 1) -> int:
    """Bytes of an observation as stored: of one of its `stack` frames, as each frame is stored once."""
    space: Any = spaces.observation
    parts = space.spaces.values() if isinstance(space, gym.spaces.Dict) else [space]
    # Python integers, as the product may exceed 64 bits.
    sizes = [int(np.prod(part.shape or (), dtype=object)) * np.dtype(part.dtype).itemsize for part in parts]
    return sum(sizes) // stack


def least_row_bytes(spaces: Spaces, stack: int = 1) -> int:
    """Least bytes of a stored transition."""
    return observation_bytes(spaces, stack) + 8


def row_bytes(spaces: Spaces, stack: int = 1) -> int:
    """Bytes of a stored transition."""
    action = 8 if spaces.actions == "discrete" else 4 * int(np.prod(spaces.action.shape or ()))
    return observation_bytes(spaces, stack) + action + 4 + 2


def copy_time(size: int) -> TimeEstimate:
    """Seconds to read and write `size` bytes."""
    return TimeEstimate(size / COPY_SPEED, size / COPY_SPEED)
