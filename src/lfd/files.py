"""Crash-safe files: written under a temporary name, synced, then renamed. Tensors are safetensors, all else is JSON."""

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

from lfd.errors import UserError, system_error

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_BYTES = 16 << 20


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turns errors of the system in the body, such as a full disk, into one line that names `path`."""
    try:
        yield
    except OSError as error:
        if (ending := system_error(error, path)) is None:
            raise
        raise ending from error


@contextmanager
def add_path_to_errors(path: Path) -> Iterator[None]:
    """Adds the path to errors of the system in the body, as operations on a file descriptor do not report it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def fsync_path(path: Path) -> None:
    """Forces a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with add_path_to_errors(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allocate_file(path: Path) -> None:
    """Allocates all the space of a sparse file, as writing to a memory-mapped page on a full disk kills the process.

    macOS has no call for this; there the file is read and written once. Raises DiskFull.
    """
    with translate_os_errors(path), path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, _BLOCK_BYTES):
                block = file.read(_BLOCK_BYTES)
                file.seek(start)
                file.write(block)
            os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file atomically: also after a power cut, it holds the new content or its content from before."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with translate_os_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_path(path.parent)


def remove_stale_temp_files(folder: Path) -> None:
    """Removes temporary files of processes that were killed while they wrote."""
    for path in folder.iterdir():
        match = re.fullmatch(r".+\.(\d+)\.tmp", path.name)
        if match and not _is_running(int(match[1])):
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def replace_symlink(path: Path, name: str) -> None:
    """Makes `path` a symbolic link to `name` in the same folder, atomically; replaces a file or a link at `path`."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    os.symlink(name, temporary)
    os.replace(temporary, path)


def to_strict_json(content: Any) -> str:
    """Strict JSON on several lines: NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_without_nonfinite(content), indent=1, allow_nan=False) + "\n"


def _without_nonfinite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: _without_nonfinite(value) for name, value in content.items()}
    return [_without_nonfinite(value) for value in content] if isinstance(content, list | tuple) else content


def save_json(path: Path, content: Any) -> None:
    """Writes strict JSON atomically. Finite floats keep their bits; tuples come back as lists, keys as strings."""
    write_atomic(path, to_strict_json(content).encode())


def load_json(path: Path) -> Any:
    """The content of a file that `save_json` wrote. Raises UserError if the file is missing or damaged."""
    try:
        _check_regular_file(path)
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected a JSON file; check the path") from error
    except ValueError as error:
        raise UserError(
            f"{path}: expected JSON, got a damaged file ({error}); remove it and repeat the command"
        ) from error
    except RecursionError as error:
        raise UserError(
            f"{path}: expected JSON, got a too deeply nested one; remove it and repeat the command"
        ) from error


def _check_regular_file(path: Path) -> None:
    """Raises UserError for a pipe or a device, which may have no end, and OSError if there is nothing at `path`."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path}: expected a regular file, got a folder, a pipe or a device; check the path")


def load_json_object(path: Path, *fields: str) -> dict[str, Any]:
    """A JSON object that `save_json` wrote. Raises UserError if the file or a field is missing, or if it is damaged."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it holds no object): remove it and repeat the command")
    for field in fields:
        if field not in content:
            raise UserError(f"{path} is damaged ({field!r} is missing): remove it and repeat the command")
    return content


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes named tensors of any device, shape and dtype as safetensors, atomically."""
    # torch takes seconds to import, and commands that only read JSON must not wait for it.
    import torch
    from safetensors.torch import save

    # safetensors refuses tied weights and strided views, so each tensor gets its own memory.
    copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    write_atomic(path, save(copies))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors that `save_tensors` wrote, of any shape, on the CPU. Raises UserError if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        _check_regular_file(path)
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}): remove it and repeat the command"
        ) from error


def file_sha256(path: Path, memo: Path | None) -> str:
    """The sha256 of a file's content, in hex, cached in the folder `memo` by inode, size and time of change.

    Raises UserError if there is no such file, or if it changes while it is read.
    """
    try:
        before = path.stat()
        cache = memo / f"{before.st_dev}-{before.st_ino}.json" if memo else None
        identity = {"size": before.st_size, "mtime_ns": before.st_mtime_ns}
        if cache and cache.exists():
            cached = load_json(cache)
            if cached | identity == cached:
                return str(cached["sha256"])
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected a file; check the path") from error
    if (after.st_ino, after.st_size, after.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
        raise UserError(f"{path} changes while it is read: wait until it is complete and repeat the command")
    # Two writes within the clock's resolution may leave size and time equal, so a file this new is not cached.
    if cache and time.time_ns() - before.st_mtime_ns > 2_000_000_000:
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_json(cache, identity | {"sha256": digest})
    return digest


@final
class Checkpoints:
    """The newest two checkpoints of a computation, in `folder/ckpt-<n>/`; each is complete or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Adds a checkpoint of tensors of any shape, and removes all but the newest two.

        Raises DiskFull; then the earlier ones stay.
        """
        temporary = self.folder / "ckpt.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        with translate_os_errors(self.folder):
            temporary.mkdir(parents=True)
            save_tensors(temporary / "tensors.safetensors", tensors)
            save_json(temporary / "state.json", state)
            newest_first = self._numbers()
            number = newest_first[0] + 1 if newest_first else 0
            os.rename(temporary, self._path(number))
            fsync_path(self.folder)
        for old_number in newest_first[1:]:
            shutil.rmtree(self._path(old_number))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors of any shape and state of the newest undamaged checkpoint, or None. Warns of each that it skips."""
        for number in self._numbers():
            path = self._path(number)
            try:
                return load_tensors(path / "tensors.safetensors"), load_json(path / "state.json")
            except UserError as refusal:
                warnings.warn(f"checkpoint skipped: {refusal}", stacklevel=2)
        return None

    def _path(self, number: int) -> Path:
        return self.folder / f"ckpt-{number}"

    def _numbers(self) -> list[int]:
        return sorted((int(path.name.removeprefix("ckpt-")) for path in self.folder.glob("ckpt-*")), reverse=True)
