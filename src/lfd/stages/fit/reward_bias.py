"""Warnings about survival bias: rewards of one sign make longer or shorter episodes better with any actions."""

from collections.abc import Mapping, Sequence
from typing import Any

from lfd.data import Dataset
from lfd.stages.fit.config import FitConfig


def survival_bias_warnings(fit: FitConfig, name: str, products: Mapping[str, Any]) -> list[str]:
    """A line for each part of a training stage whose rewards have one sign; see `one_sided_rewards`."""
    signs = {f"losses.{row}": loss.reward_sign for row, loss in fit.algo.losses.items()}
    signs |= {f"sources.{row}": source.reward_sign for row, source in fit.read_sources().items()}
    data = [product for row, source in fit.read_sources().items() for product in source.products(row)]
    return one_sided_rewards(name, signs, data, products)


def one_sided_rewards(
    name: str, signs: Mapping[str, str], datasets: Sequence[str], products: Mapping[str, Any]
) -> list[str]:
    """Warnings of the stage `name` about rewards of one sign, where episodes do not all run to one time limit.

    `signs` has "never negative", "never positive" or "" for each part that computes rewards; `datasets` names the
    demonstrations in `products`.
    """
    varying = next((text for data in dict.fromkeys(datasets) if (text := _varying(data, products[data]))), "")
    effect = {"never negative": "longer episodes earn more", "never positive": "shorter episodes earn more"}
    # Demonstrations that all run to one time limit are no reason against long episodes, but against short ones.
    reason = {"never negative": varying, "never positive": varying or "the learner may end an episode"}
    return [
        f"{name}: rewards of {part} are {sign} and {reason[sign]}: {effect[sign]} with any actions; use a reward of "
        "both signs"
        for part, sign in signs.items()
        if sign and reason[sign]
    ]


def _varying(name: str, data: Dataset) -> str:
    """A text about the ends of its complete episodes; empty if all run to one time limit."""
    complete = data.complete_episodes()
    lengths, terminated = (data.ends - data.starts)[complete], data.columns["terminals"][data.ends - 1][complete]
    if lengths.min() == lengths.max() and not terminated.any():
        return ""
    return f"episodes of {name!r} last {lengths.min()} to {lengths.max()} steps ({terminated.mean():.0%} terminate)"
