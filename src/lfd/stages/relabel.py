"""relabel: the data of one stage with the rewards of another."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from lfd.algos import MISSING
from lfd.data import Dataset, Writer
from lfd.sources.table import LEARNT, rewards_of
from lfd.stages import Lab, Product, Stage, Summary
from lfd.stages.collect import DATA
from lfd.stages.trained import judge


@final
@dataclass
class Relabel(Stage):
    """Stores learnt rewards beside the true ones, which stay: sources give the learnt ones as `reward`.

    Whoever learns from it needs neither the reward's network nor an environment. Returns, ranks and scores of the data
    remain those of the true rewards.
    """

    gives: ClassVar[Product] = Product.dataset
    unit: ClassVar[str] = "transitions"

    data: str = MISSING  # the stage whose dataset it is
    reward: str = MISSING  # the product with the learnt reward
    gamma: float = 0.99  # discount of a step, for rewards that look at it

    def inputs(self) -> dict[str, Product]:
        return {self.data: Product.dataset, self.reward: Product.reward}

    def interacts(self) -> bool:
        return False

    def total(self) -> int | None:
        return None

    def run(self, lab: Lab) -> Summary:
        began, device = time.monotonic(), lab.hardware.open()
        data: Dataset = lab.products[self.data]
        agent = judge(lab.products[self.reward], f"{lab.name}.reward={self.reward}").to(device)
        path = lab.folder / DATA
        if not path.exists():
            writer = Writer(lab.folder / "shards", lab.spaces, data.stack)
            if not writer.cursor:
                self._copy(data, rewards_of(data, agent, self.gamma, device), writer, lab)
            passport = {key: data.passport.get(key) for key in ("env", "made_by")}
            writer.finalise(path, passport | {"relabelled": True})
        return Summary(seconds=time.monotonic() - began, more={"passport": Dataset.open(path).passport})

    def _copy(self, data: Dataset, rewards: NDArray[np.float64], writer: Writer, lab: Lab) -> None:
        for index, (start, end) in enumerate(zip(data.starts, data.ends, strict=True)):
            episode = data.episode(index)
            learnt = {LEARNT.removeprefix("infos/"): rewards[start:end].astype(np.float32)}
            writer.add(replace(episode, infos=episode.infos | learnt))
            lab.progress.update(writer.transitions)
        writer.commit({"copied": True})

    @staticmethod
    def open(folder: Path) -> Any:
        return Dataset.open(folder / DATA)
