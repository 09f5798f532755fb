"""Tables of scores: columns, formats and missing values."""

import pytest

from lfd.report import result_table
from lfd.report.table import format_mean_std, format_number, format_percent, mission_rows

SCORES = {
    "learn": {
        "return_mean": 498.25,
        "return_std": 9.1,
        "return_min": 431,
        "return_max": 500,
        "episodes": 30,
        "last5_mean": 487.2,
    },
    "expert": {"return_mean": -0.5, "return_std": 0.25, "episodes": 1200},
}


def test_result_table_has_a_row_per_policy_and_no_empty_column() -> None:
    assert result_table({"scores": SCORES}).splitlines() == [
        "policy        return      min .. max  episodes  last 5",
        "──────  ────────────  ──────────────  ────────  ──────",
        "learn    498.2 ± 9.1  431.0 .. 500.0        30   487.2",
        "expert  -0.50 ± 0.25               –     1,200       –",
    ]


def test_result_table_has_columns_of_normalized_scores_and_success() -> None:
    lines = result_table(
        {"scores": {"learn": {"return_mean": 1.0, "normalized": 0.9962, "success_rate": 0.875}}}
    ).splitlines()
    assert lines[0].split() == ["policy", "return", "normalized", "success"]
    assert lines[2].split() == ["learn", "1", "99.6%", "87.5%"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0123, "0.0123"), (9.994, "9.99"), (12345.67, "12,345.7"), (-21, "-21.0")]
)
def test_format_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_format_mean_std_without_a_deviation_is_the_mean() -> None:
    assert (format_mean_std(500.0, None), format_mean_std(None, None), format_mean_std(3.0, 120.0)) == (
        "500.0",
        "–",
        "3.0 ± 120.0",
    )


def test_result_table_separates_fqe_values_from_returns() -> None:
    scores = {
        "learn": {"fqe_mean": 63.21, "fqe_low": 60.0, "fqe_high": 66.4},
        "demos": {"return_mean": 90.0, "discounted_mean": 59.5},
    }
    lines = result_table({"scores": scores}).splitlines()
    assert [part.strip() for part in lines[0].split("  ") if part] == [
        "policy", "return", "FQE value", "± 2 sd of members", "discounted return",
    ]  # fmt: skip
    assert [part.strip() for part in lines[2].split("  ") if part] == ["learn", "–", "63.2", "60.0 .. 66.4", "–"]
    assert [part.strip() for part in lines[3].split("  ") if part] == ["demos", "90.0", "–", "–", "59.5"]


def test_mission_rows_join_rare_kinds() -> None:
    kinds = {f"kind {index}": {"episodes": 30 - index, "success_rate": index / 30} for index in range(22)}
    scores = {"learn": {"by_mission": kinds}, "demos": {}, "random": {"by_mission": {"kind 0": kinds["kind 1"]}}}
    headings, rows = mission_rows(scores)
    assert headings == ["mission", "episodes", "learn", "random"] and len(rows) == 21
    assert rows[0][0] == "kind 0" and rows[0][2:] == ["0.0%", "3.3%"] and rows[1][2:] == ["3.3%", "–"]
    assert rows[-1] == ["2 other kinds", "19", format_percent((10 * 20 + 9 * 21) / 30 / 19), "–"]
    assert mission_rows({"learn": {}}) == (["mission", "episodes"], [])
