"""Distributions over actions, in the few operations that losses need and `torch.vmap` allows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lfd.maths import beta_nll, gaussian_log_prob, gumbel, taken, tanh_correction
from lfd.noise import Noise

EDGE = 1 - 1e-6  # tanh reaches 1 in float32: data at the bounds is taken this far inside


class Distribution(ABC):
    """Over actions in network units: int64 [B], or [B, A] with bounds [-1, 1]."""

    @abstractmethod
    def mode(self) -> Tensor: ...

    @abstractmethod
    def sample(self, noise: Noise) -> Tensor:
        """Reparameterised where actions are continuous."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """[B]"""

    def weighed_nll(self, action: Tensor) -> Tensor:
        """[B] -log density with each dimension weighed by its variance, a constant to autograd, up to constants."""
        raise TypeError(f"a {type(self).__name__} has no variance")

    @abstractmethod
    def entropy(self) -> Tensor:
        """[B]; of the Gaussian before squashing, where there is no closed form."""


@dataclass
class Categorical(Distribution):
    logits: Tensor  # [B, A]

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def sample(self, noise: Noise) -> Tensor:
        return (self.logits + gumbel(noise.uniform(*self.logits.shape))).argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return taken(self.logits.log_softmax(-1), action)

    def entropy(self) -> Tensor:
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)


@dataclass
class Gaussian(Distribution):
    """Diagonal; the environment clips what exceeds the bounds, the density stays that of the unclipped action."""

    mean: Tensor  # [B, A]
    log_std: Tensor  # [B, A] or [A]

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, noise: Noise) -> Tensor:
        return self.mean + self.log_std.exp() * noise.normal(*self.mean.shape)

    def log_prob(self, action: Tensor) -> Tensor:
        return gaussian_log_prob(action, self.mean, self.log_std)

    def weighed_nll(self, action: Tensor) -> Tensor:
        return beta_nll(action, self.mean, self.log_std)

    def entropy(self) -> Tensor:
        per_dimension = self.log_std + 1.4189385332046727  # (1 + log 2 pi) / 2
        return per_dimension.expand_as(self.mean).sum(-1)


@dataclass
class SquashedGaussian(Distribution):
    """tanh of a diagonal Gaussian (Haarnoja et al. 2018, appendix C)."""

    mean: Tensor  # [B, A], before tanh
    log_std: Tensor  # [B, A] or [A]

    def mode(self) -> Tensor:
        return self.mean.tanh()

    def sample(self, noise: Noise) -> Tensor:
        return self._pre_tanh(noise).tanh()

    def sample_with_log_prob(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """A sample and its density, without inverting the tanh."""
        u = self._pre_tanh(noise)
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

    def _pre_tanh(self, noise: Noise) -> Tensor:
        return self.mean + self.log_std.exp() * noise.normal(*self.mean.shape)
