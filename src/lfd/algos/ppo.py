"""Proximal policy optimization (Schulman et al. 2017)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.roles import STATE_VALUE, STOCHASTIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import clipped_surrogate


@dataclass(frozen=True)
class PPOMetrics(Metrics):
    actor_loss: Annotated[Tensor, "-clipped surrogate, in units of the (normalized) advantage"]
    value_loss: Annotated[Tensor, "half the squared error of V, in squared units of the return"]
    entropy: Annotated[Tensor, "mean entropy of the policy, in nats"]
    kl: Annotated[Tensor, "estimated KL divergence from the policy that collected the batch, in nats"]


@dataclass
class PPO(Loss):
    """-clipped surrogate - ent_coef * H for the policy, vf_coef * (V - R)^2 / 2 for the value."""

    clip_range: float = 0.2  # largest change of the probability ratio from 1 that is rewarded
    ent_coef: float = 0.0  # weight of the entropy bonus
    vf_coef: float = 0.5  # weight of the value error
    normalize_advantage: bool = True  # by mean and standard deviation of each minibatch

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "log_prob", "advantage", "value_target")
    uses: ClassVar = {"policy": STOCHASTIC, "value": STATE_VALUE}
    trains: ClassVar = ("policy", "value")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_range <= 0:
            raise UserError(f"clip_range: expected a number above 0, got {self.clip_range}")
        for name in ("ent_coef", "vf_coef"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: expected 0 or more, got {getattr(self, name)}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[PPOMetrics]:
        policy = agent.policy(batch.obs)
        log_ratio = policy.log_prob(batch.action) - batch.log_prob
        adv = batch.advantage
        if self.normalize_advantage:
            adv = (adv - adv.mean()) / (adv.std(correction=0) + 1e-8)
        entropy = policy.entropy().mean()
        actor_loss = -clipped_surrogate(log_ratio.exp(), adv, self.clip_range).mean()
        value_loss = 0.5 * (agent.value(batch.obs) - batch.value_target).square().mean()
        # low-variance estimate of KL(old || new) (Schulman 2020, "Approximating KL divergence")
        kl = (torch.expm1(log_ratio) - log_ratio).mean().detach()
        by_group = {"policy": actor_loss - self.ent_coef * entropy, "value": self.vf_coef * value_loss}
        return LossOutput(by_group, PPOMetrics(actor_loss, value_loss, entropy, kl), {"kl": kl})
