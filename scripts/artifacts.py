"""Lists the stored artifacts with their sizes and users, verifies them, and removes unused ones."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NoReturn, final

from lfd.errors import RunError, UserError
from lfd.runs.gc import Inventory, StoreEntry, find_damage, gc, take_inventory
from lfd.store.outputs import Outputs

GC_DESCRIPTION = """Removes artifacts that no run folder and no process uses, directly or through other artifacts. A
run's folder keeps its artifacts, also if the run failed or was interrupted, so that its command can continue: remove
the folder first to free them. Partial artifacts, from which interrupted stages continue, stay until they have been idle
for 7 days."""


@final
class Parser(argparse.ArgumentParser):
    """Reports argument errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see `{self.prog} --help`")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="artifacts.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="ls|verify|gc")
    ls_parser = commands.add_parser("ls", help="list all artifacts, newest first")
    verify_parser = commands.add_parser("verify", help="read all artifacts in full and compare sha256")
    gc_parser = commands.add_parser("gc", help="remove unused artifacts", description=GC_DESCRIPTION)
    for command in (ls_parser, verify_parser, gc_parser):
        command.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of artifacts/ and runs/")
    mode = gc_parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only list what would be removed (the default)")
    mode.add_argument("--yes", action="store_true", help="remove it")
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


def users_text(entry: StoreEntry, inventory: Inventory) -> str:
    users = inventory.users.get(entry.key, [])
    shown = users[:2] + ([f"{len(users) - 2} more"] if len(users) > 2 else [])
    if entry.folder in inventory.busy:
        shown.insert(0, "a running process")
    return ", ".join(shown) or "-"


def table(entries: list[StoreEntry], inventory: Inventory) -> str:
    rows = [("key", "kind", "state", "size", "age", "used by")]
    for entry in entries:
        age = age_text(time.time() - entry.changed)
        rows.append((entry.key, entry.kind, entry.state, size_text(entry.size), age, users_text(entry, inventory)))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    sides = ("<", "<", "<", ">", ">", "<")
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def total(entries: list[StoreEntry]) -> str:
    count = f"{len(entries)} artifact" + ("" if len(entries) == 1 else "s")
    return f"{count}, {size_text(sum(entry.size for entry in entries))}"


def verify(entries: list[StoreEntry]) -> int:
    """Prints damaged artifacts; returns the exit code."""
    checked = [entry for entry in entries if entry.state not in ("partial", "earlier")]
    damages = {entry.key: damage for entry in checked if (damage := find_damage(entry)) is not None}
    for key, damage in damages.items():
        print(f"{key}: {damage}")
    print(f"{total(checked)}: {len(damages)} damaged")
    return 2 if damages else 0


def main(arguments: list[str]) -> int:
    try:
        options = parse(arguments)
        root, runs = Outputs(options.outputs).artifacts, Outputs(options.outputs).runs
        inventory = take_inventory(root, runs)
        if options.command == "ls":
            print(f"{table(inventory.entries, inventory)}\n{total(inventory.entries)}")
            return 0
        if options.command == "verify":
            return verify(inventory.entries)
        stale = gc(root, runs) if options.yes else inventory.stale()
    except RunError as ending:
        print(ending, file=sys.stderr)
        return ending.exit_code
    if not stale:
        print("nothing to remove: all artifacts are in use")
        return 0
    print(table(stale, inventory))
    print(f"{total(stale)} removed" if options.yes else f"{total(stale)} would be removed; `gc --yes` removes them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
