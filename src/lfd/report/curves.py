"""curves.png: the learning curves of every training stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfd.report.table import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

Records = Sequence[Mapping[str, Any]]
Points = tuple[list[float], list[float]]

_SCORE = 0  # key of the score's panel in a row's mosaic; the keys of losses are strings
_MAX_LOSSES = 4  # panels of losses, after that of the score
_MAX_MARKERS = 40  # evaluations; with more of them dots would merge into a band
INK, GREY, LINE = "#1f2933", "#6b7785", "#0b5394"
# each reference has its own dashes, so that they differ in black and white
_DASHES: tuple[tuple[int, tuple[float, ...]], ...] = (
    (0, (8, 3)),
    (0, (1, 2)),
    (0, (6, 2, 1, 2)),
    (0, (3, 2, 1, 2, 1, 2)),
)
STYLE = {
    "font.size": 9,
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.grid": True,
    "grid.color": "#e4e8ec",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
}


def draw_curves(
    records_by_stage: Mapping[str, Records], path: Path, references: Mapping[str, float] | None = None
) -> None:
    """Draws the learning curves to the PNG `path`: one row per stage, with the score and small panels of losses.

    The score is drawn over env steps if the stage interacts, otherwise over gradient steps, with the standard deviation
    over the evaluation's episodes. Losses are the first four metrics named `<stage>/<loss>`; deeper names
    (`<stage>/<loss>/<detail>`) are left out.

    `records_by_stage` holds the records of each training stage; a stage without scores and losses is left out.
    `references` are mean returns to draw as horizontal lines, such as {"expert": 500.0, "random": 22.3}.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    references = references or {}
    stages = {name: rows for name, rows in records_by_stage.items() if _score(rows)[0] or _losses(name, rows)}
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        figure = Figure(figsize=(11, 3.4 * max(1, len(stages))), dpi=130, layout=layout, facecolor="white")
        rows = figure.subfigures(max(1, len(stages)), 1, squeeze=False)[:, 0]
        for row, (name, records) in zip(rows, stages.items(), strict=False):
            row.suptitle(name, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
            _draw_stage(row, name, records, references)
        if not stages:
            figure.text(0.5, 0.5, "No curves: no stage of this run has trained.", ha="center", color=GREY)
        figure.savefig(path, format="png")


def _draw_stage(row: SubFigure, name: str, records: Records, references: Mapping[str, float]) -> None:
    losses = _losses(name, records)
    loss_panels = list(losses) + [None] * (len(losses) > 2 and len(losses) % 2)
    lines = [loss_panels] if len(loss_panels) <= 2 else [loss_panels[:2], loss_panels[2:]]
    score_panels = [_SCORE] * (4 - len(lines[0])) if _score(records)[0] else []
    panels = row.subplot_mosaic([[*score_panels, *line] for line in lines], empty_sentinel=None)
    if score_panels:
        _draw_score(panels[_SCORE], name, records, references)
    for loss, points in losses.items():
        panel = panels[loss]
        panel.plot(*points, color=LINE, linewidth=1.1)
        panel.set_title(loss)
        panel.margins(x=0.02)
        panel.locator_params(nbins=4)
        panel.xaxis.set_major_formatter(_compact)
        panel.tick_params(labelsize=7.5)
        if loss in lines[-1]:
            panel.set_xlabel("gradient steps", fontsize=8)


def _draw_score(panel: Axes, name: str, records: Records, references: Mapping[str, float]) -> None:
    steps, scores = _score(records)
    label = name
    deviations = [record["score_std"] for record in records if record.get("score_std") is not None]
    if len(deviations) == len(scores):
        low = [score - deviation for score, deviation in zip(scores, deviations, strict=True)]
        high = [score + deviation for score, deviation in zip(scores, deviations, strict=True)]
        panel.fill_between(steps, low, high, color=LINE, alpha=0.15, linewidth=0)
        label = f"{name} ± sd over episodes"
    marker = "o" if len(scores) <= _MAX_MARKERS else None
    panel.plot(steps, scores, color=LINE, linewidth=1.8, marker=marker, markersize=3.5, label=label)
    for (policy, value), dashes in zip(references.items(), cycle(_DASHES), strict=False):
        if policy != name:
            panel.axhline(value, color=INK, linewidth=1.1, linestyle=dashes, label=f"{policy} {format_number(value)}")
    panel.set_xlabel("environment steps" if _interacts(records) else "gradient steps")
    panel.set_ylabel("mean return of an evaluation")
    panel.xaxis.set_major_formatter(_compact)
    panel.margins(x=0.02, y=0.08)
    panel.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, frameon=False, fontsize=8)


def _compact(value: float, _: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def _interacts(records: Records) -> bool:
    return any(record.get("env_steps") for record in records)


def _score(records: Records) -> Points:
    axis = "env_steps" if _interacts(records) else "step"
    points = [(record[axis], record["score"]) for record in records if record.get("score") is not None]
    return [x for x, _ in points], [y for _, y in points]


def _losses(stage: str, records: Records) -> dict[str, Points]:
    losses: dict[str, Points] = {}
    for record in records:
        for key, value in record.items():
            prefix, _, loss = key.partition("/")
            depth = loss.count("/")
            is_drawn = loss and (depth == 0 or (depth == 1 and loss.endswith("_loss")))
            if prefix == stage and is_drawn and value is not None:
                steps, values = losses.setdefault(loss, ([], []))
                steps.append(record["step"])
                values.append(value)
    return dict(list(losses.items())[:_MAX_LOSSES])
