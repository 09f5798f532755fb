"""Acting rules: how an agent chooses actions with its nets."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lfd.agents import ActingRule, ActingSpec, Agent
from lfd.agents.distributions import Distribution
from lfd.agents.roles import DISCRETE_CRITIC, POLICY, Role
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.maths import over_critics
from lfd.rng import Rng


class PolicyRule(ActingRule):
    """Samples the policy, or takes its mode."""

    recordable = True

    def forward(self, agent: Agent, obs: Observation, rng: Rng | None) -> Tensor:
        policy = agent.policy(obs, Distribution)
        return policy.mode() if rng is None else policy.sample(rng)


@dataclass
class ByPolicy(ActingSpec):
    """The net `policy` acts: its mode, or samples of it."""

    def uses(self, spaces: Spaces) -> dict[str, Role]:
        return {"policy": POLICY}

    def build(self, spaces: Spaces) -> PolicyRule:
        return PolicyRule()


class GreedyRule(ActingRule):
    """Takes the action of the largest value: the mean over critics."""

    recordable = True

    def forward(self, agent: Agent, obs: Observation, rng: Rng | None) -> Tensor:
        return over_critics(torch.mean, agent.q_all(obs), -2).argmax(-1)


@dataclass
class Greedy(ActingSpec):
    """The discrete action of the largest value by the net `critic` acts."""

    def uses(self, spaces: Spaces) -> dict[str, Role]:
        return {"critic": DISCRETE_CRITIC}

    def build(self, spaces: Spaces) -> GreedyRule:
        return GreedyRule()


@dataclass
class NoActing(ActingSpec):
    """The agent never acts: it has a critic or a reward for other agents."""

    acts: ClassVar[bool] = False

    def uses(self, spaces: Spaces) -> dict[str, Role]:
        return {}

    def build(self, spaces: Spaces) -> None:
        return None
