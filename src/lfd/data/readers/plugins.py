"""Readers of other packages: entry points of the group `lfd.reader`, each named by the suffix of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from lfd.data.episode import Episode
from lfd.errors import UserError
from lfd.registry import load_entry

Reader = Callable[[Path, int | None], Iterator[Episode]]  # of a path and the time limit of its episodes, in steps


def plugin_reader(path: Path) -> Reader | None:
    """The reader of a file or folder whose suffix a package has registered; None without one. Raises UserError."""
    if (entry := _entry(path)) is None:
        return None
    reader: Reader = load_entry(entry, "reader")
    if not callable(reader):
        raise UserError(f"lfd.reader: {entry.name} = {entry.value}: expected a function, got {reader!r}")
    return reader


def plugin_version(path: Path) -> str:
    """Package and version of the reader of a path, as "my-package 1.0"; "" if lfd reads it."""
    entry = _entry(path)
    return f"{entry.dist.name} {entry.dist.version}" if entry is not None and entry.dist else ""


def _entry(path: Path) -> EntryPoint | None:
    return next((entry for entry in entry_points(group="lfd.reader") if path.suffix == f".{entry.name}"), None)
