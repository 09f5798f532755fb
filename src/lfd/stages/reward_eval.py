"""reward_eval: compare learned rewards with the true ones."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from lfd.agents import REWARD
from lfd.data import Dataset
from lfd.errors import UserError
from lfd.files import load_json, save_json
from lfd.sources.rewards import rewards_of
from lfd.stages import Estimate, EstimateContext, Product, Stage, StageContext, Summary
from lfd.stages.sizes import copy_time
from lfd.stages.trained import single_agent

Values = NDArray[np.float64]

EPISODES = 1_000  # episodes of a dataset that are compared, evenly spaced if it has more
HISTOGRAM_BINS = 20
CALIBRATION_BINS = 5  # between the probabilities 0.5 and 1


@final
@dataclass
class RewardEvaluation(Stage):
    """Compares returns of learned rewards with true returns, for each reward model and each dataset.

    Two rewards of one task may differ in scale, so a preference has the probability sigmoid(difference / temperature)
    with the temperature of the largest likelihood on the data.
    """

    unit: ClassVar[str] = "rewards"

    rewards: list[str] = field(default_factory=list)  # stages with reward models
    data: list[str] = field(default_factory=list)  # stages with datasets
    gamma: float = 0.99  # discount of a step, for reward models that use it

    def __post_init__(self) -> None:
        if not self.rewards or not self.data:
            raise UserError(
                "rewards: expected rewards and data, as in rewards: [reward], data: [demos]; got an empty list"
            )

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.diagnosis})

    def inputs(self) -> dict[str, Product]:
        return dict.fromkeys(self.data, Product.dataset) | dict.fromkeys(self.rewards, Product.reward)

    def length(self) -> int | None:
        return len(self.rewards)

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        # Reading the data takes longer than computing rewards.
        size = sum(context.stages[data].dataset_bytes(context) for data in self.data)
        return Estimate(copy_time(size), disk=10_000)

    def run(self, context: StageContext) -> Summary:
        began, device = time.monotonic(), context.hardware.torch_device()
        results: dict[str, Any] = {}
        for done, name in enumerate(self.rewards):
            agent = single_agent(context.products[name], f"{context.name}.rewards: {name}").to(device)
            results[name] = {}
            for dataset in self.data:
                data: Dataset = context.products[dataset]
                rewards = rewards_of(data, agent, self.gamma, device)
                predicted = np.add.reduceat(rewards, data.starts)
                results[name][dataset] = agreement(predicted, data.returns()) | spread(rewards)
            context.progress.update(done + 1)
        save_json(context.folder / f"{REWARD}.json", results)
        return Summary(seconds=time.monotonic() - began)

    @staticmethod
    def open(folder: Path) -> dict[str, Any]:
        results: dict[str, Any] = load_json(folder / f"{REWARD}.json")
        return results


def agreement(predicted: Values, true: Values) -> dict[str, Any]:
    """Agreement of predicted returns [E] with true returns [E], as JSON.

    accuracy: share of the pairs with different true returns that are ordered alike, a tie counts half; margin: mean
    difference of the predicted returns, better minus worse; pearson, spearman: None if either side is constant.
    """
    if len(true) > EPISODES:
        rows = np.linspace(0, len(true) - 1, EPISODES).astype(np.int64)
        predicted, true = predicted[rows], true[rows]
    better, worse = np.nonzero(true[:, None] > true[None, :])
    margins = predicted[better] - predicted[worse]
    return {
        "episodes": len(true),
        "pairs": len(margins),
        "accuracy": float(_right(margins).mean()) if len(margins) else None,
        "margin": float(margins.mean()) if len(margins) else None,
        "pearson": correlation(predicted, true),
        "spearman": correlation(_ranked(predicted), _ranked(true)),
        **(calibration(margins) if len(margins) else {}),
        "returns": {"predicted": predicted.tolist(), "true": true.tolist()},
    }


def calibration(margins: Values) -> dict[str, Any]:
    """Calibration of predicted preferences, as JSON: how often they are right, by bins of their probability.

    `margins` [P] are predicted returns of the better minus the worse episode of a pair. The error is the mean distance
    of probability and share of right preferences, weighted by pairs.
    """
    scale = np.abs(margins).max() or 1.0
    temperatures = scale * np.logspace(-3, 3, 121)
    log_likelihoods = [-np.logaddexp(0, -margins / temperature).mean() for temperature in temperatures]
    temperature = float(temperatures[int(np.argmax(log_likelihoods))])
    probability = 1 / (1 + np.exp(-np.abs(margins) / temperature))
    place = np.minimum(((probability - 0.5) * 2 * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    bins = []
    for index in np.unique(place):
        inside = place == index
        right = float(_right(margins[inside]).mean())
        bins.append({"predicted": float(probability[inside].mean()), "right": right, "pairs": int(inside.sum())})
    error = sum(part["pairs"] * abs(part["predicted"] - part["right"]) for part in bins) / len(margins)
    return {"temperature": temperature, "calibration": bins, "calibration_error": error}


def spread(rewards: Values) -> dict[str, Any]:
    """Mean, standard deviation and histogram of the rewards [N] of single steps, as JSON."""
    counts, edges = np.histogram(rewards, HISTOGRAM_BINS)
    histogram = {"counts": counts.tolist(), "edges": edges.tolist()}
    return {"reward_mean": float(rewards.mean()), "reward_std": float(rewards.std()), "histogram": histogram}


def correlation(one: Values, other: Values) -> float | None:
    """Pearson's correlation; None if either side is constant."""
    if min(np.ptp(one), np.ptp(other)) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _ranked(values: Values) -> Values:
    """Ranks; equal values share the mean of theirs."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values) + np.searchsorted(ordered, values, "right") - 1) / 2


def _right(margins: Values) -> Values:
    """1 where the better episode has the larger prediction, 0.5 for ties, else 0."""
    return (np.sign(margins) + 1) / 2
