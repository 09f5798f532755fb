"""Calls Gymnasium to make environments and turns each of its failures into a one-line error."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

import gymnasium as gym

from lfd.errors import PASS_THROUGH, UserError, suggest

# Extra of this package that installs an optional module, by the module's import name.
_EXTRAS = {"mujoco": "mujoco", "Box2D": "box2d", "ale_py": "atari", "cv2": "atari", "minigrid": "minigrid"}
# Packages that simulate Gymnasium's own environments, by the environment's module.
_SIMULATORS = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "box2d"}
# Presets that process the observations of some environments, by the prefix of the id.
_PRESETS = {"ALE/": "atari", "MiniGrid-": "minigrid", "BabyAI-": "minigrid"}


def make_gym_env(id: str, kwargs: Mapping[str, Any], render: bool, max_episode_steps: int = 0) -> gym.Env[Any, Any]:
    """Calls `gymnasium.make`. Raises UserError if the environment cannot be made."""
    # passed only on demand: an environment's constructor need not have the argument
    mode = {"render_mode": "rgb_array"} if render else {}
    if render:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # nothing is displayed; without a screen SDL prints warnings
    with construction_errors(id), warnings.catch_warnings():
        # "there is a later version"; a removed version raises an error
        warnings.filterwarnings("ignore", module="gymnasium.envs.registration")
        # the environment checker only warns, and costs a fifth of CartPole's speed
        limit = max_episode_steps or None
        return gym.make(id, max_episode_steps=limit, disable_env_checker=True, **mode, **kwargs)


def import_package(module: str, id: str) -> Any:
    """Imports the optional module that registers `id`. Raises UserError if it is not installed."""
    with construction_errors(id):
        return import_module(module)


@contextmanager
def construction_errors(id: str) -> Iterator[None]:
    """Turns any error in the body, which makes the environment `id`, into UserError; a `SystemExit` too."""
    try:
        yield
    except PASS_THROUGH:
        raise
    except (gym.error.UnregisteredEnv, gym.error.MissingArgument) as error:
        raise UserError(_unknown_id(id)) from error
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise UserError(_missing_package(id, error)) from error
    except gym.error.Error as error:
        raise UserError(f"{id} cannot be made: {_error_text(error)}; see env.id and env.kwargs") from error
    except BaseException as error:
        # `env.kwargs` are the constructor's arguments, so that most of these errors are a wrong value there
        raise UserError(
            f"environment {id} cannot be made: {type(error).__name__}: {_error_text(error)[:300]}; see env.id and "
            "env.kwargs; HYDRA_FULL_ERROR=1 shows the traceback"
        ) from error


def package_versions(*packages: str) -> dict[str, str]:
    """Installed versions by distribution. Raises UserError if one is not installed."""
    try:
        return {package: metadata.version(package) for package in packages}
    except metadata.PackageNotFoundError as error:
        raise UserError(_install_hint(error.name, error.name)) from error


def env_packages(id: str) -> tuple[str, ...]:
    """Distributions that provide the environment `id`, besides Gymnasium."""
    # "module:Name-v0" is registered by importing the module
    module, _, name = id.rpartition(":")
    with construction_errors(id):
        if module:
            import_module(module)
        entry = gym.spec(name).entry_point
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    for prefix, package in _SIMULATORS.items():
        if module.startswith(prefix):
            return (package,)
    top = module.partition(".")[0]
    return () if top == "gymnasium" else tuple(sorted(set(metadata.packages_distributions().get(top, ()))))


def _unknown_id(id: str) -> str:
    for prefix, preset in _PRESETS.items():
        if id.startswith(prefix) and not any(known.startswith(prefix) for known in gym.registry):
            return f"env.id={id} needs its own preset: env={preset} env.id={id}"
    return f"env.id: expected an id that Gymnasium has registered, got {id}; {suggest(id, gym.registry)}"


def _missing_package(id: str, error: BaseException) -> str:
    cause = error if isinstance(error, ImportError) else error.__cause__
    module = (cause.name or "").partition(".")[0] if isinstance(cause, ImportError) else ""
    if not module:
        return f"{id} cannot be made: {_error_text(error)}"
    return f"{id} needs {_install_hint(module, _EXTRAS.get(module))}"


def _error_text(error: BaseException) -> str:
    # Gymnasium appends the id and the arguments
    return " ".join(str(error).partition(" was raised from the environment creator")[0].split()).rstrip(".")


def _install_hint(module: str, extra: str | None) -> str:
    target = f'-e ".[{extra}]"' if extra else module
    return f"{module}, which is not installed: pip install {target}"
