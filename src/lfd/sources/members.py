"""Interacting sources for several members: each member has its own stream."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree

from lfd.batch import Batch
from lfd.errors import UserError
from lfd.rng import derive
from lfd.sources import Source, SourceContext, Stream
from lfd.sources.compound import CompositeStream


def open_for_members(source: Source, context: SourceContext) -> Stream:
    """Opens a source for all members of the context. Raises UserError if several members would ask one person."""
    if not source.interacts or context.members == 1:
        return source.open(context)
    if any(context.products[name].is_person for name in source.experts()):
        raise UserError(
            f"algo.sources.{context.name}: expected one member, as its expert is a person, got {context.members}; set "
            "members=1"
        )
    return MembersStream(source, context)


class MembersStream(CompositeStream):
    """One stream for each member, which acts in its own environments and learns from its own data."""

    def __init__(self, source: Source, context: SourceContext) -> None:
        parts = {}
        for index, agent in enumerate(context.agents):
            seed, name = derive(context.seed, "member", index), str(index)
            parts[name] = source.open(
                replace(
                    context,
                    agents=[agent],
                    member=index,
                    seed=seed,
                    folder=context.folder / name,
                    product_folder=context.product_folder / name,
                )
            )
        super().__init__(parts)

    def next(self) -> Batch:
        batches = [part.next() for part in self.parts.values()]
        stacked: Batch = _pytree.tree_map(lambda *columns: torch.stack(columns), *batches)
        return stacked

    def feedback(self, values: Mapping[str, Any]) -> None:
        for index, part in enumerate(self.parts.values()):
            part.feedback(_pytree.tree_map(lambda value, index=index: value[index], dict(values)))
