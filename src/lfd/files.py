"""Files that survive a crash: written beside, synced, then renamed. Tensors are safetensors, all else is JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from lfd.errors import Refused, system_error

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 16 << 20  # bytes


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Tells what the system refuses in the body, a full disk above all, as one line; `path` is what it is about."""
    try:
        yield
    except OSError as error:
        if (ending := system_error(error, path)) is None:
            raise
        raise ending from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an error of the system the path that is lost where a descriptor is used."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Forces a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reserve(path: Path) -> None:
    """Asks for all the space of a sparse file: a mapped page that finds the disk full kills the process without a word.

    macOS has no call for it; there the space is found out by writing.
    """
    with full_disk_told(path), path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, _BLOCK):
                block = file.read(_BLOCK)
                file.seek(start)
                file.write(block)
            os.fsync(file.fileno())


def write(path: Path, content: bytes) -> None:
    """`path` holds the whole content or what it held before, also after a power cut."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with full_disk_told(path):
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        sync(path.parent)


def remove_left(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left beside their files."""
    for path in folder.iterdir():
        found = re.fullmatch(r".+\.(\d+)\.tmp", path.name)
        if found and not _lives(int(found[1])):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def point(path: Path, name: str) -> None:
    """`path` becomes a link to what is called so beside it, at once and whatever it was before."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    os.symlink(name, beside)
    os.replace(beside, path)


def to_json(content: Any) -> str:
    """Strict JSON on several lines: NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_strict(content), indent=1, allow_nan=False) + "\n"


def _strict(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: _strict(value) for name, value in content.items()}
    return [_strict(value) for value in content] if isinstance(content, list | tuple) else content


def save_json(path: Path, content: Any) -> None:
    """Writes strict JSON atomically. Finite floats keep their bits; tuples come back as lists, keys as strings."""
    write(path, to_json(content).encode())


def load_json(path: Path) -> Any:
    """What `save_json` wrote; Refused if the file is missing or broken."""
    try:
        _check_plain(path)
        return json.loads(path.read_bytes())
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}): expected a JSON file there") from error
    except ValueError as error:
        raise Refused(f"{path} is not whole JSON ({error}): remove it and repeat the command") from error
    except RecursionError as error:
        raise Refused(f"{path} is nested deeper than anything of ours: remove it and repeat the command") from error


def _check_plain(path: Path) -> None:
    """Refuse a pipe or a device, which may have no end; OSError if there is nothing."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Refused(f"{path} is no plain file: expected one that can be read to its end")


def load_object(path: Path, *fields: str) -> dict[str, Any]:
    """A JSON object that `save_json` wrote; Refused if the file is missing or broken, or the object lacks a field."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise Refused(f"{path} is damaged (no object is in it): remove it and repeat the command")
    for field in fields:
        if field not in content:
            raise Refused(f"{path} is damaged ({field!r} is missing): remove it and repeat the command")
    return content


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes named tensors of any device, shape and dtype as safetensors, atomically."""
    # torch takes seconds to import, and reading JSON must not wait for it
    import torch
    from safetensors.torch import save

    # safetensors refuses tied weights and strided views, so each tensor gets its own memory
    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    write(path, save(own))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What `save_tensors` wrote, on the CPU; Refused if the file is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        _check_plain(path)
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path} is not a whole safetensors file ({error}): remove it and repeat the command") from error


def file_sha256(path: Path, memo: Path | None) -> str:
    """The sha256 of a file's content, in hex, remembered in the folder `memo` by inode, size and time of change.

    Refused if there is no such file, or if it changes while it is read.
    """
    try:
        before = path.stat()
        remembered = memo / f"{before.st_dev}-{before.st_ino}.json" if memo else None
        identity = {"size": before.st_size, "mtime_ns": before.st_mtime_ns}
        if remembered and remembered.exists():
            known = load_json(remembered)
            if known | identity == known:
                return str(known["sha256"])
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}): expected a file") from error
    if (after.st_ino, after.st_size, after.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
        raise Refused(f"{path} changes while it is read: wait until it is complete and repeat the command")
    # a second write within the clock's grain may leave size and time alike, so a fresh file is not remembered
    if remembered and time.time_ns() - before.st_mtime_ns > 2_000_000_000:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        save_json(remembered, identity | {"sha256": digest})
    return digest


@final
class Checkpoints:
    """The newest two checkpoints of a computation, under `folder/ckpt-<n>/`; each is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Adds a checkpoint and drops all but the newest two. DiskFull on a full disk; then the earlier ones stay."""
        beside = self.folder / "ckpt.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        with full_disk_told(self.folder):
            beside.mkdir(parents=True)
            save_tensors(beside / "tensors.safetensors", tensors)
            save_json(beside / "state.json", state)
            newest_first = self._numbers()
            number = newest_first[0] + 1 if newest_first else 0
            os.rename(beside, self._path(number))
            sync(self.folder)
        for stale in newest_first[1:]:
            shutil.rmtree(self._path(stale))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest checkpoint that is whole, or None. Warns of each that it passes over."""
        for number in self._numbers():
            path = self._path(number)
            try:
                return load_tensors(path / "tensors.safetensors"), load_json(path / "state.json")
            except Refused as refusal:
                warnings.warn(f"checkpoint passed over: {refusal}", stacklevel=2)
        return None

    def _path(self, number: int) -> Path:
        return self.folder / f"ckpt-{number}"

    def _numbers(self) -> list[int]:
        return sorted((int(path.name.removeprefix("ckpt-")) for path in self.folder.glob("ckpt-*")), reverse=True)
