"""The store of what stages make: keyed by what produced it, built once, published whole or not at all.

    <root>/<key>/            a whole artifact; `artifact.json` in it is its marker
    <root>/.building/<key>/  partial work; the next builder goes on with it
    <root>/.locks/<key>      held by who builds; names the holder
    <root>/.trash/           what is being deleted

Locks are `flock`s, so they end with their holder, however it ends.
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
from typing import Any, ClassVar, Self, final
from weakref import WeakSet

from lfd.errors import Interrupted, Refused
from lfd.files import file_sha256, full_disk_told, load_object, naming, save_json, sync, write
from lfd.keys import describe, key_of

__all__ = ["MARKER", "Building", "Done", "Lock", "Store", "describe", "discard", "is_earlier", "record_of"]

MARKER = "artifact.json"
VERSION = 2  # of the store; raised when keys are made in another way, so that nothing stored before is found
WAIT = 0.1  # seconds between two looks whether another builder is done


@final
class Lock:
    """A `flock` on a file, which ends with this process even if children it forked live on."""

    _held: ClassVar[WeakSet[Lock]] = WeakSet()

    def __init__(self, path: Path, flags: int, operation: int) -> None:
        """Opens and locks; BlockingIOError if `operation` has LOCK_NB and somebody else holds the lock."""
        descriptor = os.open(path, flags, 0o666)
        try:
            with naming(path):
                fcntl.flock(descriptor, operation)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor: int | None = descriptor
        self.path = path
        Lock._held.add(self)

    def is_current(self) -> bool:
        """Whether the locked file is still the one at its path."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def note(self, content: str) -> None:
        """Makes `content` what the locked file says."""
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content.encode(), 0)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @classmethod
    def _forget(cls) -> None:
        for lock in list(cls._held):
            lock.release()


# a forked child shares the parent's lock: closing the child's copy leaves it to the parent alone
os.register_at_fork(after_in_child=Lock._forget)


@final
@dataclass(frozen=True)
class Done:
    """The artifact is there: nothing to build."""

    folder: Path


@final
@dataclass(frozen=True)
class Building:
    """The right to build one artifact, for as long as the `with` block lasts."""

    key: str
    folder: Path  # where the work goes; files in it are kept if the block ends without `publish`
    fresh: bool  # False: the folder holds what an earlier builder left
    _publish: Callable[[dict[str, Any]], Path]

    def publish(
        self,
        material: Any,
        inputs: Mapping[str, str],
        summary: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> Path:
        """Makes the folder the artifact and returns its place.

        `material` is what the key was made of, `inputs` names the keys of the artifacts that were read, `summary` is
        the stage's own JSON. ValueError if the material does not give the key.
        """
        kind = self.key.rpartition("-")[0]
        described = describe(material)
        if key_of(kind, described) != self.key:
            raise ValueError(f"{self.key} was not made of the material that is published with it")
        return self._publish(
            {
                "version": VERSION,
                "key": self.key,
                "kind": kind,
                "material": described,
                "inputs": dict(inputs),
                "summary": dict(summary),
                "provenance": dict(provenance),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@final
class Store:
    """The artifacts under `root`. What a store has found or built stays safe from `gc` until the store is closed."""

    def __init__(self, root: Path, tell: Callable[[str], None] = _tell) -> None:
        """`tell` gets the line that says for whom `build` waits."""
        self.root = root.absolute()
        self._tell = tell
        self._is_prepared = False
        self._in_use: dict[str, Lock] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Gives up the hold on what was found or built."""
        for lock in self._in_use.values():
            lock.release()
        self._in_use.clear()

    def key(self, kind: str, material: Any) -> str:
        """`kind` and 16 hex digits: equal for equal material, whatever the order of mappings. See `describe`."""
        return key_of(kind, material)

    def find(self, key: str) -> Path | None:
        """The folder of the artifact if it is there and whole."""
        folder = self.root / key
        try:
            lock = Lock(folder / MARKER, os.O_RDONLY, fcntl.LOCK_SH)
        except (FileNotFoundError, NotADirectoryError):
            return None
        # between opening and locking, gc may have taken the folder away and a builder put another there
        if not lock.is_current():
            lock.release()
            return self.find(key)
        if record_of(folder) is None:
            lock.release()
            return None
        self._keep(key, lock)
        return folder

    @contextmanager
    def build(self, key: str, stopping: Callable[[], bool] = lambda: False) -> Iterator[Building | Done]:
        """The right to build `key`, or `Done` if it is there: at most one process on all machines builds it at a time.

        Waits for another builder, and says once for whom; Interrupted if `stopping` meanwhile. A full disk inside the
        block is DiskFull. If the block ends without `publish`, what is in the folder stays for the next builder.
        """
        with full_disk_told(self.root / key):
            found = self.find(key)
            if found is None:
                self._prepare()
                lock = self._lock(key, stopping)
                try:
                    lock.note(f"process {os.getpid()} on {os.uname().nodename}")
                    found = self.find(key) or self._finish(key)
                    if found is None:
                        yield self._start(key)
                        return
                finally:
                    lock.release()
            yield Done(found)

    def _at(self, *names: str) -> Path:
        return self.root.joinpath(*names)

    def _prepare(self) -> None:
        if self._is_prepared:
            return
        try:
            for name in (".locks", ".building"):
                self._at(name).mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise Refused(
                f"{self.root} cannot hold artifacts ({error.strerror}): expected a folder that you may write in"
            ) from error
        self._report_earlier_version()
        self._is_prepared = True

    def _report_earlier_version(self) -> None:
        """One line if the store holds artifacts of an earlier version; the file `.version` says that it does not."""
        known = self._at(".version")
        if known.exists() and known.read_text() == str(VERSION):
            return
        earlier = sum(map(is_earlier, self.root.iterdir()))
        if earlier:
            self._tell(
                f"{self.root}: artifacts of an earlier version of lfd are not read ({earlier}); "
                "`python scripts/artifacts.py gc --yes` removes them"
            )
        else:
            write(known, str(VERSION).encode())

    def _keep(self, key: str, lock: Lock) -> None:
        earlier = self._in_use.pop(key, None)
        if earlier is not None:
            earlier.release()
        self._in_use[key] = lock

    def _lock(self, key: str, stopping: Callable[[], bool]) -> Lock:
        """The builder's lock. Lock files are never deleted: two holders of one name would be possible."""
        path, flags = self._at(".locks", key), os.O_RDWR | os.O_CREAT
        told = False
        # a blocking flock would go on after a signal whose handler only takes note of it
        while not stopping():
            try:
                return Lock(path, flags, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    self._tell(f"{key} is being built by {path.read_text() or 'another process'}; waiting for it")
                told = True
                time.sleep(WAIT)
        raise Interrupted(f"stopped while waiting for {key}")

    def _finish(self, key: str) -> Path | None:
        """Publishes what an earlier builder had marked whole before it was killed."""
        folder = self._at(".building", key)
        return self._move(key) if record_of(folder) else None

    def _start(self, key: str) -> Building:
        folder = self._at(".building", key)
        fresh = not folder.exists()
        folder.mkdir(exist_ok=True)
        # a marker here is not of this work: it would make later partial work look whole
        (folder / MARKER).unlink(missing_ok=True)
        return Building(key, folder, fresh, lambda record: self._publish(key, record))

    def _publish(self, key: str, record: dict[str, Any]) -> Path:
        folder = self._at(".building", key)
        sizes = {}
        for path in sorted(folder.rglob("*")):
            if path.name.endswith(".tmp") and (path.is_symlink() or path.is_file()):
                path.unlink()
                continue
            sync(path)
            if path.is_file():
                sizes[str(path.relative_to(folder))] = path.stat().st_size
        weights = {name: file_sha256(folder / name, None) for name in sizes if name.endswith(".safetensors")}
        record |= {"size": sum(sizes.values()), "files": sizes, "sha256": weights}
        save_json(folder / MARKER, record)
        return self._move(key)

    def _move(self, key: str) -> Path:
        source, target = self._at(".building", key), self.root / key
        self._keep(key, Lock(source / MARKER, os.O_RDONLY, fcntl.LOCK_SH))
        if target.exists():
            # `find` did not take it for whole: damaged from outside
            discard(self.root, target)
        os.rename(source, target)
        sync(self.root)
        sync(source.parent)
        return target


def record_of(folder: Path) -> dict[str, Any] | None:
    """The content of an artifact's marker; None unless each file that it names is there in its full size.

    None too for an artifact of another version of the store.
    """
    try:
        record = load_object(folder / MARKER, "kind", "material", "inputs", "summary", "size", "files")
        whole = all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (Refused, FileNotFoundError, NotADirectoryError):
        return None
    return record if whole and record.get("version") == VERSION else None


def is_earlier(folder: Path) -> bool:
    """True if a folder holds an artifact of another version of the store."""
    try:
        return load_object(folder / MARKER).get("version") != VERSION
    except (Refused, FileNotFoundError, NotADirectoryError):
        return False


def discard(root: Path, folder: Path) -> None:
    """Deletes a folder of the store, which is gone at once for all others, even if deletion is cut short."""
    trash = root / ".trash" / f"{folder.name}.{os.getpid()}.{time.monotonic_ns()}"
    trash.parent.mkdir(exist_ok=True)
    os.rename(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)
