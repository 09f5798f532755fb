"""How a run ends when it does not end well: each ending is an exception with its exit code."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


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


def foreign_error(what: str, error: BaseException, hint: str = "") -> Refused:
    """What other people's code raised, as one line: `what` names the code and what it was doing, `hint` the way out."""
    text = " ".join(str(error).split())[:300]
    way = f"{hint}; " if hint else ""
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Refused(f"{what} failed with {told}; {way}HYDRA_FULL_ERROR=1 shows the traceback")


@contextmanager
def foreign_code(what: str, hint: str = "") -> Iterator[None]:
    """Turns whatever other people's code raises in the body, a `SystemExit` too, into Refused; see `foreign_error`."""
    try:
        yield
    except Ending:
        raise
    except (Exception, SystemExit) as error:
        raise foreign_error(what, error, hint) from error


def nearest(word: str, options: Iterable[str]) -> str:
    """The end of a refusal: the option nearest to `word`, or all of them if none is near."""
    known = sorted(options)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there are none"
