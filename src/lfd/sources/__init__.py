"""Where batches come from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.batch import Batch
from lfd.data import Dataset
from lfd.envs import Env


@dataclass
class World:
    """What a source finds when it is opened."""

    name: str  # its own
    env: Env | None
    agent: Agent  # the learner's, by which environments are acted in
    datasets: Mapping[str, Dataset]  # products by stage
    sources: Mapping[str, "Source"]  # its neighbours
    columns: frozenset[str]  # that somebody reads
    batch: int  # rows a gradient step
    gamma: float
    seed: int
    folder: Path  # for what must survive a kill
    boundary: int  # gradient steps from one boundary to the next, or a few more
    device: torch.device
    members: int = 1


class Stream(ABC):
    """An open source. `save` and `restore` are called when `idle`, and give the same bits from there."""

    env_steps: int = 0  # transitions taken from environments so far
    interacts: bool = False  # has an environment, whose inner state no checkpoint can hold

    @abstractmethod
    def next(self) -> Batch:
        """The batch of this gradient step in raw units: [B, ...], or [members, B, ...] with members."""

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
        """Between two collections, so that a checkpoint may fall here."""
        return True

    def feedback(self, values: Mapping[str, Tensor]) -> None:  # noqa: B027 - most sources have no use for it
        """What the losses say of the last batch: "priority" [B], "kl"."""

    def boundary(self, index: int) -> None:  # noqa: B027 - only environments are reset
        """Reset environments with seeds derived from `index`."""

    def held_out(self) -> list[Batch]:
        """Validation batches; none by default."""
        return []

    def episodes(self) -> list[tuple[float, int]]:
        """(true return, length) of the training episodes that ended since the last call."""
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

    def products(self, name: str) -> tuple[str, ...]:
        """Stages whose dataset it reads, when it stands under this name."""
        return ()

    def parts(self) -> tuple[str, ...]:
        """Names of the sources that it draws from itself."""
        return ()


TRANSITION = frozenset({"obs", "action", "reward", "true_reward", "next_obs", "discount", "terminated", "truncated"})
