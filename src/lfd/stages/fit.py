"""fit: improve an agent by the losses of an algorithm."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from lfd.envs import Spaces
from lfd.stages import Lab, Summary
from lfd.stages.recipe import Recipe
from lfd.stages.trained import Trained, open_trained
from lfd.stages.training import Training
from lfd.stages.wiring import Wiring


@final
@dataclass
class Fit(Recipe):
    """Follows its recipe; the product is a policy."""

    def check_wiring(self, name: str, spaces: Spaces, datasets: list[str]) -> None:
        Wiring(self).check(name, spaces, datasets)

    def run(self, lab: Lab) -> Summary:
        with Training(self, lab) as training:
            return training.run()

    @staticmethod
    def open(folder: Path) -> Trained:
        return open_trained(folder)
