"""Optimizers of parameter groups and updates of target networks.

They call the kernels of `torch.optim` without its classes, whose bookkeeping takes longer than the step of a small
network.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import torch
from torch import Tensor

from lfd.errors import UserError
from lfd.schedule import parse_schedule


class OptimizerKind(Enum):
    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


@dataclass
class OptimConfig:
    """The optimizer of one parameter group."""

    optimizer: OptimizerKind = OptimizerKind.adam
    lr: Any = None  # learning rate: a number or a schedule; null = the algorithm's
    eps: float = 1e-8  # epsilon of adam and adamw
    weight_decay: float = 0.0  # L2 penalty of adam and sgd; decoupled in adamw
    momentum: float = 0.0  # of sgd
    max_grad_norm: float | None = None  # norm to which the group's gradient is clipped; null = not clipped

    def __post_init__(self) -> None:
        if self.lr is not None:
            parse_schedule(self.lr, "lr")
        if self.eps <= 0:
            raise UserError(f"eps: expected a number above 0, got {self.eps}")
        if self.weight_decay < 0:
            raise UserError(f"weight_decay: expected 0 or more, got {self.weight_decay}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum: expected a number in [0, 1), got {self.momentum}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise UserError(f"max_grad_norm: expected a number above 0 or null, got {self.max_grad_norm}")


@dataclass
class Target:
    """How a target network follows its module: target += tau * (module - target) at every update.

    With tau = 1 an update copies the module (Mnih et al. 2015). The first copy is made after `update_interval` gradient
    steps, the first update with a smaller tau in the first step, as delayed actor updates are counted (TD3).
    """

    tau: float = 0.005  # fraction of the difference in (0, 1] that an update closes
    update_interval: int = 1  # gradient steps between updates

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise UserError(f"tau: expected a number in (0, 1], got {self.tau}; 1 copies the module")
        if self.update_interval < 1:
            raise UserError(
                f"update_interval: expected 1 gradient step or more, got {self.update_interval}; 1 updates every step"
            )

    def is_due(self, before: int, trained: int) -> bool:
        """True if the target network is updated in this gradient step.

        Args:
            before: gradient steps before it, of its phase if there are phases.
            trained: gradient steps that trained its module so far, this one included.
        """
        return (trained if self.tau == 1 else before) % self.update_interval == 0

    def update(self, target: list[Tensor], module: list[Tensor]) -> None:
        """Moves the target network's parameters [...], if it has any, towards those of the module, of equal shapes."""
        if not target:
            return
        if self.tau == 1:
            torch._foreach_copy_(target, module)
        else:
            torch._foreach_lerp_(target, module, self.tau)


@final
class Optimizer:
    """Parameters of one group, [members, ...] with several members, and the state of their optimizer."""

    def __init__(self, config: OptimConfig, lr: Any, parameters: Sequence[Tensor], members: int) -> None:
        self.config, self.parameters, self.members = config, list(parameters), members
        self.lr = parse_schedule(lr if config.lr is None else config.lr, "lr")
        # views without a gradient, as only autograd uses the parameters themselves
        self._values = [parameter.detach() for parameter in self.parameters]
        self._first = [torch.zeros_like(value) for value in self._values]
        self._second = [torch.zeros_like(value) for value in self._values]
        self._counts = torch.zeros(
            len(self._values), device=self._values[0].device
        )  # number of updates of each parameter
        self._steps = list(self._counts)
        # a tensor if it changes, which a recorded step reads in every replay; the kernels of a CPU take float64
        device = self._values[0].device
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self._lr = self.lr.start if self.lr.is_constant else torch.zeros((), dtype=dtype, device=device)

    def begin_step(self, step: int) -> None:
        """Sets the learning rate of this gradient step."""
        if isinstance(self._lr, Tensor):
            self._lr.fill_(self.lr(step))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Updates the parameters by gradients [...] of their shapes; those without one (None) stay unchanged."""
        updated = [i for i, gradient in enumerate(gradients) if gradient is not None]
        # contiguous, as the fused kernels ignore strides and under vmap a weight's gradient is transposed
        present = [gradient.contiguous() for gradient in gradients if gradient is not None]
        if self.config.max_grad_norm is not None:
            present = self._clip(present, self.config.max_grad_norm)
        values, first, second, steps = (
            [column[i] for i in updated] for column in (self._values, self._first, self._second, self._steps)
        )
        lr, config = self._lr, self.config
        if len(updated) == len(self._steps):
            self._counts += 1
        else:
            torch._foreach_add_(steps, 1)
        if config.optimizer is OptimizerKind.sgd:
            torch._fused_sgd_(
                values, present, first if config.momentum else [], weight_decay=config.weight_decay,
                momentum=config.momentum, lr=lr, dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
            )  # fmt: skip
            return
        update = torch._fused_adam_ if config.optimizer is OptimizerKind.adam else torch._fused_adamw_
        update(
            values, present, first, second, [], steps, lr=lr, beta1=0.9, beta2=0.999, weight_decay=config.weight_decay,
            eps=config.eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    def _clip(self, gradients: list[Tensor], max_norm: float) -> list[Tensor]:
        """Clips each member's gradient to a norm."""
        squares = [gradient.square().reshape(self.members, -1).sum(-1) for gradient in gradients]
        factor = (max_norm / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # [members]
        shapes = ((self.members, *[1] * (gradient.dim() - 1)) if self.members > 1 else () for gradient in gradients)
        # not in place, as parameters that are added may have one tensor as their gradient
        return [gradient * factor.reshape(shape) for gradient, shape in zip(gradients, shapes, strict=True)]

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yields moments and counts by name."""
        for name, column in self._columns():
            yield from ((f"{name}/{index}", value) for index, value in enumerate(column))

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Restores a state from `state`."""
        for name, column in self._columns():
            for index, value in enumerate(column):
                value.copy_(saved[f"{name}/{index}"])

    def _columns(self) -> list[tuple[str, list[Tensor]]]:
        return [("first", self._first), ("second", self._second), ("steps", self._steps)]


def step_groups(optimizers: Mapping[str, Optimizer], terms: Mapping[str, Tensor]) -> None:
    """Steps every group by its term []; groups of one term share its backward pass.

    Raises UserError if a term has no gradient.
    """
    by_term: dict[int, list[str]] = {}
    for group, term in terms.items():
        if group not in optimizers:
            continue
        if not term.requires_grad:
            raise UserError(f"the terms for {group!r}: expected a gradient, got none; do not detach them")
        by_term.setdefault(id(term), []).append(group)
    pending = list(by_term.values())
    gradients: dict[str, list[Tensor | None]] = {}
    for groups in pending:
        parameters = [parameter for group in groups for parameter in optimizers[group].parameters]
        more = groups is not pending[-1]
        found = iter(torch.autograd.grad(terms[groups[0]], parameters, retain_graph=more, allow_unused=True))
        for group in groups:
            gradients[group] = [next(found) for _ in optimizers[group].parameters]
    for group, gradient in gradients.items():
        optimizers[group].step(gradient)
