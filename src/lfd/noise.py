"""Where randomness comes from, so that a test can replace it and a resume can restore it.

Nothing inside a gradient step calls torch's global generator: it asks the `Noise` that it is given.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Noise(ABC):
    """Standard normal and uniform [0, 1) draws, one after the other."""

    @abstractmethod
    def draw(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor of this shape; `kind` is "normal" or "uniform"."""

    def normal(self, *shape: int) -> Tensor:
        return self.draw("normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        return self.draw("uniform", shape)


class Generated(Noise):
    """From a generator of its own; `members` > 0 puts a leading axis of that size before every shape."""

    def __init__(self, seed: int, device: torch.device | str = "cpu", members: int = 0) -> None:
        self.generator = torch.Generator(device=device)
        self.generator.manual_seed(seed)
        self.leading = (members,) if members else ()

    def draw(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        make: Any = torch.randn if kind == "normal" else torch.rand
        drawn: Tensor = make(*self.leading, *shape, generator=self.generator, device=self.generator.device)
        return drawn

    def state(self) -> Tensor:
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        self.generator.set_state(state)


class Taped(Noise):
    """Given draws, replayed in order: inside vmap, where no generator can be asked, and in tests."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self._draws = iter(draws)

    def draw(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        return next(self._draws)


class Sketched(Noise):
    """Zeros, while it notes what was asked for: the list from which a tape is drawn."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self._device = device

    def draw(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        self.asked.append((kind, shape))
        return torch.zeros(shape, device=self._device)


def derive(*parts: int | str) -> int:
    """A 63-bit seed from a seed and the names of what it is for: streams of one experiment never share draws."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
