"""Sources that interact, for many members: a stream of its own for each, side by side."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils import _pytree

from lfd.batch import Batch
from lfd.errors import Refused
from lfd.noise import derive
from lfd.sources import Source, Stream, World
from lfd.sources.compound import Compound


def opened(source: Source, world: World) -> Stream:
    """The source's stream for all members of the world. Raises Refused if they would all ask one person."""
    if not source.interacts or world.members == 1:
        return source.open(world)
    if any(world.experts[name].is_person for name in source.experts()):
        raise Refused(f"{world.name}: a person is asked by one learner, there are {world.members}; set members=1")
    return MembersStream(source, world)


class MembersStream(Compound):
    """Every member acts in environments of its own and learns from nothing else."""

    def __init__(self, source: Source, world: World) -> None:
        parts = {}
        for index, agent in enumerate(world.agents):
            seed, name = derive(world.seed, "member", index), str(index)
            parts[name] = source.open(
                replace(world, agents=[agent], seed=seed, folder=world.folder / name, kept=world.kept / name)
            )
        super().__init__(parts)

    def next(self) -> Batch:
        batches = [part.next() for part in self.parts.values()]
        stacked: Batch = _pytree.tree_map(lambda *columns: torch.stack(columns), *batches)
        return stacked

    def feedback(self, values: Mapping[str, Tensor]) -> None:
        for index, part in enumerate(self.parts.values()):
            part.feedback({name: value[index] for name, value in values.items()})
