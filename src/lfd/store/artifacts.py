"""The store of artifacts, the products of stages: keyed by their inputs, built once, published complete or not at all.

    <root>/<key>/            a complete artifact; `artifact.json` in it is its marker
    <root>/.building/<key>/  a partial artifact; the next builder continues it
    <root>/.locks/<key>      the builder's lock; the file names the process
    <root>/.trash/           folders that are being deleted

Locks are `flock`s, so they end with the process that holds them, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from lfd.errors import Interrupted, UserError
from lfd.files import (
    file_sha256,
    fsync_path,
    load_json_object,
    save_json,
    translate_os_errors,
    write_atomic,
)
from lfd.store.keys import describe, key_of
from lfd.store.locks import FileLock

MARKER = "artifact.json"
STORE_VERSION = 2  # raised when keys are computed in another way, so that no artifact from before is found
POLL_SECONDS = 0.1  # between two attempts to take a lock that another builder holds


@final
@dataclass(frozen=True)
class StoredArtifact:
    """An artifact that is already in the store."""

    folder: Path


@final
@dataclass(frozen=True)
class ArtifactBuilder:
    """The exclusive right to build one artifact, until the `with` block ends."""

    key: str
    folder: Path  # of the artifact's files; they are kept for the next builder if the block ends without `publish`
    _publish: Callable[[dict[str, Any]], Path]

    def publish(
        self,
        material: Any,
        inputs: Mapping[str, str],
        summary: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> Path:
        """Publishes the folder as a complete artifact and returns its new path.

        `material` is the content that the key was computed from, `inputs` are the keys of the input artifacts by name,
        `summary` is the stage's own JSON. Raises ValueError if the material does not give the key.
        """
        kind = self.key.rpartition("-")[0]
        content = describe(material)
        if key_of(kind, content) != self.key:
            raise ValueError(f"{self.key}: expected the material of this key, got that of another")
        return self._publish(
            {
                "version": STORE_VERSION,
                "key": self.key,
                "kind": kind,
                "material": content,
                "inputs": dict(inputs),
                "summary": dict(summary),
                "provenance": dict(provenance),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@final
class Store:
    """The artifacts under `root`. `gc` keeps artifacts that a store has found or built until the store is closed."""

    def __init__(self, root: Path, report: Callable[[str], None] = _print_to_stderr) -> None:
        """`report` prints the lines about waiting for another builder and about artifacts of an earlier version."""
        self.root = root.absolute()
        self._report = report
        self._is_prepared = False
        self._locks_in_use: dict[str, FileLock] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Releases the locks on artifacts that were found or built."""
        for lock in self._locks_in_use.values():
            lock.release()
        self._locks_in_use.clear()

    def key(self, kind: str, material: Any) -> str:
        """`kind` and 16 hex digits, equal for equal material whatever the order of mappings; see `keys.describe`."""
        return key_of(kind, material)

    def find(self, key: str) -> Path | None:
        """The folder of an artifact; None if it is absent or damaged. Locks the artifact against `gc`."""
        folder = self.root / key
        try:
            lock = FileLock(folder / MARKER, os.O_RDONLY, fcntl.LOCK_SH)
        except (FileNotFoundError, NotADirectoryError):
            return None
        # Between opening and locking, gc may have removed the folder and a builder may have published another one.
        if not lock.is_current():
            lock.release()
            return self.find(key)
        if read_record(folder) is None:
            lock.release()
            return None
        self._keep_lock(key, lock)
        return folder

    @contextmanager
    def build(
        self, key: str, stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[ArtifactBuilder | StoredArtifact]:
        """An ArtifactBuilder for `key`, or the StoredArtifact; one process on all machines builds a key at a time.

        Waits for another builder, and reports it once. Files in the folder stay for the next builder if the block ends
        without `publish`. Raises Interrupted if `stopping` returns True while it waits, and DiskFull.
        """
        with translate_os_errors(self.root / key):
            folder = self.find(key)
            if folder is None:
                self._prepare()
                lock = self._wait_for_lock(key, stopping)
                try:
                    lock.write_text(f"process {os.getpid()} on {os.uname().nodename}")
                    folder = self.find(key) or self._finish(key)
                    if folder is None:
                        yield self._start(key)
                        return
                finally:
                    lock.release()
            yield StoredArtifact(folder)

    def _path(self, *names: str) -> Path:
        return self.root.joinpath(*names)

    def _prepare(self) -> None:
        if self._is_prepared:
            return
        try:
            for name in (".locks", ".building"):
                self._path(name).mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise UserError(
                f"{self.root} cannot hold artifacts ({error.strerror}): expected a folder that you may write to; "
                "choose another by outputs=..."
            ) from error
        self._report_earlier_version()
        self._is_prepared = True

    def _report_earlier_version(self) -> None:
        """Reports artifacts of an earlier version in one line; writes the file `.version` if there are none."""
        version_file = self._path(".version")
        if version_file.exists() and version_file.read_text() == str(STORE_VERSION):
            return
        count = sum(map(is_outdated, self.root.iterdir()))
        if count:
            self._report(
                f"{self.root}: artifacts of an earlier version of lfd are not read ({count}); "
                f"`python scripts/artifacts.py gc --yes --outputs {self.root.parent}` removes them"
            )
        else:
            write_atomic(version_file, str(STORE_VERSION).encode())

    def _keep_lock(self, key: str, lock: FileLock) -> None:
        earlier = self._locks_in_use.pop(key, None)
        if earlier is not None:
            earlier.release()
        self._locks_in_use[key] = lock

    def _wait_for_lock(self, key: str, stopping: Callable[[], bool]) -> FileLock:
        """The builder's lock. Lock files are never deleted, else two processes could hold locks of one name."""
        path, flags = self._path(".locks", key), os.O_RDWR | os.O_CREAT
        is_reported = False
        # Not a blocking flock: it would go on waiting after a signal whose handler only sets a flag.
        while not stopping():
            try:
                return FileLock(path, flags, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not is_reported:
                    self._report(f"{key} is being built by {path.read_text() or 'another process'}; waiting for it")
                is_reported = True
                time.sleep(POLL_SECONDS)
        raise Interrupted(f"stopped while waiting for {key}; the same command continues")

    def _finish(self, key: str) -> Path | None:
        """Publishes an artifact that an earlier builder marked complete before it was killed."""
        folder = self._path(".building", key)
        return self._move(key) if read_record(folder) else None

    def _start(self, key: str) -> ArtifactBuilder:
        folder = self._path(".building", key)
        folder.mkdir(exist_ok=True)
        # A marker here belongs to other files and would make a partial artifact look complete.
        (folder / MARKER).unlink(missing_ok=True)
        return ArtifactBuilder(key, folder, lambda record: self._publish(key, record))

    def _publish(self, key: str, record: dict[str, Any]) -> Path:
        folder = self._path(".building", key)
        sizes = {}
        for path in sorted(folder.rglob("*")):
            if path.name.endswith(".tmp") and (path.is_symlink() or path.is_file()):
                path.unlink()
                continue
            fsync_path(path)
            if path.is_file():
                sizes[str(path.relative_to(folder))] = path.stat().st_size
        weights = {name: file_sha256(folder / name, None) for name in sizes if name.endswith(".safetensors")}
        record |= {"size": sum(sizes.values()), "files": sizes, "sha256": weights}
        save_json(folder / MARKER, record)
        return self._move(key)

    def _move(self, key: str) -> Path:
        source, target = self._path(".building", key), self.root / key
        self._keep_lock(key, FileLock(source / MARKER, os.O_RDONLY, fcntl.LOCK_SH))
        if target.exists():
            discard(self.root, target)  # damaged, as `find` did not return it
        os.rename(source, target)
        fsync_path(self.root)
        fsync_path(source.parent)
        return target


def read_record(folder: Path) -> dict[str, Any] | None:
    """The content of an artifact's marker; None if a file that it lists is absent or has another size.

    Also None for an artifact of another version of the store.
    """
    try:
        record = load_json_object(folder / MARKER, "kind", "material", "inputs", "summary", "size", "files")
        is_complete = all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (UserError, FileNotFoundError, NotADirectoryError):
        return None
    return record if is_complete and record.get("version") == STORE_VERSION else None


def is_outdated(folder: Path) -> bool:
    """True if a folder holds an artifact of another version of the store."""
    try:
        return load_json_object(folder / MARKER).get("version") != STORE_VERSION
    except (UserError, FileNotFoundError, NotADirectoryError):
        return False


def discard(root: Path, folder: Path) -> None:
    """Deletes a folder of the store; it disappears for other processes at once, even if deletion is interrupted."""
    trash = root / ".trash" / f"{folder.name}.{os.getpid()}.{time.monotonic_ns()}"
    trash.parent.mkdir(exist_ok=True)
    os.rename(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)
