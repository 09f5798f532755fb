"""Where batches come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import REWARD, Agent
from lfd.batch import Batch
from lfd.data import Dataset
from lfd.envs import Env
from lfd.experts import Expert


@dataclass
class World:
    """What a source finds when it is opened."""

    name: str  # its own
    env: Env | None
    agents: Sequence[Agent]  # the learner's members, by which environments are acted in
    datasets: Mapping[str, Dataset]  # products by stage
    experts: Mapping[str, Expert]  # likewise
    sources: Mapping[str, "Source"]  # its neighbours
    columns: frozenset[str]  # that somebody reads
    batch: int  # rows a gradient step, for each member
    gamma: float
    seed: int
    folder: Path  # for what must survive a kill
    kept: Path  # for what stays with the product
    boundary: int  # gradient steps from one boundary to the next, or a few more
    device: torch.device
    sequence: int = 1  # rows in a row
    distinct: bool = False  # is no row to stand twice in a batch?
    stopping: Callable[[], bool] = lambda: False  # has somebody asked the run to stop?
    # Shows what is done beside gradient steps, how much of how much; "" when these go on: see `Progress.doing`.
    doing: Callable[..., None] = lambda *told: None

    @property
    def agent(self) -> Agent:
        """The only member, or any of them where only their kind matters."""
        return self.agents[0]

    @property
    def members(self) -> int:
        return len(self.agents)


class Stream(ABC):
    """An open source. `save` and `restore` are called when `idle`, and give the same bits from there."""

    env_steps: int = 0  # transitions taken from environments so far
    interacts: bool = False  # has an environment, whose inner state no checkpoint can hold

    @abstractmethod
    def next(self) -> Batch:
        """The batch of this gradient step in raw units: [B, ...] or [B, L, ...]; before that [members] with members."""

    @abstractmethod
    def epoch_steps(self) -> int:
        """Gradient steps in one pass over what it holds now."""

    @abstractmethod
    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """State as tensors and as JSON values."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None: ...

    @property
    def idle(self) -> bool:
        """Between two collections, so that a checkpoint may fall here; of rounds, it is asked only between two."""
        return True

    @property
    def spent(self) -> bool:
        """Should what was collected last not be learnt from any longer?"""
        return False

    def begin_round(self) -> None:  # noqa: B027 - what does not collect has no rounds
        """Collect once, for all the phases of this round."""

    def begin_phase(self, fresh: bool) -> None:  # noqa: B027 - what is drawn afresh is never stale
        """Estimate anew what depends on the networks; `fresh` asks for what the round collected and nothing older."""

    def feedback(self, values: Mapping[str, Tensor]) -> None:  # noqa: B027 - most sources have no use for it
        """What the losses say of the last batch: "priority" [B], "kl"; tensors to be read, not to be written to."""

    def boundary(self, index: int) -> None:  # noqa: B027 - only environments are reset
        """Reset environments with seeds derived from `index`."""

    def held_out(self) -> list[Batch]:
        """Validation batches; none by default."""
        return []

    def episodes(self) -> list[tuple[float, int]]:
        """(true return, length) of the training episodes that ended since the last call."""
        return []

    def drivers(self) -> list[Path]:
        """Weights of the agents that drove in its rounds, oldest first."""
        return []

    def close(self) -> None:  # noqa: B027 - only environments are closed
        """Release environments."""


@dataclass
class Source(ABC):
    interacts: ClassVar[bool] = False  # needs an environment

    @abstractmethod
    def gives(self, sources: Mapping[str, "Source"]) -> frozenset[str]:
        """Columns of its batches."""

    @abstractmethod
    def open(self, world: World) -> Stream: ...

    def shape(self, batch: int) -> tuple[int, ...]:
        """Of a column of numbers, for an algorithm's batch size: what a trial of a step is made up from."""
        return (batch,)

    def products(self, name: str) -> tuple[str, ...]:
        """Stages whose dataset it reads, when it stands under this name."""
        return ()

    def experts(self) -> tuple[str, ...]:
        """Stages that it asks what to do."""
        return ()

    def parts(self) -> tuple[str, ...]:
        """Names of the sources that it draws from itself."""
        return ()

    @property
    def one_sided(self) -> str:
        """ "never negative" or "never positive" where that is true of every reward that it gives; empty if unknown."""
        return ""


def learnt_rewards(agents: Sequence[Agent], transitions: Batch) -> Tensor:
    """[N] rewards of raw transitions [N, ...] by the members' reward networks, which have no memory.

    Every member judges an equal share of the rows, in order.
    """
    judges = [judge for agent in agents if (judge := agent.judge()) is not None]
    share = len(transitions.action) // len(judges)
    found = []
    with torch.no_grad():
        for member, judge in enumerate(judges):
            # In parts: a whole collection of frames at once would exceed memory.
            for start in range(member * share, (member + 1) * share, JUDGED):
                rows = slice(start, min(start + JUDGED, (member + 1) * share))
                found.append(judge.nets[REWARD](judge.prepare(transitions.at(rows))))
    return torch.cat(found)


JUDGED = 8192  # rows
TRANSITION = frozenset({"obs", "action", "reward", "true_reward", "next_obs", "discount", "terminated", "truncated"})
