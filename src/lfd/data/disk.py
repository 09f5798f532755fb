"""What must hold on a disk that can fill up and under a process that can be killed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lfd.errors import Refused

# A file-size limit (EFBIG) and a quota (EDQUOT) are a full disk to the user.
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


@contextmanager
def refusing_when_full(folder: Path) -> Iterator[None]:
    """Turns a full disk into one line; every other OSError passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise Refused(f"disk full: {folder} takes no more; free some space and run the same command again") from error


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_json(path: Path, value: Any) -> None:
    """Writes `value` so that a reader, or a crash, sees the old file or the new one and nothing between."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    sync(beside)
    beside.replace(path)
    sync(path.parent)
