"""Who knows what to do: trained agents, scripts, people."""

import importlib
import reprlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from lfd.batch import rows
from lfd.envs import Env, VecEnv
from lfd.episodes import Policy
from lfd.errors import PASSING, Refused, foreign_code, foreign_error
from lfd.noise import Noise
from lfd.terminal import ask, show

# how a script is called, for whoever's script fails
_FORM = "it is called with an environment, and what it answers with an observation and the action before it"

Act = Callable[[Any, Any], Any]  # an observation, and the action before it (None at first) -> an action


class Expert(ABC):
    """Can be asked for the action to take in a state."""

    is_person: ClassVar[bool] = False  # sees pictures of one environment at a time, and plays only when asked to

    @abstractmethod
    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, noise: Noise | None = None
    ) -> Policy:
        """How it acts for one episode in each environment of `env`, which were just reset.

        With `noise` a stochastic one is sampled. Raises Refused for a snapshot that it does not have.
        """


def before(env: Env, experts: Iterable[Expert], count: int) -> VecEnv:
    """Environments for whole episodes: `count`, but only one, with pictures if it can be drawn, before a person."""
    if not any(expert.is_person for expert in experts):
        return env.make(count, training=False)
    try:
        return env.make(1, training=False, render=True)
    except Refused:
        return env.make(1, training=False)


def picture(env: VecEnv) -> NDArray[np.uint8] | None:
    """What the first environment looks like [H, W, 3], if it can be drawn."""
    try:
        return env.render()[0]
    except Refused:
        return None


@final
@dataclass
class Scripted(Expert):
    """A function of one environment at the start of its episode, which answers with how to act in it (`Act`)."""

    name: str  # "package.module:function"

    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, noise: Noise | None = None
    ) -> Policy:
        if snapshot is not None:
            raise Refused(f"the script {self.name} has no earlier states: leave @{snapshot} out")
        begin = script(self.name)
        acts = [self._called(begin, single.env) for single in env.singles()]
        space: Any = env.spaces.action
        idle = np.zeros(space.shape, space.dtype)

        def policy(obs: Any) -> Any:
            told = [
                self._answer(act, rows(obs, index), single.action, space) if single.running else idle
                for index, (act, single) in enumerate(zip(acts, env.singles(), strict=True))
            ]
            return np.stack(told)

        return policy

    def _answer(self, act: Act, obs: Any, before: Any, space: Any) -> Any:
        given = self._called(act, obs, before)
        answer = as_action(given, space)
        if answer is None:
            raise Refused(f"the script {self.name} answers {_shown(given)}; an action of {space} is expected")
        return answer

    def _called(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except PASSING:
            raise
        except BaseException as error:
            raise foreign_error(f"the script {self.name}", error, _FORM) from error


def _shown(value: Any) -> str:
    """What was given, short and on one line."""
    return " ".join(reprlib.repr(value).split())


def as_action(given: Any, space: gym.Space[Any]) -> Any:
    """What somebody gave as an action: int64 [], or float32 [A] within bounds or not; None if the space has no such."""
    try:
        answer = np.asarray(given, space.dtype)
    except (TypeError, ValueError, OverflowError):
        return None
    if isinstance(space, gym.spaces.Discrete):
        # 0.5 is no number of an action, and neither is True.
        is_number = isinstance(given, int | np.integer | np.ndarray) and not isinstance(given, bool)
        return answer if is_number and space.contains(answer) else None
    return answer if answer.shape == space.shape and np.isfinite(answer).all() else None


def script(name: str) -> Callable[[gym.Env[Any, Any]], Act]:
    """The function of a script. Raises Refused if there is none of this name."""
    module, colon, function = name.partition(":")
    if not colon:
        raise Refused(f"expert.script={name}: the form is package.module:function")
    hint = "a module that Python finds (PYTHONPATH=. for one of this folder) and a function in it are expected"
    with foreign_code(f"expert.script={name}", hint):
        found = getattr(importlib.import_module(module), function)
    if not callable(found):
        raise Refused(f"expert.script={name}: {function} is no function but a {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def script_file(name: str) -> Path:
    """The file that a script is in. Raises Refused if it is in none."""
    module = sys.modules[script(name).__module__]
    if getattr(module, "__file__", None) is None:
        raise Refused(f"expert.script={name}: it is in no file, which decides whether it is still the same")
    return Path(str(module.__file__))


@final
@dataclass
class Keyboard(Expert):
    """A person at the terminal, who sees every state and answers with a key."""

    is_person: ClassVar[bool] = True

    names: list[str]  # of discrete actions; empty where they have none

    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, noise: Noise | None = None
    ) -> Policy:
        if snapshot is not None:
            raise Refused(f"a person has no earlier states: leave @{snapshot} out")

        def policy(obs: Any) -> Any:
            show(rows(obs, 0), picture(env))
            while (answer := ask(env.spaces.action, self.names)) is None:
                pass  # what was done cannot be undone
            return np.asarray(answer)[None]

        return policy


@final
class Queue(Expert):
    """Somebody who is not there: states wait on disk for labels."""

    is_person = True

    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, noise: Noise | None = None
    ) -> Policy:
        raise AssertionError("a queue labels states, it cannot act")
