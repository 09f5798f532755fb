"""Opening other people's HDF5: nothing inside is ever run, and no other file is read."""

from __future__ import annotations

import math
from pathlib import Path

import h5py

from lfd.data.readers.flat import check_memory, same_lengths
from lfd.errors import Refused

NUMBERS = "biuf"  # kinds of dtype: booleans, integers, floats


def member(path: Path, group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """What a group of the file itself holds under `name`.

    Raises:
        Refused: it is missing, or is a link to nothing or to another file.
    """
    at, links, key = f"{group.name}/{name}".strip("/"), group.id.links, name.encode()
    if not links.exists(key):
        raise Refused(f"data: {path} has no {at}; it has {', '.join(sorted(group)[:8]) or 'nothing'}")
    if links.get_info(key).type == h5py.h5l.TYPE_EXTERNAL:
        raise Refused(f"data: {path}: {at} is a link to another file; copy what is in it into this one")
    try:
        item = group[name]
    except KeyError as error:
        raise Refused(f"data: {path}: {at} is a link to what is not there; write it as an array") from error
    if item.file.filename != group.file.filename:
        raise Refused(f"data: {path}: {at} lies in another file, {item.file.filename}; copy it into this one")
    return item


def plain(path: Path, group: h5py.Group, name: str, written: bool = True) -> h5py.Dataset:
    """The numeric column `name`. Raises Refused as `member` and `numeric` do."""
    return numeric(path, f"{group.name}/{name}".strip("/"), member(path, group, name), written)


def alike(path: Path, file: h5py.Group, names: tuple[str, ...], flags: tuple[str, ...]) -> dict[str, h5py.Dataset]:
    """The numeric columns `names` and `flags`, one row a step each; flags that were never written are all 0.

    Raises:
        Refused: as `plain` does, their lengths differ, they are empty, or too many for the memory.
    """
    columns = {name: plain(path, file, name, written=name not in flags) for name in (*names, *flags)}
    same_lengths(path, columns)
    # what is kept of every row: its flags, and some more while they are worked out
    check_memory(path, 16 * len(columns[names[0]]))
    return columns


def numeric(path: Path, name: str, item: h5py.Group | h5py.Dataset, written: bool = True) -> h5py.Dataset:
    """`item`, if it is an array of numbers that the file itself holds; refused otherwise."""
    if not isinstance(item, h5py.Dataset) or not item.shape:
        raise Refused(f"data: {path}: {name} is not an array; expected one row a step")
    kind = item.attrs.get("__data_type__", "ndarray")  # Tianshou's mark of what it has pickled
    if kind not in ("ndarray", "Tensor"):
        raise Refused(f"data: {path}: {name} is a pickle ({kind}) inside HDF5; write it again as a plain array")
    check_inside(path, name, item)
    if item.dtype.kind not in NUMBERS:
        raise Refused(f"data: {path}: {name} holds {item.dtype} values (text, images or objects), not numbers")
    if written and not _is_written(item):
        raise Refused(
            f"data: {path}: {name} declares {len(item):,} rows and not all of them were ever written; write it whole"
        )
    return item


def check_inside(path: Path, name: str, item: h5py.Dataset) -> None:
    """Refuses a dataset whose rows lie in other files."""
    if item.is_virtual or item.external:
        where = ", ".join(
            sorted({str(one[0]) for one in item.external or ()} or {s[1] for s in item.virtual_sources()})
        )
        raise Refused(f"data: {path}: {name} is stored in other files ({where}); copy it into this one as an array")


def _is_written(item: h5py.Dataset) -> bool:
    """Whether the file has a place for every row: where it has none, HDF5 answers with zeros."""
    if item.size == 0 or item.id.get_create_plist().get_layout() == h5py.h5d.COMPACT:
        return True
    if item.chunks is None:
        return bool(item.id.get_storage_size() > 0)
    chunks = math.prod(-(-size // chunk) for size, chunk in zip(item.shape, item.chunks, strict=True))
    return bool(item.id.get_num_chunks() == chunks)
