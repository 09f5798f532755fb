"""Where the columns lie in a published file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from lfd.errors import Refused

FORMAT = 1
# In other people's files, episodes end inside compressed chunks: uncached, their halves would be decompressed twice.
_CHUNK_CACHE_BYTES = 64 << 20


class Column(NamedTuple):
    """A contiguous column: its byte offset in the file, and what it holds."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read.

    Raises:
        Refused: HDF5 cannot open it, or somebody has it open to write.
    """
    try:
        file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except OSError as error:
        # of a file that is open by SWMR, or was when its writer died, HDF5 tells in words
        if isinstance(error, BlockingIOError) or "unable to lock file" in str(error) or "already open" in str(error):
            raise Refused(
                f"data: {path} is in use by another process, which has it open to write; repeat the command once it "
                f"is closed (HDF5: {error})"
            ) from error
        if isinstance(error, PermissionError):
            raise Refused(
                f"data: {path} cannot be read (Permission denied); expected a file that you may read"
            ) from error
        raise Refused(f"data: {path} is damaged: {error}") from error
    with file:
        yield file


def columns_of(file: h5py.File) -> dict[str, Column]:
    """Every column of an open file by its slash-joined name, in name order.

    Raises:
        Refused: a column is not contiguous, so it cannot be mapped.
    """
    found: dict[str, Column] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            offset = item.id.get_offset()
            if offset is None:
                raise Refused(f"data: {name} in {file.filename} is not contiguous; import the file again")
            found[name] = Column(offset, item.dtype, item.shape)

    file.visititems(visit)
    return dict(sorted(found.items()))
