"""One experiment from its objects to its run folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lfd.artifacts import Store
from lfd.errors import Interrupted
from lfd.experiment import Experiment
from lfd.files import save_json, write
from lfd.log import RunInfo, RunLog
from lfd.pipeline import METRICS, Report, TrainingPipeline
from lfd.provenance import provenance
from lfd.stages import Product


def run_experiment(experiment: Experiment) -> dict[str, Any]:
    """Run it, or answer from what is stored; returns the content of result.json."""
    with Store(experiment.outputs / "artifacts") as store:
        pipeline = TrainingPipeline(
            experiment.stages, experiment.targets, experiment.env, experiment.hardware, store
        )
        folder = run_folder(experiment, pipeline)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "config.yaml", experiment.config.encode())
        write(folder / "overrides.yaml", "".join(f"- {json.dumps(one)}\n" for one in experiment.overrides).encode())
        save_json(folder / "provenance.json", provenance(experiment.hardware.device.value))
        run_log = RunLog(folder / METRICS, experiment.logger.open(RunInfo(folder, {}, None)))
        try:
            reports = pipeline.run(run_log)
        except Interrupted:
            run_log.finish("interrupted", {})
            raise
        except BaseException:
            run_log.finish("failed", {})
            raise
        result = result_of(folder, pipeline, reports)
        save_json(folder / "result.json", result)
        run_log.finish("done", result)
    return result


def run_folder(experiment: Experiment, pipeline: TrainingPipeline) -> Path:
    """outputs/runs/<algo>-<env>-s<seed>-<hash8>: the same for the same targets, alone or in a sweep."""
    keys = "/".join(pipeline.keys[target] for target in pipeline.targets)
    digest = hashlib.sha256(keys.encode()).hexdigest()[:8]
    names = experiment.names
    return experiment.outputs / "runs" / f"{names.get('algo')}-{names.get('env')}-s{experiment.seed}-{digest}"


def result_of(folder: Path, pipeline: TrainingPipeline, reports: dict[str, Report]) -> dict[str, Any]:
    """The content of result.json."""
    scores: dict[str, Any] = {}
    for name in pipeline.targets:
        if pipeline.stages[name].gives is Product.scores:
            scores |= pipeline.product(name)
    stages = {}
    for name, report in reports.items():
        stages[name] = {"artifact": report.key, "cached": report.cached, **report.summary}
        if name in scores:
            scores[name]["last5_mean"] = report.summary.get("last5_mean")
    return {"status": "done", "run": folder.name, "scores": scores, "stages": stages}
