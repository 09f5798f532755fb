"""Offline source: batches drawn from a dataset."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lfd.batch import Batch
from lfd.data import Dataset
from lfd.data.episode import flatten_observations, unflatten_observations
from lfd.data.ranges import plausible_range, sample_stride
from lfd.envs.spaces import Array
from lfd.errors import UserError
from lfd.sources import TRANSITION, Source, SourceContext, Stream
from lfd.sources.columns import DatasetColumns, Rows
from lfd.sources.sampler import IndexSampler
from lfd.sources.use import SourceUse

VALIDATION_BATCH = 1_000  # rows in a validation batch


@dataclass
class DatasetSource(Source):
    """Rows of a stage's dataset, drawn uniformly with replacement."""

    dataset: str = ""  # the stage that produces the dataset; empty = the name of the source
    n_step: int = 1  # environment steps in a transition
    validation: float = 0.0  # fraction of the episodes that are held out
    constant_reward: float | None = None  # replaces the environment's reward; null = the environment's
    # difference between the returns of the best and the worst episode, to which rewards are scaled; null = not scaled;
    # 1,000 in IQL's MuJoCo tasks
    return_range: float | None = None

    def __post_init__(self) -> None:
        if self.n_step < 1:
            raise UserError(f"n_step: expected 1 or more, got {self.n_step}")
        if not 0 <= self.validation < 1:
            raise UserError(f"validation: expected a fraction in [0, 1), got {self.validation:g}")
        if self.return_range is not None:
            if not 0 < self.return_range < math.inf:
                raise UserError(f"return_range: expected a number above 0, got {self.return_range:g}")
            if self.constant_reward is not None:
                raise UserError(
                    f"return_range: expected null beside constant_reward={self.constant_reward:g}, got "
                    f"{self.return_range:g}; leave one of them out"
                )

    def provides(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return TRANSITION | {"next_action", "return_to_go", "length"}

    def products(self, name: str) -> tuple[str, ...]:
        return (self.dataset or name,)

    def check(self, use: SourceUse) -> None:
        use.refuse_constant_reward(self.constant_reward)
        if use.learned_reward and self.return_range is not None:
            raise UserError(
                f"{use.key}.return_range: expected null, as learned rewards are not scaled, got {self.return_range:g}; "
                "set it to null"
            )

    @property
    def transition_steps(self) -> int:
        return self.n_step

    @property
    def holds_out(self) -> bool:
        return self.validation > 0

    @property
    def reward_sign(self) -> str:
        if not self.constant_reward:
            return ""
        return "never negative" if self.constant_reward > 0 else "never positive"

    def open(self, context: SourceContext) -> Stream:
        return DatasetStream(self, context)


class DatasetStream(Stream):
    """Batches of rows of a dataset, or of sequences of rows."""

    def __init__(self, source: DatasetSource, context: SourceContext) -> None:
        self.context = context
        name = source.dataset or context.name
        data: Dataset = context.products[name]
        columns = DatasetColumns(data, source.n_step, context, source.constant_reward, source.return_range)
        learn, held = split(data, source.validation)
        if len(learn) < context.sequence:
            raise UserError(
                f"dataset {name!r}: expected {context.sequence} or more transitions beside the {source.validation:.0%} "
                f"held out for validation, got {len(learn)}; collect more episodes or lower validation"
            )
        self._size = len(learn)
        self._held = _as_sequences(held, context.sequence)
        self._rows = None if len(held) == 0 else torch.from_numpy(learn).to(context.device)
        columns.to_device()
        self._columns = columns
        self._sampler = IndexSampler(context)
        self._sampler.resize(len(learn))

    def next(self) -> Batch:
        index = self._sampler.next()
        return self._columns.gather(index if self._rows is None else self._rows[index])

    def epoch_steps(self) -> int:
        return max(-(-self._size // self.context.batch), 1)

    def held_out(self) -> list[Batch]:
        """Returns up to 10,000 held-out rows or sequences, the same for all members.

        They come in batches of VALIDATION_BATCH, or in one smaller batch.
        """
        if not len(self._held):
            return []
        members = self.context.members
        index = torch.from_numpy(self._held[:10_000]).to(self.context.device)
        # equal parts, so that the mean over them is the mean over rows
        parts = torch.split(index[: len(index) // VALIDATION_BATCH * VALIDATION_BATCH or None], VALIDATION_BATCH)
        return [self._columns.gather(part if members == 1 else part.expand(members, *part.shape)) for part in parts]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self._sampler.save()

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._sampler.restore(tensors, state)


def _as_sequences(rows: Rows, length: int) -> Rows:
    """Splits rows into sequences [N, length] and drops the remainder; [N] for a length of 1."""
    return rows if length == 1 else rows[: len(rows) // length * length].reshape(-1, length)


def split(dataset: Dataset, fraction: float) -> tuple[Rows, Rows]:
    """Splits a dataset into rows for training and held-out rows: whole episodes at even distances.

    At least one episode is held out if the fraction is above 0, but none of a dataset with one episode.
    """
    episodes = len(dataset.starts)
    count = round(fraction * episodes) or (1 if fraction > 0 and episodes > 1 else 0)
    held = ((np.arange(count) + 0.5) * episodes / max(count, 1)).astype(int)
    is_held = np.isin(dataset.episode_of(np.arange(len(dataset))), held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def statistics(dataset: Dataset, limit: int = 1_000_000) -> Iterator[Any]:
    """Yields observations [N, ...] for an agent's normalizer: all rows, or `limit` evenly spaced ones.

    They come in parts, as frames would exceed memory. Outliers are clipped dimension by dimension, as a single one
    would decide the scale.
    """
    count = len(dataset)
    at = np.arange(count) if count <= limit else np.linspace(0, count - 1, limit).astype(np.int64)
    bounds = _bounds(dataset, at)
    for start in range(0, len(at), 10_000):
        part = flatten_observations(dataset.observations(at[start : start + 10_000]))
        yield unflatten_observations(
            {name: np.clip(column, *bounds[name]) if name in bounds else column for name, column in part.items()}
        )


def _bounds(dataset: Dataset, at: Rows) -> dict[str, tuple[Array, Array]]:
    """Plausible lowest and highest values of each dimension, for every column of floats."""
    bounds = {}
    for name, column in flatten_observations(dataset.columns["observations"]).items():
        if column.dtype.kind == "f":
            rows = at[:: sample_stride(len(at), math.prod(column.shape[1:]))]
            low, high = plausible_range(column.take(rows, axis=0).reshape(len(rows), -1))
            shape = column.shape[1:]
            bounds[name] = low.astype(column.dtype).reshape(shape), high.astype(column.dtype).reshape(shape)
    return bounds
