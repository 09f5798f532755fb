"""Learned rewards: networks of transitions, and rewards that depend on the earlier steps of an episode."""

from abc import ABC, abstractmethod
from enum import Enum

import torch
from torch import Tensor, nn

from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.nets import Activation, OneHot, encoder, features_of, mlp


class Inputs(Enum):
    """Inputs of a reward."""

    obs = "obs"
    obs_action = "obs_action"
    obs_next_obs = "obs_next_obs"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a batch that are inputs."""
        return {"obs": ("obs",), "obs_action": ("obs", "action"), "obs_next_obs": ("obs", "next_obs")}[self.value]


class Features(nn.Module):
    """Features of preprocessed transitions, `size` numbers each; discrete actions are one-hot."""

    recordable = True

    def __init__(self, spaces: Spaces, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.encoder = encoder(spaces.observation)
        self.size = features_of(self.encoder)
        self.one_hot = OneHot(int(spaces.action.n)) if spaces.actions == "discrete" else None  # type: ignore[attr-defined]
        if inputs is Inputs.obs_action:
            self.size += self.one_hot.features if self.one_hot else int(spaces.action.shape[0])  # type: ignore[index]
        elif inputs is Inputs.obs_next_obs:
            self.size *= 2

    def features(self, batch: Batch) -> Tensor:
        """Features [B, size]: encoded observations, with actions or next observations as `inputs` says."""
        features = [self.encoder(batch.obs)]
        if self.inputs is Inputs.obs_action:
            # clipped as in an environment: a Gaussian policy exceeds the bounds, recorded actions do not
            features.append(self.one_hot(batch.action) if self.one_hot else batch.action.clamp(-1, 1))
        elif self.inputs is Inputs.obs_next_obs:
            features.append(self.encoder(batch.next_obs))
        return torch.cat(features, dim=-1)


class RewardNet(Features):
    """A reward network."""

    recordable = True

    def __init__(self, spaces: Spaces, hidden: list[int], activation: Activation, inputs: Inputs) -> None:
        super().__init__(spaces, inputs)
        self.head = mlp([self.size, *hidden, 1], activation)

    def forward(self, batch: Batch) -> Tensor:
        """Rewards [B] of preprocessed transitions [B, ...]."""
        reward: Tensor = self.head(self.features(batch)).squeeze(-1)
        return reward


class RecurrentReward(nn.Module, ABC):
    """A reward that depends on the earlier steps of an episode; it is called once per step, in order."""

    @abstractmethod
    def initial_state(self, number: int) -> Tensor:
        """The recurrent state [number, D] at the start of `number` episodes."""

    @abstractmethod
    def forward(self, batch: Batch, state: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards [B] of the next preprocessed transition of each episode, and the next recurrent state [B, D]."""
