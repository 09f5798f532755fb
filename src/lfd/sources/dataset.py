"""Offline: batches drawn from a dataset, on the device when it fits there."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lfd.batch import Batch
from lfd.data import Dataset
from lfd.data.episode import Array, flatten, unflatten
from lfd.data.ranges import plausible, sampled
from lfd.errors import Refused
from lfd.sources import TRANSITION, Source, Stream, World
from lfd.sources.draws import Draws
from lfd.sources.table import Rows, Table

HELD_OUT = 1_000  # rows in a validation batch


@dataclass
class Demonstrations(Source):
    of: str = ""  # the stage whose dataset it is; the source's own name when empty
    n_step: int = 1
    validation: float = 0.0  # share of the episodes held out
    reward: float | None = None  # a constant in place of the environment's
    # Rewards are scaled until the returns of the best and the worst episode lie this far apart; 1,000 in IQL's MuJoCo.
    return_range: float | None = None

    def __post_init__(self) -> None:
        if self.n_step < 1 or not 0 <= self.validation < 1:
            raise Refused(
                f"n_step is {self.n_step} and validation {self.validation:g}; 1 or more, and a share in [0, 1), are "
                "expected"
            )
        if self.return_range is not None and (not 0 < self.return_range < math.inf or self.reward is not None):
            raise Refused(
                f"return_range is {self.return_range:g}; a number above 0 is expected, and no constant reward beside it"
            )

    def gives(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return TRANSITION | {"next_action", "return_to_go", "length"}

    def products(self, name: str) -> tuple[str, ...]:
        return (self.of or name,)

    @property
    def one_sided(self) -> str:
        if not self.reward:
            return ""
        return "never negative" if self.reward > 0 else "never positive"

    def open(self, world: World) -> Stream:
        return DemonstrationStream(self, world)


class DemonstrationStream(Stream):
    def __init__(self, source: Demonstrations, world: World) -> None:
        self.world = world
        name = source.of or world.name
        table = Table(world.datasets[name], source.n_step, world, source.reward, source.return_range)
        learn, held = split(world.datasets[name], source.validation)
        if len(learn) < world.sequence:
            raise Refused(
                f"dataset {name!r} has {len(learn)} transitions to learn from beside the {source.validation:.0%} held "
                f"out for validation; {world.sequence} or more are expected"
            )
        self._size = len(learn)
        self._held = _runs(held, world.sequence)
        self._rows = None if len(held) == 0 else torch.from_numpy(learn).to(world.device)
        table.reside()
        self._table = table
        self._draws = Draws(world)
        self._draws.over(len(learn))

    def next(self) -> Batch:
        index = self._draws.next()
        return self._table.gather(index if self._rows is None else self._rows[index])

    def epoch_steps(self) -> int:
        return max(-(-self._size // self.world.batch), 1)

    def held_out(self) -> list[Batch]:
        """At most 10,000 held-out rows or sequences in batches of HELD_OUT, or one smaller; members share them."""
        if not len(self._held):
            return []
        members = self.world.members
        index = torch.from_numpy(self._held[:10_000]).to(self.world.device)
        # Equal parts, so that the mean over them is the mean over rows.
        parts = torch.split(index[: len(index) // HELD_OUT * HELD_OUT or None], HELD_OUT)
        return [self._table.gather(part if members == 1 else part.expand(members, *part.shape)) for part in parts]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self._draws.save()

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._draws.restore(tensors, state)


def _runs(rows: Rows, length: int) -> Rows:
    """Rows as sequences [N, length] side by side, without what is left over; [N] for a length of 1."""
    return rows if length == 1 else rows[: len(rows) // length * length].reshape(-1, length)


def split(dataset: Dataset, share: float) -> tuple[Rows, Rows]:
    """Rows to learn from and rows held out: whole episodes at even distances.

    At least one if a share is asked for, but none of a dataset that has only one.
    """
    episodes = len(dataset.starts)
    count = round(share * episodes) or (1 if share > 0 and episodes > 1 else 0)
    held = ((np.arange(count) + 0.5) * episodes / max(count, 1)).astype(int)
    is_held = np.isin(dataset.episode_of(np.arange(len(dataset))), held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def statistics(dataset: Dataset, limit: int = 1_000_000) -> Iterator[Any]:
    """Observations [N, ...] from which an agent's normaliser is made: all rows, or `limit` evenly spaced ones.

    They come in parts, because observations with frames in them exceed memory. Values that lie far from all others of
    their dimension are brought nearer: one glitch would decide the scale of all the rest.
    """
    count = len(dataset)
    at = np.arange(count) if count <= limit else np.linspace(0, count - 1, limit).astype(np.int64)
    bounds = _bounds(dataset, at)
    for start in range(0, len(at), 10_000):
        part = flatten(dataset.observations(at[start : start + 10_000]))
        yield unflatten(
            {name: np.clip(column, *bounds[name]) if name in bounds else column for name, column in part.items()}
        )


def _bounds(dataset: Dataset, at: Rows) -> dict[str, tuple[Array, Array]]:
    """By column of floats, the lowest and the highest value of each dimension that lies not far from all others."""
    found = {}
    for name, column in flatten(dataset.columns["observations"]).items():
        if column.dtype.kind == "f":
            rows = at[:: sampled(len(at), math.prod(column.shape[1:]))]
            low, high = plausible(column.take(rows, axis=0).reshape(len(rows), -1))
            shape = column.shape[1:]
            found[name] = low.astype(column.dtype).reshape(shape), high.astype(column.dtype).reshape(shape)
    return found
