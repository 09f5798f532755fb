"""Several sources in one batch, by shares."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lfd.batch import Batch
from lfd.errors import Refused
from lfd.noise import derive
from lfd.sources import Source, Stream, World
from lfd.sources.compound import Compound
from lfd.sources.members import opened


@dataclass
class Mix(Source):
    shares: dict[str, float] = field(default_factory=dict)  # source or dataset -> share of each batch; they sum to 1

    def __post_init__(self) -> None:
        if not self.shares or abs(sum(self.shares.values()) - 1) > 1e-6 or min(self.shares.values()) <= 0:
            raise Refused(f"shares of a mix are {self.shares}; positive numbers that sum to 1 are expected")

    def gives(self, sources: Mapping[str, Source]) -> frozenset[str]:
        given = [sources[name].gives(sources) for name in self.shares]
        # Rows of a part that does not weigh its draws count 1.
        return frozenset.intersection(*given) | (frozenset.union(*given) & {"weight"})

    def parts(self) -> tuple[str, ...]:
        return tuple(self.shares)

    def open(self, world: World) -> Stream:
        return MixStream(self, world)


class MixStream(Compound):
    """Rows of the parts one after the other; the sizes are the shares of the batch, rounded, and sum to it."""

    def __init__(self, source: Mix, world: World) -> None:
        columns = world.columns & source.gives(world.sources)
        # Whole sequences: a batch of rows is one of sequences of length 1.
        count = world.batch // world.sequence
        ends = [round(count * share) for share in _cumulative(list(source.shares.values()))]
        self._sizes = [end - start for start, end in pairwise([0, *ends])]
        if min(self._sizes) < 1:
            raise Refused(f"a batch of {world.batch} rows is too small for the shares {dict(source.shares)}")
        self._axis = 1 if world.members > 1 else 0
        parts = {}
        for position, (name, size) in enumerate(zip(source.shares, self._sizes, strict=True)):
            rows, seed = size * world.sequence, derive(world.seed, "part", position)
            inner = replace(
                world, name=name, batch=rows, columns=columns, seed=seed, folder=world.folder / name,
                kept=world.kept.with_name(name),
            )  # fmt: skip
            parts[name] = opened(world.sources[name], inner)
        super().__init__(parts)

    def next(self) -> Batch:
        batches = [part.next() for part in self.parts.values()]
        if any("weight" in batch.__dict__ for batch in batches):
            batches = [_weighed(batch, self._axis) for batch in batches]
        return _beside(batches, self._axis)

    def feedback(self, values: Mapping[str, Tensor]) -> None:
        """Rows of "priority" go to the part that they came from, all else to all parts."""
        start = 0
        for part, size in zip(self.parts.values(), self._sizes, strict=True):
            rows = {"priority": values["priority"][..., start : start + size]} if "priority" in values else {}
            part.feedback({**values, **rows})
            start += size

    def held_out(self) -> list[Batch]:
        return [batch for part in self.parts.values() for batch in part.held_out()]


def _cumulative(shares: list[float]) -> list[float]:
    return [sum(shares[: index + 1]) for index in range(len(shares))]


def _weighed(batch: Batch, axis: int) -> Batch:
    if "weight" in batch.__dict__:
        return batch
    column = tree_leaves(batch)[0]
    return batch.having(weight=torch.ones(column.shape[: axis + 1], device=column.device))


def _beside(batches: list[Batch], axis: int) -> Batch:
    """Rows of several batches side by side, in the columns that all of them have."""
    names = [name for name in batches[0].__dict__ if all(name in other.__dict__ for other in batches)]
    joined: dict[str, Any] = {}
    for name in names:
        parts = [getattr(batch, name) for batch in batches]
        if isinstance(parts[0], dict):
            joined[name] = {key: torch.cat([part[key] for part in parts], axis) for key in parts[0]}
        else:
            joined[name] = torch.cat(parts, axis)
    return Batch(**joined)
