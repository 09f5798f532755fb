"""Tables of numbers, for the console and the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

MISSING = "–"
Row = Mapping[str, Any]


def number(value: float | None) -> str:
    """One decimal from 10 on, three significant digits below; a dash where there is none."""
    if value is None:
        return MISSING
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share of 1 as per cent, one decimal."""
    return MISSING if value is None else f"{value:.1%}"


def spread(mean: float | None, deviation: float | None) -> str:
    """Mean ± deviation, both with the mean's decimals; the mean alone where there is no deviation."""
    if mean is None or deviation is None:
        return number(mean)
    return f"{mean:,.1f} ± {deviation:.1f}" if abs(mean) >= 10 or deviation >= 10 else f"{mean:.2f} ± {deviation:.2f}"


def interval(low: float | None, high: float | None) -> str:
    """low .. high."""
    return MISSING if low is None or high is None else f"{number(low)} .. {number(high)}"


@final
@dataclass(frozen=True)
class Column:
    """A column: its heading, and its cell for one policy's scores."""

    heading: str
    cell: Callable[[Row], str]


SCORES = (
    Column("return", lambda s: spread(s.get("return_mean"), s.get("return_std"))),
    Column("min .. max", lambda s: interval(s.get("return_min"), s.get("return_max"))),
    Column("episodes", lambda s: MISSING if s.get("episodes") is None else f"{s['episodes']:,}"),
    Column("normalized", lambda s: share(s.get("normalized"))),
    Column("success", lambda s: share(s.get("success_rate"))),
    Column("last 5", lambda s: number(s.get("last5_mean"))),
    Column("FQE value", lambda s: number(s.get("fqe_mean"))),
    Column("± 2 sd of members", lambda s: interval(s.get("fqe_low"), s.get("fqe_high"))),
    Column("discounted return", lambda s: number(s.get("discounted_mean"))),
)


REWARDS = (
    Column("episodes", lambda s: f"{s['episodes']:,}"),
    Column("pairs", lambda s: f"{s['pairs']:,}"),
    Column("right", lambda s: share(s["accuracy"])),
    Column("margin", lambda s: number(s["margin"])),
    Column("Pearson", lambda s: number(s["pearson"])),
    Column("Spearman", lambda s: number(s["spearman"])),
    Column("calibration error", lambda s: number(s.get("calibration_error"))),
    Column("of a step", lambda s: spread(s["reward_mean"], s["reward_std"])),
)


def reward_rows(rewards: Mapping[str, Mapping[str, Row]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of what was found of learnt rewards: a row for each and each dataset."""
    rows = [
        [name, data, *(column.cell(numbers) for column in REWARDS)]
        for name, by_data in rewards.items()
        for data, numbers in by_data.items()
    ]
    return ["reward", "on", *(column.heading for column in REWARDS)], rows


def score_rows(scores: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a run's scores; a column that nobody fills is left out."""
    columns = [column for column in SCORES if any(column.cell(score) != MISSING for score in scores.values())]
    rows = [[policy, *(column.cell(score) for column in columns)] for policy, score in scores.items()]
    return ["policy", *(column.heading for column in columns)], rows


def align(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Text columns, the first `left` of them flush left and the rest flush right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells[:left], widths, strict=False)]
        padded += [cell.rjust(width) for cell, width in zip(cells[left:], widths[left:], strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(headings), "  ".join("─" * width for width in widths), *map(line, rows)])


def table(result: Mapping[str, Any]) -> str:
    """The console table of a run's scores.

    Args:
        result: result.json's content. Of `scores`, each policy may have return_mean, return_std, return_min,
            return_max, episodes, normalized (0 is random, 1 is the expert; D4RL's scale over 100), success_rate (0..1),
            last5_mean (mean return of the last five evaluations in training); fqe_mean, fqe_low, fqe_high (the
            discounted return from start states as FQE estimates it); discounted_mean (the true one of data). `rewards`
            stand below, where there are any.
    """
    scores = align(*score_rows(result["scores"]))
    rewards = result.get("rewards")
    return f"{scores}\n\n{align(*reward_rows(rewards), left=2)}" if rewards else scores
