"""The table of registered classes; other packages add theirs as entry points of the group `lfd.<group>`.

The table holds the places of classes and imports them on demand, so that any module can ask for a registered name.
"""

import dataclasses
import sys
from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lfd.errors import PLUGIN_MODULES, UserError, external_errors, suggest

BASES = {
    "acts_by": "lfd.agents:ActingSpec",
    "env": "lfd.envs:Env",
    "logger": "lfd.log:Logger",
    "loss": "lfd.algos:Loss",
    "memory": "lfd.agents.memory:MemorySpec",
    "net": "lfd.agents.nets:NetSpec",
    "source": "lfd.sources:Source",
    "stage": "lfd.stages:Stage",
}
# A class whose option is a file of conf/ is registered as <name>_schema.
PARTS: dict[str, dict[str, str]] = {
    "acts_by": {
        "policy": "lfd.agents.acting:ByPolicy",
        "greedy": "lfd.agents.acting:Greedy",
        "bcq": "lfd.agents.bcq:BCQ",
        "none": "lfd.agents.acting:NoActing",
    },
    "env": {
        "gym_schema": "lfd.envs.env:Gym",
        "atari_schema": "lfd.envs.atari:Atari",
        "minigrid_schema": "lfd.envs.minigrid:MiniGrid",
    },
    "logger": {
        "none_schema": "lfd.log.loggers:NoLogger",
        "wandb_schema": "lfd.log.loggers:Wandb",
        "tensorboard_schema": "lfd.log.loggers:Tensorboard",
    },
    "loss": {
        "dqn": "lfd.algos.dqn:DQN",
        "ppo": "lfd.algos.ppo:PPO",
        "bc": "lfd.algos.bc:BC",
        "sac": "lfd.algos.sac:SAC",
        "cql_discrete": "lfd.algos.cql:CQLDiscrete",
        "cql_continuous": "lfd.algos.cql:CQLContinuous",
        "fqe": "lfd.algos.fqe:FQE",
        "td3_critic": "lfd.algos.td3:TD3Critic",
        "td3_actor": "lfd.algos.td3:TD3Actor",
        "td3_bc_actor": "lfd.algos.td3_bc:TD3BCActor",
        "rebrac_critic": "lfd.algos.rebrac:ReBRACCritic",
        "rebrac_actor": "lfd.algos.rebrac:ReBRACActor",
        "edac": "lfd.algos.edac:EDAC",
        "iql": "lfd.algos.iql:IQL",
        "awac": "lfd.algos.awac:AWAC",
        "crr": "lfd.algos.crr:CRR",
        "qrdqn": "lfd.algos.qrdqn:QRDQN",
        "bcq_discrete": "lfd.algos.bcq:BCQDiscrete",
        "bcq_continuous": "lfd.algos.bcq:BCQContinuous",
        "gail": "lfd.algos.gail:GAIL",
        "airl": "lfd.algos.airl:AIRL",
        "trex": "lfd.algos.trex:TREX",
        "td": "lfd.algos.td:TD",
        "large_margin": "lfd.algos.large_margin:LargeMargin",
    },
    "memory": {"gru": "lfd.agents.memory:GRUSpec"},
    "net": {
        "policy": "lfd.agents.nets:PolicySpec",
        "state_value": "lfd.agents.nets:StateValueSpec",
        "q_ensemble": "lfd.agents.nets:QEnsembleSpec",
        "quantile_q": "lfd.agents.nets:QuantileQSpec",
        "vae": "lfd.agents.bcq:VAESpec",
        "perturbation": "lfd.agents.bcq:PerturbationSpec",
        "imitation": "lfd.agents.bcq:ImitationSpec",
        "scalar": "lfd.agents.nets:ScalarSpec",
        "discriminator": "lfd.algos.gail:DiscriminatorSpec",
        "shaped_reward": "lfd.algos.airl:ShapedRewardSpec",
        "scaled_reward": "lfd.algos.trex:ScaledSpec",
        "pwil": "lfd.agents.pwil:PWIL",
    },
    "source": {
        "rollout": "lfd.sources.rollout:Rollout",
        "replay": "lfd.sources.replay:Replay",
        "dataset": "lfd.sources.dataset:DatasetSource",
        "mix": "lfd.sources.mix:Mix",
        "interactive": "lfd.sources.interactive:Interactive",
        "preference_pairs": "lfd.sources.preference_pairs:PreferencePairs",
    },
    "stage": {
        "fit": "lfd.stages.fit.stage:Fit",
        "fit_pwil": "lfd.stages.fit_pwil:FitPWIL",
        "collect": "lfd.stages.collect:Collect",
        "load": "lfd.stages.load:Load",
        "evaluate": "lfd.stages.evaluate:Evaluate",
        "ope": "lfd.stages.ope:OffPolicyEvaluation",
        "pretrained": "lfd.stages.experts:Pretrained",
        "script": "lfd.stages.experts:Script",
        "keyboard": "lfd.stages.experts:KeyboardExpert",
        "queue": "lfd.stages.experts:QueueExpert",
        "reward_eval": "lfd.stages.reward_eval:RewardEvaluation",
        "relabel": "lfd.stages.relabel:Relabel",
    },
}
BY_PLACE: dict[tuple[str, str], type[Any]] = {}  # (group, "module:Class") -> class that a configuration names so
BROKEN: dict[tuple[str, str], UserError] = {}  # (group, name) of a plugin's class -> the reason why it is left out


@cache
def parts(group: str) -> dict[str, type[Any]]:
    """The classes of a group by name, with those of installed packages.

    A plugin's class that cannot be used is left out, and BROKEN holds the reason.
    """
    own = {name: _load(place) for name, place in PARTS[group].items()}
    plugins = _plugins(group, _load(BASES[group]))
    for name in plugins.keys() & own.keys():
        message = f"lfd.{group}: {name} of a package: expected a new name, got one that lfd uses; rename the class"
        BROKEN[group, f"{name} of a package"] = UserError(message)
    return plugins | own


def is_place(name: str) -> bool:
    """True for an option that names a class by its place, "package.module:Class"."""
    module, colon, kind = name.partition(":")
    return bool(colon) and kind.isidentifier() and all(part.isidentifier() for part in module.split("."))


def part_at(group: str, place: str) -> type[Any]:
    """The class at a place `module:Class` that Python finds, as a part of a group. Raises UserError."""
    if (group, place) not in BY_PLACE:
        module = place.partition(":")[0]
        PLUGIN_MODULES[module] = f"the module {module}"
        with external_errors(f"{group}={place}: importing it", "name a class of a module that Python finds"):
            kind = _load(place)
        BY_PLACE[group, place] = _checked(kind, _load(BASES[group]), f"{group}={place}")
        file_of(kind)
    return BY_PLACE[group, place]


def file_of(kind: type[Any]) -> Path | None:
    """The file of a class that a configuration names by its place, as its content decides results; else None."""
    if kind not in BY_PLACE.values():
        return None
    file = getattr(sys.modules[kind.__module__], "__file__", None)
    if file is None:
        raise UserError(f"{kind.__module__}:{kind.__qualname__}: expected a class in a file, whose content enters keys")
    return Path(file)


def name_of(kind: type[Any]) -> str | None:
    """The registered name `group/name` of a class, which does not depend on its file; None if it has none.

    Of a class that a configuration names by its place, it is `group/module:Class`.
    """
    for (group, place), known in BY_PLACE.items():
        if known is kind:
            return f"{group}/{place}"
    for group in PARTS:
        for name, known in parts(group).items():
            if known is kind:
                return f"{group}/{name.removesuffix('_schema')}"
    return None


def part_of(value: Any) -> str:
    """The registered name of a value's class; `module:Class` if it has none."""
    kind = type(value)
    return name_of(kind) or f"{kind.__module__}:{kind.__qualname__}"


def _load(place: str) -> Any:
    """Imports the class `module:Class`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _checked(kind: Any, base: type[Any], description: str) -> type[Any]:
    """The class of a plugin. Raises UserError, which begins with `description`, unless it is a dataclass of a base."""
    if not (isinstance(kind, type) and issubclass(kind, base) and dataclasses.is_dataclass(kind)):
        raise UserError(f"{description}: expected a dataclass that is a {base.__name__}, got {kind!r}")
    return kind


def _plugins(group: str, base: type[Any]) -> dict[str, type[Any]]:
    plugins = {}
    for entry in entry_points(group=f"lfd.{group}"):
        try:
            plugins[entry.name] = _checked(load_entry(entry, group), base, _description(entry, group))
        except UserError as refusal:
            BROKEN[group, entry.name] = refusal
    return plugins


def load_entry(entry: EntryPoint, group: str) -> Any:
    """Imports the object of an entry point; errors of its module name its package then. Raises UserError."""
    module = entry.module.partition(".")[0]
    PLUGIN_MODULES[module] = f"the module {module}{_package(entry)}"
    with external_errors(f"importing {_description(entry, group)}"):
        return entry.load()


def _description(entry: EntryPoint, group: str) -> str:
    return f"lfd.{group}: {entry.name} = {entry.value}{_package(entry)}"


def _package(entry: EntryPoint) -> str:
    return f" of the package {entry.dist.name}" if entry.dist else ""


def to_json(value: Any) -> Any:
    """Dataclasses, enums, mappings, lists and plain values as JSON; a registered part has its `group/name`.

    Raises UserError for a part of a package that is not registered, as nothing could read it back.
    """
    match value:
        case Enum():
            return value.name
        case Mapping():
            return {name: to_json(item) for name, item in value.items()}
        case list():
            return [to_json(item) for item in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return {"part": _stored_name(type(value)), "fields": fields}
    return value


def _stored_name(kind: type[Any]) -> str | None:
    """The registered name of a class; None for a class that is no part of a group. Raises UserError, see `to_json`."""
    name = name_of(kind)
    group = next((group for group, base in BASES.items() if issubclass(kind, _load(base))), None)
    if name is None and group is not None:
        raise UserError(
            f"{kind.__module__}:{kind.__qualname__}: expected a registered class of the group {group}, as a stored "
            f"agent names its parts; add the entry point lfd.{group} to its package, or name it by its place, "
            f"/{group}@…: {kind.__module__}:{kind.__qualname__}"
        )
    return name


def from_json(content: Any, declared: Any) -> Any:
    """The value of a declared type that `to_json` described. Raises UserError if a part is not installed."""
    kinds = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
    if content is None:
        return None
    if isinstance(content, dict) and set(content) == {"part", "fields"}:
        kind: Any = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if content["part"] is not None:
            group, _, name = content["part"].partition("/")
            if is_place(name):
                return _from_fields(part_at(group, name), content["fields"])
            if name not in (known := parts(group)):
                raise BROKEN.get((group, name)) or UserError(
                    f"{group}: expected an installed class, got {name!r}; {suggest(name, known)}"
                )
            kind = known[name]
        return _from_fields(kind, content["fields"])
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind[content]
        if get_origin(kind) is dict:
            return {name: from_json(value, get_args(kind)[1]) for name, value in content.items()}
    return content


def _from_fields(kind: type[Any], fields: Mapping[str, Any]) -> Any:
    types = get_type_hints(kind)
    return kind(**{name: from_json(value, types[name]) for name, value in fields.items()})
