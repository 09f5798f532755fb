"""The table of registered classes; other packages add theirs as entry points of the group `lfd.<group>`.

The table holds the places of classes and imports them on demand, so that any module can ask for a registered name.
"""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_type_hints

from lfd.errors import PLUGIN_MODULES, UserError, external_errors, suggest

BASES = {
    "agent": "lfd.agents:AgentSpec",
    "env": "lfd.envs:Env",
    "logger": "lfd.log:Logger",
    "loss": "lfd.algos:Loss",
    "source": "lfd.sources:Source",
    "stage": "lfd.stages:Stage",
}
# A class whose option is a file of conf/ is registered as <name>_schema.
PARTS: dict[str, dict[str, str]] = {
    "agent": {
        "q_net": "lfd.agents.q:QNet",
        "policy": "lfd.agents.actor_critic:PolicySpec",
        "policy_value": "lfd.agents.actor_critic:PolicyValue",
        "soft_policy_critic": "lfd.agents.actor_critic:SoftPolicyCritic",
        "critic": "lfd.agents.critic:CriticNet",
        "reward_model": "lfd.agents.reward_model:RewardModelSpec",
        "deterministic_policy_critic": "lfd.agents.deterministic:DeterministicPolicyCritic",
        "policy_critic": "lfd.agents.policy_critic:PolicyCritic",
        "policy_q": "lfd.agents.policy_critic:PolicyQ",
        "quantile_net": "lfd.agents.quantile:QuantileNet",
        "bcq_net": "lfd.agents.bcq:BCQNet",
        "bcq": "lfd.agents.bcq:BCQ",
        "pwil": "lfd.agents.pwil:PWIL",
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


def name_of(kind: type[Any]) -> str | None:
    """The registered name `group/name` of a class, which does not depend on its file; None if it has none."""
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


def _plugins(group: str, base: type[Any]) -> dict[str, type[Any]]:
    plugins = {}
    for entry in entry_points(group=f"lfd.{group}"):
        try:
            kind = load_entry(entry, group)
            if not (isinstance(kind, type) and issubclass(kind, base) and dataclasses.is_dataclass(kind)):
                raise UserError(
                    f"{_description(entry, group)}: expected a dataclass that is a {base.__name__}, got {kind!r}"
                )
            plugins[entry.name] = kind
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


def to_json(part: Any, group: str) -> dict[str, Any]:
    """A part as JSON: its registered name and its fields."""
    name = next(name for name, kind in parts(group).items() if kind is type(part))
    values = {key: value.name if isinstance(value, Enum) else value for key, value in dataclasses.asdict(part).items()}
    return {"name": name, "fields": values}


def from_json(content: Mapping[str, Any], group: str) -> Any:
    """The part that `to_json` described. Raises UserError if its class is not installed."""
    name, known = content["name"], parts(group)
    if name not in known:
        raise BROKEN.get((group, name)) or UserError(
            f"{group}: expected an installed class, got {name!r}; {suggest(name, known)}"
        )
    types = get_type_hints(known[name])
    values = {}
    for key, value in content["fields"].items():
        kind = types[key]
        values[key] = kind[value] if isinstance(kind, type) and issubclass(kind, Enum) else value
    return known[name](**values)
