"""A stream that is composed of others: the parts of a mix, or one stream for each member."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lfd.sources import Collector, Stream


class CompositeStream(Stream, ABC):
    """Saves and restores its parts and has their collectors."""

    def __init__(self, parts: Mapping[str, Stream]) -> None:
        self.parts = dict(parts)

    @abstractmethod
    def feedback(self, values: Mapping[str, Any]) -> None: ...

    @property
    def demo_steps(self) -> int:
        return sum(part.demo_steps for part in self.parts.values())

    @property
    def collectors(self) -> tuple[Collector, ...]:
        return tuple(collector for part in self.parts.values() for collector in part.collectors)

    def epoch_steps(self) -> int:
        return max(part.epoch_steps() for part in self.parts.values())

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        states: dict[str, Any] = {}
        for name, part in self.parts.items():
            saved, states[name] = part.save()
            tensors |= {f"{name}/{key}": value for key, value in saved.items()}
        return tensors, states

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            prefix = f"{name}/"
            part.restore({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, state[name])
