"""inspect: does a learnt reward agree with the true one?"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from lfd.agents import REWARD
from lfd.data import Dataset
from lfd.errors import Refused
from lfd.files import load_json, save_json
from lfd.sources.table import rewards_of
from lfd.stages import Lab, Product, Stage, Summary
from lfd.stages.trained import judge

Values = NDArray[np.float64]

EPISODES = 1_000  # of a dataset that are compared with each other; evenly spaced ones of more
BINS = 20  # of a histogram of rewards
CHANCES = 5  # bins of a calibration, from 0.5 to 1


@final
@dataclass
class Inspect(Stage):
    """Compares the returns of learnt rewards with the true ones, on each dataset and for each reward.

    Two rewards for one task may differ in scale, so a preference is predicted by sigmoid(difference / temperature), and
    the temperature is the likeliest on the data at hand: 1 where a reward is as sure of whole episodes as it should be.
    """

    gives: ClassVar[Product] = Product.diagnosis
    unit: ClassVar[str] = "rewards"

    rewards: list[str] = field(default_factory=list)  # products with a learnt reward
    data: list[str] = field(default_factory=list)  # datasets that they are asked about
    gamma: float = 0.99  # discount of a step, for rewards that look at it

    def __post_init__(self) -> None:
        if not self.rewards or not self.data:
            raise Refused("an inspection needs rewards and data; name them, as in rewards: [reward], data: [demos]")

    def inputs(self) -> dict[str, Product]:
        return dict.fromkeys(self.data, Product.dataset) | dict.fromkeys(self.rewards, Product.reward)

    def interacts(self) -> bool:
        return False

    def total(self) -> int | None:
        return len(self.rewards)

    def run(self, lab: Lab) -> Summary:
        began, device = time.monotonic(), lab.hardware.open()
        found: dict[str, Any] = {}
        for done, name in enumerate(self.rewards):
            agent = judge(lab.products[name], f"{lab.name}.rewards: {name}").to(device)
            found[name] = {}
            for given in self.data:
                data: Dataset = lab.products[given]
                rewards = rewards_of(data, agent, self.gamma, device)
                predicted = np.add.reduceat(rewards, data.starts)
                found[name][given] = measured(predicted, data.returns()) | spread(rewards)
            lab.progress.update(done + 1)
        save_json(lab.folder / f"{REWARD}.json", found)
        return Summary(seconds=time.monotonic() - began)

    @staticmethod
    def open(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = load_json(folder / f"{REWARD}.json")
        return found


def measured(predicted: Values, true: Values) -> dict[str, Any]:
    """How returns [E] of a learnt reward agree with the true ones, as JSON.

    accuracy: share of the pairs of different true return that it orders alike, a tie counts half; margin: by how much
    the better one's is higher, on average; pearson, spearman: None where one of both is constant.
    """
    if len(true) > EPISODES:
        chosen = np.linspace(0, len(true) - 1, EPISODES).astype(np.int64)
        predicted, true = predicted[chosen], true[chosen]
    better, worse = np.nonzero(true[:, None] > true[None, :])
    margins = predicted[better] - predicted[worse]
    return {
        "episodes": len(true),
        "pairs": len(margins),
        "accuracy": float(_right(margins).mean()) if len(margins) else None,
        "margin": float(margins.mean()) if len(margins) else None,
        "pearson": correlation(predicted, true),
        "spearman": correlation(_ranked(predicted), _ranked(true)),
        **(calibrated(margins) if len(margins) else {}),
        "returns": {"predicted": predicted.tolist(), "true": true.tolist()},
    }


def calibrated(margins: Values) -> dict[str, Any]:
    """Whether a reward is right as often as it says: by bins of the chance that it gives to what it prefers.

    margins [P] of the truly better over the truly worse. The error is the mean distance of chance and share, weighted
    by pairs.
    """
    scale = np.abs(margins).max() or 1.0
    temperatures = scale * np.logspace(-3, 3, 121)
    fits = [-np.logaddexp(0, -margins / temperature).mean() for temperature in temperatures]
    temperature = float(temperatures[int(np.argmax(fits))])
    chance = 1 / (1 + np.exp(-np.abs(margins) / temperature))
    place = np.minimum(((chance - 0.5) * 2 * CHANCES).astype(np.int64), CHANCES - 1)
    bins = []
    for index in np.unique(place):
        inside = place == index
        right = float(_right(margins[inside]).mean())
        bins.append({"predicted": float(chance[inside].mean()), "right": right, "pairs": int(inside.sum())})
    error = sum(one["pairs"] * abs(one["predicted"] - one["right"]) for one in bins) / len(margins)
    return {"temperature": temperature, "calibration": bins, "calibration_error": error}


def spread(rewards: Values) -> dict[str, Any]:
    """Mean, standard deviation and histogram of the rewards of single steps [N], as JSON."""
    counts, edges = np.histogram(rewards, BINS)
    histogram = {"counts": counts.tolist(), "edges": edges.tolist()}
    return {"reward_mean": float(rewards.mean()), "reward_std": float(rewards.std()), "histogram": histogram}


def correlation(one: Values, other: Values) -> float | None:
    """Pearson's; None where one of both is constant."""
    if min(np.ptp(one), np.ptp(other)) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _ranked(values: Values) -> Values:
    """Ranks; equal values share the mean of theirs."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values) + np.searchsorted(ordered, values, "right") - 1) / 2


def _right(margins: Values) -> Values:
    return (np.sign(margins) + 1) / 2
