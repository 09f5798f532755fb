"""Reads members of foreign HDF5 files without running code from them and without reading other files."""

from __future__ import annotations

import math
from pathlib import Path

import h5py

from lfd.data.readers.flat import check_file_memory, check_same_length
from lfd.errors import UserError

NUMERIC_KINDS = "biuf"  # kinds of dtype: booleans, integers, floats


def get_member(path: Path, group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """The member `name` of a group, if it is stored in the same file.

    Raises:
        UserError: the member is missing, or is a link to nothing or to another file.
    """
    full_name, links, key = f"{group.name}/{name}".strip("/"), group.id.links, name.encode()
    if not links.exists(key):
        members = ", ".join(sorted(group)[:8]) or "nothing"
        raise UserError(f"data: {path}: expected {full_name}, got {members}; write it as an array")
    if links.get_info(key).type == h5py.h5l.TYPE_EXTERNAL:
        raise UserError(
            f"data: {path}: {full_name}: expected an array, got a link to another file; copy it into this one"
        )
    try:
        item = group[name]
    except KeyError as error:
        raise UserError(
            f"data: {path}: {full_name}: expected an array, got a link to nothing; write it as an array"
        ) from error
    if item.file.filename != group.file.filename:
        raise UserError(
            f"data: {path}: {full_name}: expected an array, got a link to {item.file.filename}; copy it into this file"
        )
    return item


def numeric_column(path: Path, group: h5py.Group, name: str, written: bool = True) -> h5py.Dataset:
    """The numeric column `name` of a group. Raises UserError as `get_member` and `check_numeric` do."""
    return check_numeric(path, f"{group.name}/{name}".strip("/"), get_member(path, group, name), written)


def numeric_columns(
    path: Path, file: h5py.Group, names: tuple[str, ...], flags: tuple[str, ...]
) -> dict[str, h5py.Dataset]:
    """The numeric columns `names` and `flags`, one row a step each; flags that were never written are all 0.

    Raises:
        UserError: `numeric_column` refuses one, their lengths differ, they are empty, or they do not fit into memory.
    """
    columns = {name: numeric_column(path, file, name, written=name not in flags) for name in (*names, *flags)}
    check_same_length(path, columns)
    # Of every row, its flags stay in memory, and a few arrays more while episodes are found.
    check_file_memory(path, 16 * len(columns[names[0]]))
    return columns


def check_numeric(path: Path, name: str, item: h5py.Group | h5py.Dataset, written: bool = True) -> h5py.Dataset:
    """Returns `item` if it is an array of numbers that is stored in the file itself, else raises UserError.

    With `written`, every row must have been written, as HDF5 reads rows without storage as zeros.
    """
    if not isinstance(item, h5py.Dataset) or not item.shape:
        raise UserError(f"data: {path}: {name}: expected an array with one row a step, got a group or a single number")
    kind = item.attrs.get("__data_type__", "ndarray")  # Tianshou marks pickled objects by this attribute
    if kind not in ("ndarray", "Tensor"):
        raise UserError(
            f"data: {path}: {name}: expected numbers, got a pickle ({kind}); write it again as a plain array"
        )
    check_not_external(path, name, item)
    if item.dtype.kind not in NUMERIC_KINDS:
        raise UserError(
            f"data: {path}: {name}: expected numbers, got {item.dtype} values (text, images or objects); "
            "write it as an array of numbers"
        )
    if written and not _is_written(item):
        raise UserError(f"data: {path}: {name}: expected {len(item):,} written rows, got fewer; write it whole")
    return item


def check_not_external(path: Path, name: str, item: h5py.Dataset) -> None:
    """Raises UserError if the rows of a dataset are stored in other files."""
    if item.is_virtual or item.external:
        files = {str(entry[0]) for entry in item.external or ()} or {source[1] for source in item.virtual_sources()}
        raise UserError(
            f"data: {path}: {name}: expected rows in this file, got rows in other files ({', '.join(sorted(files))}); "
            "copy them into this one as an array"
        )


def _is_written(item: h5py.Dataset) -> bool:
    """True if the file has storage for every row."""
    if item.size == 0 or item.id.get_create_plist().get_layout() == h5py.h5d.COMPACT:
        return True
    if item.chunks is None:
        return bool(item.id.get_storage_size() > 0)
    chunks = math.prod(-(-size // chunk) for size, chunk in zip(item.shape, item.chunks, strict=True))
    return bool(item.id.get_num_chunks() == chunks)
