"""fit: train an agent by the losses of an algorithm."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from lfd.log.progress import print_message_once
from lfd.stages import CheckContext, Estimate, EstimateContext, StageContext, Summary
from lfd.stages.fit.config import FitConfig
from lfd.stages.fit.costs import FitCosts
from lfd.stages.fit.loop import TrainLoop
from lfd.stages.fit.wiring import Wiring
from lfd.stages.trained import Trained, open_trained


@final
@dataclass
class Fit(FitConfig):
    """Trains an agent by an algorithm's losses; the product is a policy, a reward, or both."""

    def check(self, context: CheckContext) -> None:
        Wiring(self, context).check()
        read, own = self.read_sources().keys(), self.algo.sources.keys()
        for row in sorted(own - read):
            hints = [f"; +source@algo.sources.{name}=dataset gives {name} settings" for name in sorted(read - own)]
            print_message_once(
                f"{context.name}: no loss reads sources.{row}: its settings have no effect{''.join(hints)}"
            )

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        return FitCosts(name, self, context).estimate()

    def run(self, context: StageContext) -> Summary:
        with TrainLoop(self, context) as training:
            return training.run()

    @staticmethod
    def open(folder: Path) -> Trained:
        return open_trained(folder)
