"""Errors that end a run with one line and an exit code, and the table of exit codes."""

import errno
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_DISK_FULL_ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
)  # EFBIG: a limit on file sizes, which for a user is a full disk
_STORAGE_ERRNOS = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOLCK, errno.EMFILE, errno.ENFILE, *_DISK_FULL_ERRNOS)
_MEMORY_PATTERN = re.compile(
    r"out of memory|can't allocate memory|not enough memory|calculation overflowed|bytes? overflow", re.I
)

# Modules of registered plugins, by name, and their names in error messages.
PLUGIN_MODULES: dict[str, str] = {}


# Exit codes and their meanings. A sweep exits with the first of them that one of its jobs has.
EXIT_CODES = {
    75: "stopped; the same command continues",
    74: "the disk is full; the same command continues once there is space",
    1: "internal error; HYDRA_FULL_ERROR=1 shows the traceback",
    3: "labels are needed from outside",
    4: "the training diverged",
    2: "wrong configuration or input; nothing was changed",
    0: "done",
}


class RunError(Exception):
    """An error that ends a run with one line instead of a traceback."""

    exit_code: int


class UserError(RunError):
    """Wrong configuration or input. The message names the key, what was expected, the value and the way out."""

    exit_code = 2


class LabelsNeeded(RunError):
    """The run waits for labels from outside; the message names the folder of the request."""

    exit_code = 3


class Diverged(RunError):
    """A loss or a weight became NaN or infinite although all data is finite."""

    exit_code = 4


class DiskFull(RunError):
    """The disk or a quota is full; the same command continues once there is space."""

    exit_code = 74


class Interrupted(RunError):
    """Stopped by a signal; the same command continues from the last checkpoint."""

    exit_code = 75


# Errors that foreign code does not raise itself, so that they are not reported as errors of that code.
PASS_THROUGH = (RunError, KeyboardInterrupt, GeneratorExit)


def external_error(what: str, error: BaseException, hint: str = "") -> UserError:
    """An error of foreign code as UserError: `what` names the code and what it did, `hint` is the way out."""
    try:
        text = " ".join(str(error).split())[:300]
    except Exception:  # an error whose own message fails
        text = ""
    description = f"{type(error).__name__}: {text}" if text else type(error).__name__
    way_out = f"{hint}; " if hint else ""
    return UserError(f"{what} failed with {description}; {way_out}HYDRA_FULL_ERROR=1 shows the traceback")


@contextmanager
def external_errors(what: str, hint: str = "") -> Iterator[None]:
    """Turns errors of foreign code in the body, and its `SystemExit`, into UserError; see `external_error`."""
    try:
        yield
    except PASS_THROUGH:
        raise
    except BaseException as error:  # extension modules raise classes that are no Exception
        raise external_error(what, error, hint) from error


def _is_out_of_memory(error: BaseException) -> bool:
    """True for out-of-memory errors of Python, NumPy and PyTorch, which on a CPU raises a RuntimeError for it."""
    is_torch_error = isinstance(error, RuntimeError) and _MEMORY_PATTERN.search(str(error)) is not None
    return (
        isinstance(error, MemoryError) or is_torch_error or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


def system_error(error: BaseException, path: str | os.PathLike[str] = "") -> RunError | None:
    """An error of the machine (disk, files, memory) as a run error that names the path; None for other errors.

    `path` is used for errors that name no file.
    """
    if _is_out_of_memory(error):
        text = " ".join(str(error).split())[:200]
        return UserError(
            f"out of memory{f' ({text})' if text else ''}; use fewer or smaller networks, members, batches or replay "
            "buffers"
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    # A temporary file is reported under the name of the file that it replaces.
    name = re.sub(r"\.\d+\.tmp$", "", os.fsdecode(error.filename)) if error.filename is not None else os.fspath(path)
    if error.errno in _DISK_FULL_ERRNOS:
        return DiskFull(
            f"the disk is full ({name or 'a file'} could not be written): free some space and repeat the command; "
            "finished work is kept"
        )
    if not name and error.errno not in _STORAGE_ERRNOS:
        return None
    return UserError(
        f"{name or 'a file'} cannot be used ({error.strerror}): fix that, or choose another folder as in outputs=..., "
        "and repeat the command; finished work is kept"
    )


def to_run_error(error: BaseException) -> RunError | None:
    """The run error for an error of the machine or of foreign code; None for an internal error."""
    if isinstance(error, RunError):
        return error
    run_error = system_error(error)
    if isinstance(run_error, DiskFull) or _is_out_of_memory(error):
        return run_error
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        for plugin, description in PLUGIN_MODULES.items():
            if module == plugin or module.startswith(f"{plugin}."):
                return external_error(description, error)
    # lfd itself raises no SystemExit
    return external_error("foreign code", error) if isinstance(error, SystemExit) else run_error


def suggest(word: str, options: Iterable[str]) -> str:
    """The end of an error message: the option most similar to `word`, or all options if none is similar."""
    names = sorted(options)
    matches = get_close_matches(word, names, n=1, cutoff=0.6)
    if matches:
        return f"did you mean {matches[0]!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"
