"""A stream of several: those of a mix, or one for each member."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lfd.sources import Stream


class Compound(Stream, ABC):
    """What is asked of it is asked of its parts."""

    def __init__(self, parts: Mapping[str, Stream]) -> None:
        self.parts = dict(parts)
        self.interacts = any(part.interacts for part in parts.values())

    @abstractmethod
    def feedback(self, values: Mapping[str, Tensor]) -> None: ...

    @property
    def env_steps(self) -> int:  # type: ignore[override]
        return sum(part.env_steps for part in self.parts.values())

    @property
    def idle(self) -> bool:
        return all(part.idle for part in self.parts.values())

    @property
    def spent(self) -> bool:
        return any(part.spent for part in self.parts.values())

    def begin_round(self) -> None:
        for part in self.parts.values():
            part.begin_round()

    def begin_phase(self, fresh: bool) -> None:
        for part in self.parts.values():
            part.begin_phase(fresh)

    def epoch_steps(self) -> int:
        return max(part.epoch_steps() for part in self.parts.values())

    def boundary(self, index: int) -> None:
        for part in self.parts.values():
            part.boundary(index)

    def episodes(self) -> list[tuple[float, int]]:
        return [episode for part in self.parts.values() for episode in part.episodes()]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        states: dict[str, Any] = {}
        for name, part in self.parts.items():
            own, states[name] = part.save()
            tensors |= {f"{name}/{key}": value for key, value in own.items()}
        return tensors, states

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            prefix = f"{name}/"
            part.restore({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, state[name])

    def close(self) -> None:
        for part in self.parts.values():
            part.close()
