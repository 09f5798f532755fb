"""Shows what is stored, how large it is and who uses it, verifies it, and removes what nobody uses."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NoReturn, final

from lfd.errors import Ending, Refused
from lfd.housekeeping import Inventory, Item, flaw, gc, survey

GC = """Removes what no run folder and no process uses, directly or through other artifacts. A run's folder keeps what
the run has used, also if it failed or was interrupted, so that its command goes on from there: remove the folder first
to let that go. Partial work, from which an interrupted stage goes on, stays until it has been left alone for a week."""


@final
class Parser(argparse.ArgumentParser):
    """Argument errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}: see `{self.prog} --help`")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="artifacts.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="ls|verify|gc")
    ls = verbs.add_parser("ls", help="list all artifacts, newest first")
    check = verbs.add_parser("verify", help="read all artifacts in full, and the datasets' sha256 again")
    remove = verbs.add_parser("gc", help="remove what no run uses", description=GC)
    for verb in (ls, check, remove):
        verb.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of artifacts/ and runs/")
    how = remove.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="only say what would be removed (the default)")
    how.add_argument("--yes", action="store_true", help="remove it")
    return parser.parse_args(arguments)


def size_text(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def age_text(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def used_by(item: Item, inventory: Inventory) -> str:
    users = inventory.users.get(item.key, [])
    shown = users[:2] + ([f"{len(users) - 2} more"] if len(users) > 2 else [])
    if item.folder in inventory.busy:
        shown.insert(0, "a process at work")
    return ", ".join(shown) or "-"


def table(items: list[Item], inventory: Inventory) -> str:
    rows = [("key", "kind", "state", "size", "age", "used by")]
    for item in items:
        age = age_text(time.time() - item.changed)
        rows.append((item.key, item.kind, item.state, size_text(item.size), age, used_by(item, inventory)))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    sides = ("<", "<", "<", ">", ">", "<")
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def total(items: list[Item]) -> str:
    number = f"{len(items)} artifact" + ("" if len(items) == 1 else "s")
    return f"{number}, {size_text(sum(item.size for item in items))}"


def verify(items: list[Item]) -> int:
    """Prints what is wrong; returns the exit code."""
    checked = [item for item in items if item.state not in ("partial", "earlier")]
    flaws = {item.key: found for item in checked if (found := flaw(item)) is not None}
    for key, found in flaws.items():
        print(f"{key}: {found}")
    print(f"{total(checked)}: {len(flaws)} damaged")
    return 2 if flaws else 0


def main(arguments: list[str]) -> int:
    try:
        asked = parse(arguments)
        root, runs = asked.outputs / "artifacts", asked.outputs / "runs"
        inventory = survey(root, runs)
        if asked.verb == "ls":
            print(f"{table(inventory.items, inventory)}\n{total(inventory.items)}")
            return 0
        if asked.verb == "verify":
            return verify(inventory.items)
        stale = gc(root, runs) if asked.yes else inventory.stale()
    except Ending as ending:
        print(ending, file=sys.stderr)
        return ending.exit_code
    if not stale:
        print("nothing to remove: all that is stored is in use")
        return 0
    print(table(stale, inventory))
    print(f"{total(stale)} removed" if asked.yes else f"{total(stale)} would be removed; `gc --yes` removes them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
