"""Mixes several sources in one batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from lfd.batch import Batch
from lfd.errors import UserError
from lfd.rng import derive
from lfd.sources import Source, SourceContext, Stream
from lfd.sources.compound import CompositeStream
from lfd.sources.members import open_for_members


@dataclass
class Mix(Source):
    """Batches with rows of several sources."""

    fractions: dict[str, float] = field(default_factory=dict)  # source or dataset -> fraction of each batch; sum 1

    def __post_init__(self) -> None:
        if not self.fractions or abs(sum(self.fractions.values()) - 1) > 1e-6 or min(self.fractions.values()) <= 0:
            raise UserError(f"fractions: expected positive numbers that sum to 1, got {self.fractions}")

    def provides(self, sources: Mapping[str, Source]) -> frozenset[str]:
        columns = [sources[name].provides(sources) for name in self.fractions]
        # rows of parts without importance weights have weight 1
        return frozenset.intersection(*columns) | (frozenset.union(*columns) & {"weight"})

    def parts(self) -> Mapping[str, float]:
        return self.fractions

    def open(self, context: SourceContext) -> Stream:
        return MixStream(self, context)


class MixStream(CompositeStream):
    """Concatenates rows of the parts; their numbers are the fractions of the batch, rounded so that they sum to it."""

    def __init__(self, source: Mix, context: SourceContext) -> None:
        columns = context.columns & source.provides(context.sources)
        count = context.batch // context.sequence  # sequences, of length 1 by default
        fractions = list(source.fractions.values())
        ends = [round(count * sum(fractions[: index + 1])) for index in range(len(fractions))]
        self._sizes = [end - start for start, end in pairwise([0, *ends])]
        if min(self._sizes) < 1:
            key = "algo.batch_size" if source.batch_size is None else f"algo.sources.{context.name}.batch_size"
            raise UserError(
                f"{key}: expected a row for each of the fractions {dict(source.fractions)}, got "
                f"{context.batch}; raise it"
            )
        self._context = context
        self._axis = 1 if context.members > 1 else 0
        parts = {}
        for position, (name, size) in enumerate(zip(source.fractions, self._sizes, strict=True)):
            rows, seed = size * context.sequence, derive(context.seed, "part", position)
            inner = replace(
                context, name=name, batch=rows, columns=columns, seed=seed, folder=context.folder / name,
                product_folder=context.product_folder.with_name(name),
            )  # fmt: skip
            parts[name] = open_for_members(context.sources[name], inner)
        super().__init__(parts)

    def next(self) -> Batch:
        batches = [part.next() for part in self.parts.values()]
        if any("weight" in batch.__dict__ for batch in batches):
            batches = [_with_weight(batch, self._axis) for batch in batches]
        if any("state" in batch.__dict__ for batch in batches):
            batches = [self._with_state(batch) for batch in batches]
        return _concatenated(batches, self._axis)

    def _with_state(self, batch: Batch) -> Batch:
        """The batch with the initial recurrent states of its sequences, unless it has others."""
        if "state" in batch.__dict__:
            return batch
        agents, count = self._context.agents, batch.first.shape[self._axis]
        states = [agent.initial_state(count) for agent in agents]
        return batch.having(state=states[0] if len(agents) == 1 else tree_map(lambda *s: torch.stack(s), *states))

    def feedback(self, values: Mapping[str, Any]) -> None:
        """Passes the rows of "priority" and "state" to the parts they came from, and all other feedback to all."""
        start = 0
        for part, size in zip(self.parts.values(), self._sizes, strict=True):
            index = (slice(None),) * self._axis + (slice(start, start + size),)
            by_row = {name: values[name] for name in ("priority", "state") if name in values}
            part.feedback({**values, **tree_map(lambda value, index=index: value[index], by_row)})
            start += size

    def held_out(self) -> list[Batch]:
        return [batch for part in self.parts.values() for batch in part.held_out()]


def _with_weight(batch: Batch, axis: int) -> Batch:
    if "weight" in batch.__dict__:
        return batch
    column = tree_leaves(batch)[0]
    return batch.having(weight=torch.ones(column.shape[: axis + 1], device=column.device))


def _concatenated(batches: list[Batch], axis: int) -> Batch:
    """Concatenates the columns that all batches have."""
    names = [name for name in batches[0].__dict__ if all(name in other.__dict__ for other in batches)]
    columns: dict[str, Any] = {}
    for name in names:
        parts = [getattr(batch, name) for batch in batches]
        columns[name] = tree_map(lambda *columns: torch.cat(columns, axis), *parts)
    return Batch(**columns)
