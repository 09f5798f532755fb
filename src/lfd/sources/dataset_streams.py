"""Batches of rows of a dataset, or of sequences of them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree

from lfd.batch import Batch
from lfd.data import Dataset
from lfd.errors import UserError
from lfd.sources import SourceContext, Stream
from lfd.sources.columns import DatasetColumns, Rows
from lfd.sources.episode_walk import EpisodeWalk
from lfd.sources.sampler import IndexSampler

if TYPE_CHECKING:
    from lfd.sources.dataset import DatasetSource

VALIDATION_BATCH = 1_000  # rows in a validation batch
MAX_VALIDATION_ROWS = 10_000  # rows in all of them


class DatasetStream(Stream, ABC):
    """The rows of a dataset that are not held out."""

    def __init__(self, source: DatasetSource, context: SourceContext) -> None:
        self.context = context
        self.name = source.dataset or context.name
        self.data: Dataset = context.products[self.name]
        columns = DatasetColumns(self.data, source.n_step, context, source.constant_reward, source.return_range)
        self.learn, self.held = split(self.data, source.validation)
        if len(self.learn) < context.sequence:
            raise UserError(
                f"dataset {self.name!r}: expected {context.sequence} or more transitions beside the "
                f"{source.validation:.0%} held out for validation, got {len(self.learn)}; collect more episodes or "
                "lower validation"
            )
        columns.to_device()
        self._columns = columns
        self._demo_steps = 0

    @property
    def demo_steps(self) -> int:
        return self._demo_steps

    def gather(self, index: Tensor) -> Batch:
        """Returns the rows of the next batch at an index [B] or [B, L], and counts them."""
        self._demo_steps += index.numel()
        return self._columns.gather(index)

    def longest_episode(self) -> int:
        """Steps of the longest episode."""
        return int((self.data.ends - self.data.starts).max())

    def epoch_steps(self) -> int:
        return max(-(-len(self.learn) // self.context.batch), 1)

    def held_out(self) -> list[Batch]:
        """Returns up to MAX_VALIDATION_ROWS held-out rows [B, ...] or windows [B, L, ...], the same for all members.

        They come in batches of VALIDATION_BATCH, or in one smaller batch.
        """
        held = _as_sequences(self.held, self.context.sequence)
        if not len(held):
            return []
        index = torch.from_numpy(held[:MAX_VALIDATION_ROWS]).to(self.context.device)
        # equal parts, so that the mean over them is the mean over rows
        parts = torch.split(index[: len(index) // VALIDATION_BATCH * VALIDATION_BATCH or None], VALIDATION_BATCH)
        return [self._columns.gather(self.for_members(part)) for part in parts]

    def for_members(self, same: Tensor) -> Tensor:
        """Returns a tensor [...] that is the same for all members; with several, after an axis [members]."""
        members = self.context.members
        return same if members == 1 else same.expand(members, *same.shape)

    def of_members(self, rows: NDArray[Any]) -> Tensor:
        """Returns an array [members, ...] as a tensor, which has no axis of members for a single one."""
        return torch.from_numpy(rows if self.context.members > 1 else rows[0]).to(self.context.device)

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"demo_steps": self._demo_steps}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._demo_steps = int(state["demo_steps"])


class RandomRows(DatasetStream):
    """Rows, or windows of consecutive rows, drawn uniformly with replacement."""

    def __init__(self, source: DatasetSource, context: SourceContext) -> None:
        super().__init__(source, context)
        if context.sequence > (longest := self.longest_episode()):
            raise UserError(
                f"algo.sequence_length: expected at most {longest}, the longest episode of dataset {self.name!r}, got "
                f"{context.sequence}; lower it, or set algo.sources.{context.name}.sequences=streams, which go on from "
                "one episode to the next"
            )
        self._rows = None if len(self.held) == 0 else torch.from_numpy(self.learn).to(context.device)
        self._sampler = IndexSampler(context)
        self._sampler.resize(len(self.learn))

    def next(self) -> Batch:
        index = self._sampler.next()
        return self.gather(index if self._rows is None else self._rows[index])

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        sampler, position = self._sampler.save()
        saved, state = super().save()
        return saved | sampler, state | position

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().restore(tensors, state)
        self._sampler.restore(tensors, state)


class EpisodeStreams(DatasetStream):
    """The next sequence of each of B streams of episodes, and the recurrent state in which its last one ended."""

    def __init__(self, source: DatasetSource, context: SourceContext) -> None:
        super().__init__(source, context)
        self._walk = EpisodeWalk(self.data, self.learn, context)
        states = [agent.initial_state(self._walk.count) for agent in context.agents]
        self._state = states[0] if context.members == 1 else _pytree.tree_map(lambda *s: torch.stack(s), *states)

    def next(self) -> Batch:
        return self.gather(self.of_members(self._walk.stream_rows())).having(state=self._state)

    def feedback(self, values: Mapping[str, Any]) -> None:
        if "state" in values:
            self._state = _pytree.tree_map(torch.clone, values["state"])

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        walk, position = self._walk.save()
        saved, state = super().save()
        leaves = {f"state{index}": leaf for index, leaf in enumerate(_pytree.tree_leaves(self._state))}
        return saved | walk | leaves, state | position

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().restore(tensors, state)
        self._walk.restore(tensors, state)
        leaves, structure = _pytree.tree_flatten(self._state)
        leaves = [tensors[f"state{index}"].to(leaf.device) for index, leaf in enumerate(leaves)]
        self._state = _pytree.tree_unflatten(leaves, structure)


class WholeEpisodes(DatasetStream):
    """Whole episodes [B, T], padded to the longest of the batch."""

    def __init__(self, source: DatasetSource, context: SourceContext) -> None:
        super().__init__(source, context)
        if context.sequence < (longest := self.longest_episode()):
            raise UserError(
                f"algo.sequence_length: expected {longest} or more, the longest episode of dataset {self.name!r}, for "
                f"algo.sources.{context.name}.sequences=episodes, got {context.sequence}; raise it, or set "
                "sequences=streams"
            )
        self._walk = EpisodeWalk(self.data, self.learn, context)

    def next(self) -> Batch:
        rows, valid = self._walk.next_episodes()
        self._demo_steps += int(valid.sum())
        return self._padded(self.of_members(rows), self.of_members(valid))

    def _padded(self, rows: Tensor, valid: Tensor) -> Batch:
        batch = self._columns.gather(rows)
        return batch.having(first=batch.first & valid, valid=valid)

    def epoch_steps(self) -> int:
        return -(-len(self._walk.episodes) // self._walk.count)

    def held_out(self) -> list[Batch]:
        """Returns one batch [B, T, ...] of held-out episodes of up to MAX_VALIDATION_ROWS rows."""
        count = max(MAX_VALIDATION_ROWS // self.longest_episode(), 1)
        episodes = np.unique(self.data.episode_of(self.held)).astype(np.int64)[:count]
        if not len(episodes):
            return []
        rows, valid = (torch.from_numpy(part).to(self.context.device) for part in self._walk.padded(episodes))
        return [self._padded(self.for_members(rows), self.for_members(valid))]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        walk, position = self._walk.save()
        saved, state = super().save()
        return saved | walk, state | position

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().restore(tensors, state)
        self._walk.restore(tensors, state)


def _as_sequences(rows: Rows, length: int) -> Rows:
    """Splits rows into sequences [N, length] and drops the remainder; [N] for a length of 1."""
    return rows if length == 1 else rows[: len(rows) // length * length].reshape(-1, length)


def split(dataset: Dataset, fraction: float) -> tuple[Rows, Rows]:
    """Splits a dataset into rows int64 [N] for training and held-out rows: whole episodes at even distances.

    At least one episode is held out if the fraction is above 0, but none of a dataset with one episode.
    """
    episodes = len(dataset.starts)
    count = round(fraction * episodes) or (1 if fraction > 0 and episodes > 1 else 0)
    held = ((np.arange(count) + 0.5) * episodes / max(count, 1)).astype(int)
    is_held = np.isin(dataset.episode_of(np.arange(len(dataset))), held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
