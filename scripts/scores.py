"""Prints sweeps as Markdown for docs/scores.md: the command, date, machine and seeds, then one row of returns a group.

Each argument is the folder of a sweep, outputs/sweeps/<hash>. A cell has the mean return of each seed, in their order;
groups that differ only in the environment share a row.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lfd.errors import RunError, UserError
from lfd.files import load_json_object
from lfd.report.table import NO_VALUE, format_number
from lfd.store.outputs import Outputs


def sweep_markdown(folder: Path) -> str:
    """The lines of one sweep. Raises UserError if it is none, or if no job of it has a score."""
    sweep = load_json_object(folder / "sweep.json", "common", "groups", "failures")
    groups = [group for group in sweep["groups"] if group["returns"]]
    if not groups:
        raise UserError(f"{folder}: expected a sweep with scores, got none; run the sweep's command again")
    runs = Outputs(folder.parents[1]).runs
    return "\n".join([_origin(sweep, groups, runs), "", *_table(groups, runs)])


def _origin(sweep: dict[str, Any], groups: list[dict[str, Any]], runs: Path) -> str:
    """One paragraph: by which command, when and where the numbers were measured."""
    varied = [
        f"{key}={','.join(dict.fromkeys(g['overrides'].get(key, '') for g in groups))}" for key in sweep["varies"]
    ]
    seeds = list(dict.fromkeys(seed for group in groups for seed in group["seeds"]))
    words = [*(f"{key}={value}" for key, value in sweep["common"].items()), *varied]
    words += [f"seed={','.join(seeds)}"] if any(seeds) else []
    made = [load_json_object(runs / run / "provenance.json", "time", "platform") for g in groups for run in g["runs"]]
    dates = sorted({record["time"][:10] for record in made})
    machines = sorted({f"{record['platform']}, {record['cpus']} CPUs, {record['device']}" for record in made})
    days = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    failed = f" {len(sweep['failures'])} jobs have no score." if sweep["failures"] else ""
    command = f"`python run.py -m {' '.join(words)}`"
    return f"{command}, {days}, {'; '.join(machines)}, seeds {', '.join(seeds) or 'as configured'}.{failed}"


def _table(groups: list[dict[str, Any]], runs: Path) -> list[str]:
    """Rows by the overrides that vary, columns by environment."""
    cells: dict[str, dict[str, str]] = {}
    for group in groups:
        options = load_json_object(runs / group["runs"][0] / "result.json", "options")["options"]
        others = {key: value for key, value in group["overrides"].items() if key not in ("algo", "env")}
        row = " ".join([options["algo"], *(f"{key}={value}" for key, value in others.items())])
        cells.setdefault(row, {})[options["env"]] = ", ".join(map(format_number, group["returns"]))
    envs = list(dict.fromkeys(env for row in cells.values() for env in row))
    rows = [[row, *(values.get(env, NO_VALUE) for env in envs)] for row, values in cells.items()]
    return [_line(["", *envs]), "|---" * (len(envs) + 1) + "|", *map(_line, rows)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scores.py", description=__doc__)
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="FOLDER", help="outputs/sweeps/<hash>")
    try:
        print("\n\n".join(sweep_markdown(folder.absolute()) for folder in parser.parse_args(arguments).sweeps))
    except RunError as ending:
        print(f"scores: {ending}", file=sys.stderr)
        return ending.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
