"""The configuration by which a training stage reads a source."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from lfd.errors import UserError

if TYPE_CHECKING:
    from lfd.sources import Source


@final
@dataclass(frozen=True, kw_only=True)
class SourceUse:
    """How a training stage uses a source: known before the source is opened, for checks and estimates."""

    stage: str  # name of the training stage
    name: str  # name of the source in the stage
    sources: Mapping[str, "Source"]  # all sources of the algorithm by name
    reads: Mapping[str, "SourceUse"]  # how the stage uses the sources that this one follows (`Source.reads`)
    columns: frozenset[str]  # columns that losses read of it directly
    batch: int  # rows of its batch, or of the batch of its mix, in a gradient step, for each member
    batch_key: str  # the key that sets `batch`, for messages
    mix: str | None  # the mix that it is a part of
    share: float  # fraction of the batch, if the source is a part of a mix; 1 otherwise
    sequence: int  # consecutive rows in a sequence
    members: int  # number of members
    learned_reward: bool  # True if a reward model replaces the environment's reward
    steps: int  # gradient steps of the stage
    reset_every: int  # gradient steps between resets of the environments
    rounds: int | None  # maximum number of rounds of phases; None = as many as the steps allow
    round_steps: int  # gradient steps in a round, in phases that set `steps`
    round_epochs: int  # passes over a collection in a round, in phases that set `epochs`
    collecting: float  # fraction of the gradient steps in phases that may read data of earlier rounds
    row_bytes: int  # size of a stored transition
    store: Path  # folder of its files, which may not exist yet

    @property
    def key(self) -> str:
        """The key of the source, for messages."""
        return f"{self.stage}: algo.sources.{self.name}"

    @property
    def rows(self) -> int:
        """Rows that the source provides in a gradient step."""
        return max(1, round(self.batch * self.share))

    def check_batch_size(self) -> None:
        """Raises UserError if the batch does not consist of whole sequences, or a part of a mix sets its own."""
        own = self.sources[self.name].batch_size
        if self.mix is not None and own is not None:
            raise UserError(
                f"{self.key}.batch_size: expected null, as algo.sources.{self.mix} divides its batch by its fractions, "
                f"got {own}; set the batch_size of {self.mix}"
            )
        if self.batch < 1 or self.batch % self.sequence:
            raise UserError(
                f"{self.batch_key}: expected a multiple of algo.sequence_length={self.sequence}, got {self.batch}"
            )

    def refuse_constant_reward(self, reward: float | None) -> None:
        """Raises UserError if the source has a constant reward that a reward model would replace."""
        if self.learned_reward and reward is not None:
            raise UserError(
                f"{self.key}.constant_reward: expected null, as a reward model provides the reward, got {reward:g}; "
                "set it to null"
            )
