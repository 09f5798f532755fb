"""Random numbers that a test can replace and a resumed run can restore.

A gradient step draws from the `Rng` that it is given and never from torch's global generator.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Rng(ABC):
    """A stream of standard normal and uniform random numbers."""

    @abstractmethod
    def draw(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        """Returns float32 samples of this shape; `kind` is "normal" or "uniform"."""

    def normal(self, *shape: int) -> Tensor:
        """Returns standard normal samples of this shape."""
        return self.draw("normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        """Returns uniform samples from [0, 1) of this shape."""
        return self.draw("uniform", shape)


class GeneratorRng(Rng):
    """Draws from its own generator; `members` > 0 puts a leading axis of that size before every shape."""

    def __init__(self, seed: int, device: torch.device | str = "cpu", members: int = 0) -> None:
        self.generator = torch.Generator(device=device)
        self.generator.manual_seed(seed)
        self.leading = (members,) if members else ()

    def draw(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        """Returns samples [*shape], or [members, *shape]."""
        make: Any = torch.randn if kind == "normal" else torch.rand
        samples: Tensor = make(*self.leading, *shape, generator=self.generator, device=self.generator.device)
        return samples

    def state(self) -> Tensor:
        """Returns the generator's state, bytes [n] on the CPU."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Sets the generator to a state [n] from `state`."""
        self.generator.set_state(state)


class ReplayedRng(Rng):
    """Returns given samples in order: inside vmap, which supports no generator, and in tests."""

    def __init__(self, samples: Sequence[Tensor]) -> None:
        self._samples = iter(samples)

    def draw(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        """Returns the next given sample; its shape is not compared with [*shape]."""
        return next(self._samples)


class ShapeRecorder(Rng):
    """Records the kinds and shapes of random draws and returns zeros."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.requests: list[tuple[str, tuple[int, ...]]] = []
        self._device = device

    def draw(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        """Returns zeros [*shape]."""
        self.requests.append((kind, shape))
        return torch.zeros(shape, device=self._device)


def derive(*parts: int | str) -> int:
    """Derives a 63-bit seed from a seed and the names of its purpose, so that random streams are independent."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def reset_seeds(count: int, *parts: int | str) -> list[int]:
    """Derives `count` reset seeds in [0, 2^31), by `derive`."""
    return [derive(*parts, index) % 2**31 for index in range(count)]
