"""Names of the parts, in one explicit table; other packages add theirs as entry points of group `lfd.<group>`."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib.metadata import entry_points
from typing import Any, get_type_hints

from lfd.agents import AgentSpec
from lfd.agents.actor_critic import Policy, PolicyValue, SoftPolicyCritic
from lfd.agents.bcq import BCQ, BCQNet
from lfd.agents.critic import CriticNet
from lfd.agents.deterministic import DeterministicPolicyCritic
from lfd.agents.judge import JudgeSpec
from lfd.agents.policy_critic import PolicyCritic, PolicyQ
from lfd.agents.q import QNet
from lfd.agents.quantile import QuantileNet
from lfd.algos import Loss
from lfd.algos.airl import AIRL
from lfd.algos.awac import AWAC
from lfd.algos.bc import Cloning
from lfd.algos.bcq import ContinuousBCQ, DiscreteBCQ
from lfd.algos.cql import ConservativeContinuous, ConservativeDiscrete
from lfd.algos.crr import CRR
from lfd.algos.dqn import DQN
from lfd.algos.edac import Diversity
from lfd.algos.fqe import FQE
from lfd.algos.gail import Discriminator
from lfd.algos.iql import IQL
from lfd.algos.ppo import PPO
from lfd.algos.pwil import PWIL
from lfd.algos.qrdqn import QRDQN
from lfd.algos.rebrac import ReBRACActor, ReBRACCritic
from lfd.algos.sac import SAC
from lfd.algos.td3 import TD3, DeterministicGradient
from lfd.algos.td3_bc import TD3BC
from lfd.algos.trex import TREX
from lfd.envs import Atari, Env, Gym, MiniGrid
from lfd.errors import FOREIGN, Refused, foreign_code, nearest
from lfd.sources import Source
from lfd.sources.dataset import Demonstrations
from lfd.sources.interactive import Interactive
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.sources.snippets import Snippets

LOSSES: dict[str, type[Loss]] = {
    "dqn": DQN,
    "ppo": PPO,
    "cloning": Cloning,
    "sac": SAC,
    "conservative_discrete": ConservativeDiscrete,
    "conservative_continuous": ConservativeContinuous,
    "fqe": FQE,
    "td3": TD3,
    "deterministic_gradient": DeterministicGradient,
    "td3_bc": TD3BC,
    "rebrac_critic": ReBRACCritic,
    "rebrac_actor": ReBRACActor,
    "diversity": Diversity,
    "iql": IQL,
    "awac": AWAC,
    "crr": CRR,
    "qrdqn": QRDQN,
    "discrete_bcq": DiscreteBCQ,
    "continuous_bcq": ContinuousBCQ,
    "gail": Discriminator,
    "airl": AIRL,
    "pwil": PWIL,
    "trex": TREX,
}
SOURCES: dict[str, type[Source]] = {
    "rollout": Rollout,
    "replay": Replay,
    "dataset": Demonstrations,
    "mix": Mix,
    "interactive": Interactive,
    "snippets": Snippets,
}
ENVS: dict[str, type[Env]] = {"gym_schema": Gym, "atari_schema": Atari, "minigrid_schema": MiniGrid}
AGENTS: dict[str, type[AgentSpec]] = {
    "q_net": QNet,
    "policy": Policy,
    "policy_value": PolicyValue,
    "soft_policy_critic": SoftPolicyCritic,
    "critic": CriticNet,
    "judge": JudgeSpec,
    "deterministic_policy_critic": DeterministicPolicyCritic,
    "policy_critic": PolicyCritic,
    "policy_q": PolicyQ,
    "quantile_net": QuantileNet,
    "bcq_net": BCQNet,
    "bcq": BCQ,
}


BROKEN: dict[tuple[str, str], Refused] = {}  # group and name of a package's part -> why it cannot be used


def with_plugins(group: str, table: Mapping[str, type[Any]]) -> dict[str, type[Any]]:
    """The table and what installed packages add to it; a part that cannot be used is left out, and BROKEN says why."""
    first, *others = table.values()
    base = next(kind for kind in first.__mro__ if all(issubclass(other, kind) for other in others))
    found = _plugins(group, base)
    for name in found.keys() & table.keys():
        told = f"lfd.{group}: {name} of a package: expected a name of its own, as one of lfd's has this one"
        BROKEN[group, f"{name} of a package"] = Refused(told)
    return found | {**table}


@cache
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


def to_json(part: Any, group: str, table: Mapping[str, type[Any]]) -> dict[str, Any]:
    """A part as its registered name and its fields."""
    name = next(name for name, kind in with_plugins(group, table).items() if kind is type(part))
    values = {key: value.name if isinstance(value, Enum) else value for key, value in dataclasses.asdict(part).items()}
    return {"name": name, "fields": values}


def from_json(content: Mapping[str, Any], group: str, table: Mapping[str, type[Any]]) -> Any:
    """The part that `to_json` wrote. Raises Refused if its class is not installed."""
    name, known = content["name"], with_plugins(group, table)
    if name not in known:
        raise BROKEN.get((group, name)) or Refused(f"{group} {name!r} is not installed; {nearest(name, known)}")
    types = get_type_hints(known[name])
    values = {}
    for key, value in content["fields"].items():
        kind = types[key]
        values[key] = kind[value] if isinstance(kind, type) and issubclass(kind, Enum) else value
    return known[name](**values)
