"""Agents of BCQ, which choose the best of the actions that are likely in the data."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lfd.agents import AgentSpec
from lfd.agents.critics import ActionValues, Critics
from lfd.agents.distributions import Categorical
from lfd.agents.q import DiscreteValues
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.maths import bcq_action_mask
from lfd.nets import Activation, Net, encoder, features_of, has_frames, mlp
from lfd.rng import Rng

BOUND = 0.5  # bound of latent samples, so that the decoder gives actions that are common in the data


class ValuesAndImitation(nn.Module):
    """Action values and logits of the behavior policy, [B, A] each; image observations are encoded once for both."""

    recordable = True

    def __init__(self, spaces: Spaces, actions: int, spec: "BCQNet") -> None:
        super().__init__()
        self.encoder = encoder(spaces.observation)
        hidden = [] if has_frames(spaces.observation) else spec.hidden
        sizes = [features_of(self.encoder), *hidden, actions]
        self.values = mlp(sizes, spec.activation)
        self.imitation = mlp(sizes, spec.activation)

    def forward(self, obs: Observation) -> tuple[Tensor, Tensor]:
        features = self.encoder(obs)
        return self.values(features), self.imitation(features)


class DiscreteBCQAgent(DiscreteValues):
    """Takes the action of largest value among those likely in the data; all modules are in group "q"."""

    recordable = True

    def __init__(self, spaces: Spaces, spec: "BCQNet") -> None:
        super().__init__(spaces, {})
        self._threshold = spec.threshold
        self.nets["q"] = ValuesAndImitation(spaces, self.action_size, spec)

    def q(self, obs: Observation) -> Tensor:
        values: Tensor = self.net("q", obs)[0]
        return values

    @torch.no_grad()
    def target_q(self, obs: Observation) -> Tensor:
        values: Tensor = self.net("q", obs, target=True)[0]
        return values

    def imitation(self, obs: Observation) -> Categorical:
        """The estimated behavior policy at observations [B, ...] in network units."""
        return Categorical(self.net("q", obs)[1])

    def best(self, obs: Observation) -> Tensor:
        """int64 [B]: the likely action of the largest value, at observations in network units."""
        allowed = bcq_action_mask(self.imitation(obs).logits, self._threshold)
        return torch.where(allowed, self.q(obs), -torch.inf).argmax(-1)

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, rng: Rng | None) -> tuple[Tensor, Any]:
        return self.best(self.normalize_obs(obs)), state


@dataclass
class BCQNet(AgentSpec):
    """Action values and a model of the behavior policy, for discrete BCQ."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    hidden: list[int] = field(default_factory=lambda: [128, 128])  # units per hidden layer; unused behind a CNN
    activation: Activation = Activation.relu  # of hidden layers
    threshold: float = 0.3  # minimum probability of an action relative to the likeliest one; 0 = all actions

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UserError(f"threshold: expected a fraction in [0, 1), got {self.threshold}")

    def build(self, spaces: Spaces) -> DiscreteBCQAgent:
        return DiscreteBCQAgent(spaces, self)


class VAE(nn.Module):
    """A conditional variational autoencoder of the data's actions; its latent vectors have 2A dimensions."""

    recordable = True

    def __init__(self, spaces: Spaces, actions: int, spec: "BCQ") -> None:
        super().__init__()
        self.latent = 2 * actions
        self.encoder = Net(spaces.observation, spec.vae_hidden, 2 * self.latent, spec.activation, extra=actions)
        self.decoder = Net(spaces.observation, spec.vae_hidden, actions, spec.activation, extra=self.latent)

    def forward(self, obs: Observation, action: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstructed actions [B, A], and mean and log standard deviation [B, 2A] of their latent vectors."""
        mean, log_std = self.encoder(obs, action).chunk(2, dim=-1)
        log_std = log_std.clamp(-4, 15)
        return self.decode(obs, mean + log_std.exp() * normal), mean, log_std

    def decode(self, obs: Observation, latent: Tensor) -> Tensor:
        """Actions [..., B, A] in [-1, 1] of latent vectors [..., B, 2A]."""
        decoded: Tensor = self.decoder(obs, latent)
        return decoded.tanh()


class ContinuousBCQAgent(ActionValues):
    """Takes the best of decoded and perturbed actions: groups "vae", "perturbation" and "critic".

    Greedy candidates come from latent vectors that are drawn once and stored with the agent.
    """

    recordable = True

    latents: Tensor  # [candidates, 1, 2A]

    def __init__(self, spaces: Spaces, spec: "BCQ") -> None:
        super().__init__(spaces, {})
        space, size = spaces.observation, self.action_size
        self._range = spec.perturbation
        self.nets["vae"] = VAE(spaces, size, spec)
        self.nets["perturbation"] = Net(space, spec.hidden, size, spec.activation, extra=size)
        critics = [Net(space, spec.hidden, 1, spec.activation, extra=size) for _ in range(spec.critics)]
        self.nets["critic"] = Critics(critics)
        self.register_buffer("latents", torch.randn(spec.candidates, 1, 2 * size).clamp(-BOUND, BOUND))

    @torch.no_grad()
    def decoded(self, obs: Observation, normal: Tensor) -> Tensor:
        """Actions [..., B, A] that are common in the data, from standard normal samples [..., B, 2A]."""
        vae = self.nets["vae"]
        assert isinstance(vae, VAE)
        return vae.decode(obs, normal.clamp(-BOUND, BOUND))

    def perturbed(self, obs: Observation, action: Tensor) -> Tensor:
        """Actions [..., B, A] with the perturbation towards larger values."""
        return self._moved(action, self.net("perturbation", obs, action))

    @torch.no_grad()
    def target_perturbed(self, obs: Observation, action: Tensor) -> Tensor:
        """Actions [..., B, A] with the perturbation of the target network."""
        return self._moved(action, self.net("perturbation", obs, action, target=True))

    def _moved(self, action: Tensor, pre_tanh: Tensor) -> Tensor:
        return (action + self._range * pre_tanh.tanh()).clamp(-1, 1)

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, rng: Rng | None) -> tuple[Tensor, Any]:
        obs = self.normalize_obs(obs)
        number = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        candidates, _, latent = self.latents.shape
        shape = (candidates, number, latent)
        normal = self.latents.expand(shape) if rng is None else rng.normal(*shape)
        action = self.perturbed(obs, self.decoded(obs, normal))
        best = self.first_q(obs, action).argmax(0)  # [N]
        chosen = torch.take_along_dim(action, best[None, :, None], 0).squeeze(0)
        return self.to_space(chosen), state


@dataclass
class BCQ(AgentSpec):
    """A VAE of the data's actions, a perturbation and an ensemble of critics, for continuous BCQ."""

    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    hidden: list[int] = field(default_factory=lambda: [400, 300])  # units per hidden layer of critics and perturbation
    vae_hidden: list[int] = field(default_factory=lambda: [750, 750])  # units per hidden layer of encoder and decoder
    activation: Activation = Activation.relu  # of hidden layers
    critics: int = 2  # number of critics in the ensemble
    perturbation: float = 0.05  # largest change of an action, in halves of its range
    candidates: int = 100  # number of candidate actions when acting

    def __post_init__(self) -> None:
        if not 0 <= self.perturbation <= 2:
            raise UserError(f"perturbation: expected a value in [0, 2], got {self.perturbation}")
        for name in ("critics", "candidates"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected 1 or more, got {getattr(self, name)}")

    def build(self, spaces: Spaces) -> ContinuousBCQAgent:
        return ContinuousBCQAgent(spaces, self)
