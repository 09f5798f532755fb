"""Opening other people's HDF5 without ever running what is inside."""

from __future__ import annotations

from pathlib import Path

import h5py

from lfd.errors import Refused

NUMBERS = "biuf"  # kinds of dtype: booleans, integers, floats


def refuse_pickles(path: Path, file: h5py.File) -> None:
    """Refuses a file with pickled arrays inside (Tianshou marks them by an attribute), naming the first."""

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        kind = item.attrs.get("__data_type__", "ndarray")
        if isinstance(item, h5py.Dataset) and kind not in ("ndarray", "Tensor"):
            raise Refused(f"data: {path}: {name} is a pickle ({kind}) inside HDF5; write it again as a plain array")

    file.visititems(visit)


def plain(path: Path, file: h5py.Group, name: str) -> h5py.Dataset:
    """The numeric column `name`.

    Raises:
        Refused: it is missing, is not an array, or holds objects.
    """
    if name not in file:
        raise Refused(f"data: {path} has no {name}; it has {', '.join(sorted(file))}")
    return numeric(path, name, file[name])


def alike(path: Path, file: h5py.Group, names: tuple[str, ...]) -> dict[str, h5py.Dataset]:
    """The numeric columns `names`, one row a step each.

    Raises:
        Refused: as `plain` does, their lengths differ, or they are empty.
    """
    columns = {name: plain(path, file, name) for name in names}
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise Refused(f"data: {path} has {lengths}; expected one row a step in each")
    if not len(columns[names[0]]):
        raise Refused(f"data: {path} holds no transitions; its columns are empty")
    return columns


def numeric(path: Path, name: str, item: h5py.Group | h5py.Dataset) -> h5py.Dataset:
    """`item`, if it is an array of numbers; refused otherwise."""
    if not isinstance(item, h5py.Dataset) or not item.shape:
        raise Refused(f"data: {path}: {name} is not an array")
    if item.dtype.kind not in NUMBERS:
        raise Refused(f"data: {path}: {name} holds {item.dtype} values (text, images or objects), not numbers")
    return item
