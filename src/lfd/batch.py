"""Columns with names: what sources give and losses read."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

Observation = Tensor | dict[str, Tensor]


class Batch:
    """Columns of equal leading size B; [B, L] where sequences were asked for, [B, 2, L] in pairs of pieces of episodes.

    A pytree, so `torch.vmap` takes it.

    The annotations are the whole vocabulary: a loss names the columns it needs, a source those it gives,
    and the pipeline compares the two before anything is built.
    """

    obs: Observation  # [B, ...]
    action: Tensor  # [B, A] in units of the space, after Agent.prepare in [-1, 1]; int64 [B] when discrete
    reward: Tensor  # [B] what the loss learns from: the environment's or a learnt one; an n-step sum if told so
    true_reward: Tensor  # [B] the environment's own reward, never touched
    next_obs: Observation  # [B, ...] the true successor (n steps on), never a reset observation
    discount: Tensor  # [B] gamma^n, 0 where the episode terminated: the factor of the bootstrap
    terminated: Tensor  # [B] bool
    truncated: Tensor  # [B] bool
    next_action: Tensor  # [B, A] the action that the data took at next_obs
    return_to_go: Tensor  # [B] discounted sum of rewards to the end of the episode
    length: Tensor  # [B] int64: steps of the episode that the row is of
    weight: Tensor  # [B] importance weight of a prioritised draw
    log_prob: Tensor  # [B] of the action when it was taken
    value: Tensor  # [B] estimate when it was taken
    advantage: Tensor  # [B]
    value_target: Tensor  # [B] advantage + value
    first: Tensor  # [B, L] bool: an episode begins here, and the recurrent state anew
    valid: Tensor  # [B, 2, L] bool, of pairs of pieces of episodes: False in the padding behind the shorter piece
    preferred: Tensor  # [B] int64: which of the two pieces, 0 or 1, is of the better episode
    state: Any  # [B, ...] recurrent state in which each sequence was begun; a fresh one where it is not given

    def __init__(self, **columns: Any) -> None:
        unknown = columns.keys() - COLUMNS
        if unknown:
            raise TypeError(f"not columns of a batch: {sorted(unknown)}")
        self.__dict__.update(columns)

    def having(self, **columns: Any) -> "Batch":
        """A batch with these columns added or replaced."""
        return Batch(**{**self.__dict__, **columns})

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The function applied to every tensor."""
        mapped: Batch = _pytree.tree_map(function, self)
        return mapped

    def at(self, index: Any) -> "Batch":
        """Rows of it."""
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
    """An observation (or any array) of numpy as tensors on the device."""
    if isinstance(arrays, Mapping):
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return torch.from_numpy(arrays).to(device)


def rows(observation: Any, index: Any) -> Any:
    """Rows of an observation, be it one array or a dict of them."""
    if isinstance(observation, Mapping):
        return {name: column[index] for name, column in observation.items()}
    return observation[index]
