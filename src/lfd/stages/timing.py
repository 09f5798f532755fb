"""Timing of short trials on random batches."""

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from lfd.batch import Batch, tensors
from lfd.envs import Spaces
from lfd.envs.spaces import Indices
from lfd.learner.recording import RECORDS
from lfd.log.progress import TimeEstimate

SECONDS = 0.3  # duration of a trial
NUM_PARTS = 3  # parts of a trial; the fastest and the slowest are the bounds of the estimate


def time_calls(work: Callable[[], Any]) -> TimeEstimate:
    """Seconds of a call of `work`, without the first calls, which may set things up or record a gradient step."""
    for _ in range(RECORDS + 1):
        work()
    means = []
    for _ in range(NUM_PARTS):
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < SECONDS / NUM_PARTS:
            work()
            count += 1
        means.append((time.perf_counter() - start) / count)
    return TimeEstimate(min(means), max(means))


def random_batch(columns: set[str], spaces: Spaces, lead: tuple[int, ...], device: torch.device) -> Batch:
    """A batch with random values in the columns, each of shape [*lead, ...] and of the dtype that losses expect."""
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {}
    for column in columns:
        match column:
            case "obs" | "next_obs":
                values[column] = random_elements(spaces.observation, lead, rng)
            case "action" | "next_action" | "expert_action":
                values[column] = random_elements(spaces.action, lead, rng)
            case "terminated" | "truncated" | "first":
                values[column] = np.zeros(lead, np.bool_)
            case "valid":
                values[column] = np.ones(lead, np.bool_)
            case "preferred":
                values[column] = np.zeros(lead[:-2], np.int64)
            case _:
                values[column] = rng.random(lead, np.float32)
    return Batch(**{name: tensors(column, device) for name, column in values.items()})


def random_elements(space: gym.Space[Any], lead: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Random elements [*lead, ...] of a space; bounds beyond -1 and 1 are cut there."""
    match space:
        case gym.spaces.Dict():
            return {name: random_elements(part, lead, rng) for name, part in space.spaces.items()}
        case gym.spaces.Discrete():
            return rng.integers(int(space.n), size=lead)
    assert isinstance(space, gym.spaces.Box)
    if isinstance(space, Indices):
        return rng.integers(space.sizes, size=(*lead, *space.shape))
    if space.dtype == np.uint8:
        return np.minimum(rng.integers(256, size=(*lead, *space.shape), dtype=np.uint8), space.high)
    low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
    return (low + rng.random((*lead, *space.shape)) * (high - low)).astype(np.float32)
