"""Batch-constrained Q-learning: values bootstrap only from actions that are likely in the data."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lfd.agents import Agent
from lfd.agents.bcq import AUTOENCODER, IMITATION, PERTURBATION, best_likely_action, decode
from lfd.agents.distributions import Categorical
from lfd.agents.roles import CONTINUOUS_CRITIC, DISCRETE_CRITIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import critic_mse, kl_to_standard, soft_clipped_q, td_target


@dataclass(frozen=True)
class BCQDiscreteMetrics(Metrics):
    critic_loss: Annotated[Tensor, "Huber TD error, summed over critics, in units of the return"]
    bc_loss: Annotated[Tensor, "negative log-likelihood of the data's actions, in nats"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the data's actions"]


@dataclass
class BCQDiscrete(Loss):
    """huber(Q(s, a) - [r + discount * Qbar(s', a')]) - log G(a | s) + logits_penalty * mean i(s)^2.

    G is the softmax of the imitation's logits i, and a' the action of the largest online Q among those that are likely
    under G at s' (Fujimoto et al. 2019, "Benchmarking batch deep reinforcement learning algorithms").
    """

    logits_penalty: float = 0.01  # weight of the squared logits of the imitation

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    uses: ClassVar = {"critic": DISCRETE_CRITIC, "imitation": IMITATION}
    trains: ClassVar = ("critic", "imitation")
    targets: ClassVar = ("critic",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logits_penalty < 0:
            raise UserError(f"logits_penalty: expected 0 or more, got {self.logits_penalty}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[BCQDiscreteMetrics]:
        with torch.no_grad():
            next_q = agent.q(batch.next_obs, best_likely_action(agent, batch.next_obs), target=True).amin(-1)
            target = td_target(batch.reward, batch.discount, next_q)
        q = agent.q(batch.obs, batch.action)  # [B, critics]
        critic_loss = F.smooth_l1_loss(q, target.unsqueeze(-1).expand_as(q), reduction="none").mean(0).sum()
        imitation: Categorical = agent.net("imitation", agent.features(batch.obs))
        bc_loss = -imitation.log_prob(batch.action).mean()
        penalty = self.logits_penalty * imitation.logits.square().mean()
        by_group = {"critic": critic_loss, "imitation": bc_loss + penalty}
        return LossOutput(by_group, BCQDiscreteMetrics(critic_loss, bc_loss, q.mean()))


@dataclass(frozen=True)
class BCQContinuousMetrics(Metrics):
    critic_loss: Annotated[Tensor, "squared TD error, summed over critics, in squared units of the return"]
    actor_loss: Annotated[Tensor, "-mean Q of the perturbed actions by the first critic"]
    reconstruction_loss: Annotated[Tensor, "squared error of the VAE's actions, in halves of their range"]
    kl: Annotated[Tensor, "KL divergence of a latent dimension from a standard normal, in nats"]
    q_mean: Annotated[Tensor, "mean Q(s, a) of the data's actions over all critics"]


@dataclass
class BCQContinuous(Loss):
    """Critics to r + discount * max over a' of [lmbda * min Qbar(s', a') + (1 - lmbda) * max Qbar(s', a')].

    a' are `samples` actions of the VAE at s', perturbed by the target network. The perturbation maximizes the first
    critic, the VAE minimizes its reconstruction error + kl_weight * KL to a standard normal (Fujimoto, Meger and Precup
    2019).
    """

    samples: int = 10  # actions at s', of which the one with the largest value bootstraps
    lmbda: float = 0.75  # weight of the smallest critic in the target; lambda of the paper
    kl_weight: float = 0.5  # weight of the latent vectors' KL divergence

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    uses: ClassVar = {"critic": CONTINUOUS_CRITIC, "vae": AUTOENCODER, "perturbation": PERTURBATION}
    trains: ClassVar = ("critic", "vae", "perturbation")
    targets: ClassVar = ("critic", "perturbation")
    through_critic: ClassVar = ("perturbation",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise UserError(f"samples: expected 1 or more, got {self.samples}")
        if not 0 <= self.lmbda <= 1:
            raise UserError(f"lmbda: expected a number in [0, 1], got {self.lmbda}")
        if self.kl_weight < 0:
            raise UserError(f"kl_weight: expected 0 or more, got {self.kl_weight}")

    def __call__(self, agent: Agent, batch: Batch) -> LossOutput[BCQContinuousMetrics]:
        shape = (len(batch.action), 2 * agent.spaces.action_size)
        with torch.no_grad():
            action = decode(agent, batch.next_obs, agent.rng.normal(self.samples, *shape))
            features = agent.features(batch.next_obs, target=True)
            action = agent.net("perturbation", features, action, target=True)  # [samples, B, A]
            next_q = soft_clipped_q(agent.q(batch.next_obs, action, target=True), self.lmbda).amax(0)
            target = td_target(batch.reward, batch.discount, next_q)
        features = agent.features(batch.obs)
        q = agent.q(batch.obs, batch.action)
        critic_loss = critic_mse(q, target)
        decoded_action, mean, log_std = agent.net("vae", features, batch.action, agent.rng.normal(*shape))
        reconstruction_loss = F.mse_loss(decoded_action, batch.action)
        kl = kl_to_standard(mean, log_std).mean()
        action = agent.net("perturbation", features, decode(agent, batch.obs, agent.rng.normal(*shape)))
        actor_loss = -agent.q(batch.obs, action, only=1).mean()
        by_group = {
            "critic": critic_loss, "vae": reconstruction_loss + self.kl_weight * kl, "perturbation": actor_loss
        }  # fmt: skip
        return LossOutput(by_group, BCQContinuousMetrics(critic_loss, actor_loss, reconstruction_loss, kl, q.mean()))
