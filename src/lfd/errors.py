"""How a run ends when it does not end well: each ending is an exception with its exit code."""

from collections.abc import Iterable
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


class Interrupted(Ending):
    """Stopped by a signal; the same command continues from the last boundary."""

    exit_code = 75


def nearest(word: str, options: Iterable[str]) -> str:
    """The end of a refusal: the option nearest to `word`, or all of them if none is near."""
    known = sorted(options)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there are none"
