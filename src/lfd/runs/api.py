"""The Python interface: `lfd.run` runs an experiment from a script or a notebook."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from lfd.config.composer import Composer
from lfd.data import Dataset
from lfd.errors import UserError, suggest, to_run_error
from lfd.interrupts import default_signal_handling
from lfd.runs.policy import Policy, load
from lfd.runs.run import run_experiment
from lfd.stages import Product
from lfd.store.outputs import Outputs
from lfd.store.provenance import without_secrets


@final
@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        folder: the run folder, with report.html, curves.png and metrics.jsonl.
        content: the content of result.json.
        datasets: artifact folders of the run's datasets, by stage.
    """

    folder: Path
    content: dict[str, Any]
    datasets: dict[str, Path]

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Scores by policy or dataset, such as scores["learn"]["return_mean"]."""
        scores: dict[str, dict[str, Any]] = self.content["scores"]
        return scores

    def policy(self, stage: str = "learn", member: int = 0) -> Policy:
        """The policy that a stage trained. Raises UserError if the run has no such stage or member."""
        return load(self.folder, stage, member)

    def dataset(self, stage: str = "demos") -> Dataset:
        """The dataset of a stage. Raises UserError if the run has none of that name."""
        if stage not in self.datasets:
            raise UserError(f"{self.folder}: the run has no dataset {stage!r}; {suggest(stage, self.datasets)}")
        dataset: Dataset = Dataset.open(self.datasets[stage] / "data.hdf5")
        return dataset


def run(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Result:
    """Runs an experiment, or reads its result if it is stored: run(["algo=bc", "env=pendulum"]).

    `overrides` and `config_dir` are those of the command line. Raises the exceptions of `lfd.errors` with the message
    that the command line prints. A KeyboardInterrupt ends the run, and the same call continues it.
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides: expected a list, as in [{overrides!r}], got a string")
    try:
        with default_signal_handling():
            experiment = Composer(None if config_dir is None else Path(config_dir)).experiment(overrides)
            if experiment.dry_run:
                raise UserError("dry_run: expected false, got true; use the command line for a dry run")
            content = run_experiment(experiment)
    except (Exception, SystemExit) as error:
        run_error = to_run_error(error)
        if run_error is None:
            raise
        raise type(run_error)(without_secrets(" ".join(str(run_error).split()))) from (
            error if os.environ.get("HYDRA_FULL_ERROR") == "1" else None
        )
    outputs = Outputs(experiment.outputs.root.absolute())
    artifacts = {name: outputs.artifacts / stage["artifact"] for name, stage in content["stages"].items()}
    datasets = {name: path for name, path in artifacts.items() if Product.dataset in experiment.stages[name].provides()}
    return Result(outputs.runs / content["run"], content, datasets)
