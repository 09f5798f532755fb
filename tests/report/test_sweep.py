"""Sweep tables and pages: groups, failures and escaping."""

import json
from typing import Any

import pytest

from lfd.report import sweep_html, sweep_json, sweep_table


def job(*overrides: str, score: float | None = None, expert: float = 500.0) -> dict[str, Any]:
    if score is None:
        return {"status": "failed", "reason": "out of\nmemory", "overrides": list(overrides)}
    scores = {"learn": {"return_mean": score, "return_std": 99.0, "episodes": 30}, "expert": {"return_mean": expert}}
    return {"status": "done", "run": "-".join(overrides), "overrides": list(overrides), "scores": scores}


RESULTS = [
    job("algo=bc", "env=cartpole", "seed=0", "learn.steps=5", score=400.0),
    job("algo=bc", "env=cartpole", "seed=1", "learn.steps=5", score=500.0),
    job("algo=bc", "env=pendulum", "seed=0", "learn.steps=5", score=-200.0, expert=-150.0),
    job("algo=cql", "env=cartpole", "seed=0", "learn.steps=5", score=498.0),
    job("algo=cql", "env=cartpole", "seed=1", "learn.steps=5"),
]


def test_sweep_json_groups_jobs_over_seeds() -> None:
    sweep = json.loads(sweep_json(RESULTS))
    assert sweep["varies"] == ["algo", "env"] and sweep["common"] == {"learn.steps": "5"}
    first, second, third = sweep["groups"]
    assert first["overrides"] == {"algo": "bc", "env": "cartpole"}
    assert (first["policy"], first["seeds"], first["return_mean"]) == ("learn", ["0", "1"], 450.0)
    assert first["return_sd"] == pytest.approx(70.71, abs=0.01), "over seeds with n - 1, not over episodes"
    assert first["others"] == {"expert": 500.0}
    assert second["overrides"] == {"algo": "cql", "env": "cartpole"}, "one environment's groups stand together"
    assert (second["return_mean"], second["return_sd"], second["missing"]) == (498.0, None, 1)
    assert third["return_mean"] == -200.0
    [failure] = sweep["failures"]
    assert failure["reason"] == "out of\nmemory" and "algo=cql" in failure["overrides"]


def test_sweep_table_ends_with_the_failures() -> None:
    assert sweep_table(RESULTS).splitlines() == [
        "algo  env             return        min .. max  seeds  missing  expert",
        "────  ────────  ────────────  ────────────────  ─────  ───────  ──────",
        "bc    cartpole  450.0 ± 70.7    400.0 .. 500.0      2        0   500.0",
        "cql   cartpole         498.0    498.0 .. 498.0      1        1   500.0",
        "bc    pendulum        -200.0  -200.0 .. -200.0      1        0  -150.0",
        "",
        "mean ± standard deviation over seeds; each seed counts once, with the mean of its episodes",
        "failed: algo=cql env=cartpole seed=1: out of memory",
    ]


def test_sweep_json_of_seeds_only_is_one_group() -> None:
    [group] = json.loads(sweep_json([job("seed=0", score=1.0), job("seed=1", score=3.0)]))["groups"]
    assert (group["overrides"], group["return_mean"]) == ({}, 2.0)
    assert "2.00 ± 1.41" in sweep_table([job("seed=0", score=1.0), job("seed=1", score=3.0)])


def test_sweep_in_which_all_jobs_failed_has_a_table_and_a_page() -> None:
    failed = [job("algo=bc", "seed=0"), job("algo=cql", "seed=0")]
    assert sweep_table(failed).count("out of memory") == 2
    assert sweep_html(failed).count("out of\nmemory") == 2


def test_sweep_html_escapes_text_and_loads_nothing() -> None:
    bad = job("algo=bc", "env=cartpole", "seed=2") | {"reason": "<script>"}
    text = sweep_html([*RESULTS, bad])
    assert "&lt;script&gt;" in text and "<script>" not in text
    assert "src=" not in text and "href=" not in text
    assert text.count("<circle") == 4, "a dot a seed"
    assert "450.0 ± 70.7" in text
