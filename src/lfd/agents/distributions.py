"""Distributions over actions, with the operations that losses need and `torch.vmap` supports."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lfd.maths import beta_nll, gather_action, gaussian_log_prob, gumbel, tanh_correction
from lfd.rng import Rng

EDGE = 1 - 1e-6  # tanh reaches 1 in float32; actions at the bounds are moved inside to this value


class Distribution(ABC):
    """A distribution over actions in network units: int64 [B], or [B, A] with bounds [-1, 1]."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The most likely actions, [B] or [B, A]."""

    @abstractmethod
    def sample(self, rng: Rng) -> Tensor:
        """Sampled actions, [B] or [B, A]; reparameterized if actions are continuous."""


class Stochastic(Distribution):
    """A distribution with probabilities or densities."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """Log probabilities or densities [B] of actions."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropies [B]; without a closed form, those of the Gaussian before tanh."""


class Reparameterized(Stochastic):
    """A distribution over continuous actions with a mean and a standard deviation of each dimension."""

    mean: Tensor  # [B, A]
    log_std: Tensor  # [B, A] or [A]

    @abstractmethod
    def sample_with_log_prob(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Sampled actions [B, A], with gradients, and their log densities [B]."""

    @abstractmethod
    def weighed_nll(self, action: Tensor) -> Tensor:
        """Negative log densities [B] up to a constant, each dimension weighted by its variance without gradient."""

    def expand(self, number: int) -> Self:
        """The same distribution for `number` samples at each observation: actions [number, B, A]."""
        return type(self)(self.mean.expand(number, *self.mean.shape), self.log_std)  # type: ignore[call-arg]


@dataclass
class Deterministic(Distribution):
    """A single action at each observation."""

    action: Tensor  # [B, A] in [-1, 1]

    def mode(self) -> Tensor:
        return self.action

    def sample(self, rng: Rng) -> Tensor:
        return self.action


@dataclass
class Categorical(Stochastic):
    """A distribution over discrete actions."""

    logits: Tensor  # [B, A]

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def sample(self, rng: Rng) -> Tensor:
        return (self.logits + gumbel(rng.uniform(*self.logits.shape))).argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return gather_action(self.logits.log_softmax(-1), action)

    def entropy(self) -> Tensor:
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)


@dataclass
class Gaussian(Reparameterized):
    """A diagonal Gaussian; the environment clips actions, and densities are those of unclipped actions."""

    mean: Tensor  # [B, A]
    log_std: Tensor  # [B, A] or [A]

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, rng: Rng) -> Tensor:
        return self.mean + self.log_std.exp() * rng.normal(*self.mean.shape)

    def sample_with_log_prob(self, rng: Rng) -> tuple[Tensor, Tensor]:
        action = self.sample(rng)
        return action, self.log_prob(action)

    def log_prob(self, action: Tensor) -> Tensor:
        return gaussian_log_prob(action, self.mean, self.log_std)

    def weighed_nll(self, action: Tensor) -> Tensor:
        return beta_nll(action, self.mean, self.log_std)

    def entropy(self) -> Tensor:
        per_dimension = self.log_std + 1.4189385332046727  # (1 + log 2 pi) / 2
        return per_dimension.expand_as(self.mean).sum(-1)


@dataclass
class SquashedGaussian(Reparameterized):
    """The tanh of a diagonal Gaussian (Haarnoja et al. 2018, appendix C)."""

    mean: Tensor  # [B, A], before tanh
    log_std: Tensor  # [B, A] or [A]

    def mode(self) -> Tensor:
        return self.mean.tanh()

    def sample(self, rng: Rng) -> Tensor:
        return self._pre_tanh(rng).tanh()

    def sample_with_log_prob(self, rng: Rng) -> tuple[Tensor, Tensor]:
        u = self._pre_tanh(rng)
        return u.tanh(), gaussian_log_prob(u, self.mean, self.log_std) - tanh_correction(u)

    def log_prob(self, action: Tensor) -> Tensor:
        u = self._before_tanh(action)
        return gaussian_log_prob(u, self.mean, self.log_std) - tanh_correction(u)

    def weighed_nll(self, action: Tensor) -> Tensor:
        return beta_nll(self._before_tanh(action), self.mean, self.log_std)

    def entropy(self) -> Tensor:
        return Gaussian(self.mean, self.log_std).entropy()

    def _before_tanh(self, action: Tensor) -> Tensor:
        return torch.atanh(action.clamp(-EDGE, EDGE))

    def _pre_tanh(self, rng: Rng) -> Tensor:
        return self.mean + self.log_std.exp() * rng.normal(*self.mean.shape)
