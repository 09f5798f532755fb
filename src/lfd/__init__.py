"""Learning from demonstrations: one declarative configuration, one experiment."""

from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lfd.reading import Policy


def load(run: str | Path, stage: str = "learn", member: int = 0) -> "Policy":
    """The policy of a finished run, ready to act on raw observations: `lfd.load("outputs/runs/…").act(observation)`."""
    # PyTorch takes seconds to import, and the command line's help must not wait for it.
    from lfd.reading import load as read

    return read(run, stage, member)
