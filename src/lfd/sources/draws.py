"""Which rows a gradient step sees."""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from lfd.errors import Refused
from lfd.noise import derive
from lfd.sources import World

AHEAD = 256  # draws of the generator at once: one call of it costs as much as a small batch


@final
class Draws:
    """Numbers of rows, drawn with replacement unless `distinct`, or of the rows of sequences that begin anywhere."""

    def __init__(self, world: World) -> None:
        self._world, self._places = world, 0
        self._generator = torch.Generator(device=world.device).manual_seed(derive(world.seed, "draws"))
        self._ahead: Tensor | None = None
        self._used = 0
        self._before = self._generator.get_state()

    def over(self, rows: int) -> None:
        """Draw from so many rows from now on. Sequences run on from one episode into the next."""
        world = self._world
        if world.distinct and rows < world.batch:
            raise Refused(f"{world.name} has {rows} rows, {world.batch} different ones are to be drawn; ask for fewer")
        self._places = rows - world.sequence + 1
        self._ahead, self._used, self._before = None, 0, self._generator.get_state()

    def next(self) -> Tensor:
        """[B] rows or [B, L]; before that [members] with members."""
        if self._ahead is None or self._used == len(self._ahead):
            self._before = self._generator.get_state()
            self._ahead, self._used = self._draw(), 0
        self._used += 1
        return self._ahead[self._used - 1]

    def _draw(self) -> Tensor:
        world = self._world
        members, length = (world.members,) if world.members > 1 else (), world.sequence
        if world.distinct:
            shuffled = torch.rand((1, *members, self._places), generator=self._generator, device=world.device).argsort()
            return shuffled[..., : world.batch]
        shape = (AHEAD, *members, world.batch // length)
        index = torch.randint(self._places, shape, generator=self._generator, device=world.device)
        return index if length == 1 else index.unsqueeze(-1) + torch.arange(length, device=world.device)

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"generator": self._before}, {"used": self._used}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up a state, over as many rows as it was saved over."""
        self._before = tensors["generator"]
        self._generator.set_state(self._before)
        self._ahead, self._used = None, int(state["used"])
        if self._used:
            self._ahead = self._draw()
