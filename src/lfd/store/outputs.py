"""The folders of all output."""

from dataclasses import dataclass
from pathlib import Path
from typing import final


@final
@dataclass(frozen=True)
class Outputs:
    """The folders below `root`, the one that `outputs=` names."""

    root: Path

    @property
    def artifacts(self) -> Path:
        """Artifacts of stages, by key."""
        return self.root / "artifacts"

    @property
    def runs(self) -> Path:
        """Results, logs and reports of runs."""
        return self.root / "runs"

    @property
    def sweeps(self) -> Path:
        """Results, logs and reports of sweeps, each of many runs."""
        return self.root / "sweeps"
