"""relabel: add the rewards of a reward model to a dataset."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from lfd.algos import MISSING
from lfd.data import Dataset, Writer
from lfd.sources.columns import LEARNED
from lfd.sources.rewards import rewards_of
from lfd.stages import DatasetSummary, Estimate, EstimateContext, Product, Stage, StageContext, Summary
from lfd.stages.collect import DATA
from lfd.stages.sizes import copy_time
from lfd.stages.trained import single_agent


@final
@dataclass
class Relabel(Stage):
    """Copies a dataset and adds a column of learned rewards, which sources then return as `reward`.

    Training on the copy needs neither the reward model nor an environment. Returns, ranks and scores of the copy are
    those of the true rewards.
    """

    unit: ClassVar[str] = "transitions"

    data: str = MISSING  # stage with the dataset
    reward: str = MISSING  # stage with the reward model
    gamma: float = 0.99  # discount of a step, for reward models that use it

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.dataset})

    def inputs(self) -> dict[str, Product]:
        return {self.data: Product.dataset, self.reward: Product.reward}

    def dataset_bytes(self, context: EstimateContext) -> int:
        return context.stages[self.data].dataset_bytes(context)

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        size = self.dataset_bytes(context)
        return Estimate(copy_time(size), disk=size)

    def run(self, context: StageContext) -> Summary:
        began, device = time.monotonic(), context.hardware.torch_device()
        data: Dataset = context.products[self.data]
        agent = single_agent(context.products[self.reward], f"{context.name}.reward={self.reward}").to(device)
        path = context.folder / DATA
        if not path.exists():
            writer = Writer(context.folder / "shards", context.spaces, data.stack)
            if not writer.cursor:
                self._copy(data, rewards_of(data, agent, self.gamma, device), writer, context)
            metadata = {key: data.metadata.get(key) for key in ("env", "made_by")}
            writer.finalize(path, metadata | {"relabelled": True})
        return DatasetSummary(seconds=time.monotonic() - began, metadata=Dataset.open(path).metadata)

    def _copy(self, data: Dataset, rewards: NDArray[np.float64], writer: Writer, context: StageContext) -> None:
        for index, (start, end) in enumerate(zip(data.starts, data.ends, strict=True)):
            episode = data.episode(index)
            learned = {LEARNED.removeprefix("infos/"): rewards[start:end].astype(np.float32)}
            writer.add(replace(episode, infos=episode.infos | learned))
            context.progress.update(writer.transitions)
        writer.commit({"copied": True})

    @staticmethod
    def open(folder: Path) -> Any:
        return Dataset.open(folder / DATA)
