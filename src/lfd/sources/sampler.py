"""Samples the rows of gradient steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor

from lfd.rng import derive
from lfd.sources import SourceContext

PREFETCH = 256  # batches whose rows are drawn at once, as a call of the generator costs as much as a small batch
T = TypeVar("T")


@final
class Prefetcher(Generic[T]):
    """Draws samples in blocks and returns them one by one; it saves the generator's state before the present block."""

    def __init__(self, context: SourceContext, draw: Callable[[torch.Generator], Sequence[T]]) -> None:
        self._generator = torch.Generator(device=context.device).manual_seed(derive(context.seed, "draws"))
        self._draw = draw
        self.clear()

    def clear(self) -> None:
        """Drops the rest of the present block."""
        self._block: Sequence[T] = ()
        self._used, self._before = 0, self._generator.get_state()

    def next(self) -> T:
        """Returns the next sample."""
        if self._used == len(self._block):
            self._before = self._generator.get_state()
            self._block, self._used = self._draw(self._generator), 0
        self._used += 1
        return self._block[self._used - 1]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the state as tensors and as JSON values."""
        return {"generator": self._before}, {"used": self._used}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restores a state from `save`."""
        self._before = tensors["generator"]
        self._generator.set_state(self._before)
        self._used = int(state["used"])
        self._block = self._draw(self._generator) if self._used else ()


@final
class IndexSampler:
    """Draws row numbers with replacement, or those of sequences that begin at any row."""

    def __init__(self, context: SourceContext) -> None:
        self._context, self._num_starts = context, 0
        self._ahead: Prefetcher[Tensor] = Prefetcher(context, self._draw)

    def resize(self, rows: int) -> None:
        """Draws from this number of rows from now on. Sequences may span episodes."""
        self._num_starts = rows - self._context.sequence + 1
        self._ahead.clear()

    def next(self) -> Tensor:
        """Returns rows [B], or [B, L] of sequences; with several members after an axis [members]."""
        return self._ahead.next()

    def _draw(self, generator: torch.Generator) -> Sequence[Tensor]:
        context = self._context
        members, length = (context.members,) if context.members > 1 else (), context.sequence
        shape = (PREFETCH, *members, context.batch // length)
        index = torch.randint(self._num_starts, shape, generator=generator, device=context.device)
        rows = index if length == 1 else index.unsqueeze(-1) + torch.arange(length, device=context.device)
        return rows.unbind()

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the state as tensors and as JSON values."""
        return self._ahead.save()

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restores a state from `save`, for the same number of rows."""
        self._ahead.restore(tensors, state)
