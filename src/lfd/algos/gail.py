"""Generative adversarial imitation (Ho and Ermon 2016): a reward that tells the expert from the learner."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lfd.agents import REWARD, Agent
from lfd.agents.judge import Inputs, RewardNet
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.errors import Refused
from lfd.maths import spectral_norm, told_apart
from lfd.nets import Activation, silence
from lfd.noise import Noise


class Form(Enum):
    """The reward that D, the probability that the expert did it, stands for."""

    expert = "expert"  # -log(1 - D): never negative, so that longer episodes pay whatever is done in them
    log = "log"  # log D: never positive, so that shorter episodes pay
    difference = "difference"  # log D - log(1 - D): of either sign (Fu et al. 2018)


class DiscriminatorNet(nn.Module):
    """The logit of D, and as its forward the reward [B] of prepared transitions [B, ...]."""

    recordable = True

    def __init__(self, spaces: Spaces, loss: "Discriminator") -> None:
        super().__init__()
        self.net = RewardNet(spaces, loss.hidden, loss.activation, loss.inputs)
        self.form, self.spectral = loss.form, loss.spectral
        if not self.spectral:
            # D is one half until it has learnt: a random taste would be followed before that.
            silence(self.net.head)

    def logit(self, features: Tensor) -> Tensor:
        """[B] of features [B, F]; above 0 where the expert is the likelier."""
        for layer in self.net.head:
            if self.spectral and isinstance(layer, nn.Linear):
                # torch's own spectral norm keeps its vectors in buffers that it writes, which vmap refuses.
                features = F.linear(features, layer.weight / spectral_norm(layer.weight), layer.bias)
            else:
                features = layer(features)
        return features.squeeze(-1)

    def forward(self, batch: Batch) -> Tensor:
        logit = self.logit(self.net.features(batch))
        if self.form is Form.expert:
            return F.softplus(logit)
        return logit if self.form is Form.difference else -F.softplus(-logit)


@dataclass
class Discriminator(Loss):
    """-E_expert log D - E_learner log(1 - D) - entropy * H(D) + gradient_penalty * E (|dD's logit| - 1)^2.

    The penalty is at random points between the features of an expert's and a learner's transition (Gulrajani et al.
    2017, eq. 3; in imitation Kostrikov et al. 2019).
    """

    hidden: list[int] = field(default_factory=lambda: [64, 64])  # units of each hidden layer
    activation: Activation = Activation.tanh
    inputs: Inputs = Inputs.obs_action  # obs and obs_next_obs imitate what is reached, not what is done
    form: Form = Form.difference
    gradient_penalty: float = 0.0  # its weight; 10 is common
    spectral: bool = False  # weights of the head by their largest singular value (Miyato et al. 2018)
    entropy: float = 0.0  # weight of the mean entropy of D, in nats

    recordable: ClassVar = True
    needs: ClassVar = {"learner": ("obs",), "expert": ("obs",)}
    agents: ClassVar = Agent
    trains: ClassVar = (REWARD,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.gradient_penalty, self.entropy) < 0:
            raise Refused(f"gradient_penalty {self.gradient_penalty}, entropy {self.entropy}: 0 or more are expected")

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {slot: (name, self.inputs.columns) for slot, (name, _) in super().slots.items()}

    @property
    def one_sided(self) -> str:
        return {Form.expert: "never negative", Form.log: "never positive", Form.difference: ""}[self.form]

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        return {REWARD: DiscriminatorNet(agent.spaces, self)}

    def __call__(self, agent: Agent, batch: Mapping[str, Batch]) -> Out:
        net = agent.nets[REWARD]
        assert isinstance(net, DiscriminatorNet)
        learner, expert = (net.net.features(batch[slot]) for slot in ("learner", "expert"))
        low, high = net.logit(learner), net.logit(expert)
        loss, metrics = told_apart(low, high)
        term = loss
        if self.entropy:
            term = term - self.entropy * (entropy(low).mean() + entropy(high).mean()) / 2
        if self.gradient_penalty:
            term = term + self.gradient_penalty * slope_penalty(net, learner, expert, agent.draws)
        return Out({REWARD: term}, metrics)


def entropy(logit: Tensor) -> Tensor:
    """[B] of a coin of these logits, in nats."""
    return F.softplus(logit) - logit * logit.sigmoid()


def slope_penalty(net: DiscriminatorNet, learner: Tensor, expert: Tensor, noise: Noise) -> Tensor:
    size = min(len(learner), len(expert))
    share = noise.uniform(size, 1)
    between = torch.lerp(learner[:size].detach(), expert[:size].detach(), share)
    slope: Tensor = torch.func.grad(lambda points: net.logit(points).sum())(between)
    # The small number keeps the derivative of a zero slope finite.
    length: Tensor = (slope.square().sum(-1) + 1e-12).sqrt()
    return (length - 1).square().mean()
