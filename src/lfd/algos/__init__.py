"""Losses: a dataclass whose fields are its hyperparameters and whose call is the mathematics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from lfd.agents import Agent
from lfd.batch import COLUMNS
from lfd.errors import Refused
from lfd.schedule import schedule

MISSING = "???"  # a value that must be given; omegaconf's sign for it


@dataclass
class Out:
    """What a loss answers for one batch."""

    terms: dict[str, Tensor]  # group of modules -> scalar; its gradient goes to that group and to no other
    metrics: dict[str, Tensor] = field(default_factory=dict)  # detached scalars; "loss" is the one that is drawn
    feedback: dict[str, Tensor] = field(default_factory=dict)  # back to the source: "priority" [B], "kl" scalar,
    # with "<slot>/" before them where the loss reads several


@dataclass
class Loss(ABC):
    """One row of an algorithm: where it reads and how much it counts."""

    reads: Any = MISSING  # name of a source or product, or {slot: name} for a loss that reads several
    weight: Any = 1.0  # a number, or {start, end, steps, shape}
    every: int = 1  # runs each so many gradient steps

    needs: ClassVar[Any]  # columns it reads: a tuple, or {slot: tuple}
    agents: ClassVar[type[Agent]]  # the agents that have what it calls
    calls: ClassVar[str] = ""  # what that is, where the name of their class does not tell
    trains: ClassVar[tuple[str, ...]]  # groups it has terms for
    targets: ClassVar[tuple[str, ...]] = ()  # modules whose slow copy it reads
    # Does each call do the same operations on tensors, whatever they hold? Then gradient steps may be recorded and
    # repeated without its Python. A class says so for itself: its subclasses do not inherit it.
    recordable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        schedule(self.weight, f"weight of {type(self).__name__}")
        if self.every < 1:
            raise Refused(f"every of {type(self).__name__} is {self.every}; 1 or more gradient steps are expected")
        if self.reads == MISSING:
            return
        names = self.reads.values() if isinstance(self.reads, Mapping) else [self.reads]
        if not all(isinstance(name, str) for name in names):
            raise Refused(f"reads of {type(self).__name__} is {self.reads!r}; a name, or {{slot: name}}, is expected")
        if (self.needs.keys() if isinstance(self.needs, dict) else None) != (
            self.reads.keys() if isinstance(self.reads, Mapping) else None
        ):
            slots = ", ".join(self.needs) if isinstance(self.needs, dict) else "no slots, one name"
            raise Refused(f"reads of {type(self).__name__} is {self.reads!r}; it has {slots}")

    @abstractmethod
    def __call__(self, agent: Any, batch: Any) -> Out:
        """Terms for a Batch (or {slot: Batch}) in network units, by an agent of the class `agents`.

        Tensors in, tensors out; noise from `agent.draws`. If it is `recordable`, what it does to tensors is recorded
        and repeated: Python of it, be it a count or a print, runs only in the first steps and at 4, 8, 16, ….
        """

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        """Modules it adds to the agent."""
        return {}

    @property
    def rows(self) -> int | None:
        """How many rows its batches have to have, no one twice; None where any number will do."""
        return None

    @property
    def mode_only(self) -> bool:
        """Does it teach a continuous policy its mode and leave its spread as that was?"""
        return False

    @property
    def one_sided(self) -> str:
        """ "never negative" or "never positive" where that is true of every reward that it brings; else empty."""
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
