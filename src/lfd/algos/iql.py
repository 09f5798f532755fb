"""Implicit Q-learning (Kostrikov et al. 2022): no action is valued that the data has not."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from lfd.agents import Agent
from lfd.agents.policy_critic import PolicyCriticAgent
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import clipped_exp, critics_error, expectile, td_target


@dataclass
class IQL(Loss):
    """With u = min Qbar(s, a) - V(s):

    V by the expectile of u (eq. 5), critics to r + discount * V(s') (eq. 6), and a policy that clones each action
    min(exp(u / temperature), max_weight) times (eq. 7, whose beta is 1 / temperature).
    """

    expectile: float = 0.7  # 0.5 averages over the data's actions, towards 1 takes the best of them; 0.9 in AntMaze
    temperature: float = 1 / 3  # in units of the return; beta = 3 in MuJoCo
    max_weight: float = 100.0  # of an action to clone

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = PolicyCriticAgent
    trains: ClassVar = ("policy", "critic", "value")
    targets: ClassVar = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.expectile < 1 or min(self.temperature, self.max_weight) <= 0:
            raise Refused(f"{self}: an expectile in (0, 1), temperature and max_weight above 0 are expected")

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        assert isinstance(agent, PolicyCriticAgent)
        return {"value": agent.net_of(1)}

    def __call__(self, agent: PolicyCriticAgent, batch: Batch) -> Out:
        with torch.no_grad():
            next_value = agent.net("value", batch.next_obs).squeeze(-1)
            target = td_target(batch.reward, batch.discount, next_value)
        value = agent.net("value", batch.obs).squeeze(-1)
        advantage = agent.target_q(batch.obs, batch.action).amin(-1) - value
        values = agent.q(batch.obs, batch.action)
        td = critics_error(values, target)
        weight = clipped_exp(advantage / self.temperature, self.max_weight)
        cloning = -(weight * agent.distribution(batch.obs).log_prob(batch.action)).mean()
        terms = {"value": expectile(advantage, self.expectile).mean(), "critic": td, "policy": cloning}
        metrics = {"loss": td, "value": value.mean(), "weight": weight.mean(), "cloning": cloning}
        return Out(terms, {name: metric.detach() for name, metric in metrics.items()})
