"""Where rewards of one sign say how long to live, whatever is done."""

from collections.abc import Mapping
from typing import Any

from lfd.data import Dataset
from lfd.stages.recipe import Recipe


def survival_bias(fit: Recipe, name: str, products: Mapping[str, Any]) -> list[str]:
    """A line for each part whose rewards have one sign, if the demonstrations' episodes do not all run to one limit."""
    said = {f"losses.{row}": loss.one_sided for row, loss in fit.algo.losses.items()}
    said |= {f"sources.{row}": source.one_sided for row, source in fit.read().items()}
    data = [product for source, what in fit.read().items() for product in what.products(source)]
    varying = next((end for product in dict.fromkeys(data) if (end := _varying(product, products[product]))), "")
    earns = {"never negative": "longer episodes earn more", "never positive": "shorter episodes earn more"}
    # Long episodes are what demonstrations that all run to one limit ask for, short ones never are.
    ends = {"never negative": varying, "never positive": varying or "the learner may end an episode"}
    return [
        f"{name}: rewards of {part} are {side} and {ends[side]}: whatever is done, {earns[side]}; a reward of both "
        "signs leaves that to be learnt"
        for part, side in said.items()
        if side and ends[side]
    ]


def _varying(name: str, data: Dataset) -> str:
    """How its episodes end, if not all of them at one time limit."""
    kept = data.whole()
    lengths, ended = (data.ends - data.starts)[kept], data.columns["terminals"][data.ends - 1][kept]
    if lengths.min() == lengths.max() and not ended.any():
        return ""
    return f"episodes of {name!r} last {lengths.min()} to {lengths.max()} steps ({ended.mean():.0%} terminate)"
