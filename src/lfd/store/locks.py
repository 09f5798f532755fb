"""Locks on files between processes and machines."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import ClassVar, final
from weakref import WeakSet

from lfd.files import add_path_to_errors


@final
class FileLock:
    """A `flock` on a file, which ends with this process even if its forked children go on."""

    _held: ClassVar[WeakSet[FileLock]] = WeakSet()

    def __init__(self, path: Path, flags: int, operation: int) -> None:
        """Opens and locks a file. Raises BlockingIOError if `operation` has LOCK_NB and the lock is taken."""
        descriptor = os.open(path, flags, 0o666)
        try:
            with add_path_to_errors(path):
                fcntl.flock(descriptor, operation)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor: int | None = descriptor
        self.path = path
        FileLock._held.add(self)

    def is_current(self) -> bool:
        """True if the locked file is still the one at its path."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def write_text(self, content: str) -> None:
        """Replaces the content of the locked file."""
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


# A forked child shares the parent's lock; closing the child's descriptor leaves the lock to the parent.
os.register_at_fork(after_in_child=FileLock._forget)
