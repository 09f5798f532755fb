"""Agents of BCQ: the best of those actions that a model of the data thinks likely."""

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
from lfd.errors import Refused
from lfd.maths import likely
from lfd.nets import Activation, Net, encoder, features_of, has_frames, mlp
from lfd.noise import Noise

BOUND = 0.5  # of latent draws: the decoder is asked only for what is common in the data


class ValuesAndImitation(nn.Module):
    """Action values and the logits of who took the data's actions, [B, A] each; frames are encoded once for both."""

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
    """Acts by the largest value among actions that are likely in the data: all in group "q"."""

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
        """Who took the data's actions."""
        return Categorical(self.net("q", obs)[1])

    def best(self, obs: Observation) -> Tensor:
        """int64 [B]: the likely action of the largest value, at observations in network units."""
        allowed = likely(self.imitation(obs).logits, self._threshold)
        return torch.where(allowed, self.q(obs), -torch.inf).argmax(-1)

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, noise: Noise | None) -> tuple[Tensor, Any]:
        return self.best(self.observe(obs)), state


@dataclass
class BCQNet(AgentSpec):
    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    hidden: list[int] = field(
        default_factory=lambda: [128, 128]
    )  # units of each hidden layer; none behind the Nature CNN
    activation: Activation = Activation.relu
    threshold: float = 0.3  # an action counts from this share of the likeliest one's probability; 0 = all do

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise Refused(f"threshold is {self.threshold}; a share in [0, 1) is expected")

    def build(self, spaces: Spaces) -> DiscreteBCQAgent:
        return DiscreteBCQAgent(spaces, self)


class VAE(nn.Module):
    """A conditional variational autoencoder of the data's actions, its latent vector twice as long as they."""

    recordable = True

    def __init__(self, spaces: Spaces, actions: int, spec: "BCQ") -> None:
        super().__init__()
        self.latent = 2 * actions
        self.encoder = Net(spaces.observation, spec.vae_hidden, 2 * self.latent, spec.activation, extra=actions)
        self.decoder = Net(spaces.observation, spec.vae_hidden, actions, spec.activation, extra=self.latent)

    def forward(self, obs: Observation, action: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The action as it comes back, [B, A]; mean and log standard deviation of its latent vector, [B, 2A]."""
        mean, log_std = self.encoder(obs, action).chunk(2, dim=-1)
        log_std = log_std.clamp(-4, 15)
        return self.decode(obs, mean + log_std.exp() * normal), mean, log_std

    def decode(self, obs: Observation, latent: Tensor) -> Tensor:
        """[..., B, A] in [-1, 1] of latent vectors [..., B, 2A]"""
        decoded: Tensor = self.decoder(obs, latent)
        return decoded.tanh()


class ContinuousBCQAgent(ActionValues):
    """Acts by the best of decoded and perturbed actions: groups "vae", "perturbation" and "critic".

    Without noise the candidates are those of latent vectors that were drawn once and are kept with the agent.
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
        """Actions [..., B, A] that are common in the data, from standard normal draws [..., B, 2A]."""
        vae = self.nets["vae"]
        assert isinstance(vae, VAE)
        return vae.decode(obs, normal.clamp(-BOUND, BOUND))

    def perturbed(self, obs: Observation, action: Tensor) -> Tensor:
        """Actions [..., B, A] moved by a little towards larger values."""
        return self._moved(action, self.net("perturbation", obs, action))

    @torch.no_grad()
    def target_perturbed(self, obs: Observation, action: Tensor) -> Tensor:
        """The same by the slow copy."""
        return self._moved(action, self.net("perturbation", obs, action, target=True))

    def _moved(self, action: Tensor, pre_tanh: Tensor) -> Tensor:
        return (action + self._range * pre_tanh.tanh()).clamp(-1, 1)

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, noise: Noise | None) -> tuple[Tensor, Any]:
        seen = self.observe(obs)
        number = len(next(iter(seen.values())) if isinstance(seen, dict) else seen)
        candidates, _, latent = self.latents.shape
        shape = (candidates, number, latent)
        normal = self.latents.expand(shape) if noise is None else noise.normal(*shape)
        action = self.perturbed(seen, self.decoded(seen, normal))
        best = self.first_q(seen, action).argmax(0)  # [N]
        chosen = torch.take_along_dim(action, best[None, :, None], 0).squeeze(0)
        return self.to_space(chosen), state


@dataclass
class BCQ(AgentSpec):
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    hidden: list[int] = field(default_factory=lambda: [400, 300])  # units of critics and perturbation
    vae_hidden: list[int] = field(default_factory=lambda: [750, 750])  # units of encoder and decoder
    activation: Activation = Activation.relu
    critics: int = 2
    perturbation: float = 0.05  # how far an action may be moved, in halves of its range
    candidates: int = 100  # actions to choose from when acting

    def __post_init__(self) -> None:
        if not 0 <= self.perturbation <= 2 or min(self.critics, self.candidates) < 1:
            raise Refused(f"{self}: perturbation in [0, 2], critics and candidates from 1 are expected")

    def build(self, spaces: Spaces) -> ContinuousBCQAgent:
        return ContinuousBCQAgent(spaces, self)
