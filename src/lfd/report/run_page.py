"""report.html: one run on one page."""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from json import loads
from pathlib import Path
from typing import Any

from lfd.log.progress import format_duration
from lfd.report.page import (
    Html,
    code_block,
    details_section,
    facts_table,
    format_value,
    html_page,
    range_plot,
    rows_table,
)
from lfd.report.table import NO_VALUE, format_mean_std, format_number, mission_rows, reward_rows, score_rows

REWARDS_FILE = "rewards.png"
_REWARDS_CAPTION = "Learned rewards: predicted over true returns, calibration, and rewards of steps"
Scores = Mapping[str, Mapping[str, Any]]


def report_html(
    run_folder: Path, result: Mapping[str, Any], config_yaml: str, records: Sequence[Mapping[str, Any]], png: bytes
) -> str:
    """The page of a run; it needs no network and no other file.

    `run_folder` gives the title, provenance.json and films (*.gif) if there are any, and rewards.png if the result has
    rewards. `result` is the content of result.json: `scores` as in `result_table`; each of `stages` may have artifact,
    cached, seconds, gradient_steps, env_steps and metadata; `overrides` (list of str) gives the command.
    `config_yaml` is the resolved configuration, `records` are those of metrics.jsonl, `png` is curves.png.
    """
    scores, stages = result.get("scores", {}), result.get("stages", {})
    provenance = _read(run_folder / "provenance.json")
    body = [f"<h1>{escape(run_folder.name)}</h1>", _headline(scores), _command(result)]
    if scores:
        body += ["<h2>Scores</h2>", _scores(scores)]
    if any("by_mission" in score for score in scores.values()):
        body += ["<h2>Success by kind of mission</h2>", rows_table(*mission_rows(scores))]
    body += ["<h2>Learning curves</h2>", _image(png, "png", "Learning curves of every training stage", "drawn")]
    if "rewards" in result:
        body += [
            "<h2>Learned rewards</h2>",
            _image((run_folder / REWARDS_FILE).read_bytes(), "png", _REWARDS_CAPTION, "drawn"),
        ]
        body.append(rows_table(*reward_rows(result["rewards"]), left=2))
    for film in sorted(run_folder.glob("*.gif")):
        body += [f"<h2>{escape(film.stem)}</h2>", _image(film.read_bytes(), "gif", film.stem)]
    body += ["<h2>Stages</h2>", _stages(stages)]
    for name, stage in stages.items():
        if "metadata" in stage:
            body += [f"<h2>Data: {escape(name)}</h2>", _metadata(stage["metadata"])]
    body += [
        "<h2>More</h2>",
        details_section("Configuration", code_block(config_yaml)),
        details_section("Last value of every metric", _last_values(records)),
    ]
    if provenance:
        body.append(_provenance(provenance))
    return html_page(run_folder.name, body)


def _read(path: Path) -> dict[str, Any]:
    return dict(loads(path.read_text())) if path.exists() else {}


def _headline(scores: Scores) -> str:
    if not scores:
        return "<p class=soft>This run has no scores.</p>"
    policy, score = next(iter(scores.items()))
    if "return_mean" not in score:
        line = (
            f"discounted return of {policy} as FQE estimates it (gamma {format_value(score.get('gamma'))}) from "
            f"{score.get('start_states', 0):,} start states of the data, without an environment"
        )
        return f"<p class=big>{escape(format_number(score.get('fqe_mean')))}</p><p class=soft>{escape(line)}</p>"
    others = ", ".join(
        f"{name} {format_number(other.get('return_mean'))}" for name, other in scores.items() if name != policy
    )
    line = f"mean return of {policy} over {score.get('episodes', 0):,} episodes" + (
        f"; for comparison {others}" if others else ""
    )
    value = format_mean_std(score.get("return_mean"), score.get("return_std"))
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
        has_range = "return_min" in score and "return_max" in score
        row.insert(
            2,
            range_plot(
                domain, score.get("return_mean"), (score["return_min"], score["return_max"]) if has_range else None
            ),
        )
    headings.insert(2, f"{format_number(domain[0])} to {format_number(domain[1])}")
    return rows_table(headings, rows, first=True)


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Html:
    def count(value: int | None) -> str:
        return f"{value:,}" if value else NO_VALUE

    rows = [
        [
            name,
            Html(f"<code>{escape(str(stage.get('artifact', NO_VALUE)))}</code>"),
            "stored already" if stage.get("cached") else "built",
            format_duration(stage["seconds"]) if "seconds" in stage else NO_VALUE,
            count(stage.get("gradient_steps")),
            count(stage.get("env_steps")),
        ]
        for name, stage in stages.items()
    ]
    return rows_table(["stage", "artifact", "product", "time", "gradient steps", "env steps"], rows, left=3)


def _metadata(metadata: Mapping[str, Any]) -> str:
    main_fields = ("transitions", "episodes", "returns", "lengths", "ends", "audit", "sha256")
    rest = {name: value for name, value in metadata.items() if name not in main_fields}
    return facts_table({name: metadata[name] for name in main_fields if name in metadata}) + details_section(
        "Rest of the metadata", facts_table(rest)
    )


def _last_values(records: Sequence[Mapping[str, Any]]) -> Html:
    last: dict[tuple[str, str], Any] = {}
    for record in records:
        last |= {(record["stage"], key): value for key, value in record.items() if key != "stage"}
    rows = [
        [stage, key.removeprefix(f"{stage}/"), format_value(value)]
        for (stage, key), value in last.items()
        if value is not None
    ]
    return rows_table(["stage", "metric", "last value"], rows, left=2)


def _provenance(provenance: Mapping[str, Any]) -> str:
    git = provenance.get("git") or {}
    facts = {name: value for name, value in provenance.items() if name != "git"}
    facts |= {"commit": git.get("commit"), "uncommitted changes": bool(git.get("diff") or git.get("untracked"))}
    diff = code_block(git["diff"]) if git.get("diff") else ""
    return details_section("Provenance", facts_table(facts) + diff)


def _image(data: bytes, kind: str, description: str, style: str = "") -> str:
    return (
        f'<img class="{style}" alt="{escape(description)}" src="data:image/{kind};base64,{b64encode(data).decode()}">'
    )
