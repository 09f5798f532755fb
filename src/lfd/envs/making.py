"""Calling Gymnasium, with its many ways to fail turned into one line each."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

import gymnasium as gym

from lfd.errors import PASSING, Refused, nearest

# What an extra of this package brings, by the name under which it is imported.
_EXTRAS = {"mujoco": "mujoco", "Box2D": "box2d", "ale_py": "atari", "cv2": "atari", "minigrid": "minigrid"}
# Environments of Gymnasium's own that stand on another package.
_SIMULATORS = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "box2d"}
# Ids that need a preset of ours: what they show is not an observation before it is processed.
_PRESETS = {"ALE/": "atari", "MiniGrid-": "minigrid", "BabyAI-": "minigrid"}


def make_single(id: str, kwargs: Mapping[str, Any], render: bool, max_episode_steps: int = 0) -> gym.Env[Any, Any]:
    """`gymnasium.make`; raises Refused, in one line, for whatever stands against it."""
    # other people's constructors need not know of rendering
    mode = {"render_mode": "rgb_array"} if render else {}
    if render:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # nothing is shown, and without a screen SDL complains
    with refusals(id), warnings.catch_warnings():
        # that there is a later version; one that is gone for good is refused
        warnings.filterwarnings("ignore", module="gymnasium.envs.registration")
        # the checker only warns, and costs a fifth of CartPole's speed
        limit = max_episode_steps or None
        return gym.make(id, max_episode_steps=limit, disable_env_checker=True, **mode, **kwargs)


def need(module: str, id: str) -> Any:
    """The module of an optional package that registers `id`. Raises Refused if it is not installed."""
    with refusals(id):
        return import_module(module)


@contextmanager
def refusals(id: str) -> Iterator[None]:
    """Turns what can go wrong while the environment `id` is made, a `SystemExit` too, into Refused."""
    try:
        yield
    except PASSING:
        raise
    except (gym.error.UnregisteredEnv, gym.error.MissingArgument) as error:
        raise Refused(_unknown(id)) from error
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise Refused(_missing(id, error)) from error
    except gym.error.Error as error:
        raise Refused(f"{id} cannot be made: {_said(error)}; see env.id and env.kwargs") from error
    except BaseException as error:
        # `env.kwargs` goes to a constructor that we do not know, so that most of these are a wrong value there
        raise Refused(
            f"environment {id} cannot be made: {type(error).__name__}: {_said(error)[:300]}; see env.id and "
            "env.kwargs; HYDRA_FULL_ERROR=1 shows the traceback"
        ) from error


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of distributions. Raises Refused if one is not installed."""
    try:
        return {package: metadata.version(package) for package in packages}
    except metadata.PackageNotFoundError as error:
        raise Refused(_install(error.name, error.name)) from error


def packages_of(id: str) -> tuple[str, ...]:
    """The distributions that the environment `id` comes from, besides Gymnasium."""
    # "module:Name-v0" is registered by importing the module
    module, _, name = id.rpartition(":")
    with refusals(id):
        if module:
            import_module(module)
        entry = gym.spec(name).entry_point
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    for prefix, package in _SIMULATORS.items():
        if module.startswith(prefix):
            return (package,)
    top = module.partition(".")[0]
    return () if top == "gymnasium" else tuple(sorted(set(metadata.packages_distributions().get(top, ()))))


def _unknown(id: str) -> str:
    for prefix, preset in _PRESETS.items():
        if id.startswith(prefix) and not any(known.startswith(prefix) for known in gym.registry):
            return f"env.id={id} needs its own preset: env={preset} env.id={id}"
    return f"env.id={id} is not an environment that Gymnasium knows; {nearest(id, gym.registry)}"


def _missing(id: str, error: BaseException) -> str:
    cause = error if isinstance(error, ImportError) else error.__cause__
    module = (cause.name or "").partition(".")[0] if isinstance(cause, ImportError) else ""
    if not module:
        return f"{id} cannot be made: {_said(error)}"
    return f"{id} needs {_install(module, _EXTRAS.get(module))}"


def _said(error: BaseException) -> str:
    # Gymnasium adds a tail that repeats the id and the arguments
    return " ".join(str(error).partition(" was raised from the environment creator")[0].split()).rstrip(".")


def _install(module: str, extra: str | None) -> str:
    target = f'-e ".[{extra}]"' if extra else module
    return f"{module}, which is not installed: pip install {target}"
