"""A plugin with a source and stages, which extend only the abstract classes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lfd.batch import Batch, tensors
from lfd.data import Dataset, Writer
from lfd.errors import UserError
from lfd.experts.experts import Expert
from lfd.sources import Collector, Source, SourceContext, Stream
from lfd.sources.use import SourceUse
from lfd.stages import CheckContext, Estimate, EstimateContext, Product, Stage, StageContext, Summary


@dataclass
class Pushed(Source):
    """States of environments in which one action is repeated, labelled with that."""

    interacts = True

    action: int = 1

    def provides(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return frozenset({"obs", "action"})

    def check(self, use: SourceUse) -> None:
        if use.members > 1:
            raise UserError(f"{use.stage}: {use.name} is for one agent, there are {use.members}; set members=1")

    def env_steps(self, use: SourceUse) -> int:
        return use.steps * use.rows

    def open(self, context: SourceContext) -> Stream:
        return PushedStream(self, context)


class PushedStream(Collector):
    def __init__(self, source: Pushed, context: SourceContext) -> None:
        super().__init__()
        assert context.env is not None
        self._action, self._env = np.full(context.batch, source.action), context.env.make(context.batch, training=True)

    def reset_envs(self, index: int) -> None:
        self._obs = self._env.reset([1_000 * index + lane for lane in range(self._env.num_envs)])

    def next(self) -> Batch:
        batch = Batch(obs=tensors(self._obs, torch.device("cpu")), action=torch.from_numpy(self._action))
        self._obs = self._env.step(self._action).obs
        self.env_steps += self._env.num_envs
        return batch

    def epoch_steps(self) -> int:
        return 1

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"env_steps": self.env_steps}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self.env_steps = state["env_steps"]

    def close(self) -> None:
        self._env.close()


@dataclass
class Longest(Stage):
    """The longest episodes of a dataset."""

    data: str = "demos"
    episodes: int = 2

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.dataset})

    def inputs(self) -> dict[str, Product]:
        return {self.data: Product.dataset}

    def length(self) -> int | None:
        return self.episodes

    unit = "episodes"

    def check(self, context: CheckContext) -> None:
        rows = context.stages[self.data].row_count()
        if rows is not None and rows < self.episodes:
            raise UserError(f"{context.name}.episodes={self.episodes}: {self.data!r} has {rows} rows; ask for fewer")

    def dataset_bytes(self, context: EstimateContext) -> int:
        return self.episodes * context.episode * context.row_bytes

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        transitions = self.episodes * context.episode
        return Estimate(context.seconds_per_transition("random") * transitions, 0, self.dataset_bytes(context))

    def shortened(self, name: str) -> list[str]:
        return [f"set fewer {name}.episodes"]

    def run(self, context: StageContext) -> Summary:
        began, data = time.monotonic(), context.products[self.data]
        writer = Writer(context.folder / "shards", context.spaces, data.stack)
        for index in np.argsort(data.ends - data.starts)[-self.episodes :]:
            writer.add(data.episode(index))
        writer.finalize(context.folder / "data.hdf5", {})
        return Summary(seconds=time.monotonic() - began)

    @staticmethod
    def open(folder: Path) -> Dataset:
        return Dataset.open(folder / "data.hdf5")


class Pusher(Expert):
    """Repeats one action."""

    def __init__(self, action: int) -> None:
        self.action = action

    def policy(self, env: Any, device: Any, snapshot: int | None = None, noise: Any = None) -> Any:
        return lambda obs: np.full(env.num_envs, self.action)


@dataclass
class Fixed(Stage):
    """An actor that repeats one action."""

    action: int = 1

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.actor, Product.labels})

    def check_snapshot(self, what: str, index: int) -> None:
        raise UserError(f"{what}: one action has no earlier states")

    def run(self, context: StageContext) -> Summary:
        (context.folder / "action").write_text(str(self.action))
        return Summary()

    @staticmethod
    def open(folder: Path) -> Pusher:
        return Pusher(int((folder / "action").read_text()))
