"""Learning from demonstrations: one declarative configuration, one experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lfd.runs.api import Result
    from lfd.runs.policy import Policy


def load(run: str | Path, stage: str = "learn", member: int = 0) -> "Policy":
    """The policy of a finished run, ready to act on raw observations: `lfd.load("outputs/runs/…").act(observation)`."""
    # PyTorch takes seconds to import, and the command line's help must not wait for it.
    from lfd.runs.policy import load as read

    return read(run, stage, member)


def run(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> "Result":
    """Run an experiment as the command line does: `lfd.run(["algo=bc", "env=pendulum"]).scores["learn"]`.

    See `lfd.runs.api.run` for what it raises.
    """
    from lfd.runs.api import run as run_overrides

    return run_overrides(overrides, config_dir)
