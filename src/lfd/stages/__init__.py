"""Stages: one verb each, with one product."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from lfd.envs import Env, Spaces
from lfd.errors import Refused
from lfd.hardware import Hardware
from lfd.log import MetricsLog, Progress, RunLog


class Product(Enum):
    """What a stage makes."""

    policy = "a policy"  # networks that act
    actor = "an actor"  # whatever acts: networks, scripts, people
    labels = "labels"  # who says what should be done: whatever acts, or somebody who is asked later
    reward = "a reward"
    dataset = "a dataset"
    scores = "scores"
    diagnosis = "diagnosis"


@dataclass
class Lab:
    """What a stage finds when it runs."""

    name: str  # the stage's
    folder: Path  # for its work; what is in it at the end is the artifact
    env: Env | None
    products: Mapping[str, Any]  # opened products of earlier stages, by name
    hardware: Hardware
    progress: Progress
    metrics: MetricsLog
    run_log: RunLog
    stopping: Callable[[], bool]  # has somebody asked the run to stop?
    spaces: Spaces

    def record(self, **values: Any) -> None:
        """One record of the stage's history."""
        record = {"stage": self.name, **values}
        self.metrics.write(record)
        self.run_log.write(record)

    def resume_log(self, offset: int) -> None:
        """The history up to a checkpoint is kept and shown again, the rest is forgotten."""
        self.metrics.rewind(offset)
        self.run_log.begin(self.name, self.metrics.records())


@dataclass
class Summary:
    """What is told of a finished stage."""

    gradient_steps: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)  # JSON

    def to_json(self) -> dict[str, Any]:
        steps = {"gradient_steps": self.gradient_steps, "env_steps": self.env_steps}
        return {**steps, "seconds": round(self.seconds, 3), **self.more}


@dataclass
class Stage(ABC):
    """A node of the pipeline. Its fields and class, the environment and its inputs are the key of its product."""

    gives: ClassVar[Product]  # the product that it is there for
    revision: ClassVar[int] = 1  # raised when the same fields come to mean something else

    goes_on: ClassVar[bool] = False  # is what it has done so far worth keeping once its input was refused?

    def offers(self, product: Product) -> bool:
        """Can its product be used as this?"""
        return product is self.gives

    @abstractmethod
    def inputs(self) -> dict[str, Product]:
        """Names of the stages whose products it reads, and what these must be."""

    def beside(self) -> tuple[str, ...]:
        """Names that it also reads if they are in the graph for another reason."""
        return ()

    @abstractmethod
    def interacts(self) -> bool:
        """Does it step an environment?"""

    def check_offline(self, name: str) -> None:
        """Raise Refused if it cannot work without an environment."""
        if self.interacts():
            raise Refused(f"{name}: steps an environment and there is none; choose an env, or targets=[fqe]")

    def look(self, env: Env | None, store: Path) -> None:  # noqa: B027 - most bring nothing in
        """Look through what it brings in from outside, before anything else is asked; `store` remembers what is found.

        Raises Refused if it cannot be used.
        """

    def spaces(self) -> Spaces | None:
        """The spaces of what it brings in from outside; None if it brings nothing in."""
        return None

    @abstractmethod
    def total(self) -> int | None:
        """How much there is to do, in `unit`."""

    unit: ClassVar[str] = "steps"

    @property
    def length_fields(self) -> tuple[str, ...]:
        """Fields in which versions differ that can go on from each other's end."""
        return ()

    def material(self, digest: Callable[[Path], str]) -> Any:
        """What its key is made of, beside the environment and the inputs; `digest` is a file's content as a hash."""
        return self

    def check_wiring(self, name: str, spaces: Spaces, datasets: list[str]) -> None:  # noqa: B027 - most fit anything
        """Raise Refused if it cannot work in these spaces. `datasets` names the stages that give datasets."""

    def check_inputs(  # noqa: B027 - most take any product
        self, name: str, stages: Mapping[str, "Stage"], spaces: Spaces
    ) -> None:
        """Raise Refused if it cannot use what one of these stages gives."""

    def check_sampled(self, what: str, spaces: Spaces) -> None:  # noqa: B027 - most have no policy
        """Raise Refused if it trains a policy whose actions `what` would draw from a spread that nothing trains."""

    def check_env(self, name: str, env: Env) -> None:  # noqa: B027 - most need only its spaces
        """Raise Refused if it cannot work in this environment, although its spaces fit."""

    def check_snapshot(self, what: str, index: int | None) -> None:  # noqa: B027 - most keep none, and are not asked
        """Raise Refused if it will not keep the earlier state that `what` asks for; None is the last one."""

    @abstractmethod
    def run(self, lab: Lab) -> Summary:
        """Do it, in `lab.folder`, going on with what an interrupted run left there. Raises Interrupted."""

    @staticmethod
    @abstractmethod
    def open(folder: Path) -> Any:
        """The product in an artifact's folder."""


def positive(stage: Stage, **values: float | None) -> None:
    """Raise Refused for values below 1."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise Refused(f"{name} is {value}; 1 or more is expected")
