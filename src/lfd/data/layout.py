"""Opening HDF5 files to read, and the byte offsets of the columns in a published file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from lfd.errors import UserError

FORMAT_VERSION = 1
# In foreign files, episodes end inside compressed chunks: without a cache, such a chunk would be decompressed twice.
_CHUNK_CACHE_BYTES = 64 << 20


class ColumnLayout(NamedTuple):
    """Position, type and shape of a contiguous column."""

    offset: int  # bytes from the beginning of the file
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # rows first

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens an HDF5 file to read.

    Raises:
        UserError: HDF5 cannot open it, or another process has it open to write.
    """
    try:
        file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except OSError as error:
        # HDF5 reports only by its text that a file is open in SWMR mode, or was when its writer died.
        if isinstance(error, BlockingIOError) or "unable to lock file" in str(error) or "already open" in str(error):
            raise UserError(
                f"data: {path} is in use by another process, which has it open to write; repeat the command once it "
                f"is closed (HDF5: {error})"
            ) from error
        if isinstance(error, PermissionError):
            raise UserError(
                f"data: {path} cannot be read (Permission denied); expected a file that you may read"
            ) from error
        raise UserError(f"data: {path} is damaged: {error}") from error
    with file:
        yield file


def read_layout(file: h5py.File) -> dict[str, ColumnLayout]:
    """The layout of every column of an open file by its slash-joined name, in name order.

    Raises:
        UserError: a column is not contiguous, so it cannot be memory-mapped.
    """
    layout: dict[str, ColumnLayout] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            offset = item.id.get_offset()
            if offset is None:
                raise UserError(
                    f"data: {file.filename}: expected a contiguous column {name}, got a chunked or compressed one; "
                    "import the file again"
                )
            layout[name] = ColumnLayout(offset, item.dtype, item.shape)

    file.visititems(visit)
    return dict(sorted(layout.items()))
