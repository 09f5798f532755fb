"""rewards.png: learned rewards compared with the environment's reward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfd.report.curves import GREY, INK, LINE, STYLE
from lfd.report.table import format_number, format_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RewardScores = Mapping[str, Mapping[str, Mapping[str, Any]]]

# each dataset has its own marker, so that they differ in black and white
_MARKERS = ("o", "^", "s", "D", "v")
_COLORS = (LINE, "#b45309", "#3f7d4e", "#7a3e9d", "#a61b1b")


def draw_rewards(scores: RewardScores, path: Path) -> None:
    """Draws one row per reward to the PNG `path`: predicted over true returns, calibration, and rewards of steps.

    Args:
        scores: reward -> dataset -> the scores that the stage `reward_eval` gives.
        path: the PNG to write.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        figure = Figure(figsize=(11, 3.8 * len(scores)), dpi=130, layout=layout, facecolor="white")
        rows = figure.subfigures(len(scores), 1, squeeze=False)[:, 0]
        for row, (name, by_data) in zip(rows, scores.items(), strict=True):
            row.suptitle(name, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
            returns, calibration, steps = row.subplots(1, 3)
            _draw_returns(returns, by_data)
            _draw_calibration(calibration, by_data)
            _draw_steps(steps, by_data)
        figure.savefig(path, format="png")


def _draw_returns(panel: Axes, by_data: Mapping[str, Mapping[str, Any]]) -> None:
    for (data, numbers), marker, color in zip(by_data.items(), _MARKERS, _COLORS, strict=False):
        returns = numbers["returns"]
        label = f"{data}, Spearman {format_number(numbers['spearman'])}"
        panel.plot(
            returns["true"], returns["predicted"], marker, color=color, markersize=5, alpha=0.7, label=label,
            markeredgewidth=0,
        )  # fmt: skip
    panel.set_xlabel("true return of an episode")
    panel.set_ylabel("return by the learned reward")
    _legend(panel)


def _draw_calibration(panel: Axes, by_data: Mapping[str, Mapping[str, Any]]) -> None:
    panel.plot([0.5, 1.0], [0.5, 1.0], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    for (data, numbers), marker, color in zip(by_data.items(), _MARKERS, _COLORS, strict=False):
        bins = numbers.get("calibration", [])
        probabilities, accuracies = [item["predicted"] for item in bins], [item["right"] for item in bins]
        label = f"{data}, {format_percent(numbers['accuracy'])} of {numbers['pairs']:,} pairs"
        panel.plot(probabilities, accuracies, color=color, linewidth=1.0, alpha=0.6)
        # the area grows with the number of pairs: a few pairs say little
        sizes = [10 + 90 * item["pairs"] / numbers["pairs"] for item in bins]
        panel.scatter(probabilities, accuracies, sizes, color=color, marker=marker, label=label, linewidths=0)
    panel.set_xlim(0.48, 1.02)
    panel.set_ylim(-0.03, 1.05)
    panel.set_xlabel("predicted probability of the preferred episode")
    panel.set_ylabel("share in which it is better")
    _legend(panel)


def _draw_steps(panel: Axes, by_data: Mapping[str, Mapping[str, Any]]) -> None:
    for (data, numbers), color in zip(by_data.items(), _COLORS, strict=False):
        counts, edges = numbers["histogram"]["counts"], numbers["histogram"]["edges"]
        total = sum(counts)
        panel.stairs([count / total for count in counts], edges, color=color, fill=True, alpha=0.25)
        panel.stairs([count / total for count in counts], edges, color=color, linewidth=1.2, label=data)
    panel.set_xlabel("learned reward of a step")
    panel.set_ylabel("share of steps")
    _legend(panel)


def _legend(panel: Axes) -> None:
    panel.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False, fontsize=8)
