"""sweep.html: a sweep's groups, its jobs and its failures on one page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lfd.report.page import facts, page, rows_table, strip
from lfd.report.sweep import CAPTION, Result, Sweep, group_rows, summarise
from lfd.report.table import number


def sweep_html(results: Sequence[Result]) -> str:
    """The page of a sweep; it needs no network and no other file.

    Args:
        results: as `summarise` takes them.
    """
    sweep = summarise(results)
    over = ", ".join([*sweep.varies, "seed"])
    done = sum(len(group.returns) for group in sweep.groups)
    body = [
        f"<h1>Sweep over {escape(over)}</h1>",
        f"<p class=soft>{len(results)} jobs, {done} with a score</p>",
        "<h2>Scores</h2>",
        _groups(sweep),
        f"<p class=soft>{escape(CAPTION)}.</p>",
    ]
    if sweep.failures:
        rows = [[sweep.own(each), each.status, each.reason] for each in sweep.failures]
        body += ["<h2 class=bad>Without a score</h2>", rows_table(["job", "status", "reason"], rows, left=3)]
    if sweep.common:
        body += ["<h2>The same in all jobs</h2>", facts(sweep.common)]
    runs = [
        [" ".join(f"{key}={value}" for key, value in group.overrides.items()), seed, run, number(score)]
        for group in sweep.groups
        for seed, score, run in zip(group.seeds, group.returns, group.runs, strict=True)
    ]
    body += ["<h2>Jobs</h2>", rows_table(["job", "seed", "run", "return"], runs, left=3)]
    return page(f"Sweep over {over}", body)


def _groups(sweep: Sweep) -> str:
    headings, rows = group_rows(sweep)
    scores: dict[str, list[float]] = {}
    for group in sweep.groups:
        scores.setdefault(group.env, []).extend(group.returns)
    place = len(sweep.varies) + 1
    for row, group in zip(rows, sweep.groups, strict=True):
        domain = (min(scores[group.env], default=0.0), max(scores[group.env], default=0.0))
        row.insert(place, strip(domain, group.return_mean, dots=group.returns))
    headings.insert(place, "a dot a seed" + (", one scale an env" if len(scores) > 1 else ""))
    return rows_table(headings, rows, left=len(sweep.varies))
