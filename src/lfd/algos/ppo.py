"""Proximal policy optimisation (Schulman et al. 2017)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lfd.agents.actor_critic import ActorCritic
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import clipped_surrogate


@dataclass
class PPO(Loss):
    """-clipped surrogate - entropy * H for the policy, value * (V - R)^2 / 2 for the value."""

    clip: float = 0.2
    entropy: float = 0.0  # weight of the entropy bonus
    value: float = 0.5  # weight of the value error
    normalize_advantage: bool = True  # in each minibatch

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "log_prob", "advantage", "value_target")
    agents: ClassVar = ActorCritic
    trains: ClassVar = ("policy", "value")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip <= 0 or min(self.entropy, self.value) < 0:
            raise Refused(f"{self}: clip above 0, entropy and value from 0 are expected")

    def __call__(self, agent: ActorCritic, batch: Batch) -> Out:
        policy = agent.distribution(batch.obs)
        log_ratio = policy.log_prob(batch.action) - batch.log_prob
        advantage = batch.advantage
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        entropy = policy.entropy().mean()
        surrogate = clipped_surrogate(log_ratio.exp(), advantage, self.clip).mean()
        value_error = 0.5 * (agent.value(batch.obs) - batch.value_target).square().mean()
        # The low-variance estimate of KL(old || new) (Schulman 2020, "Approximating KL divergence").
        kl = (torch.expm1(log_ratio) - log_ratio).mean().detach()
        terms = {"policy": -surrogate - self.entropy * entropy, "value": self.value * value_error}
        metrics = {"loss": -surrogate.detach(), "value": value_error.detach(), "entropy": entropy.detach(), "kl": kl}
        return Out(terms, metrics, {"kl": kl})
