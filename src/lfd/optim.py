"""How a group of modules follows its gradient.

The kernels of `torch.optim`, without its classes: their bookkeeping at every step takes longer than the step of a small
network.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import torch
from torch import Tensor

from lfd.errors import Refused
from lfd.schedule import schedule


class Optimizer(Enum):
    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


@dataclass
class Optim:
    """How one group of modules follows its gradient."""

    kind: Optimizer = Optimizer.adam
    lr: Any = None  # a number or a schedule; the algorithm's lr when not given
    eps: float = 1e-8  # Adam's
    weight_decay: float = 0.0
    momentum: float = 0.0  # SGD's
    clip: float | None = None  # largest norm of the group's gradient

    def __post_init__(self) -> None:
        if self.lr is not None:
            schedule(self.lr, "optim lr")
        if self.eps <= 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1 or (self.clip or 1) <= 0:
            raise Refused(f"{self}: eps and clip above 0, weight_decay from 0 and momentum in [0, 1) are expected")


@final
class Descent:
    """One group on its way down: its parameters, with a leading axis [members] where there are many, and moments."""

    def __init__(self, config: Optim, lr: Any, parameters: Sequence[Tensor], members: int) -> None:
        self.config, self.parameters, self.members = config, list(parameters), members
        self.rate = schedule(lr if config.lr is None else config.lr, "lr")
        # Views without a gradient of their own: only autograd knows the parameters themselves.
        self._values = [parameter.detach() for parameter in self.parameters]
        self._first = [torch.zeros_like(value) for value in self._values]
        self._second = [torch.zeros_like(value) for value in self._values]
        self._counts = torch.zeros(len(self._values), device=self._values[0].device)  # gradients that each has followed
        self._steps = list(self._counts)
        # A tensor where it changes, so that a recorded step reads it anew; the kernels of a CPU take doubles.
        device = self._values[0].device
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self._lr = self.rate.start if self.rate.constant else torch.zeros((), dtype=dtype, device=device)

    def begin_step(self, step: int) -> None:
        """Take the learning rate of this gradient step."""
        if isinstance(self._lr, Tensor):
            self._lr.fill_(self.rate(step))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Follow a gradient by the present learning rate; where it is None nothing moves."""
        moved = [i for i, gradient in enumerate(gradients) if gradient is not None]
        # The fused kernels walk a gradient's memory in the parameter's order, whatever its strides say, and under vmap
        # a weight's gradient comes transposed.
        found = [gradient.contiguous() for gradient in gradients if gradient is not None]
        if self.config.clip is not None:
            found = self._clipped(found, self.config.clip)
        values, first, second, steps = (
            [column[i] for i in moved] for column in (self._values, self._first, self._second, self._steps)
        )
        lr, config = self._lr, self.config
        if len(moved) == len(self._steps):
            self._counts += 1
        else:
            torch._foreach_add_(steps, 1)
        if config.kind is Optimizer.sgd:
            torch._fused_sgd_(
                values, found, first if config.momentum else [], weight_decay=config.weight_decay,
                momentum=config.momentum, lr=lr, dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
            )  # fmt: skip
            return
        follow = torch._fused_adam_ if config.kind is Optimizer.adam else torch._fused_adamw_
        follow(
            values, found, first, second, [], steps, lr=lr, beta1=0.9, beta2=0.999, weight_decay=config.weight_decay,
            eps=config.eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    def _clipped(self, gradients: list[Tensor], largest: float) -> list[Tensor]:
        """Each member's gradient by its own norm."""
        squares = [gradient.square().reshape(self.members, -1).sum(-1) for gradient in gradients]
        factor = (largest / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # [members]
        shapes = ((self.members, *[1] * (gradient.dim() - 1)) if self.members > 1 else () for gradient in gradients)
        # Not in place: parameters that stand in a sum may have been given one tensor as their gradient.
        return [gradient * factor.reshape(shape) for gradient, shape in zip(gradients, shapes, strict=True)]

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Moments and counts by name."""
        for name, column in self._columns():
            yield from ((f"{name}/{index}", value) for index, value in enumerate(column))

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        for name, column in self._columns():
            for index, value in enumerate(column):
                value.copy_(saved[f"{name}/{index}"])

    def _columns(self) -> list[tuple[str, list[Tensor]]]:
        return [("first", self._first), ("second", self._second), ("steps", self._steps)]
