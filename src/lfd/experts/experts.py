"""Experts, which give the action to take in a state: trained agents, scripts, people."""

import importlib
import reprlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from lfd.batch import rows
from lfd.envs import Env, VecEnv
from lfd.envs.vec_env import SingleEnvView
from lfd.episodes import Evaluation, PolicyFunction, RunningPolicy
from lfd.errors import PASS_THROUGH, UserError, external_error, external_errors
from lfd.experts.terminal import ask_action, show_state
from lfd.rng import Rng

# the way out in errors of scripts
_SCRIPT_HINT = "a script is a function of an environment and returns a function of an observation and the last action"

# Scripts of lfd: name -> (place, revision). Raise the revision when the function comes to choose other actions.
SCRIPTS = {"babyai_bot": ("lfd.envs.minigrid:babyai_bot", 1)}

ActFunction = Callable[[Any, Any], Any]  # (observation, last action or None at the episode's start) -> action


class Expert(ABC):
    """Gives actions in states: acts in environments or labels the states that a policy visits."""

    is_person: ClassVar[bool] = False  # a person sees one environment and acts in an evaluation only if listed there

    @abstractmethod
    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, rng: Rng | None = None
    ) -> PolicyFunction:
        """The expert's policy for one episode in each of the N environments of `env`, which were just reset.

        It maps observations [N, ...] to actions [N] or [N, A]. It is greedy, or sampled if `rng` is given. Raises
        UserError for a snapshot that the expert does not have.
        """

    def running_policy(self, env: VecEnv, device: torch.device) -> RunningPolicy:
        """The expert's greedy policy for N environments that reset themselves, and were just reset."""
        return _PolicyOfEach(self, env, device)

    def evaluate(self, evaluation: Evaluation, snapshot: int | None = None) -> dict[str, Any] | None:
        """Scores of its episodes, as JSON; None for a person that the evaluation does not list."""
        if self.is_person and not evaluation.asked:
            return None
        return evaluation.scores([partial(self.policy, evaluation.env, evaluation.device, snapshot, evaluation.rng(0))])


@final
class _PolicyOfEach(RunningPolicy):
    """A policy of its own for each environment, which is made anew for each episode."""

    def __init__(self, expert: Expert, env: VecEnv, device: torch.device) -> None:
        self._make = [partial(expert.policy, SingleEnvView(env, index), device) for index in range(env.num_envs)]
        self._policies = [make() for make in self._make]

    def __call__(self, obs: Any) -> Any:
        return np.concatenate(
            [policy(rows(obs, slice(index, index + 1))) for index, policy in enumerate(self._policies)]
        )

    def restart(self, first: NDArray[np.bool_]) -> None:
        for index in np.flatnonzero(first).tolist():
            self._policies[index] = self._make[index]()


def make_eval_envs(env: Env, experts: Iterable[Expert], count: int) -> VecEnv:
    """Makes `count` evaluation environments; one environment, rendered if it can be drawn, if an expert is a person."""
    if not any(expert.is_person for expert in experts):
        return env.make(count, training=False)
    try:
        return env.make(1, training=False, render=True)
    except UserError:
        return env.make(1, training=False)


def render_first(env: VecEnv) -> NDArray[np.uint8] | None:
    """The image [H, W, 3] uint8 of the first environment; None if it cannot be drawn."""
    try:
        return env.render()[0]
    except UserError:
        return None


@final
@dataclass
class Scripted(Expert):
    """A function of one environment, called at the start of an episode, that returns an `ActFunction`."""

    name: str  # "package.module:function", or a name in SCRIPTS

    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, rng: Rng | None = None
    ) -> PolicyFunction:
        if snapshot is not None:
            raise UserError(
                f"expert@{snapshot}: expected a trained expert, got the script {self.name}; leave @{snapshot} out"
            )
        make_act = load_script(self.name)
        act_functions = [self._call(make_act, handle.env) for handle in env.handles()]
        space: Any = env.spaces.action
        idle_action = np.zeros(space.shape, space.dtype)

        def policy(obs: Any) -> Any:
            actions = [
                self._next_action(act, rows(obs, index), handle.action, space) if handle.running else idle_action
                for index, (act, handle) in enumerate(zip(act_functions, env.handles(), strict=True))
            ]
            return np.stack(actions)

        return policy

    def _next_action(self, act: ActFunction, obs: Any, last_action: Any, space: Any) -> Any:
        result = self._call(act, obs, last_action)
        action = parse_action(result, space)
        if action is None:
            raise UserError(f"the script {self.name}: expected an action of {space}, got {_short_repr(result)}")
        return action

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except PASS_THROUGH:
            raise
        except BaseException as error:
            raise external_error(f"the script {self.name}", error, _SCRIPT_HINT) from error


def _short_repr(value: Any) -> str:
    """The value's repr, shortened, on one line."""
    return " ".join(reprlib.repr(value).split())


def parse_action(value: Any, space: gym.Space[Any]) -> Any:
    """Converts a value to an action: int64 [], or float32 [A], also outside the bounds; None if it is no action."""
    try:
        action = np.asarray(value, space.dtype)
    except (TypeError, ValueError, OverflowError):
        return None
    if isinstance(space, gym.spaces.Discrete):
        # the conversion to integers accepts 0.5 and True
        is_integer = isinstance(value, int | np.integer | np.ndarray) and not isinstance(value, bool)
        return action if is_integer and space.contains(action) else None
    return action if action.shape == space.shape and np.isfinite(action).all() else None


def load_script(name: str) -> Callable[[gym.Env[Any, Any]], ActFunction]:
    """Imports the function of a script, by `Scripted.name`. Raises UserError if it cannot be imported."""
    module, colon, function = SCRIPTS.get(name, (name, 0))[0].partition(":")
    if not colon:
        raise UserError(f"expert.script: expected package.module:function or {', '.join(SCRIPTS)}, got {name}")
    hint = "expected a function in a module that Python finds (PYTHONPATH=. for a module of this folder)"
    with external_errors(f"expert.script={name}", hint):
        value = getattr(importlib.import_module(module), function)
    if not callable(value):
        raise UserError(f"expert.script={name}: expected a function, got {function} of type {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def script_content(name: str, digest: Callable[[Path], str]) -> str:
    """A script as a part of keys: its name with its revision, or, of others, with the `digest` of the file.

    Raises UserError if no file defines it.
    """
    if name in SCRIPTS:
        return f"{name} {SCRIPTS[name][1]}"
    module = sys.modules[load_script(name).__module__]
    if getattr(module, "__file__", None) is None:
        raise UserError(
            f"expert.script={name}: expected a function in a file, whose content becomes part of the artifact's key"
        )
    return f"{name} {digest(Path(str(module.__file__)))}"


@final
@dataclass
class Keyboard(Expert):
    """A person at the terminal, who sees every state and types an action."""

    is_person: ClassVar[bool] = True

    action_names: list[str]  # names of the discrete actions; empty if they have none

    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, rng: Rng | None = None
    ) -> PolicyFunction:
        if snapshot is not None:
            raise UserError(f"expert@{snapshot}: expected a trained expert, got a person; leave @{snapshot} out")

        def policy(obs: Any) -> Any:
            show_state(rows(obs, 0), render_first(env))
            while (action := ask_action(env.spaces.action, self.action_names)) is None:
                pass  # Backspace: an action in an environment cannot be undone
            return np.asarray(action)[None]

        return policy


@final
class Queue(Expert):
    """Offline annotator: states are written to disk and labels are read later."""

    is_person = True

    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, rng: Rng | None = None
    ) -> PolicyFunction:
        raise AssertionError("a queue labels states and does not act")
