"""Batches: named columns that sources provide and losses read."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

Observation = Tensor | dict[str, Tensor]


class Batch:
    """Columns of equal leading size B; [B, L] for sequences, [B, 2, L] for pairs of segments of episodes.

    A pytree, so `torch.vmap` takes it. The annotations list all columns: a loss names the columns that it needs, a
    source those that it provides, and a training stage compares the two before it builds anything.
    """

    obs: Observation  # [B, ...]
    action: Tensor  # [B, A] in units of the space, after Agent.preprocess in [-1, 1]; int64 [B] when discrete
    reward: Tensor  # [B] reward for learning: the environment's, a constant or a learned one; summed over n steps
    true_reward: Tensor  # [B] the environment's reward of one step, unchanged
    next_obs: Observation  # [B, ...] the true successor n steps later, never a reset observation
    discount: Tensor  # [B] gamma^n, the factor of the bootstrap; 0 if the episode terminated
    terminated: Tensor  # [B] bool
    truncated: Tensor  # [B] bool
    next_action: Tensor  # [B, A] action of the data at next_obs
    expert_action: Tensor  # [B, A] action that an expert would take at obs, in the units of `action`
    return_to_go: Tensor  # [B] discounted sum of rewards to the end of the episode
    length: Tensor  # [B] int64: steps of the row's episode
    weight: Tensor  # [B] importance weight of prioritized sampling
    log_prob: Tensor  # [B] log probability of the action under the policy that took it
    value: Tensor  # [B] value estimate of the agent that took the action
    advantage: Tensor  # [B]
    value_target: Tensor  # [B] advantage + value
    first: Tensor  # [B, L] bool: first step of an episode, where the recurrent state restarts
    # [B, 2, L] bool, in pairs of segments: False in the padding behind the shorter segment; [B, L], in whole episodes
    valid: Tensor
    preferred: Tensor  # [B] int64: index, 0 or 1, of the segment from the better episode
    state: Any  # [B, ...] recurrent state at the start of each sequence; the initial state if absent

    def __init__(self, **columns: Any) -> None:
        unknown = columns.keys() - COLUMNS
        if unknown:
            raise TypeError(f"expected columns of Batch, got {sorted(unknown)}")
        self.__dict__.update(columns)

    def having(self, **columns: Any) -> "Batch":
        """Returns a batch with these columns [B, ...] added or replaced."""
        return Batch(**{**self.__dict__, **columns})

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Returns a batch with the function applied to every tensor [B, ...]."""
        mapped: Batch = _pytree.tree_map(function, self)
        return mapped

    def at(self, index: Any) -> "Batch":
        """Returns the rows at an index of the leading axes: of columns [B, ...], `column[index]`."""
        return self.map(lambda column: column[index])

    def __repr__(self) -> str:
        return f"Batch({', '.join(self.__dict__)})"


COLUMNS = frozenset(Batch.__annotations__)


def _flatten(batch: Batch) -> tuple[list[Any], tuple[str, ...]]:
    return list(batch.__dict__.values()), tuple(batch.__dict__)


def _unflatten(values: Any, names: tuple[str, ...]) -> Batch:
    batch = Batch.__new__(Batch)
    batch.__dict__.update(zip(names, values, strict=True))
    return batch


_pytree.register_pytree_node(Batch, _flatten, _unflatten, serialized_type_name="lfd.Batch")


def tensors(arrays: Any, device: torch.device) -> Any:
    """Converts a NumPy array, or a dict of arrays, to tensors on the device."""
    if isinstance(arrays, Mapping):
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return torch.from_numpy(arrays).to(device)


def rows(observation: Any, index: Any) -> Any:
    """Returns the rows at `index` of an observation, which is an array or a dict of arrays."""
    if isinstance(observation, Mapping):
        return {name: column[index] for name, column in observation.items()}
    return observation[index]
