"""Names of the parts, in one explicit table; other packages add theirs as entry points of group `lfd.<group>`.

The table holds places of classes and imports them when they are asked for, so that every room may ask for a name.
"""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, get_type_hints

from lfd.errors import FOREIGN, Refused, foreign_code, nearest

BASES = {
    "agent": "lfd.agents:AgentSpec",
    "env": "lfd.envs:Env",
    "logger": "lfd.log:Logger",
    "loss": "lfd.algos:Loss",
    "source": "lfd.sources:Source",
    "stage": "lfd.stages:Stage",
}
# Options that a file of conf/ wraps are called <name>_schema.
PARTS: dict[str, dict[str, str]] = {
    "agent": {
        "q_net": "lfd.agents.q:QNet",
        "policy": "lfd.agents.actor_critic:Policy",
        "policy_value": "lfd.agents.actor_critic:PolicyValue",
        "soft_policy_critic": "lfd.agents.actor_critic:SoftPolicyCritic",
        "critic": "lfd.agents.critic:CriticNet",
        "judge": "lfd.agents.judge:JudgeSpec",
        "deterministic_policy_critic": "lfd.agents.deterministic:DeterministicPolicyCritic",
        "policy_critic": "lfd.agents.policy_critic:PolicyCritic",
        "policy_q": "lfd.agents.policy_critic:PolicyQ",
        "quantile_net": "lfd.agents.quantile:QuantileNet",
        "bcq_net": "lfd.agents.bcq:BCQNet",
        "bcq": "lfd.agents.bcq:BCQ",
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
        "cloning": "lfd.algos.bc:Cloning",
        "sac": "lfd.algos.sac:SAC",
        "conservative_discrete": "lfd.algos.cql:ConservativeDiscrete",
        "conservative_continuous": "lfd.algos.cql:ConservativeContinuous",
        "fqe": "lfd.algos.fqe:FQE",
        "td3": "lfd.algos.td3:TD3",
        "deterministic_gradient": "lfd.algos.td3:DeterministicGradient",
        "td3_bc": "lfd.algos.td3_bc:TD3BC",
        "rebrac_critic": "lfd.algos.rebrac:ReBRACCritic",
        "rebrac_actor": "lfd.algos.rebrac:ReBRACActor",
        "diversity": "lfd.algos.edac:Diversity",
        "iql": "lfd.algos.iql:IQL",
        "awac": "lfd.algos.awac:AWAC",
        "crr": "lfd.algos.crr:CRR",
        "qrdqn": "lfd.algos.qrdqn:QRDQN",
        "discrete_bcq": "lfd.algos.bcq:DiscreteBCQ",
        "continuous_bcq": "lfd.algos.bcq:ContinuousBCQ",
        "gail": "lfd.algos.gail:Discriminator",
        "airl": "lfd.algos.airl:AIRL",
        "pwil": "lfd.algos.pwil:PWIL",
        "trex": "lfd.algos.trex:TREX",
    },
    "source": {
        "rollout": "lfd.sources.rollout:Rollout",
        "replay": "lfd.sources.replay:Replay",
        "dataset": "lfd.sources.dataset:Demonstrations",
        "mix": "lfd.sources.mix:Mix",
        "interactive": "lfd.sources.interactive:Interactive",
        "snippets": "lfd.sources.snippets:Snippets",
    },
    "stage": {
        "fit": "lfd.stages.fit:Fit",
        "collect": "lfd.stages.collect:Collect",
        "load": "lfd.stages.load:Load",
        "evaluate": "lfd.stages.evaluate:Evaluate",
        "appraise": "lfd.stages.appraise:Appraise",
        "pretrained": "lfd.stages.experts:Pretrained",
        "script": "lfd.stages.experts:Script",
        "live": "lfd.stages.experts:Live",
        "later": "lfd.stages.experts:Later",
        "inspect": "lfd.stages.inspect:Inspect",
        "relabel": "lfd.stages.relabel:Relabel",
    },
}
BROKEN: dict[tuple[str, str], Refused] = {}  # group and name of a package's part -> why it cannot be used


@cache
def parts(group: str) -> dict[str, type[Any]]:
    """The classes of a group by name, those of installed packages too.

    A part that cannot be used is left out, and BROKEN says why.
    """
    own = {name: _at(place) for name, place in PARTS[group].items()}
    found = _plugins(group, _at(BASES[group]))
    for name in found.keys() & own.keys():
        told = f"lfd.{group}: {name} of a package: expected a name of its own, as one of lfd's has this one"
        BROKEN[group, f"{name} of a package"] = Refused(told)
    return found | own


def name_of(kind: type[Any]) -> str | None:
    """`group/name` under which a class is registered, which stays when its file moves; None if it is not."""
    for group in PARTS:
        for name, known in parts(group).items():
            if known is kind:
                return f"{group}/{name.removesuffix('_schema')}"
    return None


def part_of(value: Any) -> str:
    """The registered name of a value's class; `module:Class` where it has none."""
    kind = type(value)
    return name_of(kind) or f"{kind.__module__}:{kind.__qualname__}"


def _at(place: str) -> Any:
    """The class of a place `module:Class`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _plugins(group: str, base: type[Any]) -> dict[str, type[Any]]:
    found = {}
    for entry in entry_points(group=f"lfd.{group}"):
        package = f" of the package {entry.dist.name}" if entry.dist else ""
        called = f"lfd.{group}: {entry.name} = {entry.value}{package}"
        module = entry.module.partition(".")[0]
        FOREIGN[module] = f"the module {module}{package}"
        try:
            with foreign_code(f"importing {called}"):
                kind = entry.load()
            if not (isinstance(kind, type) and issubclass(kind, base) and dataclasses.is_dataclass(kind)):
                raise Refused(f"{called}: expected a dataclass that is a {base.__name__}, got another {type(kind)}")
            found[entry.name] = kind
        except Refused as refusal:
            BROKEN[group, entry.name] = refusal
    return found


def to_json(part: Any, group: str) -> dict[str, Any]:
    """A part as its registered name and its fields."""
    name = next(name for name, kind in parts(group).items() if kind is type(part))
    values = {key: value.name if isinstance(value, Enum) else value for key, value in dataclasses.asdict(part).items()}
    return {"name": name, "fields": values}


def from_json(content: Mapping[str, Any], group: str) -> Any:
    """The part that `to_json` wrote. Raises Refused if its class is not installed."""
    name, known = content["name"], parts(group)
    if name not in known:
        raise BROKEN.get((group, name)) or Refused(f"{group} {name!r} is not installed; {nearest(name, known)}")
    types = get_type_hints(known[name])
    values = {}
    for key, value in content["fields"].items():
        kind = types[key]
        values[key] = kind[value] if isinstance(kind, type) and issubclass(kind, Enum) else value
    return known[name](**values)
