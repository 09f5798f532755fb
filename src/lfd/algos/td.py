"""Expected temporal-difference learning (van Seijen et al. 2009): a critic of the agent's own policy."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.distributions import Categorical
from lfd.agents.roles import CRITIC, STOCHASTIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch, Observation
from lfd.maths import critic_mse, td_target


@dataclass(frozen=True)
class TDMetrics(Metrics):
    critic_loss: Annotated[Tensor, "squared TD error, summed over critics, in squared units of the return"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the batch's actions over all critics"]


@dataclass
class TD(Loss):
    """Critics to r + discount * E min Qbar(s', a'), a' of the present policy; the policy is not trained.

    The expectation is a sum over all discrete actions, and one sample of continuous ones. The data may be of any
    policy: it is off-policy evaluation of a policy that other losses train.
    """

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    uses: ClassVar = {"policy": STOCHASTIC, "critic": CRITIC}
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("critic",)

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[TDMetrics]:
        with torch.no_grad():
            target = td_target(batch.reward, batch.discount, self._next_v(agent, batch.next_obs))
        q = agent.q(batch.obs, batch.action)
        critic_loss = critic_mse(q, target)
        return LossOutput({"critic": critic_loss}, TDMetrics(critic_loss, q.mean()))

    def _next_v(self, agent: Agent, obs: Observation) -> Tensor:
        """Expected values [B] of the policy's actions at observations [B, ...]."""
        policy = agent.policy(obs)
        if isinstance(policy, Categorical):
            return (policy.logits.softmax(-1) * agent.q_all(obs, target=True).amin(-2)).sum(-1)
        return agent.q(obs, policy.sample(agent.rng).clamp(-1, 1), target=True).amin(-1)
