"""Soft actor-critic (Haarnoja et al. 2018), the base of the continuous conservative learner."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from lfd.agents import Agent
from lfd.agents.actor_critic import SoftActorCritic
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.maths import critics_error, td_target
from lfd.nets import Parameter


@dataclass
class SAC(Loss):
    """Critics to r + discount * (min Qbar(s', a') - alpha log pi), a policy to min Q - alpha log pi.

    The temperature alpha rises while the policy's entropy is below its target.
    """

    target_entropy: float | None = None  # nats; minus the number of action dimensions when not given
    entropy_backup: bool = True  # the target counts the entropy of a'

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = SoftActorCritic
    trains: ClassVar = ("critic", "policy", "temperature")
    targets: ClassVar = ("critic",)

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        return {"temperature": Parameter(0.0)}

    def __call__(self, agent: SoftActorCritic, batch: Batch) -> Out:
        log_alpha = agent.net("temperature")
        alpha = log_alpha.exp().detach()
        with torch.no_grad():
            next_action, next_log_prob = agent.distribution(batch.next_obs).sample_with_log_prob(agent.draws)
            next_value = agent.target_q(batch.next_obs, next_action).amin(-1)
            if self.entropy_backup:
                next_value = next_value - alpha * next_log_prob
            target = td_target(batch.reward, batch.discount, next_value)
        values = agent.q(batch.obs, batch.action)
        td = critics_error(values, target)
        action, log_prob = agent.distribution(batch.obs).sample_with_log_prob(agent.draws)
        policy = (alpha * log_prob - agent.q(batch.obs, action).amin(-1)).mean()
        goal = -float(agent.action_size) if self.target_entropy is None else self.target_entropy
        temperature = -(log_alpha * (log_prob.detach() + goal)).mean()
        metrics = {
            "loss": td.detach(),
            "q": values.mean().detach(),
            "entropy": -log_prob.mean().detach(),
            "alpha": alpha,
        }
        return Out({"critic": td, "policy": policy, "temperature": temperature}, metrics)
