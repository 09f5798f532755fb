"""Mirrors of a run's records. metrics.jsonl is the truth; a sink only shows it elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final


@final
@dataclass(frozen=True)
class RunInfo:
    """What a sink tells about a run before its first record.

    Args:
        folder: the run folder; a sink keeps its own files inside.
        config: the resolved configuration, JSON types only.
        group: the sweep that this run is a job of; None for a single run.
    """

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None


class Sink(ABC):
    """A mirror. It may raise anything: `RunLog` drops it then and the run goes on."""

    name: ClassVar[str]

    @abstractmethod
    def write(self, record: Mapping[str, Any]) -> None:
        """Show one record; after a resume the records of the earlier sessions come again."""

    @abstractmethod
    def film(self, stage: str, path: Path) -> None:
        """Show a stage's film, a GIF file."""

    @abstractmethod
    def finish(self, status: str, result: Mapping[str, Any]) -> None:
        """The run ended as `status` ("done", "interrupted", "failed") with result.json's content, or {}."""


def metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The record's numbers, each under its stage's name: `score` becomes `learn/score`, `learn/td` stays."""
    stage = record["stage"]
    return {
        key if key.startswith(f"{stage}/") else f"{stage}/{key}": value
        for key, value in record.items()
        if key != "stage" and value is not None
    }


def axis(record: Mapping[str, Any]) -> str | None:
    """What to draw over: `env_steps` where the stage interacts, else gradient steps; None while both stand at zero."""
    if record.get("env_steps"):
        return "env_steps"
    return "step" if record.get("step") else None
