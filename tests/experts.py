"""Scripts of experts."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np


def balance(env: gym.Env) -> Callable[[Any, Any], int]:
    """CartPole: push to where the pole falls."""
    return lambda obs, before: int(obs[2] + 0.5 * obs[3] > 0)


def guess(env: gym.Env) -> Callable[[Any, Any], int]:
    """Labels that are as good as shuffled: they do not depend on the state."""
    rng = np.random.default_rng(0)
    return lambda obs, before: int(rng.integers(2))


def ones(env: gym.Env) -> Callable[[Any, Any], int]:
    """Always action 1."""
    return lambda obs, before: 1


def swing(env: gym.Env) -> Callable[[Any, Any], Any]:
    """Pendulum: one more number each step, and each twice what was done before."""
    return lambda obs, before: np.zeros(1) if before is None else np.asarray(2 * before + 0.1)


def nonsense(env: gym.Env) -> Callable[[Any, Any], Any]:
    return lambda obs, before: "left"


def breaks(env: gym.Env) -> Callable[[Any, Any], Any]:
    return lambda obs, before: {}["x"]


def leaves(env: gym.Env) -> Callable[[Any, Any], Any]:
    raise SystemExit(5)


def nothing(env: gym.Env) -> None:
    """Forgets to answer."""
