import pytest

from lfd.report import table
from lfd.report.table import number, spread

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


def test_a_row_a_policy_and_no_column_that_nobody_fills() -> None:
    assert table({"scores": SCORES}).splitlines() == [
        "policy        return      min .. max  episodes  last 5",
        "──────  ────────────  ──────────────  ────────  ──────",
        "learn    498.2 ± 9.1  431.0 .. 500.0        30   487.2",
        "expert  -0.50 ± 0.25               –     1,200       –",
    ]


def test_normalized_and_success_have_columns_where_given() -> None:
    lines = table({"scores": {"learn": {"return_mean": 1.0, "normalized": 0.9962, "success_rate": 0.875}}}).splitlines()
    assert lines[0].split() == ["policy", "return", "normalized", "success"]
    assert lines[2].split() == ["learn", "1", "99.6%", "87.5%"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0123, "0.0123"), (9.994, "9.99"), (12345.67, "12,345.7"), (-21, "-21.0")]
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_spread_without_a_deviation_is_the_mean() -> None:
    assert (spread(500.0, None), spread(None, None), spread(3.0, 120.0)) == ("500.0", "–", "3.0 ± 120.0")


def test_values_by_fqe_stand_apart_from_returns() -> None:
    scores = {
        "learn": {"fqe_mean": 63.21, "fqe_low": 60.0, "fqe_high": 66.4},
        "demos": {"return_mean": 90.0, "discounted_mean": 59.5},
    }
    lines = table({"scores": scores}).splitlines()
    assert [part.strip() for part in lines[0].split("  ") if part] == [
        "policy", "return", "FQE value", "± 2 sd of members", "discounted return",
    ]  # fmt: skip
    assert [part.strip() for part in lines[2].split("  ") if part] == ["learn", "–", "63.2", "60.0 .. 66.4", "–"]
    assert [part.strip() for part in lines[3].split("  ") if part] == ["demos", "90.0", "–", "–", "59.5"]
