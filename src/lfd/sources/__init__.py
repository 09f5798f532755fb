"""Sources of batches.

A `Source` is a configuration; `Source.open` returns a `Stream`, which returns batches. A stream that acts in
environments is a `Collector`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.batch import Batch
from lfd.envs import Env
from lfd.sources.use import SourceUse


@dataclass(kw_only=True)
class SourceContext:
    """Everything that a source needs when it is opened."""

    name: str  # name of the source in the algorithm's `sources`
    agents: Sequence[Agent]  # members of the learner, which act in environments
    products: Mapping[str, Any]  # stage -> its `Dataset` or `Expert`
    sources: Mapping[str, "Source"]  # all sources of the algorithm by name; a mix opens some of them
    columns: frozenset[str]  # columns of a batch that some loss reads
    batch: int  # rows in a gradient step, for each member
    sequence: int = 1  # consecutive rows in a sequence; a batch has batch // sequence sequences
    gamma: float  # discount of an environment step
    seed: int
    device: torch.device
    env: Env | None  # None offline; sources that do not act read its `sign_reward` only
    # Only collectors read the fields below.
    folder: Path  # files that a resumed training needs; deleted with the checkpoints of the training
    product_folder: Path  # files that are stored with the product
    reset_every: int  # maximum number of gradient steps between resets of the environments
    stopping: Callable[[], bool] = lambda: False  # True once the run was asked to stop
    set_activity: Callable[..., None] = lambda *message: None  # shows an activity (see `Progress.set_activity`)

    @property
    def agent(self) -> Agent:
        """The first member: the only one of a collector, and one of the same class and spaces as all others."""
        return self.agents[0]

    @property
    def members(self) -> int:
        """Number of members."""
        return len(self.agents)


class Stream(ABC):
    """An open source. A plugin implements the four abstract methods; the others have defaults."""

    @abstractmethod
    def next(self) -> Batch:
        """Returns the batch of the next gradient step in raw units: [B, ...] or [B, L, ...].

        With several members every column has a leading axis [members].
        """

    @abstractmethod
    def epoch_steps(self) -> int:
        """Returns the number of gradient steps in one pass over the present data."""

    @abstractmethod
    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the state as tensors and as JSON values, from which `restore` continues with the same batches."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restores a state from `save`."""

    def feedback(self, values: Mapping[str, Tensor]) -> None:  # noqa: B027 - most sources need no feedback
        """Takes feedback of losses on the last batch: "priority" [B], "kl" []. It must not write to the tensors."""

    def held_out(self) -> list[Batch]:
        """Returns validation batches; none by default."""
        return []

    @property
    def collectors(self) -> tuple["Collector", ...]:
        """The collectors among the parts of this stream; a collector itself."""
        return ()


class Collector(Stream):
    """A stream that acts in environments.

    A checkpoint is made, and environments are reset, only while it is `idle`. A plugin that steps training environments
    extends `lfd.sources.collector.VecEnvCollector` by `next` and `epoch_steps`; any other collector implements the
    abstract methods of a `Stream` and `close`.
    """

    interacts: bool = True  # False if a checkpoint holds its whole state, without running environments

    def __init__(self) -> None:
        self.env_steps = 0  # transitions taken from environments so far
        self._ended: list[
            tuple[float, int]
        ] = []  # (true return, length) of episodes that `episodes` did not return yet

    @property
    def collectors(self) -> tuple["Collector", ...]:
        return (self,)

    @property
    def idle(self) -> bool:
        """True between two collections, where a checkpoint may be made. With phases it is read between rounds only."""
        return True

    @property
    def spent(self) -> bool:
        """True if the phase should end, as the policy moved too far from the one that collected the data."""
        return False

    def begin_round(self) -> None:  # noqa: B027 - a source may collect without rounds
        """Collects data for all phases of a round."""

    def begin_phase(self, on_policy_only: bool) -> None:  # noqa: B027 - a source may have no estimates
        """Updates estimates that depend on networks. With `on_policy_only` batches are drawn from this round's data."""

    def reset_envs(self, index: int) -> None:  # noqa: B027 - environments may be reset elsewhere
        """Resets environments with seeds derived from `index`."""

    def episodes(self) -> list[tuple[float, int]]:
        """Returns (true return, length) of the training episodes that ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def round_policies(self) -> list[Path]:
        """Files of weights of the policies that acted in its rounds, oldest first; none unless it keeps them."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Closes environments."""


@dataclass
class Source(ABC):
    """Configuration of a source of batches. A plugin implements `provides` and `open`; other methods have defaults."""

    interacts: ClassVar[bool] = False  # needs an environment
    updates_normalizer: ClassVar[bool] = False  # normalizes observations by what it collects
    keeps_round_policies: ClassVar[bool] = False  # the policy that acted in each round is a snapshot of the product

    @abstractmethod
    def provides(self, sources: Mapping[str, "Source"]) -> frozenset[str]:
        """Returns the columns of its batches."""

    @abstractmethod
    def open(self, context: SourceContext) -> Stream:
        """Opens the source. Raises UserError if the datasets in `context` are too small or of the wrong kind."""

    def shape(self, batch: int) -> tuple[int, ...]:
        """Returns the shape of a column of numbers for the algorithm's batch size."""
        return (batch,)

    def products(self, name: str) -> tuple[str, ...]:
        """Returns the stages whose datasets it reads, if the source is called `name`."""
        return ()

    def experts(self) -> tuple[str, ...]:
        """Returns the stages whose experts it asks."""
        return ()

    def parts(self) -> Mapping[str, float]:
        """Returns the names of the sources that it is composed of, each with its fraction of a batch."""
        return {}

    def check(self, use: SourceUse) -> None:  # noqa: B027 - most sources have no constraints
        """Raises UserError if a stage cannot read the source as `use` says."""

    def env_steps(self, use: SourceUse) -> int:
        """Returns the number of transitions that it will take from environments."""
        return 0

    def stored_rows(self, use: SourceUse) -> tuple[int, int]:
        """Returns the number of transitions that its files have room for, and of those that it will write."""
        return 0, 0

    @property
    def transition_steps(self) -> int:
        """Environment steps in a transition."""
        return 1

    @property
    def holds_out(self) -> bool:
        """True if it holds out rows for validation."""
        return False

    @property
    def draws_actions(self) -> bool:
        """True if the learner's actions are sampled from its policy; False if they are greedy."""
        return False

    @property
    def reward_sign(self) -> str:
        """ "never negative" or "never positive" if that is true of all its rewards; empty if unknown."""
        return ""


TRANSITION = frozenset({"obs", "action", "reward", "true_reward", "next_obs", "discount", "terminated", "truncated"})
