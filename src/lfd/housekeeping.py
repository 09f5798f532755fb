"""What is stored, who uses it, and the removal of what nobody does."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

from lfd.artifacts import MARKER, Lock, discard, is_earlier, record_of
from lfd.errors import Refused
from lfd.files import file_sha256, load_json, load_object, load_tensors
from lfd.log import read_records

PARTIAL_KEPT = 7 * 24 * 3600.0  # seconds without a write after which partial work may go


@final
@dataclass(frozen=True)
class Item:
    """One folder of the store."""

    folder: Path
    state: str  # whole, damaged, partial or earlier (of an earlier version, which nothing reads)
    size: int  # bytes
    changed: float  # when it was last written, in seconds since 1970
    inputs: tuple[str, ...]  # keys of the artifacts that it was made from

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        return self.key.rpartition("-")[0]

    @property
    def lock(self) -> Path:
        """The file that is locked by who reads it, or who builds it if there is nothing to read."""
        store = self.folder.parents[1] if self.state == "partial" else self.folder.parent
        return self.folder / MARKER if self.state == "whole" else store / ".locks" / self.key


@final
@dataclass(frozen=True)
class Inventory:
    """A store at one moment."""

    items: list[Item]  # newest first
    users: dict[str, list[str]]  # key -> names of the runs and keys of the artifacts that name it
    busy: set[Path]  # folders that a living process builds or reads
    needed: set[str]  # keys used by a run or a living process, directly or through other artifacts

    def stale(self) -> list[Item]:
        """What no run and no process needs; partial work only if idle for a week and without human labels."""
        old = time.time() - PARTIAL_KEPT

        def is_over(item: Item) -> bool:
            if item.state == "partial" and (item.changed > old or _has_answers(item.folder)):
                return False
            return item.state == "earlier" or item.key not in self.needed

        return [item for item in self.items if is_over(item)]


def _has_answers(folder: Path) -> bool:
    """Has a person labelled or driven there?"""
    return any(True for name in ("labels.json", "answers-*.jsonl") for _ in folder.rglob(name))


def survey(root: Path, runs: Path, own: frozenset[Path] = frozenset()) -> Inventory:
    """What the store `root` holds, and who among the run folders in `runs` uses it.

    Locked files in `own` are the caller's and make nothing busy. Refused if there is no store, or if a run's
    `result.json` is broken, since what that run uses is then unknown.
    """
    if not root.is_dir():
        raise Refused(f"nothing is stored under {root}: run something first, or name another place with --outputs")
    items = [_look(folder) for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    items += [_look(folder) for folder in (root / ".building").glob("*")]
    uses = {run.name: _used_by(run) for run in runs.glob("*") if (run / "result.json").exists()}
    busy = {item.folder for item in items if item.lock not in own and _is_locked(item.lock)}
    roots = {key for keys in uses.values() for key in keys} | {item.key for item in items if item.folder in busy}
    needed = _closure(roots, {item.key: item.inputs for item in items})
    users: dict[str, list[str]] = {}
    for name, keys in [*uses.items(), *((item.key, item.inputs) for item in items)]:
        for key in set(keys):
            users.setdefault(key, []).append(name)
    return Inventory(sorted(items, key=lambda item: -item.changed), users, busy, needed)


def gc(root: Path, runs: Path) -> list[Item]:
    """Removes what is stale and returns it. What a process begins to use meanwhile stays."""
    with ExitStack() as stack:
        locked: dict[Path, Item] = {}
        for item in survey(root, runs).stale():
            lock = _try_lock(item.lock)
            if lock is not None:
                stack.callback(lock.release)
                locked[item.lock] = item
        # a run may have finished between the first look and the lock
        stale = {item.lock for item in survey(root, runs, frozenset(locked)).stale()}
        removed = [item for path, item in locked.items() if path in stale]
        for item in removed:
            discard(root, item.folder)
    for left in (root / ".trash").glob("*"):
        shutil.rmtree(left, ignore_errors=True)
    return removed


def flaw(item: Item) -> str | None:
    """What is wrong with an artifact whose files are read in full; None if nothing is.

    Of datasets and weights the sha256 is compared; records have none, and are whole if they can be read.
    """
    from lfd.data import Dataset

    record = record_of(item.folder)
    if record is None:
        return "a file is missing or cut short"
    try:
        for path in (item.folder / name for name in record["files"]):
            match path.suffix:
                case ".json":
                    load_json(path)
                case ".jsonl":
                    read_records(path)
                case ".safetensors":
                    load_tensors(path)
                    stored = record.get("sha256", {}).get(str(path.relative_to(item.folder)))
                    if stored is not None and file_sha256(path, None) != stored:
                        return f"{path.name} is not what was stored: its sha256 is another"
                case ".hdf5":
                    Dataset.open(path).verify()
    except Refused as refusal:
        return str(refusal)
    return None


def _look(folder: Path) -> Item:
    partial = folder.parent.name == ".building"
    record = None if partial else record_of(folder)
    size, changed = _size_and_time(folder)
    state = "partial" if partial else "whole" if record else "earlier" if is_earlier(folder) else "damaged"
    return Item(folder, state, size, changed, tuple(record["inputs"].values()) if record else ())


def _size_and_time(folder: Path) -> tuple[int, float]:
    """Bytes of the files below `folder`, and the time of its last change; a builder may be at work in it."""
    size, changed = 0, 0.0
    for parent, _, names in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            size += 0 if path == parent else status.st_size
            changed = max(changed, status.st_mtime)
    return size, changed


def _used_by(run: Path) -> set[str]:
    stages = load_object(run / "result.json").get("stages", {})
    return {stage["artifact"] for stage in stages.values() if stage.get("artifact")}


def _closure(roots: set[str], inputs: Mapping[str, tuple[str, ...]]) -> set[str]:
    reached: set[str] = set()
    ahead = list(roots)
    while ahead:
        key = ahead.pop()
        if key not in reached:
            reached.add(key)
            ahead.extend(inputs.get(key, ()))
    return reached


def _try_lock(path: Path) -> Lock | None:
    """The lock, or None if somebody else holds it, removed or replaced the item, or owns the store."""
    try:
        lock = Lock(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError, PermissionError):
        return None
    if not lock.is_current():
        lock.release()
        return None
    return lock


def _is_locked(path: Path) -> bool:
    lock = _try_lock(path)
    if lock is None:
        return True
    lock.release()
    return False
