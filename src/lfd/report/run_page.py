"""report.html: everything about one run on one page."""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from json import loads
from pathlib import Path
from typing import Any

from lfd.log.progress import clock
from lfd.report.page import Html, code, details, facts, page, rows_table, strip, text
from lfd.report.table import MISSING, number, reward_rows, score_rows, spread

REWARDS = "rewards.png"
REWARDED = "Learnt rewards: predicted against true returns, calibration, and the rewards of single steps"
Scores = Mapping[str, Mapping[str, Any]]


def report_html(
    run_folder: Path, result: Mapping[str, Any], config_yaml: str, records: Sequence[Mapping[str, Any]], png: bytes
) -> str:
    """The page of a run; it needs no network and no other file.

    Args:
        run_folder: its name is the title; provenance.json and films (*.gif) in it are shown if they are there, and
            rewards.png where the result tells of rewards.
        result: result.json's content. `scores` as `table` reads them; of `stages`, each may have artifact, cached,
            seconds, gradient_steps, env_steps and passport; `overrides` (list of str) gives the command.
        config_yaml: the resolved configuration.
        records: metrics.jsonl.
        png: curves.png.
    """
    scores, stages = result.get("scores", {}), result.get("stages", {})
    provenance = _read(run_folder / "provenance.json")
    body = [f"<h1>{escape(run_folder.name)}</h1>", _headline(scores), _command(result)]
    if scores:
        body += ["<h2>Scores</h2>", _scores(scores)]
    body += ["<h2>Learning curves</h2>", _picture(png, "png", "Learning curves of every fit stage", "drawn")]
    if "rewards" in result:
        body += ["<h2>Learnt rewards</h2>", _picture((run_folder / REWARDS).read_bytes(), "png", REWARDED, "drawn")]
        body.append(rows_table(*reward_rows(result["rewards"]), left=2))
    for film in sorted(run_folder.glob("*.gif")):
        body += [f"<h2>{escape(film.stem)}</h2>", _picture(film.read_bytes(), "gif", film.stem)]
    body += ["<h2>Stages</h2>", _stages(stages)]
    for name, stage in stages.items():
        if "passport" in stage:
            body += [f"<h2>Data: {escape(name)}</h2>", _passport(stage["passport"])]
    body += [
        "<h2>More</h2>",
        details("Configuration", code(config_yaml)),
        details("Last value of every metric", _last(records)),
    ]
    if provenance:
        body.append(_provenance(provenance))
    return page(run_folder.name, body)


def _read(path: Path) -> dict[str, Any]:
    return dict(loads(path.read_text())) if path.exists() else {}


def _headline(scores: Scores) -> str:
    if not scores:
        return "<p class=soft>This run has no scores.</p>"
    policy, score = next(iter(scores.items()))
    if "return_mean" not in score:
        line = (
            f"what {policy} is worth by FQE: its discounted return (gamma {text(score.get('gamma'))}) from "
            f"{score.get('start_states', 0):,} start states of the data, without an environment"
        )
        return f"<p class=big>{escape(number(score.get('fqe_mean')))}</p><p class=soft>{escape(line)}</p>"
    others = ", ".join(f"{name} {number(other.get('return_mean'))}" for name, other in scores.items() if name != policy)
    line = f"mean return of {policy} over {score.get('episodes', 0):,} episodes" + (
        f"; beside it {others}" if others else ""
    )
    value = spread(score.get("return_mean"), score.get("return_std"))
    return f"<p class=big>{escape(value)}</p><p class=soft>{escape(line)}</p>"


def _command(result: Mapping[str, Any]) -> str:
    return f"<pre class=command>{escape(shlex.join(['python', 'run.py', *result.get('overrides', [])]))}</pre>"


def _scores(scores: Scores) -> Html:
    headings, rows = score_rows(scores)
    ends = [
        score[key] for score in scores.values() for key in ("return_min", "return_max", "return_mean") if key in score
    ]
    domain = (min(ends, default=0.0), max(ends, default=0.0))
    for row, score in zip(rows, scores.values(), strict=True):
        full = "return_min" in score and "return_max" in score
        row.insert(
            2, strip(domain, score.get("return_mean"), (score["return_min"], score["return_max"]) if full else None)
        )
    headings.insert(2, f"{number(domain[0])} to {number(domain[1])}")
    return rows_table(headings, rows, first=True)


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Html:
    def count(value: int | None) -> str:
        return f"{value:,}" if value else MISSING

    rows = [
        [
            name,
            Html(f"<code>{escape(str(stage.get('artifact', MISSING)))}</code>"),
            "stored already" if stage.get("cached") else "built",
            clock(stage["seconds"]) if "seconds" in stage else MISSING,
            count(stage.get("gradient_steps")),
            count(stage.get("env_steps")),
        ]
        for name, stage in stages.items()
    ]
    return rows_table(["stage", "artifact", "product", "time", "gradient steps", "env steps"], rows, left=3)


def _passport(passport: Mapping[str, Any]) -> str:
    telling = ("transitions", "episodes", "returns", "lengths", "ends", "audit", "sha256")
    rest = {name: value for name, value in passport.items() if name not in telling}
    return facts({name: passport[name] for name in telling if name in passport}) + details(
        "Rest of the passport", facts(rest)
    )


def _last(records: Sequence[Mapping[str, Any]]) -> Html:
    last: dict[tuple[str, str], Any] = {}
    for record in records:
        last |= {(record["stage"], key): value for key, value in record.items() if key != "stage"}
    rows = [
        [stage, key.removeprefix(f"{stage}/"), text(value)] for (stage, key), value in last.items() if value is not None
    ]
    return rows_table(["stage", "metric", "last value"], rows, left=2)


def _provenance(provenance: Mapping[str, Any]) -> str:
    git = provenance.get("git") or {}
    shown = {name: value for name, value in provenance.items() if name != "git"}
    shown |= {"commit": git.get("commit"), "uncommitted changes": bool(git.get("diff") or git.get("untracked"))}
    diff = code(git["diff"]) if git.get("diff") else ""
    return details("Provenance", facts(shown) + diff)


def _picture(data: bytes, kind: str, what: str, style: str = "") -> str:
    return f'<img class="{style}" alt="{escape(what)}" src="data:image/{kind};base64,{b64encode(data).decode()}">'
