"""Sources of batches.

A `Source` is a configuration; `Source.open` returns a `Stream`, which returns batches. A stream that acts in
environments is a `Collector`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.batch import Batch
from lfd.envs import Env
from lfd.envs.spaces import Array
from lfd.envs.vec_env import Step
from lfd.errors import UserError
from lfd.sources.use import SourceUse


@dataclass(kw_only=True)
class SourceContext:
    """Everything that a source needs when it is opened."""

    name: str  # name of the source in the algorithm's `sources`
    agents: Sequence[Agent]  # members of the learner, which act in environments
    products: Mapping[str, Any]  # stage -> its `Dataset` or `Expert`
    sources: Mapping[str, "Source"]  # all sources of the algorithm by name; a mix opens some of them
    stream: Callable[[str], "Stream"]  # the stream of a source of the stage, which is opened once for all its readers
    columns: frozenset[str]  # columns of a batch that some loss reads
    batch: int  # rows of the source's batch in a gradient step, for each member
    sequence: int = 1  # consecutive rows in a sequence; a batch has batch // sequence sequences
    gamma: float  # discount of an environment step
    seed: int
    device: torch.device
    env: Env | None  # None offline; sources that do not act read its `sign_reward` only
    # Only collectors read the fields below.
    folder: Path  # files that a resumed training needs; deleted with the checkpoints of the training
    product_folder: Path  # files that are stored with the product
    member: int = 0  # index of the only one of `agents` among the members of the learner
    reset_every: int  # maximum number of gradient steps between resets of the environments
    round_steps: int = 0  # gradient steps in a round, in phases that set `steps`
    round_epochs: int = 0  # passes over a collection in a round, in phases that set `epochs`
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

    def feedback(self, values: Mapping[str, Any]) -> None:  # noqa: B027 - most sources need no feedback
        """Takes feedback on the last batch: "priority" [B] and "kl" [] of losses, and "state" of a recurrent agent.

        "state" is the recurrent state (a pytree) after the last step of each sequence. It must not write to the
        tensors, and copies those that it keeps, as the next step may reuse them.
        """

    def held_out(self) -> list[Batch]:
        """Returns validation batches, shaped as those of `next`; none by default."""
        return []

    @property
    def collectors(self) -> tuple["Collector", ...]:
        """The collectors among the parts of this stream; a collector itself."""
        return ()

    @property
    def demo_steps(self) -> int:
        """Rows drawn from datasets so far."""
        return 0


class StepRecorder(ABC):
    """Keeps what a collector takes from its N environments: a replay of a rollout."""

    @abstractmethod
    def begin_collection(self) -> None:
        """A collection begins, the only one of a round."""

    @abstractmethod
    def reset(self, index: int, obs: Any) -> None:
        """All environments were reset, for the first time if `index` is 0; `obs` [N, ...] are first observations."""

    @abstractmethod
    def add_step(self, action: Array, step: Step, reward: Array) -> None:
        """The environments took actions [N, ...], within the bounds; `reward` [N] is the stored one."""


class Collector(Stream):
    """A stream that acts in environments, or keeps what another collector takes from its own.

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

    def record_to(self, recorder: StepRecorder) -> None:
        """Passes all resets and steps from now on to the recorder. Raises UserError if it cannot."""
        raise UserError(f"source: expected a source such as rollout, got {type(self).__name__}; name another source")

    def collect_if_due(self) -> None:  # noqa: B027 - a source may collect in `next` only
        """Collects now if `next` would collect."""

    @property
    def num_envs(self) -> int:
        """Number of its environments; only a collector that can be recorded needs it."""
        raise NotImplementedError

    @property
    def checkpoint_transitions(self) -> int:
        """Maximum number of transitions between two checkpoints; only a collector that can be recorded needs it."""
        raise NotImplementedError

    def round_policies(self) -> list[Path]:
        """Files of weights of the policies that acted in its rounds, oldest first; none unless it keeps them."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Closes environments."""


@dataclass
class Source(ABC):
    """Configuration of a source of batches. A plugin implements `provides` and `open`; other methods have defaults."""

    # rows of its batch in a gradient step; null = algo.batch_size
    batch_size: int | None = field(default=None, kw_only=True, metadata={"key": "set"})

    interacts: ClassVar[bool] = False  # needs an environment
    updates_normalizer: ClassVar[bool] = False  # normalizes observations by what it collects
    is_recordable: ClassVar[bool] = False  # a replay can keep what it collects (`Collector.record_to`)
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

    def reads(self) -> tuple[str, ...]:
        """Returns the names of the sources whose collectors it follows, which are opened with it."""
        return ()

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
    def fixed_shapes(self) -> bool:
        """True if all its batches have equal shapes, so that a gradient step on them can be recorded."""
        return True

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
