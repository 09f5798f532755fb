"""Soft actor-critic (Haarnoja et al. 2018)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from lfd.agents import Agent
from lfd.agents.actor_critic import SoftActorCritic
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.maths import critic_mse, td_target
from lfd.nets import Scalar


@dataclass(frozen=True)
class SACMetrics(Metrics):
    critic_loss: Annotated[Tensor, "squared TD error, summed over critics, in squared units of the return"]
    actor_loss: Annotated[Tensor, "mean of alpha log pi - min Q at actions of the policy"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the batch's actions over all critics"]
    entropy: Annotated[Tensor, "mean -log pi of an action of the policy, in nats"]
    alpha: Annotated[Tensor, "temperature of the entropy, in units of the return a nat"]


@dataclass
class SAC(Loss):
    """Critics to r + discount * (min Qbar(s', a') - alpha log pi), a policy to min Q - alpha log pi.

    The temperature alpha rises while the policy's entropy is below its target.
    """

    target_entropy: float | None = None  # nats; null = minus the number of action dimensions
    entropy_backup: bool = True  # add the entropy of a' to the target

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = SoftActorCritic
    trains: ClassVar = ("critic", "policy", "temperature")
    targets: ClassVar = ("critic",)

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        return {"temperature": Scalar(0.0)}

    def __call__(self, agent: SoftActorCritic, batch: Batch) -> LossOutput[SACMetrics]:
        log_alpha = agent.net("temperature")
        alpha = log_alpha.exp().detach()
        with torch.no_grad():
            next_action, next_log_prob = agent.distribution(batch.next_obs).sample_with_log_prob(agent.rng)
            next_v = agent.target_q(batch.next_obs, next_action).amin(-1)
            if self.entropy_backup:
                next_v = next_v - alpha * next_log_prob
            target = td_target(batch.reward, batch.discount, next_v)
        q = agent.q(batch.obs, batch.action)
        critic_loss = critic_mse(q, target)
        action, log_prob = agent.distribution(batch.obs).sample_with_log_prob(agent.rng)
        actor_loss = (alpha * log_prob - agent.q(batch.obs, action).amin(-1)).mean()
        target_entropy = -float(agent.action_size) if self.target_entropy is None else self.target_entropy
        alpha_loss = -(log_alpha * (log_prob.detach() + target_entropy)).mean()
        by_group = {"critic": critic_loss, "policy": actor_loss, "temperature": alpha_loss}
        return LossOutput(by_group, SACMetrics(critic_loss, actor_loss, q.mean(), -log_prob.mean(), alpha))
