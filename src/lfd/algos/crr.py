"""Critic-regularized regression (Wang et al. 2020) for discrete actions."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.distributions import Categorical
from lfd.agents.roles import CATEGORICAL, DISCRETE_CRITIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import critic_mse, exp_advantage_weight, gather_action, over_critics, td_target


class Filter(Enum):
    """f(A), the weight of a cloned action of advantage A."""

    binary = "binary"  # 1 where A > 0, else 0; on small data values diverge unless cql_discrete is a row too
    exp = "exp"  # min(exp(A / beta), exp_adv_max)
    all = "all"  # 1: behavior cloning beside a critic


@dataclass(frozen=True)
class CRRMetrics(Metrics):
    critic_loss: Annotated[Tensor, "squared TD error, summed over critics, in squared units of the return"]
    actor_loss: Annotated[Tensor, "weighted negative log-likelihood of the data's actions, in nats"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the data's actions"]
    weight_mean: Annotated[Tensor, "mean weight of a cloned action"]


@dataclass
class CRR(Loss):
    """A policy that clones by f(A), A = Q(s, a) - sum_b pi(b|s) Q(s, b) (eq. 4), over an expected-value critic.

    The critic goes to r + discount * sum_b pibar(b|s') Qbar(s', b): all actions are listed, so none is sampled.
    """

    filter: Filter = Filter.exp  # f, the weight of a cloned action
    beta: float = 1.0  # temperature of the filter `exp`, in units of the return
    exp_adv_max: float = 20.0  # largest weight of a cloned action with the filter `exp`

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    uses: ClassVar = {"policy": CATEGORICAL, "critic": DISCRETE_CRITIC}
    trains: ClassVar = ("policy", "critic")
    targets: ClassVar = ("policy", "critic")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise UserError(f"beta: expected a number above 0, got {self.beta}")
        if self.exp_adv_max <= 0:
            raise UserError(f"exp_adv_max: expected a number above 0, got {self.exp_adv_max}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[CRRMetrics]:
        with torch.no_grad():
            next_probs = agent.policy(batch.next_obs, Categorical, target=True).logits.softmax(-1)
            next_v = (next_probs * over_critics(torch.amin, agent.q_all(batch.next_obs, target=True), -2)).sum(-1)
            target = td_target(batch.reward, batch.discount, next_v)
        all_q, policy = agent.q_all(batch.obs), agent.policy(batch.obs, Categorical)
        q = gather_action(all_q, batch.action)  # [B, critics]
        critic_loss = critic_mse(q, target)
        v = (policy.logits.softmax(-1) * over_critics(torch.mean, all_q, -2)).sum(-1)
        weight = self._weight((over_critics(torch.mean, q) - v).detach())
        actor_loss = -(weight * policy.log_prob(batch.action)).mean()
        metrics = CRRMetrics(critic_loss, actor_loss, q.mean(), weight.mean())
        return LossOutput({"critic": critic_loss, "policy": actor_loss}, metrics)

    def _weight(self, advantage: Tensor) -> Tensor:
        """Weights [B] of advantages [B]."""
        if self.filter is Filter.binary:
            return (advantage > 0).to(advantage.dtype)
        if self.filter is Filter.exp:
            return exp_advantage_weight(advantage / self.beta, self.exp_adv_max)
        return torch.ones_like(advantage)
