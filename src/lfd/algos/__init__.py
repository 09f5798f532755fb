"""Losses: dataclasses whose fields are hyperparameters and whose call computes terms and metrics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor
from torch.utils import _pytree

from lfd.agents import Agent
from lfd.agents.nets import NetSpec
from lfd.agents.roles import Role
from lfd.batch import COLUMNS
from lfd.envs.spaces import Spaces
from lfd.errors import UserError, suggest
from lfd.schedule import parse_schedule

MISSING = "???"  # OmegaConf's marker of a mandatory value


@dataclass(frozen=True)
class Metrics:
    """Metrics of a loss: scalar tensors [], [members] with several members; None is not logged.

    A field is called "<stage>/<row>/<field>" in metrics.jsonl; curves.png shows the fields whose names end in "_loss".
    `Annotated[Tensor, "..."]` gives a field's meaning and unit. Tensors are detached here.
    """

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                object.__setattr__(self, name, value.detach())

    def __init_subclass__(cls) -> None:
        _register(cls)

    def named(self, row: str) -> dict[str, Tensor]:
        """Returns the metrics [] of the loss in `row` by their logged names "<row>/<field>"."""
        return {f"{row}/{name}": value for name, value in vars(self).items() if value is not None}


M = TypeVar("M", bound=Metrics)


@dataclass(frozen=True)
class LossOutput(Generic[M]):
    """Result of a loss for one batch."""

    by_group: dict[str, Tensor]  # parameter group -> scalar term [], whose gradient goes to that group only
    metrics: M
    # feedback for the source of the batch: "priority" [B] or "kl" []; "<slot>/priority" if the loss has several slots
    feedback: dict[str, Tensor] = field(default_factory=dict)
    # buffer of the agent ("nets.reward.mean") -> its next value, which the learner writes after the gradient step
    updates: dict[str, Tensor] = field(default_factory=dict)


def _register(kind: type[Any]) -> None:
    """Makes a dataclass a pytree, so that `torch.vmap` takes it; fields that are None are no leaves."""

    def flatten(value: Any) -> tuple[list[Any], tuple[str, ...]]:
        fields = {name: part for name, part in vars(value).items() if part is not None}
        return list(fields.values()), tuple(fields)

    def unflatten(parts: Any, names: tuple[str, ...]) -> Any:
        return kind(**dict(zip(names, parts, strict=True)))

    _pytree.register_pytree_node(kind, flatten, unflatten)


_register(Metrics)
_register(LossOutput)


@dataclass
class Loss(ABC):
    """One row of an algorithm: which sources it reads, its weight, and its mathematics."""

    reads: Any = MISSING  # name of a source or product, or {slot: name} for a loss that reads several
    weight: Any = 1.0  # a number, or {start, end, over, shape}
    every: int = 1  # gradient steps from one call to the next

    needs: ClassVar[Any]  # columns that it reads: a tuple, or {slot: tuple}
    uses: ClassVar[Mapping[str, Role]] = {}  # name of a net of the agent -> what it must be able to do
    trains: ClassVar[tuple[str, ...]]  # parameter groups that it has terms for
    targets: ClassVar[tuple[str, ...]] = ()  # nets whose target networks it reads
    # groups whose term passes through a critic: it trains the net alone and stops at a shared trunk, as in DrQ
    # (Yarats et al. 2021) and SAC-AE
    through_critic: ClassVar[tuple[str, ...]] = ()
    # True if its operations on tensors are the same in each call, whatever the values: gradient steps may then be
    # recorded and replayed without its Python. Subclasses do not inherit it.
    recordable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        parse_schedule(self.weight, "weight")
        if self.every < 1:
            raise UserError(f"every: expected 1 gradient step or more, got {self.every}")
        if self.reads == MISSING:
            return
        names = self.reads.values() if isinstance(self.reads, Mapping) else [self.reads]
        if not all(isinstance(name, str) for name in names):
            raise UserError(f"reads: expected a name or {{slot: name}}, got {self.reads!r}")
        if (self.needs.keys() if isinstance(self.needs, dict) else None) != (
            self.reads.keys() if isinstance(self.reads, Mapping) else None
        ):
            slots = f"{{{': …, '.join(self.needs)}: …}}" if isinstance(self.needs, dict) else "one name"
            raise UserError(f"reads: expected {slots} for {type(self).__name__}, got {self.reads!r}")

    @abstractmethod
    def __call__(self, agent: Agent, batch: Any) -> LossOutput[Any]:
        """Computes terms, metrics and feedback for a Batch (or {slot: Batch}) in network units.

        Random numbers come from `agent.rng`. A loss writes to no tensor: buffers change by `LossOutput.updates`. If it
        is `recordable`, its operations on tensors are recorded and replayed: Python, such as a counter or a print, runs
        only in the first steps and at 4, 8, 16, ….

        Args:
            agent: an agent with the nets that `uses` lists.
            batch: columns [B, ...].
        """

    def brings(self, spaces: Spaces) -> dict[str, NetSpec]:
        """Returns nets by name that the agent gets unless its configuration has nets of these names."""
        return {}

    def roles(self) -> Mapping[str, Role]:
        """Returns `uses`; a loss whose fields decide what it needs overrides it."""
        return self.uses

    @property
    def mode_only(self) -> bool:
        """True if it trains the mode of a continuous policy and leaves its spread untrained."""
        return False

    @property
    def reward_sign(self) -> str:
        """ "never negative" or "never positive" if that is true of every reward of its reward model; else empty."""
        return ""

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Slot -> (name of what it reads, columns it needs); the only slot of a simple loss is ""."""
        if isinstance(self.needs, dict):
            return {slot: (self.reads[slot], needs) for slot, needs in self.needs.items()}
        return {"": (self.reads, self.needs)}

    def __init_subclass__(cls) -> None:
        for columns in cls.needs.values() if isinstance(cls.needs, dict) else [cls.needs]:
            assert set(columns) <= COLUMNS, columns


def check_output(what: str, loss: Loss, output: Any, buffers: Mapping[str, Tensor]) -> None:
    """Checks the result of a loss. Raises UserError that names `what` if a part has a wrong name or type."""
    if not isinstance(output, LossOutput) or not isinstance(output.metrics, Metrics):
        got = type(output).__name__ if not isinstance(output, LossOutput) else type(output.metrics).__name__
        raise UserError(f"{what}: expected a LossOutput of terms by group and Metrics, got {got}")
    for group, term in output.by_group.items():
        if group not in loss.trains:
            raise UserError(
                f"{what}: expected terms for the groups in `trains`, {', '.join(loss.trains)}, got one for {group!r}; "
                "add it there"
            )
        if not isinstance(term, Tensor) or term.dim():
            got = f"a tensor {list(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            raise UserError(f"{what}: expected a scalar tensor, as a mean is, as the term for {group!r}, got {got}")
    for name, value in vars(output.metrics).items():
        if value is not None and (not isinstance(value, Tensor) or value.dim()):
            got = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{what}: expected a scalar tensor as the metric {name!r}, got {got}")
    for name in output.updates:
        if name not in buffers:
            raise UserError(
                f"{what}: expected a buffer of the agent in updates, got {name!r}; {suggest(name, buffers)}"
            )
