"""Parts of self-contained HTML pages: one style sheet, light and dark, without network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, final

_STYLESHEET = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2933; --soft: #5f6b78; --rule: #e1e6eb; --tint: #f4f6f8;
  --line: #0b5394; --bad: #a61b1b; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e3e8ed; --soft: #97a3b0; --rule: #2c343d;
  --tint: #1c2229; --line: #6fb1f0; --bad: #ff8f8f; } img.drawn { filter: invert(0.92) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 0.7rem; }
p { margin: 0.4rem 0; }
.soft { color: var(--soft); }
.bad { color: var(--bad); }
.big { font-size: 2.6rem; font-weight: 650; line-height: 1.15; margin-top: 1.4rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); font-size: 0.85rem; }
th, td { padding: 0.4rem 0.9rem 0.4rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
th.left, td.left { text-align: left; }
th:last-child, td:last-child { padding-right: 0; }
td.left:last-child { white-space: normal; min-width: 16rem; }
tr.first td { font-weight: 600; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.facts td:first-child { color: var(--soft); width: 15rem; }
code, pre { font: 0.86rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--tint); padding: 0.9rem 1rem; border-radius: 6px; overflow-x: auto; margin: 0.6rem 0; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--rule); padding: 0.45rem 0; }
summary { cursor: pointer; font-weight: 600; }
img { display: block; max-width: 100%; height: auto; }
svg { vertical-align: middle; overflow: visible; }
svg .track { stroke: var(--rule); stroke-width: 1; }
svg .range { stroke: var(--line); stroke-width: 2; opacity: 0.45; }
svg .mean { stroke: var(--ink); stroke-width: 2.5; }
svg .dot { fill: var(--line); fill-opacity: 0.55; }
"""


@final
class Html(str):
    """Text that is markup and is not escaped again."""


def to_markup(cell: str) -> str:
    """The cell as markup: escaped, unless it is `Html`."""
    return cell if isinstance(cell, Html) else escape(cell)


def html_page(title: str, body: Sequence[str]) -> str:
    """A whole page; the items of `body` are markup."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLESHEET}</style>\n" + "\n".join(body) + "\n</html>\n"
    )


def rows_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, first: bool = False) -> Html:
    """A table whose first `left` columns are aligned left and whose first row is bold if `first`."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=left' * (i < left)}>{to_markup(cell)}</{tag}>" for i, cell in enumerate(cells))

    body = "\n".join(f"<tr{' class=first' * (first and i == 0)}>{line('td', row)}</tr>" for i, row in enumerate(rows))
    head = f"<thead><tr>{line('th', headings)}</tr></thead>"
    return Html(f"<div class=wide><table>{head}\n<tbody>{body}</tbody></table></div>")


def facts_table(facts: Mapping[str, Any]) -> Html:
    """A table of names and values; a mapping of values is one row, a deeper one becomes rows `outer · inner`."""
    rows = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in _flatten_rows(facts)
    )
    return Html(f"<table class=facts>{rows}</table>")


def _flatten_rows(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
            rows += _flatten_rows(value, f"{prefix}{name} · ")
        elif isinstance(value, Mapping):
            rows.append(
                (
                    f"{prefix}{name}",
                    ", ".join(f"{inner} {format_value(inner_value)}" for inner, inner_value in value.items()) or "–",
                )
            )
        else:
            rows.append((f"{prefix}{name}", format_value(value)))
    return rows


def format_value(value: Any) -> str:
    """A JSON value as text."""
    match value:
        case str():
            return value
        case bool() | None:
            return {True: "yes", False: "no", None: "–"}[value]
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.6g}"
        case []:
            return "none"
        case _:
            return json.dumps(value)


def details_section(summary: str, body: str) -> Html:
    """A collapsed section; `body` is markup."""
    return Html(f"<details><summary>{escape(summary)}</summary>{body}</details>")


def code_block(block: str) -> Html:
    """A preformatted block of text."""
    return Html(f"<pre>{escape(block)}</pre>")


def range_plot(
    domain: tuple[float, float], mean: float | None, ends: tuple[float, float] | None = None, dots: Sequence[float] = ()
) -> Html:
    """A small picture over the range `domain`: a line between `ends`, dots, and a tick at the mean."""
    width, height, middle = 180, 16, 8
    low, high = domain
    scale = width / (high - low) if high > low else 0.0

    def x(value: float) -> str:
        return f"{(value - low) * scale:.1f}"

    shapes = [f"<line class=track x1=0 x2={width} y1={middle} y2={middle} />"]
    if ends is not None:
        shapes.append(f"<line class=range x1={x(ends[0])} x2={x(ends[1])} y1={middle} y2={middle} />")
    shapes += [f"<circle class=dot cx={x(dot)} cy={middle} r=4 />" for dot in dots]
    if mean is not None:
        shapes.append(f"<line class=mean x1={x(mean)} x2={x(mean)} y1=2 y2={height - 2} />")
    return Html(f"<svg width={width} height={height} aria-hidden=true>{''.join(shapes)}</svg>")
