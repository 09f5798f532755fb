"""Batch-constrained Q-learning: values are bootstrapped only from actions that the data might have."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from lfd.agents.bcq import ContinuousBCQAgent, DiscreteBCQAgent
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.maths import critics_error, kl_to_standard, mixed_extremes, taken, td_target


@dataclass
class DiscreteBCQ(Loss):
    """huber(Q(s, a) - [r + discount * Qbar(s', a')]) - log G(a | s) + logits_penalty * mean i(s)^2.

    G is the softmax of the imitation's logits i, and a' the action of the largest learning Q among those that G thinks
    likely at s' (Fujimoto et al. 2019, "Benchmarking batch deep reinforcement learning algorithms").
    """

    logits_penalty: float = 0.01  # keeps the logits of the imitation small

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = DiscreteBCQAgent
    trains: ClassVar = ("q",)
    targets: ClassVar = ("q",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logits_penalty < 0:
            raise Refused(f"logits_penalty is {self.logits_penalty}; 0 or more is expected")

    def __call__(self, agent: DiscreteBCQAgent, batch: Batch) -> Out:
        with torch.no_grad():
            following = taken(agent.target_q(batch.next_obs), agent.best(batch.next_obs))
            target = td_target(batch.reward, batch.discount, following)
        value = taken(agent.q(batch.obs), batch.action)
        td = F.smooth_l1_loss(value, target)
        imitation = agent.imitation(batch.obs)
        cloning = -imitation.log_prob(batch.action).mean()
        penalty = self.logits_penalty * imitation.logits.square().mean()
        metrics = {"loss": td.detach(), "q": value.mean().detach(), "cloning": cloning.detach()}
        return Out({"q": td + cloning + penalty}, metrics)


@dataclass
class ContinuousBCQ(Loss):
    """Critics to r + discount * max over a' of [minimum * min Qbar(s', a') + (1 - minimum) * max Qbar(s', a')].

    a' are `samples` actions of the VAE at s', perturbed by the slow copy. The perturbation ascends on the first critic,
    the VAE descends on its reconstruction error + kl * KL to a standard normal (Fujimoto, Meger and Precup 2019).
    """

    samples: int = 10  # actions at s' of which the best bootstraps
    minimum: float = 0.75  # share of the least of the critics; lambda of the paper
    kl: float = 0.5  # weight of the latent vectors' divergence

    recordable: ClassVar = True
    needs: ClassVar = ("obs", "action", "reward", "next_obs", "discount")
    agents: ClassVar = ContinuousBCQAgent
    trains: ClassVar = ("critic", "vae", "perturbation")
    targets: ClassVar = ("critic", "perturbation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or not 0 <= self.minimum <= 1 or self.kl < 0:
            raise Refused(f"{self}: samples from 1, minimum in [0, 1] and kl from 0 are expected")

    def __call__(self, agent: ContinuousBCQAgent, batch: Batch) -> Out:
        shape = (len(batch.action), agent.latents.shape[-1])
        decoded = agent.decoded(batch.next_obs, agent.draws.normal(self.samples, *shape))
        action = agent.target_perturbed(batch.next_obs, decoded)  # [samples, B, A]
        following = mixed_extremes(agent.target_q(batch.next_obs, action), self.minimum).amax(0)
        target = td_target(batch.reward, batch.discount, following)
        values = agent.q(batch.obs, batch.action)
        td = critics_error(values, target)
        returned, mean, log_std = agent.net("vae", batch.obs, batch.action, agent.draws.normal(*shape))
        reconstruction = F.mse_loss(returned, batch.action)
        divergence = kl_to_standard(mean, log_std).mean()
        decoded = agent.decoded(batch.obs, agent.draws.normal(*shape))
        ascent = agent.first_q(batch.obs, agent.perturbed(batch.obs, decoded)).mean()
        terms = {"critic": td, "vae": reconstruction + self.kl * divergence, "perturbation": -ascent}
        metrics = {"loss": td, "q": values.mean(), "reconstruction": reconstruction, "kl": divergence}
        return Out(terms, {name: metric.detach() for name, metric in metrics.items()})
