"""Tables of numbers for the console and the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

NO_VALUE = "–"
_MAX_KINDS = 20  # kinds of missions with a row of their own
ScoreRow = Mapping[str, Any]


def format_number(value: float | None) -> str:
    """One decimal from 10 on, three significant digits below; a dash for None."""
    if value is None:
        return NO_VALUE
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def format_percent(value: float | None) -> str:
    """A share from 0 to 1 as a percentage with one decimal."""
    return NO_VALUE if value is None else f"{value:.1%}"


def format_mean_std(mean: float | None, deviation: float | None) -> str:
    """Mean ± deviation, both with the mean's decimals; the mean alone without a deviation."""
    if mean is None or deviation is None:
        return format_number(mean)
    return f"{mean:,.1f} ± {deviation:.1f}" if abs(mean) >= 10 or deviation >= 10 else f"{mean:.2f} ± {deviation:.2f}"


def format_interval(low: float | None, high: float | None) -> str:
    """low .. high; a dash if one is None."""
    return NO_VALUE if low is None or high is None else f"{format_number(low)} .. {format_number(high)}"


@final
@dataclass(frozen=True)
class ScoreColumn:
    """A column: its heading, and the function from one policy's scores to its cell."""

    heading: str
    cell: Callable[[ScoreRow], str]


SCORE_COLUMNS = (
    ScoreColumn("return", lambda s: format_mean_std(s.get("return_mean"), s.get("return_std"))),
    ScoreColumn("min .. max", lambda s: format_interval(s.get("return_min"), s.get("return_max"))),
    ScoreColumn("episodes", lambda s: NO_VALUE if s.get("episodes") is None else f"{s['episodes']:,}"),
    ScoreColumn("normalized", lambda s: format_percent(s.get("normalized"))),
    ScoreColumn("success", lambda s: format_percent(s.get("success_rate"))),
    ScoreColumn("steps to success", lambda s: format_number(s.get("success_length_mean"))),
    ScoreColumn("last 5", lambda s: format_number(s.get("last5_mean"))),
    ScoreColumn("FQE value", lambda s: format_number(s.get("fqe_mean"))),
    ScoreColumn("± 2 sd of members", lambda s: format_interval(s.get("fqe_low"), s.get("fqe_high"))),
    ScoreColumn("discounted return", lambda s: format_number(s.get("discounted_mean"))),
)


REWARD_COLUMNS = (
    ScoreColumn("episodes", lambda s: f"{s['episodes']:,}"),
    ScoreColumn("pairs", lambda s: f"{s['pairs']:,}"),
    ScoreColumn("right", lambda s: format_percent(s["accuracy"])),
    ScoreColumn("margin", lambda s: format_number(s["margin"])),
    ScoreColumn("Pearson", lambda s: format_number(s["pearson"])),
    ScoreColumn("Spearman", lambda s: format_number(s["spearman"])),
    ScoreColumn("calibration error", lambda s: format_number(s.get("calibration_error"))),
    ScoreColumn("of a step", lambda s: format_mean_std(s["reward_mean"], s["reward_std"])),
)


def reward_rows(rewards: Mapping[str, Mapping[str, ScoreRow]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the scores of learned rewards, one row per reward and dataset."""
    rows = [
        [name, data, *(column.cell(numbers) for column in REWARD_COLUMNS)]
        for name, by_data in rewards.items()
        for data, numbers in by_data.items()
    ]
    return ["reward", "on", *(column.heading for column in REWARD_COLUMNS)], rows


def score_rows(scores: Mapping[str, ScoreRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a run's scores, one row per policy; an empty column is left out."""
    columns = [column for column in SCORE_COLUMNS if any(column.cell(score) != NO_VALUE for score in scores.values())]
    rows = [[policy, *(column.cell(score) for column in columns)] for policy, score in scores.items()]
    return ["policy", *(column.heading for column in columns)], rows


def mission_rows(scores: Mapping[str, ScoreRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of success by kind of mission, one row per kind and one column per policy.

    The kinds after the first 20, which are the most frequent, are one row. Empty without missions.
    """
    by_policy = {name: score["by_mission"] for name, score in scores.items() if "by_mission" in score}
    kinds = {kind: numbers["episodes"] for by_kind in by_policy.values() for kind, numbers in by_kind.items()}
    ordered = sorted(kinds, key=lambda kind: -kinds[kind])
    groups = {kind: [kind] for kind in ordered[:_MAX_KINDS]}
    if len(ordered) > _MAX_KINDS:
        groups[f"{len(ordered) - _MAX_KINDS} other kinds"] = ordered[_MAX_KINDS:]
    rows = [
        [name, f"{sum(kinds[kind] for kind in group):,}", *(_success(by_kind, group) for by_kind in by_policy.values())]
        for name, group in groups.items()
    ]
    return ["mission", "episodes", *by_policy], rows


def _success(by_kind: Mapping[str, ScoreRow], group: Sequence[str]) -> str:
    """The success rate over the episodes of several kinds."""
    found = [by_kind[kind] for kind in group if by_kind.get(kind, {}).get("success_rate") is not None]
    episodes = sum(numbers["episodes"] for numbers in found)
    successes = sum(numbers["episodes"] * numbers["success_rate"] for numbers in found)
    return format_percent(successes / episodes if episodes else None)


def align_columns(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A text table whose first `left` columns are aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells[:left], widths, strict=False)]
        padded += [cell.rjust(width) for cell, width in zip(cells[left:], widths[left:], strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(headings), "  ".join("─" * width for width in widths), *map(line, rows)])


def result_table(result: Mapping[str, Any]) -> str:
    """The console table of a run's scores, and below it that of its learned rewards.

    `result` is the content of result.json. Of `scores`, each policy may have return_mean, return_std, return_min,
    return_max, episodes, normalized (0 is random, 1 is the expert; D4RL's scale over 100), success_rate (0 to 1),
    success_length_mean (steps of successful episodes), last5_mean (mean return of the last five evaluations in
    training); fqe_mean, fqe_low, fqe_high (the discounted return from start states as FQE estimates it);
    discounted_mean (the discounted return in the data).
    """
    scores = align_columns(*score_rows(result["scores"]))
    rewards = result.get("rewards")
    return f"{scores}\n\n{align_columns(*reward_rows(rewards), left=2)}" if rewards else scores
