"""Prioritized experience replay (Schaul et al. 2016)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lfd.envs.spaces import Array
from lfd.schedule import parse_schedule
from lfd.sources.ring_buffer import RingBuffer


class SumTree:
    """Non-negative weights of `size` leaves, which are drawn in proportion (Schaul et al. 2016, appendix B.2.1)."""

    def __init__(self, size: int) -> None:
        self._leaves = 1 << max(size - 1, 1).bit_length()
        self._nodes = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._nodes[1])

    def set(self, leaf: Array, weight: Array) -> None:
        """Sets the weights [B] of leaves [B]."""
        node = leaf + self._leaves
        self._nodes[node] = weight
        while node[0] > 1:
            node = np.unique(node // 2)
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

    def weights(self, leaf: Array) -> Array:
        """Returns the weights [B] of leaves [B]."""
        weights: Array = self._nodes[leaf + self._leaves]
        return weights

    def find(self, fraction: Array) -> Array:
        """Returns the leaves [B] at fractions [B], in [0, 1), of the cumulative weight."""
        node, rest = np.ones(len(fraction), np.int64), fraction * self.total
        while node[0] < self._leaves:
            left = self._nodes[2 * node]
            # sums are rounded, so the rest may exceed the left one although the right leaves have no weight
            right = (rest >= left) & (self._nodes[2 * node + 1] > 0)
            rest = np.where(right, rest - left, rest)
            node = 2 * node + right
        leaf: Array = node - self._leaves
        return leaf

    def save(self) -> Array:
        """Returns a copy of the leaves' weights [leaves]."""
        return self._nodes[self._leaves :].copy()

    def restore(self, leaves: Array) -> None:
        """Restores weights [leaves] from `save`."""
        self._nodes[self._leaves :] = leaves
        for node in range(self._leaves - 1, 0, -1):
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]


class Priorities:
    """Priorities of the transitions in a ring buffer: the n-th of an environment has leaf n modulo the capacity."""

    def __init__(self, alpha: float, beta: Any, ring: RingBuffer) -> None:
        self._alpha, self._beta, self._ring = alpha, parse_schedule(beta, "per_beta"), ring
        self._tree = SumTree(ring.num_envs * ring.capacity)
        self._largest = 1.0

    def add(self, envs: Array) -> None:
        """Gives the newest transitions of these environments [B] the largest priority so far."""
        leaf = envs * self._ring.capacity + (self._ring.count[envs] - 1) % self._ring.capacity
        if len(leaf):
            self._tree.set(leaf, np.full(len(leaf), self._largest**self._alpha))

    def draw(self, fraction: Array, step: int) -> tuple[Array, Array]:
        """Returns the leaves [B] at fractions [B] and their importance weights [B], the largest of which is 1."""
        leaf = self._tree.find(fraction)
        weight = (len(self._ring) * self._tree.weights(leaf) / self._tree.total) ** -self._beta(step)
        return leaf, (weight / weight.max()).astype(np.float32)

    def locate(self, leaf: Array) -> tuple[Array, Array]:
        """Returns environments [B] and rows [B] of leaves [B]."""
        env, slot = np.divmod(leaf, self._ring.capacity)
        newest = self._ring.count[env] - 1
        nth = newest - (newest - slot) % self._ring.capacity
        return env, self._ring.position(env, nth)

    def update(self, leaf: Array, error: Array) -> None:
        """Sets the priorities of leaves [B] by their absolute errors [B]."""
        priority = error + 1e-6
        self._largest = max(self._largest, float(priority.max()))
        self._tree.set(leaf, priority**self._alpha)

    def save(self) -> Tensor:
        """Returns the state."""
        return torch.from_numpy(np.append(self._tree.save(), self._largest))

    def restore(self, saved: Tensor) -> None:
        """Restores a state from `save`."""
        leaves = saved.numpy()
        self._tree.restore(leaves[:-1])
        self._largest = float(leaves[-1])
