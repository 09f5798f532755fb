"""Offline source: batches drawn from a dataset."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from lfd.data import Dataset
from lfd.data.episode import flatten_observations, unflatten_observations
from lfd.data.ranges import plausible_range, sample_stride
from lfd.envs.spaces import Array
from lfd.errors import UserError
from lfd.sources import TRANSITION, Source, SourceContext, Stream
from lfd.sources.columns import Rows
from lfd.sources.dataset_streams import EpisodeStreams, RandomRows, WholeEpisodes
from lfd.sources.use import SourceUse


class Sequences(Enum):
    """Sequences for an agent with a memory."""

    windows = "windows"  # algo.sequence_length consecutive rows from any row
    streams = "streams"  # consecutive sequences of whole episodes, with the recurrent state of the batch before
    episodes = "episodes"  # whole episodes of up to algo.sequence_length rows, padded to the longest of the batch


@dataclass
class DatasetSource(Source):
    """Rows of a stage's dataset, drawn uniformly with replacement, or sequences of them.

    A batch of streams has batch_size // sequence_length of them. Each walks through one episode after the other; their
    order is random, and each episode comes once in a pass over the data. The column `state` is the recurrent state in
    which the last batch ended. A batch of whole episodes has as many, in such an order; the column `valid` is False in
    the padding.
    """

    dataset: str = ""  # the stage that produces the dataset; empty = the name of the source
    n_step: int = 1  # environment steps in a transition
    validation: float = 0.0  # fraction of the episodes that are held out
    constant_reward: float | None = None  # replaces the environment's reward; null = the environment's
    # difference between the returns of the best and the worst episode, to which rewards are scaled; null = not scaled;
    # 1,000 in IQL's MuJoCo tasks
    return_range: float | None = None
    # sequences for an agent with a memory: windows, streams, episodes
    sequences: Sequences = field(default=Sequences.windows, metadata={"key": "set"})

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
        if self.sequences is not Sequences.windows and use.sequence == 1:
            raise UserError(
                f"{use.key}.sequences: expected windows for an agent without memory (algo.sequence_length=1), got "
                f"{self.sequences.value}; leave it out"
            )
        if self.sequences is Sequences.episodes and use.members > 1:
            raise UserError(
                f"{use.key}.sequences: expected windows or streams, as members > 1 step together and their episodes "
                "have different lengths, got episodes; set it to streams"
            )
        if self.sequences is Sequences.episodes and use.mix is not None:
            raise UserError(
                f"{use.key}.sequences: expected windows or streams in a mix ({use.mix}), whose sequences have one "
                "length, got episodes; set it to streams"
            )
        if use.learned_reward and self.return_range is not None:
            raise UserError(
                f"{use.key}.return_range: expected null, as learned rewards are not scaled, got {self.return_range:g}; "
                "set it to null"
            )

    @property
    def transition_steps(self) -> int:
        return self.n_step

    @property
    def fixed_shapes(self) -> bool:
        return self.sequences is not Sequences.episodes

    @property
    def holds_out(self) -> bool:
        return self.validation > 0

    @property
    def reward_sign(self) -> str:
        if not self.constant_reward:
            return ""
        return "never negative" if self.constant_reward > 0 else "never positive"

    def open(self, context: SourceContext) -> Stream:
        match self.sequences:
            case Sequences.windows:
                return RandomRows(self, context)
            case Sequences.streams:
                return EpisodeStreams(self, context)
            case Sequences.episodes:
                return WholeEpisodes(self, context)


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
