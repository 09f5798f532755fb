"""Advantage-weighted actor-critic (Nair et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lfd.agents.policy_critic import PolicyCriticAgent
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import clipped_exp, critics_error, td_target


@dataclass
class AWAC(Loss):
    """Critics to r + discount * min Qbar(s', a'), and a policy that clones by min(exp(A / temperature), max_weight).

    A = min Q(s, a) - min Q(s, a~) with a' and a~ of the policy (eq. 13). The authors' code takes a softmax over the
    batch in place of the clip: its temperatures do not carry over.
    """

    temperature: float = 1 / 3  # lambda of the paper, in units of the return; CORL's value in MuJoCo
    max_weight: float = 100.0  # of an action to clone

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = PolicyCriticAgent
    trains: ClassVar = ("policy", "critic")
    targets: ClassVar = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.temperature, self.max_weight) <= 0:
            raise Refused(f"{self}: temperature and max_weight above 0 are expected")

    def __call__(self, agent: PolicyCriticAgent, batch: Batch) -> Out:
        with torch.no_grad():
            next_value = agent.target_q(batch.next_obs, agent.draw(batch.next_obs)).amin(-1)
            target = td_target(batch.reward, batch.discount, next_value)
            own = agent.q(batch.obs, agent.draw(batch.obs)).amin(-1)
        values = agent.q(batch.obs, batch.action)
        td = critics_error(values, target)
        weight = clipped_exp((values.amin(-1) - own) / self.temperature, self.max_weight)
        cloning = -(weight * agent.distribution(batch.obs).log_prob(batch.action)).mean()
        metrics = {"loss": td, "q": values.mean(), "weight": weight.mean(), "cloning": cloning}
        return Out({"critic": td, "policy": cloning}, {name: metric.detach() for name, metric in metrics.items()})
