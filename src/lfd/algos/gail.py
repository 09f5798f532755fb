"""Generative adversarial imitation (Ho and Ermon 2016): a reward by a discriminator of expert and learner."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfd.agents import REWARD, Agent
from lfd.agents.nets import NetInputs, NetSpec
from lfd.agents.reward_model import Inputs, RewardNet
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.maths import discriminator_accuracy, discriminator_loss, spectral_norm
from lfd.nets import Activation, zero_init_output
from lfd.rng import Rng


class RewardFn(Enum):
    """The reward as a function of D, the probability that a transition is the expert's."""

    gail = "gail"  # -log(1 - D): never negative, so that longer episodes earn more
    log_d = "log_d"  # log D: never positive, so that shorter episodes earn more
    airl = "airl"  # log D - log(1 - D): of either sign (Fu et al. 2018)


class DiscriminatorNet(nn.Module):
    """The logit of D, and as its forward the reward [B] of preprocessed transitions [B, ...]."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "DiscriminatorSpec") -> None:
        super().__init__()
        self.net = RewardNet(spaces, spec.hidden, spec.activation, spec.inputs)
        self.reward_fn, self.spectral_norm = spec.reward_fn, spec.spectral_norm
        if not self.spectral_norm:
            # D starts at 1 / 2, as a random reward would bias the policy
            zero_init_output(self.net.head)

    def logit(self, features: Tensor) -> Tensor:
        """Logits [B] of features [B, F]; above 0 if the expert is more likely."""
        for layer in self.net.head:
            if self.spectral_norm and isinstance(layer, nn.Linear):
                # torch's own spectral norm writes its vectors to buffers, which vmap does not support
                features = F.linear(features, layer.weight / spectral_norm(layer.weight), layer.bias)
            else:
                features = layer(features)
        return features.squeeze(-1)

    def forward(self, batch: Batch) -> Tensor:
        """Rewards [B] of preprocessed transitions [B, ...]."""
        logit = self.logit(self.net.features(batch))
        if self.reward_fn is RewardFn.gail:
            return F.softplus(logit)
        return logit if self.reward_fn is RewardFn.airl else -F.softplus(-logit)


@dataclass
class DiscriminatorSpec(NetSpec):
    """A discriminator of expert and learner, whose logit gives a reward."""

    on_trunk: ClassVar[bool] = False

    hidden: list[int] = field(default_factory=lambda: [64, 64])  # units per hidden layer
    activation: Activation = Activation.tanh  # of hidden layers
    inputs: Inputs = Inputs.obs_action  # inputs of D; obs and obs_next_obs imitate states, not actions
    reward_fn: RewardFn = RewardFn.airl  # the reward as a function of D
    spectral_norm: bool = False  # divide the head's weights by their largest singular value (Miyato et al. 2018)

    def build(self, inputs: NetInputs) -> DiscriminatorNet:
        return DiscriminatorNet(inputs.spaces, self)


@dataclass(frozen=True)
class GAILMetrics(Metrics):
    discriminator_loss: Annotated[Tensor, "binary cross-entropy of D, summed over both sides, in nats"]
    accuracy_expert: Annotated[Tensor, "share of the expert's transitions that D takes for the expert's"]
    accuracy_learner: Annotated[Tensor, "share of the learner's transitions that D takes for the learner's"]


@dataclass
class GAIL(Loss):
    """-E_expert log D - E_learner log(1 - D) - ent_coef * H(D) + gradient_penalty * E (|dD's logit| - 1)^2.

    The penalty is at random points between the features of an expert's and a learner's transition (Gulrajani et al.
    2017, eq. 3; in imitation Kostrikov et al. 2019).
    """

    hidden: list[int] = field(default_factory=lambda: [64, 64])  # units per hidden layer
    activation: Activation = Activation.tanh  # of hidden layers
    inputs: Inputs = Inputs.obs_action  # inputs of D; obs and obs_next_obs imitate states, not actions
    reward_fn: RewardFn = RewardFn.airl  # the reward as a function of D
    gradient_penalty: float = 0.0  # weight of the penalty; 10 is common
    spectral_norm: bool = False  # divide the head's weights by their largest singular value (Miyato et al. 2018)
    ent_coef: float = 0.0  # weight of the mean entropy of D, in nats

    recordable: ClassVar = True
    needs: ClassVar = {"learner": ("obs",), "expert": ("obs",)}
    trains: ClassVar = (REWARD,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient_penalty < 0:
            raise UserError(f"gradient_penalty: expected 0 or more, got {self.gradient_penalty}")
        if self.ent_coef < 0:
            raise UserError(f"ent_coef: expected 0 or more, got {self.ent_coef}")

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {slot: (name, self.inputs.columns) for slot, (name, _) in super().slots.items()}

    @property
    def reward_sign(self) -> str:
        return {RewardFn.gail: "never negative", RewardFn.log_d: "never positive", RewardFn.airl: ""}[self.reward_fn]

    def brings(self, spaces: Spaces) -> dict[str, NetSpec]:
        return {
            REWARD: DiscriminatorSpec(self.hidden, self.activation, self.inputs, self.reward_fn, self.spectral_norm)
        }

    def __call__(self, agent: Agent, batch: Mapping[str, Batch]) -> LossOutput[GAILMetrics]:
        net = agent.nets[REWARD]
        assert isinstance(net, DiscriminatorNet)
        learner, expert = (net.net.features(batch[slot]) for slot in ("learner", "expert"))
        learner_logit, expert_logit = net.logit(learner), net.logit(expert)
        loss = discriminator_loss(learner_logit, expert_logit)
        metrics = GAILMetrics(loss, *discriminator_accuracy(learner_logit, expert_logit))
        if self.ent_coef:
            loss = loss - self.ent_coef * (entropy(learner_logit).mean() + entropy(expert_logit).mean()) / 2
        if self.gradient_penalty:
            loss = loss + self.gradient_penalty * gradient_penalty(net, learner, expert, agent.rng)
        return LossOutput({REWARD: loss}, metrics)


def entropy(logit: Tensor) -> Tensor:
    """Entropies [B] of Bernoulli distributions with logits [B], in nats."""
    return F.softplus(logit) - logit * logit.sigmoid()


def gradient_penalty(net: DiscriminatorNet, learner: Tensor, expert: Tensor, rng: Rng) -> Tensor:
    """E (|gradient of D's logit| - 1)^2 [] at random points between features [B, F] of both sides."""
    size = min(len(learner), len(expert))
    between = torch.lerp(learner[:size].detach(), expert[:size].detach(), rng.uniform(size, 1))
    gradient: Tensor = torch.func.grad(lambda points: net.logit(points).sum())(between)
    # the small number keeps the derivative of a zero gradient finite
    norm: Tensor = (gradient.square().sum(-1) + 1e-12).sqrt()
    return (norm - 1).square().mean()
