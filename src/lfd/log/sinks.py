"""Sinks, which mirror the records of metrics.jsonl to another place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final


@final
@dataclass(frozen=True)
class RunInfo:
    """Description of a run for sinks."""

    folder: Path  # the run folder; a sink stores its files inside
    config: Mapping[str, Any] = field(default_factory=dict)  # the resolved configuration, JSON types only
    group: str | None = None  # id of the run's sweep; None for a single run


class Sink(ABC):
    """A mirror of a run's records. `RunLog` drops a sink that raises an error, and the run continues."""

    name: ClassVar[str]

    @abstractmethod
    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record; after a resume the records of earlier processes come again."""

    @abstractmethod
    def film(self, stage: str, path: Path) -> None:
        """Adds a stage's film, a GIF file."""

    @abstractmethod
    def finish(self, status: str, result: Mapping[str, Any]) -> None:
        """Ends the run with a status ("done", "interrupted", "failed") and the content of result.json, or {}."""


def stage_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The record's metrics, each under its stage's name: `score` becomes `learn/score`, `learn/bc/bc_loss` stays."""
    stage = record["stage"]
    return {
        key if key.startswith(f"{stage}/") else f"{stage}/{key}": value
        for key, value in record.items()
        if key != "stage" and value is not None
    }


def x_axis(record: Mapping[str, Any]) -> str | None:
    """Key of the x axis: `env_steps` if the stage interacts, otherwise `step`; None while both are 0."""
    if record.get("env_steps"):
        return "env_steps"
    return "step" if record.get("step") else None
