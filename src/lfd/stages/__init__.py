"""Stages: the nodes of a pipeline, each with one product.

A plugin's stage is a dataclass that extends `Stage` and is registered under the entry point `lfd.stage`. It implements
`provides`, `run` and `open`; the other methods have defaults. They are called in this order: `inputs`,
`inspect_inputs`, `spaces`, `check` and `key_content` before anything runs; `estimate` for `dry_run=true`; then `run`
unless the product is stored; then `open` wherever the product is used.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from lfd.agents import Agent
from lfd.envs import Env, Spaces
from lfd.errors import UserError
from lfd.hardware import Hardware
from lfd.log import MetricsLog, Progress, RunLog
from lfd.log.progress import TimeEstimate
from lfd.stages.sizes import row_bytes


class Product(Enum):
    """What a stage's product can be used as, and what `Stage.open` returns for that."""

    policy = "a policy"  # networks that act: a `Trained`
    actor = "an actor"  # networks, scripts or people that act: an `Expert`
    labels = "labels"  # an `Expert` that labels states with actions, at once or later
    reward = "a reward"  # networks that compute rewards: a `Trained`
    dataset = "a dataset"  # a `Dataset`
    scores = "scores"  # {policy: {"return_mean": 500.0, …}}
    diagnosis = "diagnosis"  # of learned rewards: {reward: {dataset: {"spearman": 0.9, …}}}


@dataclass(kw_only=True)
class StageContext:
    """Everything that a stage reads and writes while it runs."""

    name: str  # of the stage
    folder: Path  # working folder; its files after `run` are the artifact
    env: Env | None
    products: Mapping[str, Any]  # opened products of earlier stages, by name
    hardware: Hardware
    progress: Progress
    metrics: MetricsLog
    run_log: RunLog
    stopping: Callable[[], bool]  # True once the run was asked to stop: save the state and raise Interrupted
    spaces: Spaces

    def record(self, **values: Any) -> None:
        """Writes one record to the metrics of the stage and to the log of the run."""
        record = {"stage": self.name, **values}
        self.metrics.write(record)
        self.run_log.write(record)

    def resume_log(self, offset: int) -> None:
        """Drops the records behind byte `offset` of the metrics, as on resuming, and logs the earlier ones again."""
        self.metrics.rewind(offset)
        self.run_log.replay(self.name, self.metrics.records())


@dataclass(frozen=True)
class Summary:
    """Result of `Stage.run`; result.json has its fields under their names."""

    gradient_steps: int = 0
    env_steps: int = 0  # transitions taken from environments
    seconds: float = 0.0  # of work, over all sessions

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, kw_only=True)
class DatasetSummary(Summary):
    """Result of a stage whose product is a dataset."""

    metadata: dict[str, Any]  # of the dataset


@dataclass
class Estimate:
    """Time, memory and disk that a stage is expected to take."""

    seconds: TimeEstimate | None = None  # None where unknown
    memory: int = 0  # bytes in addition to those of the process
    disk: int = 0  # bytes of the product


@dataclass(kw_only=True)
class PipelineContext:
    """The experiment that a stage is a part of."""

    stages: Mapping[str, "Stage"]  # all stages of the configuration, by name
    spaces: Spaces
    env: Env | None
    store: Path  # folder of the artifacts; it may not exist yet

    @property
    def stack(self) -> int:
        """Frames in an observation; a dataset stores each frame once."""
        return 1 if self.env is None else self.env.stack


@dataclass(kw_only=True)
class CheckContext(PipelineContext):
    """Argument of `Stage.check`: the experiment and the name of the stage."""

    name: str  # of the stage

    def datasets(self) -> list[str]:
        """Names of the stages that provide datasets."""
        return [name for name, stage in self.stages.items() if Product.dataset in stage.provides()]


@dataclass(kw_only=True)
class EstimateContext(PipelineContext, ABC):
    """Argument of `Stage.estimate`: the experiment and what is known of its costs."""

    order: list[str]  # names of the stages that a target needs, in the order in which they run
    hardware: Hardware
    episode: int  # assumed length of an episode, in steps

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored transition."""
        return row_bytes(self.spaces, self.stack)

    @abstractmethod
    def agent(self, policy: str) -> Agent | None:
        """An untrained agent like that of the stage `policy`, on the device; None if it is unknown."""

    @abstractmethod
    def seconds_per_transition(self, policy: str) -> TimeEstimate:
        """Seconds per transition with several environments in parallel, including the actions of the policy."""


@dataclass
class Stage(ABC):
    """A node of the pipeline: a dataclass whose fields are its configuration.

    The key of its product is computed from its registered name, its fields (`key_content`), the environment and the
    keys of its inputs. A field with `metadata={"key": False}` is not part of the key.
    """

    revision: ClassVar[int] = 1  # raise it when equal fields give another product; part of the key
    unit: ClassVar[str] = "steps"  # of `length` and of the progress
    resumes_after_error: ClassVar[bool] = False  # True to keep the working folder when `run` raises UserError

    @abstractmethod
    def provides(self) -> frozenset[Product]:
        """What its product can be used as; `open` returns the type that `Product` names for each."""

    def inputs(self) -> dict[str, Product]:
        """Names of the stages whose products it reads, and what it uses each product as."""
        return {}

    def optional_inputs(self) -> tuple[str, ...]:
        """Names of stages whose products it also reads if another stage or target needs them."""
        return ()

    def interacts(self) -> bool:
        """True if it steps an environment; it is refused with env=none then."""
        return False

    def inspect_inputs(self, env: Env | None, store: Path) -> None:  # noqa: B027 - most stages read no files
        """Reads the files from outside that the stage uses, before any other check; may cache results in `store`.

        Raises UserError if they cannot be used.
        """

    def spaces(self) -> Spaces | None:
        """Spaces of the files that `inspect_inputs` read, for env=none; None without files."""
        return None

    def length(self) -> int | None:
        """Amount of work in `unit`; None if unknown. `run` reports to `context.progress.update` how much is done."""
        return None

    @property
    def extendable_fields(self) -> tuple[str, ...]:
        """Fields that only extend the work: a stage with a larger value continues from a stored, shorter one."""
        return ()

    def key_content(self, digest: Callable[[Path], str]) -> Any:
        """The content of its key, apart from environment and inputs; `digest` gives the sha256 of a file's content.

        Return a copy with the digest in place of a path, and defaults for fields that do not change the product.
        """
        return self

    def check(self, context: CheckContext) -> None:  # noqa: B027 - not every stage has conditions
        """Raises UserError if it cannot run with these inputs, spaces and environment on this machine.

        The stages that it reads were checked before.
        """

    # Called by stages that read its product

    def check_stochastic(self, what: str, spaces: Spaces) -> None:  # noqa: B027 - most stages train no policy
        """Raises UserError if its losses do not train the spread of the policy whose actions `what` samples.

        `what` is the beginning of the message: the key that asks for stochastic actions.
        """

    def check_snapshot(self, what: str, index: int) -> None:  # noqa: B027 - most stages provide no policy
        """Raises UserError if its product will have no snapshot `index`, from 0; `what` begins the message."""

    def policy_count(self) -> int:
        """Number of policies in its product."""
        return 1

    def untrained_agent(self, spaces: Spaces) -> Agent | None:
        """An agent with the modules and shapes of those in its product; None if unknown before it has run."""
        return None

    def row_count(self) -> int | None:
        """Number of transitions in its dataset; None if unknown before it has run."""
        return None

    def dataset_bytes(self, context: EstimateContext) -> int:
        """Bytes of its dataset; 0 if unknown."""
        return 0

    # Called by `dry_run=true`

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        """Its expected costs under this name; stores nothing."""
        return Estimate()

    def amount(self) -> str:
        """Amount of work as text, as in "2 episodes"."""
        return f"{self.length():,} {self.unit}" if self.length() else "all"

    def shortened(self, name: str) -> list[str]:
        """Ways to shorten it under this name, each an imperative as in "set fewer score.episodes"."""
        return []

    # Work

    @abstractmethod
    def run(self, context: StageContext) -> Summary:
        """Makes the product in `context.folder`; continues from the files that an interrupted run left there.

        Raises Interrupted if it was asked to stop, and UserError if an input cannot be used.
        """

    @staticmethod
    @abstractmethod
    def open(folder: Path) -> Any:
        """Opens the product in an artifact's folder. It must not read the fields of a stage."""


def positive(stage: Stage, **values: float | None) -> None:
    """Raises UserError for values below 1; None counts as unset."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise UserError(f"{name}: expected 1 or more, got {value}")
