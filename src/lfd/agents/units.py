"""Network units: observations normalized by running statistics, continuous actions in [-1, 1]."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from lfd.batch import Batch, Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError

# Standard deviations at which a normalized observation is clipped, as outliers would dominate all other features.
# Gymnasium and Stable-Baselines3 clip at 10, which CartPole and LunarLander reach in normal episodes.
CLIP = 100.0


class Normalizer(nn.Module):
    """Normalizes vector observations by running statistics (buffers); the identity before the first `update`."""

    recordable = True

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Adds a batch of observations [N, ...] to the statistics (Chan et al. 1979)."""
        flat = x.reshape(-1, *self.mean.shape).float()
        count, mean, variance = len(flat), flat.mean(0), flat.var(0, unbiased=False)
        total = self.count + count
        delta = mean - self.mean
        moments = self.variance * self.count + variance * count + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.variance.copy_(moments / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized observations [..., *shape]."""
        z: Tensor = (x - self.mean) / (self.variance.sqrt() + 1e-3)
        limit = CLIP / (self.count > 0)  # infinite before the first update; a tensor, as recorded steps read it anew
        return z.clamp(-limit, limit)

    def inverse(self, x: Tensor) -> Tensor:
        """Observations [..., *shape] of normalized ones, where these were not clipped."""
        return x * (self.variance.sqrt() + 1e-3) + self.mean


class Units(nn.Module):
    """Converts observations and actions of two spaces to network units and back."""

    action_bias: Tensor  # [A] centers of the bounds of continuous actions
    action_scale: Tensor  # [A] half of the ranges

    def __init__(self, spaces: Spaces) -> None:
        super().__init__()
        self.spaces = spaces
        self.normalizers = nn.ModuleDict()
        if isinstance(spaces.action, gym.spaces.Box):
            low, high = spaces.action.low, spaces.action.high
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise UserError(
                    f"the action space: expected finite bounds, got {spaces.action}; bound it with a gymnasium wrapper"
                )
            self.register_buffer("action_bias", torch.as_tensor((high + low) / 2, dtype=torch.float32))
            self.register_buffer("action_scale", torch.as_tensor((high - low) / 2, dtype=torch.float32))

    def normalize_observations(self) -> None:
        """Adds normalization of vector observations, the identity until the statistics are updated."""
        space = self.spaces.observation
        parts = space.items() if isinstance(space, gym.spaces.Dict) else [("obs", space)]
        for name, part in parts:
            if isinstance(part, gym.spaces.Box) and np.issubdtype(part.dtype, np.floating):
                self.normalizers[name] = Normalizer(part.shape)

    def update_normalizers(self, obs: Observation) -> None:
        """Adds raw observations [N, ...] to the statistics of the normalizers."""
        for name, normalizer in self.normalizers.items():
            assert isinstance(normalizer, Normalizer)
            normalizer.update(obs[name] if isinstance(obs, dict) else obs)

    def normalize_obs(self, obs: Observation) -> Observation:
        """Normalizes raw observations [N, ...]."""
        if not self.normalizers:
            return obs
        if isinstance(obs, dict):
            return {name: self.normalizers[name](x) if name in self.normalizers else x for name, x in obs.items()}
        normalized: Tensor = self.normalizers["obs"](obs)
        return normalized

    def preprocess(self, batch: Batch) -> Batch:
        """Converts a source's batch [B, ...] to network units: normalized observations, actions in [-1, 1]."""
        return self._convert(batch, self.normalize_obs, lambda action: (action - self.action_bias) / self.action_scale)

    def unprocess(self, batch: Batch) -> Batch:
        """Converts a preprocessed batch [B, ...] to the source's units, for a frozen agent's own preprocessing."""
        return self._convert(batch, self._unnormalize_obs, self.to_space)

    def _convert(self, batch: Batch, obs: Callable[[Any], Any], action: Callable[[Tensor], Tensor]) -> Batch:
        """Applies functions to observations, if they are normalized, and to continuous actions."""
        functions: dict[str, Callable[[Any], Any]] = {}
        functions |= dict.fromkeys(("obs", "next_obs"), obs) if self.normalizers else {}
        functions |= dict.fromkeys(("action", "next_action", "expert_action"), action) if self.continuous else {}
        columns = batch.__dict__
        changed = {name: function(columns[name]) for name, function in functions.items() if name in columns}
        return batch.having(**changed) if changed else batch

    def _unnormalize_obs(self, obs: Observation) -> Observation:
        if isinstance(obs, dict):
            return {name: self._inverse(name, x) if name in self.normalizers else x for name, x in obs.items()}
        return self._inverse("obs", obs)

    def _inverse(self, name: str, x: Tensor) -> Tensor:
        normalizer = self.normalizers[name]
        assert isinstance(normalizer, Normalizer)
        return normalizer.inverse(x)

    def to_space(self, action: Tensor) -> Tensor:
        """Converts actions of networks, [..., A] in [-1, 1] or int64, to units of the action space."""
        return action * self.action_scale + self.action_bias if self.continuous else action

    @property
    def action_size(self) -> int:
        """Number of discrete actions, or of dimensions of continuous ones."""
        return self.spaces.action_size

    @property
    def continuous(self) -> bool:
        """True if actions are continuous."""
        return self.spaces.actions == "continuous"
