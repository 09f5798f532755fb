"""The inventory of the store: its artifacts, the runs that use them, damage, and the removal of unused artifacts."""

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

from lfd.errors import UserError
from lfd.files import file_sha256, load_json, load_json_object, load_tensors
from lfd.log import read_records
from lfd.store.artifacts import MARKER, discard, is_outdated, read_record
from lfd.store.locks import FileLock

PARTIAL_MAX_IDLE_SECONDS = 7 * 24 * 3600.0  # without a write; after that, a partial artifact may be removed


@final
@dataclass(frozen=True)
class StoreEntry:
    """One folder of the store: a complete, damaged, partial or outdated artifact."""

    folder: Path
    state: str  # whole, damaged, partial, or earlier (of an earlier version of the store, which lfd does not read)
    size: int  # bytes
    changed: float  # time of the last write, in seconds since 1970
    inputs: tuple[str, ...]  # keys of its input artifacts

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        return self.key.rpartition("-")[0]

    @property
    def lock(self) -> Path:
        """The file that readers of a complete artifact lock; for other artifacts, the file that builders lock."""
        store = self.folder.parents[1] if self.state == "partial" else self.folder.parent
        return self.folder / MARKER if self.state == "whole" else store / ".locks" / self.key


@final
@dataclass(frozen=True)
class Inventory:
    """The content of a store at one moment."""

    entries: list[StoreEntry]  # newest first
    users: dict[str, list[str]]  # by key: names of the runs and keys of the artifacts that use it
    busy: set[Path]  # folders that a running process builds or reads
    needed: set[str]  # keys that a run or a running process uses, directly or through other artifacts

    def stale(self) -> list[StoreEntry]:
        """Unused artifacts; partial ones only if idle for 7 days and without human labels."""
        oldest_kept = time.time() - PARTIAL_MAX_IDLE_SECONDS

        def is_stale(entry: StoreEntry) -> bool:
            if entry.state == "partial" and (entry.changed > oldest_kept or _has_human_labels(entry.folder)):
                return False
            return entry.state == "earlier" or entry.key not in self.needed

        return [entry for entry in self.entries if is_stale(entry)]


def _has_human_labels(folder: Path) -> bool:
    """True if a person has labeled states or acted in a partial artifact."""
    return any(True for name in ("labels.json", "answers-*.jsonl") for _ in folder.rglob(name))


def take_inventory(root: Path, runs: Path, own: frozenset[Path] = frozenset()) -> Inventory:
    """The artifacts of the store `root`, and their users among the run folders in `runs`.

    Files in `own` are locked by the caller and do not make an artifact busy.

    Raises UserError if there is no store, or if a run's `result.json` is damaged, as its artifacts are then unknown.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: expected a store of artifacts, got nothing; run an experiment first, or name its folder, as "
            "in `ls --outputs FOLDER`"
        )
    entries = [_inspect(folder) for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    entries += [_inspect(folder) for folder in (root / ".building").glob("*")]
    used_keys = {run.name: _used_keys(run) for run in runs.glob("*") if (run / "result.json").exists()}
    busy = {entry.folder for entry in entries if entry.lock not in own and _is_locked(entry.lock)}
    roots = {key for keys in used_keys.values() for key in keys}
    roots |= {entry.key for entry in entries if entry.folder in busy}
    needed = _with_inputs(roots, {entry.key: entry.inputs for entry in entries})
    users: dict[str, list[str]] = {}
    for name, keys in [*used_keys.items(), *((entry.key, entry.inputs) for entry in entries)]:
        for key in set(keys):
            users.setdefault(key, []).append(name)
    return Inventory(sorted(entries, key=lambda entry: -entry.changed), users, busy, needed)


def gc(root: Path, runs: Path) -> list[StoreEntry]:
    """Removes stale artifacts and returns them. Keeps artifacts that a process begins to use meanwhile."""
    with ExitStack() as stack:
        locked: dict[Path, StoreEntry] = {}
        for entry in take_inventory(root, runs).stale():
            lock = _try_lock(entry.lock)
            if lock is not None:
                stack.callback(lock.release)
                locked[entry.lock] = entry
        # A run may have finished between the first inventory and the lock.
        stale = {entry.lock for entry in take_inventory(root, runs, frozenset(locked)).stale()}
        removed = [entry for path, entry in locked.items() if path in stale]
        for entry in removed:
            discard(root, entry.folder)
    for leftover in (root / ".trash").glob("*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return removed


def find_damage(entry: StoreEntry) -> str | None:
    """Reads all files of an artifact and returns a line about the first damage; None if there is none.

    Checks the sha256 of datasets and weights, and that JSON records can be read.
    """
    from lfd.data import Dataset

    record = read_record(entry.folder)
    if record is None:
        return "a file is missing or cut short"
    try:
        for path in (entry.folder / name for name in record["files"]):
            match path.suffix:
                case ".json":
                    load_json(path)
                case ".jsonl":
                    read_records(path)
                case ".safetensors":
                    load_tensors(path)
                    stored = record.get("sha256", {}).get(str(path.relative_to(entry.folder)))
                    if stored is not None and file_sha256(path, None) != stored:
                        return f"{path.name} has changed: its sha256 differs from the stored one"
                case ".hdf5":
                    Dataset.open(path).verify()
    except UserError as refusal:
        return str(refusal)
    return None


def _inspect(folder: Path) -> StoreEntry:
    is_partial = folder.parent.name == ".building"
    record = None if is_partial else read_record(folder)
    size, changed = _size_and_time(folder)
    state = "partial" if is_partial else "whole" if record else "earlier" if is_outdated(folder) else "damaged"
    return StoreEntry(folder, state, size, changed, tuple(record["inputs"].values()) if record else ())


def _size_and_time(folder: Path) -> tuple[int, float]:
    """Bytes of the files below `folder`, and the time of its last change; files may vanish as a builder works in it."""
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


def _used_keys(run: Path) -> set[str]:
    """Keys of the artifacts that a run has used."""
    stages = load_json_object(run / "result.json").get("stages", {})
    return {stage["artifact"] for stage in stages.values() if stage.get("artifact")}


def _with_inputs(roots: set[str], inputs: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The keys in `roots`, their inputs, the inputs of these, and so on."""
    reached: set[str] = set()
    pending = list(roots)
    while pending:
        key = pending.pop()
        if key not in reached:
            reached.add(key)
            pending.extend(inputs.get(key, ()))
    return reached


def _try_lock(path: Path) -> FileLock | None:
    """The lock; None if another process holds it or removed or replaced the file, or if permission is denied."""
    try:
        lock = FileLock(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
