"""sweep.html: the groups, jobs and failures of a sweep on one page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lfd.report.page import facts_table, html_page, range_plot, rows_table
from lfd.report.sweep import CAPTION, RunResult, SweepSummary, group_rows, summarize_sweep
from lfd.report.table import format_number


def sweep_html(results: Sequence[RunResult]) -> str:
    """The page of a sweep; it needs no network and no other file. `results` are those of `summarize_sweep`."""
    sweep = summarize_sweep(results)
    keys = ", ".join([*sweep.varies, "seed"])
    done = sum(len(group.returns) for group in sweep.groups)
    body = [
        f"<h1>Sweep over {escape(keys)}</h1>",
        f"<p class=soft>{len(results)} jobs, {done} with a score</p>",
        "<h2>Scores</h2>",
        _groups(sweep),
        f"<p class=soft>{escape(CAPTION)}.</p>",
    ]
    if sweep.failures:
        rows = [[sweep.own_overrides(each), each.status, each.reason] for each in sweep.failures]
        body += ["<h2 class=bad>Without a score</h2>", rows_table(["job", "status", "reason"], rows, left=3)]
    if sweep.common:
        body += ["<h2>Common overrides</h2>", facts_table(sweep.common)]
    runs = [
        [" ".join(f"{key}={value}" for key, value in group.overrides.items()), seed, run, format_number(score)]
        for group in sweep.groups
        for seed, score, run in zip(group.seeds, group.returns, group.runs, strict=True)
    ]
    body += ["<h2>Jobs</h2>", rows_table(["job", "seed", "run", "return"], runs, left=3)]
    return html_page(f"Sweep over {keys}", body)


def _groups(sweep: SweepSummary) -> str:
    headings, rows = group_rows(sweep)
    scores: dict[str, list[float]] = {}
    for group in sweep.groups:
        scores.setdefault(group.env, []).extend(group.returns)
    position = len(sweep.varies) + 1
    for row, group in zip(rows, sweep.groups, strict=True):
        domain = (min(scores[group.env], default=0.0), max(scores[group.env], default=0.0))
        row.insert(position, range_plot(domain, group.return_mean, dots=group.returns))
    headings.insert(position, "one dot per seed" + (", one scale per env" if len(scores) > 1 else ""))
    return rows_table(headings, rows, left=len(sweep.varies))
