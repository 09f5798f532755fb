"""Where rewards of one sign say how long to live, whatever is done."""

from collections.abc import Mapping
from typing import Any

from lfd.data import Dataset
from lfd.stages.evaluate import whole
from lfd.stages.recipe import Recipe


def survival_bias(fit: Recipe, name: str, products: Mapping[str, Any]) -> list[str]:
    """A line for each part whose rewards have one sign, if the demonstrations' episodes do not all run to one limit."""
    said = {f"losses.{row}": loss.one_sided for row, loss in fit.algo.losses.items()}
    said |= {f"sources.{row}": source.one_sided for row, source in fit.read().items()}
    data = [product for source, what in fit.read().items() for product in what.products(source)]
    ends = next((end for product in dict.fromkeys(data) if (end := _varying(product, products[product]))), "")
    if not ends:
        return []
    earns = {"never negative": "longer episodes earn more", "never positive": "shorter episodes earn more"}
    return [
        f"{name}: rewards of {part} are {side} and {ends}: whatever is done, {earns[side]}; rewards of both signs, as "
        "of algo=gail or airl, do not say so"
        for part, side in said.items()
        if side
    ]


def _varying(name: str, data: Dataset) -> str:
    """How its episodes end, if not all of them at one time limit."""
    kept = whole(data)
    lengths, ended = (data.ends - data.starts)[kept], data.columns["terminals"][data.ends - 1][kept]
    if lengths.min() == lengths.max() and not ended.any():
        return ""
    return f"episodes of {name!r} last {lengths.min()} to {lengths.max()} steps ({ended.mean():.0%} terminate)"
