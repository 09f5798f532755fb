"""Advantage-weighted actor-critic (Nair et al. 2020)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.roles import CRITIC, STOCHASTIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch, Observation
from lfd.errors import UserError
from lfd.maths import critic_mse, exp_advantage_weight, td_target


@dataclass(frozen=True)
class AWACMetrics(Metrics):
    critic_loss: Annotated[Tensor, "squared TD error, summed over critics, in squared units of the return"]
    actor_loss: Annotated[Tensor, "weighted negative log-likelihood of the data's actions, in nats"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the data's actions over all critics"]
    weight_mean: Annotated[Tensor, "mean weight of a cloned action"]


@dataclass
class AWAC(Loss):
    """Critics to r + discount * min Qbar(s', a'), and cloning with weight min(exp(A / lam), exp_adv_max).

    A = min Q(s, a) - min Q(s, a~) with a' and a~ of the policy (eq. 13). The authors' code has a softmax over the
    batch in place of the clip, so its values of lam do not apply here.
    """

    lam: float = 1 / 3  # lambda of the paper, in units of the return; 1 / 3 in CORL's MuJoCo tasks
    exp_adv_max: float = 100.0  # largest weight of a cloned action

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    uses: ClassVar = {"policy": STOCHASTIC, "critic": CRITIC}
    trains: ClassVar = ("policy", "critic")
    targets: ClassVar = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lam <= 0:
            raise UserError(f"lam: expected a number above 0, got {self.lam}")
        if self.exp_adv_max <= 0:
            raise UserError(f"exp_adv_max: expected a number above 0, got {self.exp_adv_max}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[AWACMetrics]:
        with torch.no_grad():
            next_v = agent.q(batch.next_obs, sampled_action(agent, batch.next_obs), target=True).amin(-1)
            target = td_target(batch.reward, batch.discount, next_v)
            v = agent.q(batch.obs, sampled_action(agent, batch.obs)).amin(-1)
        q = agent.q(batch.obs, batch.action)
        critic_loss = critic_mse(q, target)
        weight = exp_advantage_weight((q.amin(-1) - v) / self.lam, self.exp_adv_max)
        actor_loss = -(weight * agent.policy(batch.obs).log_prob(batch.action)).mean()
        metrics = AWACMetrics(critic_loss, actor_loss, q.mean(), weight.mean())
        return LossOutput({"critic": critic_loss, "policy": actor_loss}, metrics)


def sampled_action(agent: Agent, obs: Observation) -> Tensor:
    """Policy samples [B] or [B, A] at observations [B, ...], clipped to the bounds of the critics' data."""
    action = agent.policy(obs).sample(agent.rng)
    return action.clamp(-1, 1) if agent.continuous else action
