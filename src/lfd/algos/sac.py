"""Soft actor-critic (Haarnoja et al. 2018)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.distributions import Reparameterized
from lfd.agents.nets import NetSpec, ScalarSpec
from lfd.agents.roles import CONTINUOUS_CRITIC, REPARAMETERIZED
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.maths import critic_mse, td_target


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
    uses: ClassVar = {"policy": REPARAMETERIZED, "critic": CONTINUOUS_CRITIC}
    trains: ClassVar = ("critic", "policy", "temperature")
    targets: ClassVar = ("critic",)
    through_critic: ClassVar = ("policy",)

    def brings(self, spaces: Spaces) -> dict[str, NetSpec]:
        return {"temperature": ScalarSpec(0.0)}

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[SACMetrics]:
        log_alpha = agent.net("temperature")
        alpha = log_alpha.exp().detach()
        with torch.no_grad():
            next_action, next_log_prob = agent.policy(batch.next_obs, Reparameterized).sample_with_log_prob(agent.rng)
            next_v = agent.q(batch.next_obs, next_action, target=True).amin(-1)
            if self.entropy_backup:
                next_v = next_v - alpha * next_log_prob
            target = td_target(batch.reward, batch.discount, next_v)
        q = agent.q(batch.obs, batch.action)
        critic_loss = critic_mse(q, target)
        action, log_prob = agent.policy(batch.obs, Reparameterized).sample_with_log_prob(agent.rng)
        actor_loss = (alpha * log_prob - agent.q(batch.obs, action).amin(-1)).mean()
        target_entropy = -float(agent.spaces.action_size) if self.target_entropy is None else self.target_entropy
        alpha_loss = -(log_alpha * (log_prob.detach() + target_entropy)).mean()
        by_group = {"critic": critic_loss, "policy": actor_loss, "temperature": alpha_loss}
        return LossOutput(by_group, SACMetrics(critic_loss, actor_loss, q.mean(), -log_prob.mean(), alpha))
