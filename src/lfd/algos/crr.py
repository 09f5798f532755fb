"""Critic regularised regression (Wang et al. 2020) for discrete actions."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from lfd.agents.policy_critic import PolicyQAgent
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import clipped_exp, taken, td_target


class Filter(Enum):
    """How much an action of advantage A is cloned."""

    binary = "binary"  # 1 where A > 0, else 0; without the gap of CQL beside it values of few data run away
    exp = "exp"  # min(exp(A / beta), max_weight)
    all = "all"  # 1: behaviour cloning beside a critic


@dataclass
class CRR(Loss):
    """A policy that clones by f(A), A = Q(s, a) - sum_b pi(b|s) Q(s, b) (eq. 4), over an expected-value critic.

    The critic goes to r + discount * sum_b pibar(b|s') Qbar(s', b): all actions are listed, so none is sampled.
    """

    filter: Filter = Filter.exp
    beta: float = 1.0  # temperature of exp, in units of the return
    max_weight: float = 20.0  # of exp

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = PolicyQAgent
    trains: ClassVar = ("policy", "q")
    targets: ClassVar = ("policy", "q")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.beta, self.max_weight) <= 0:
            raise Refused(f"{self}: beta and max_weight above 0 are expected")

    def __call__(self, agent: PolicyQAgent, batch: Batch) -> Out:
        following = agent.target_distribution(batch.next_obs).logits.softmax(-1)
        next_value = (following * agent.target_q(batch.next_obs)).sum(-1)
        target = td_target(batch.reward, batch.discount, next_value)
        values, policy = agent.q(batch.obs), agent.distribution(batch.obs)
        value = taken(values, batch.action)
        td = (value - target).square().mean()
        expected = (policy.logits.softmax(-1) * values).sum(-1)
        weight = self._weight((value - expected).detach())
        cloning = -(weight * policy.log_prob(batch.action)).mean()
        metrics = {"loss": td, "q": value.mean(), "weight": weight.mean(), "cloning": cloning}
        return Out({"q": td, "policy": cloning}, {name: metric.detach() for name, metric in metrics.items()})

    def _weight(self, advantage: Tensor) -> Tensor:
        if self.filter is Filter.binary:
            return (advantage > 0).to(advantage.dtype)
        if self.filter is Filter.exp:
            return clipped_exp(advantage / self.beta, self.max_weight)
        return torch.ones_like(advantage)
