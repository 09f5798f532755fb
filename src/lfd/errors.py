"""How a run ends when it does not end well: each ending is an exception with its exit code."""

import errno
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a limit on file sizes is a full disk to the user
_STORAGE = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOLCK, errno.EMFILE, errno.ENFILE, *_FULL)
_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|calculation overflowed|bytes? overflow", re.I
)

# Modules that other people's packages have brought in, by name, and what to call them in a sentence.
FOREIGN: dict[str, str] = {}


class Ending(Exception):
    """A run's ending that is told in one line, without a traceback."""

    exit_code: int


class Refused(Ending):
    """Wrong configuration or input. The message names the thing, what was expected and the way out."""

    exit_code = 2


class LabelsNeeded(Ending):
    """The run waits for labels from outside; the message says where they are asked for."""

    exit_code = 3


class Diverged(Ending):
    """A loss or a weight is no finite number any longer although all data is."""

    exit_code = 4


class DiskFull(Ending):
    """The disk or a quota is full; the same command continues once there is space."""

    exit_code = 74


class Interrupted(Ending):
    """Stopped by a signal; the same command continues from the last boundary."""

    exit_code = 75


PASSING = (Ending, KeyboardInterrupt, GeneratorExit)  # through other people's code, which did not raise it


def foreign_error(what: str, error: BaseException, hint: str = "") -> Refused:
    """What other people's code raised, as one line: `what` names the code and what it was doing, `hint` the way out."""
    try:
        text = " ".join(str(error).split())[:300]
    except Exception:  # what it raised cannot even be told
        text = ""
    way = f"{hint}; " if hint else ""
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Refused(f"{what} failed with {told}; {way}HYDRA_FULL_ERROR=1 shows the traceback")


@contextmanager
def foreign_code(what: str, hint: str = "") -> Iterator[None]:
    """Turns whatever other people's code raises in the body, a `SystemExit` too, into Refused; see `foreign_error`."""
    try:
        yield
    except PASSING:
        raise
    except BaseException as error:  # extensions raise classes that are no Exception
        raise foreign_error(what, error, hint) from error


def _out_of_memory(error: BaseException) -> bool:
    """In Python, in NumPy, or in PyTorch, which has no class for it where the memory is the machine's own."""
    is_torchs = isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or is_torchs or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def system_error(error: BaseException, path: str | os.PathLike[str] = "") -> Ending | None:
    """What the machine could not do, as an ending that names the path; None if the error is no such thing.

    `path` is what the work was about, for errors that do not tell.
    """
    if _out_of_memory(error):
        told = " ".join(str(error).split())[:200]
        return Refused(
            f"out of memory{f' ({told})' if told else ''}; fewer or smaller networks, members, batches and replays "
            "take less"
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    # What is written beside a file goes by the file's name.
    place = re.sub(r"\.\d+\.tmp$", "", os.fsdecode(error.filename)) if error.filename is not None else os.fspath(path)
    if error.errno in _FULL:
        return DiskFull(
            f"the disk is full ({place or 'a file'} could not be written): free some space and repeat the command; "
            "finished work is kept"
        )
    if not place and error.errno not in _STORAGE:
        return None
    return Refused(
        f"{place or 'a file'} cannot be used ({error.strerror}): mend that, or choose another place as in outputs=..., "
        "and repeat the command; finished work is kept"
    )


def ending_of(error: BaseException) -> Ending | None:
    """How an error is told that comes from the system or from other people's code; None if it is a fault of ours."""
    if isinstance(error, Ending):
        return error
    ending = system_error(error)
    if isinstance(ending, DiskFull) or _out_of_memory(error):
        return ending
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        for known, called in FOREIGN.items():
            if module == known or module.startswith(f"{known}."):
                return foreign_error(called, error)
    # Nothing of ours ends a process in that way.
    return foreign_error("other people's code", error) if isinstance(error, SystemExit) else ending


def nearest(word: str, options: Iterable[str]) -> str:
    """The end of a refusal: the option nearest to `word`, or all of them if none is near."""
    known = sorted(options)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there are none"
