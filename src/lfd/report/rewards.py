"""rewards.png: how learnt rewards agree with the true one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfd.report.curves import GREY, INK, LINE, STYLE
from lfd.report.table import number, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Found = Mapping[str, Mapping[str, Mapping[str, Any]]]

# Distinct in print: each dataset has its own mark.
_MARKS = ("o", "^", "s", "D", "v")
_COLOURS = (LINE, "#b45309", "#3f7d4e", "#7a3e9d", "#a61b1b")


def draw_rewards(found: Found, path: Path) -> None:
    """Draw a row a reward: predicted against true returns, calibration, and the rewards of single steps.

    Args:
        found: reward -> dataset -> what `inspect` says of it there.
        path: the PNG to write.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        figure = Figure(figsize=(11, 3.8 * len(found)), dpi=130, layout=layout, facecolor="white")
        rows = figure.subfigures(len(found), 1, squeeze=False)[:, 0]
        for row, (name, by_data) in zip(rows, found.items(), strict=True):
            row.suptitle(name, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
            returns, calibration, steps = row.subplots(1, 3)
            _draw_returns(returns, by_data)
            _draw_calibration(calibration, by_data)
            _draw_steps(steps, by_data)
        figure.savefig(path, format="png")


def _draw_returns(panel: Axes, by_data: Mapping[str, Mapping[str, Any]]) -> None:
    for (data, numbers), mark, colour in zip(by_data.items(), _MARKS, _COLOURS, strict=False):
        returns = numbers["returns"]
        label = f"{data}, Spearman {number(numbers['spearman'])}"
        panel.plot(
            returns["true"], returns["predicted"], mark, color=colour, markersize=5, alpha=0.7, label=label,
            markeredgewidth=0,
        )  # fmt: skip
    panel.set_xlabel("true return of an episode")
    panel.set_ylabel("its return by the learnt reward")
    _legend(panel)


def _draw_calibration(panel: Axes, by_data: Mapping[str, Mapping[str, Any]]) -> None:
    panel.plot([0.5, 1.0], [0.5, 1.0], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    for (data, numbers), mark, colour in zip(by_data.items(), _MARKS, _COLOURS, strict=False):
        bins = numbers.get("calibration", [])
        chances, right = [one["predicted"] for one in bins], [one["right"] for one in bins]
        label = f"{data}, {share(numbers['accuracy'])} of {numbers['pairs']:,} pairs"
        panel.plot(chances, right, color=colour, linewidth=1.0, alpha=0.6)
        # By how many pairs there are: one alone says little.
        sizes = [10 + 90 * one["pairs"] / numbers["pairs"] for one in bins]
        panel.scatter(chances, right, sizes, color=colour, marker=mark, label=label, linewidths=0)
    panel.set_xlim(0.48, 1.02)
    panel.set_ylim(-0.03, 1.05)
    panel.set_xlabel("predicted chance of the preferred episode")
    panel.set_ylabel("how often it is truly better")
    _legend(panel)


def _draw_steps(panel: Axes, by_data: Mapping[str, Mapping[str, Any]]) -> None:
    for (data, numbers), colour in zip(by_data.items(), _COLOURS, strict=False):
        counts, edges = numbers["histogram"]["counts"], numbers["histogram"]["edges"]
        total = sum(counts)
        panel.stairs([count / total for count in counts], edges, color=colour, fill=True, alpha=0.25)
        panel.stairs([count / total for count in counts], edges, color=colour, linewidth=1.2, label=data)
    panel.set_xlabel("learnt reward of a step")
    panel.set_ylabel("share of the steps")
    _legend(panel)


def _legend(panel: Axes) -> None:
    panel.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False, fontsize=8)
