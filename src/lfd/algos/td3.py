"""Twin delayed deterministic policy gradient (Fujimoto et al. 2018)."""

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
class TD3CriticMetrics(Metrics):
    critic_loss: Annotated[Tensor, "squared TD error, summed over critics, in squared units of the return"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the batch's actions over all critics"]


@dataclass
class TD3Critic(Loss):
    """Critics to r + discount * min Qbar(s', a'), a' = pibar(s') + clipped noise (algorithm 1)."""

    noise: float = 0.2  # standard deviation of the noise on a', in halves of the range of actions
    noise_clip: float = 0.5  # largest size of that noise, in the same unit

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    uses: ClassVar = {"policy": POLICY, "critic": CONTINUOUS_CRITIC}
    trains: ClassVar = ("critic",)
    targets: ClassVar = ("policy", "critic")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("noise", "noise_clip"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: expected 0 or more, got {getattr(self, name)}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[TD3CriticMetrics]:
        with torch.no_grad():
            mode = agent.policy(batch.next_obs, Distribution, target=True).mode()
            normal = agent.rng.normal(*batch.action.shape)
            next_action = smoothed_action(mode, normal, self.noise, self.noise_clip)
            next_v = agent.q(batch.next_obs, next_action, target=True).amin(-1)
            target = td_target(batch.reward, batch.discount, next_v)
        q = agent.q(batch.obs, batch.action)
        critic_loss = critic_mse(q, target)
        return LossOutput({"critic": critic_loss}, TD3CriticMetrics(critic_loss, q.mean()))


@dataclass(frozen=True)
class TD3ActorMetrics(Metrics):
    actor_loss: Annotated[Tensor, "-mean Q of the policy's actions by the first critic"]


@dataclass
class TD3Actor(Loss):
    """A policy to the largest value of the first critic: -Q_1(s, pi(s)). Delayed by `every`."""

    recordable: ClassVar = True
    needs: ClassVar = ("obs",)
    uses: ClassVar = {"policy": POLICY, "critic": CONTINUOUS_CRITIC}
    trains: ClassVar = ("policy",)
    through_critic: ClassVar = ("policy",)
    revision: ClassVar = 2  # delayed target networks are updated in the steps of the policy

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[TD3ActorMetrics]:
        actor_loss = -agent.q(batch.obs, agent.policy(batch.obs, Distribution).mode(), only=1).mean()
        return LossOutput({"policy": actor_loss}, TD3ActorMetrics(actor_loss))
