"""Nets and acting rules of BCQ, which chooses the best of the actions that are likely in the data."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lfd.agents import ActingRule, ActingSpec, Agent
from lfd.agents.distributions import Categorical
from lfd.agents.nets import LayersSpec, NetInputs
from lfd.agents.roles import CONTINUOUS_CRITIC, DISCRETE_CRITIC, Role
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.maths import bcq_action_mask, over_critics
from lfd.nets import Net
from lfd.rng import Rng

BOUND = 0.5  # bound of latent samples, so that the decoder gives actions that are common in the data


class Imitation(nn.Module):
    """The estimated behavior policy of discrete actions; it never acts by itself."""

    recordable = True

    def __init__(self, net: Net, threshold: float) -> None:
        super().__init__()
        self.net, self.threshold = net, threshold

    def forward(self, obs: Observation) -> Categorical:
        """The data's policy at observations [B, ...], with logits [B, A]."""
        return Categorical(self.net(obs))


@dataclass
class ImitationSpec(LayersSpec):
    """A model of the policy that collected the data, for discrete BCQ."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    leads_to: ClassVar[tuple[str, ...]] = ("bcq",)

    threshold: float = 0.3  # minimum probability of an action relative to the likeliest one; 0 = all actions

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UserError(f"threshold: expected a fraction in [0, 1), got {self.threshold}")

    def build(self, inputs: NetInputs) -> Imitation:
        return Imitation(inputs.net(self, inputs.spaces.action_size), self.threshold)


class VAE(nn.Module):
    """A conditional variational autoencoder of the data's actions; its latent vectors have 2A dimensions."""

    recordable = True

    def __init__(self, encoder: Net, decoder: Net) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, obs: Observation, action: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstructed actions [B, A], and mean and log standard deviation [B, 2A] of their latent vectors."""
        mean, log_std = self.encoder(obs, action).chunk(2, dim=-1)
        log_std = log_std.clamp(-4, 15)
        return self.decode(obs, mean + log_std.exp() * normal), mean, log_std

    def decode(self, obs: Observation, latent: Tensor) -> Tensor:
        """Actions [..., B, A] in [-1, 1] of latent vectors [..., B, 2A]."""
        decoded: Tensor = self.decoder(obs, latent)
        return decoded.tanh()


@dataclass
class VAESpec(LayersSpec):
    """A conditional variational autoencoder of the data's actions, for continuous BCQ."""

    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    leads_to: ClassVar[tuple[str, ...]] = ("bcq",)

    def build(self, inputs: NetInputs) -> VAE:
        actions = inputs.spaces.action_size
        latent = 2 * actions
        encoder = inputs.net(self, 2 * latent, extra=actions)
        return VAE(encoder, inputs.net(self, actions, extra=latent))


class Perturbation(nn.Module):
    """Moves actions towards larger values, by at most `phi`."""

    recordable = True

    def __init__(self, net: Net, phi: float) -> None:
        super().__init__()
        self.net, self._phi = net, phi

    def forward(self, obs: Observation, action: Tensor) -> Tensor:
        """Moved actions [..., B, A] in [-1, 1] of actions [..., B, A] at observations [B, ...]."""
        pre_tanh: Tensor = self.net(obs, action)
        return (action + self._phi * pre_tanh.tanh()).clamp(-1, 1)


@dataclass
class PerturbationSpec(LayersSpec):
    """A small change of actions, for continuous BCQ."""

    actions: ClassVar[tuple[str, ...]] = ("continuous",)

    phi: float = 0.05  # largest change of an action, in halves of its range; Phi of the paper

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 2:
            raise UserError(f"phi: expected a value in [0, 2], got {self.phi}")

    def build(self, inputs: NetInputs) -> Perturbation:
        size = inputs.spaces.action_size
        return Perturbation(inputs.net(self, size, extra=size), self.phi)


IMITATION = Role("a model of the data's policy", "imitation", lambda net: isinstance(net, Imitation))
AUTOENCODER = Role("an autoencoder of actions", "vae", lambda net: isinstance(net, VAE))
PERTURBATION = Role("a perturbation of actions", "perturbation", lambda net: isinstance(net, Perturbation))


class DiscreteBCQRule(ActingRule):
    """Takes the action of the largest value among those that are likely in the data."""

    recordable = True

    def forward(self, agent: Agent, obs: Observation, rng: Rng | None) -> Tensor:
        return best_likely_action(agent, obs)


class ContinuousBCQRule(ActingRule):
    """Takes the best of decoded and perturbed actions.

    Greedy candidates come from latent vectors that are drawn once and stored with the agent.
    """

    recordable = True

    latents: Tensor  # [candidates, 1, 2A]

    def __init__(self, candidates: int, actions: int) -> None:
        super().__init__()
        self.register_buffer("latents", torch.randn(candidates, 1, 2 * actions).clamp(-BOUND, BOUND))

    def forward(self, agent: Agent, obs: Observation, rng: Rng | None) -> Tensor:
        number = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        candidates, _, latent = self.latents.shape
        shape = (candidates, number, latent)
        normal = self.latents.expand(shape) if rng is None else rng.normal(*shape)
        action: Tensor = agent.net("perturbation", agent.features(obs), decode(agent, obs, normal))
        best = agent.q(obs, action, only=1).squeeze(-1).argmax(0)  # [N]
        return torch.take_along_dim(action, best[None, :, None], 0).squeeze(0)


def best_likely_action(agent: Agent, obs: Observation) -> Tensor:
    """int64 [B]: the action of the largest value among those that are likely in the data, in network units."""
    net = agent.nets["imitation"]
    assert isinstance(net, Imitation)
    imitation: Categorical = agent.net("imitation", agent.features(obs))
    allowed = bcq_action_mask(imitation.logits, net.threshold)
    return torch.where(allowed, over_critics(torch.mean, agent.q_all(obs), -2), -torch.inf).argmax(-1)


@torch.no_grad()
def decode(agent: Agent, obs: Observation, normal: Tensor) -> Tensor:
    """Actions [..., B, A] that are common in the data, from standard normal samples [..., B, 2A]."""
    vae = agent.nets["vae"]
    assert isinstance(vae, VAE)
    return vae.decode(agent.features(obs), normal.clamp(-BOUND, BOUND))


@dataclass
class BCQ(ActingSpec):
    """The best of the actions that are likely in the data acts."""

    candidates: int = 100  # continuous: number of actions of which the best is taken

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UserError(f"candidates: expected 1 or more, got {self.candidates}")

    def uses(self, spaces: Spaces) -> dict[str, Role]:
        if spaces.actions == "discrete":
            return {"critic": DISCRETE_CRITIC, "imitation": IMITATION}
        return {"critic": CONTINUOUS_CRITIC, "vae": AUTOENCODER, "perturbation": PERTURBATION}

    def build(self, spaces: Spaces) -> ActingRule:
        if spaces.actions == "discrete":
            return DiscreteBCQRule()
        return ContinuousBCQRule(self.candidates, spaces.action_size)
