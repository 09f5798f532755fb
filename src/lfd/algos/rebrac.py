"""ReBRAC (Tarasov et al. 2023): TD3+BC with a separate penalty for the critics, and LayerNorm in them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.distributions import Distribution
from lfd.agents.roles import CONTINUOUS_CRITIC, POLICY
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import critic_mse, smoothed_action, td_target


@dataclass(frozen=True)
class ReBRACCriticMetrics(Metrics):
    critic_loss: Annotated[Tensor, "squared TD error, summed over critics, in squared units of the return"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the data's actions over all critics"]
    bc_penalty: Annotated[Tensor, "squared distance of a' from the data's, in halves of the range of actions"]


@dataclass
class ReBRACCritic(Loss):
    """Critics to r + discount * (min Qbar(s', a') - critic_bc_coef * |a' - a'_data|^2), a' as in TD3.

    The penalty is summed over the dimensions of an action, as is the policy's. After the last step of an episode,
    terminated or truncated, the data has no action at s': a'_data is then the action of the step itself.
    """

    critic_bc_coef: float = 0.01  # weight of the penalty
    noise: float = 0.2  # standard deviation of the noise on a', in halves of the range of actions
    noise_clip: float = 0.5  # largest size of that noise, in the same unit

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "next_action", "discount")
    uses: ClassVar = {"policy": POLICY, "critic": CONTINUOUS_CRITIC}
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("policy", "critic")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("critic_bc_coef", "noise", "noise_clip"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: expected 0 or more, got {getattr(self, name)}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[ReBRACCriticMetrics]:
        with torch.no_grad():
            mode = agent.policy(batch.next_obs, Distribution, target=True).mode()
            normal = agent.rng.normal(*batch.action.shape)
            next_action = smoothed_action(mode, normal, self.noise, self.noise_clip)
            penalty = (next_action - batch.next_action).square().sum(-1)
            next_v = agent.q(batch.next_obs, next_action, target=True).amin(-1) - self.critic_bc_coef * penalty
            target = td_target(batch.reward, batch.discount, next_v)
        q = agent.q(batch.obs, batch.action)
        critic_loss = critic_mse(q, target)
        return LossOutput({"critic": critic_loss}, ReBRACCriticMetrics(critic_loss, q.mean(), penalty.mean()))


@dataclass(frozen=True)
class ReBRACActorMetrics(Metrics):
    actor_loss: Annotated[Tensor, "the loss of the policy, both parts of it"]
    bc_loss: Annotated[Tensor, "squared distance of the policy from the data, in halves of the range of actions"]


@dataclass
class ReBRACActor(Loss):
    """actor_bc_coef * |pi(s) - a|^2 - lambda * min Q(s, pi(s)), lambda = 1 / mean |min Q(s, pi(s))|."""

    actor_bc_coef: float = 0.01  # weight of the penalty

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action")
    uses: ClassVar = {"policy": POLICY, "critic": CONTINUOUS_CRITIC}
    trains: ClassVar = ("policy",)
    through_critic: ClassVar = ("policy",)
    revision: ClassVar = 2  # delayed target networks are updated in the steps of the policy

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.actor_bc_coef < 0:
            raise UserError(f"actor_bc_coef: expected 0 or more, got {self.actor_bc_coef}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[ReBRACActorMetrics]:
        action = agent.policy(batch.obs, Distribution).mode()
        q = agent.q(batch.obs, action).amin(-1)
        bc_loss = (action - batch.action).square().sum(-1).mean()
        actor_loss = self.actor_bc_coef * bc_loss - q.mean() / q.detach().abs().mean()
        return LossOutput({"policy": actor_loss}, ReBRACActorMetrics(actor_loss, bc_loss))
