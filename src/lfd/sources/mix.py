"""Several sources in one batch, by shares."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lfd.batch import Batch
from lfd.errors import Refused
from lfd.noise import derive
from lfd.sources import Source, Stream, World


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


class MixStream(Stream):
    """Rows of the parts one after the other; the sizes are the shares of the batch, rounded, and sum to it."""

    def __init__(self, source: Mix, world: World) -> None:
        columns = world.columns & source.gives(world.sources)
        ends = [round(world.batch * share) for share in _cumulative(list(source.shares.values()))]
        self._sizes = [end - start for start, end in pairwise([0, *ends])]
        if min(self._sizes) < 1:
            raise Refused(f"a batch of {world.batch} rows is too small for the shares {dict(source.shares)}")
        self._axis = 1 if world.members > 1 else 0
        self._parts: dict[str, Stream] = {}
        for position, (name, size) in enumerate(zip(source.shares, self._sizes, strict=True)):
            seed, folder = derive(world.seed, "part", position), world.folder / name
            inner = replace(world, name=name, batch=size, columns=columns, seed=seed, folder=folder)
            self._parts[name] = world.sources[name].open(inner)
        self.interacts = any(part.interacts for part in self._parts.values())

    @property
    def env_steps(self) -> int:  # type: ignore[override]
        return sum(part.env_steps for part in self._parts.values())

    @property
    def idle(self) -> bool:
        return all(part.idle for part in self._parts.values())

    def next(self) -> Batch:
        batches = [part.next() for part in self._parts.values()]
        if any("weight" in batch.__dict__ for batch in batches):
            batches = [_weighed(batch) for batch in batches]
        return _beside(batches, self._axis)

    def epoch_steps(self) -> int:
        return max(part.epoch_steps() for part in self._parts.values())

    def feedback(self, values: Mapping[str, Tensor]) -> None:
        """Rows of "priority" go to the part that they came from, all else to all parts."""
        start = 0
        for part, size in zip(self._parts.values(), self._sizes, strict=True):
            rows = {"priority": values["priority"][start : start + size]} if "priority" in values else {}
            part.feedback({**values, **rows})
            start += size

    def held_out(self) -> list[Batch]:
        return [batch for part in self._parts.values() for batch in part.held_out()]

    def boundary(self, index: int) -> None:
        for part in self._parts.values():
            part.boundary(index)

    def episodes(self) -> list[tuple[float, int]]:
        return [episode for part in self._parts.values() for episode in part.episodes()]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        states: dict[str, Any] = {}
        for name, part in self._parts.items():
            own, states[name] = part.save()
            tensors |= {f"{name}/{key}": value for key, value in own.items()}
        return tensors, states

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        for name, part in self._parts.items():
            prefix = f"{name}/"
            part.restore({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, state[name])

    def close(self) -> None:
        for part in self._parts.values():
            part.close()


def _cumulative(shares: list[float]) -> list[float]:
    return [sum(shares[: index + 1]) for index in range(len(shares))]


def _weighed(batch: Batch) -> Batch:
    if "weight" in batch.__dict__:
        return batch
    return batch.having(weight=torch.ones(len(batch.action), device=batch.action.device))


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
