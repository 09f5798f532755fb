"""Runs one experiment and writes its run folder."""

import hashlib
import json
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lfd.config.experiment import Experiment, refuse_unread, unread
from lfd.errors import Interrupted, LabelsNeeded, RunError, to_run_error
from lfd.experts.experts import Expert
from lfd.files import load_json_object, remove_stale_temp_files, save_json, write_atomic
from lfd.log import RunInfo, RunLog, read_records
from lfd.log.progress import print_message
from lfd.pipeline import METRICS, Report, TrainingPipeline
from lfd.report import draw_curves, draw_rewards, report_html
from lfd.report.run_page import REWARDS_FILE
from lfd.runs.policy import Policy
from lfd.stages import Product
from lfd.store.artifacts import Store
from lfd.store.provenance import provenance, without_secrets

RESULT, CURVES, REPORT, FILM = "result.json", "curves.png", "report.html", "film.gif"


def run_experiment(
    experiment: Experiment, job: str = "", group: str | None = None, stop: Path | None = None
) -> dict[str, Any]:
    """Runs an experiment unless its result is stored; returns the content of result.json.

    result.json is written however the run ends. For a job of a sweep `job` is its name, `group` the id of the sweep and
    `stop` the file that stops the job once it exists. Raises Interrupted if the run is stopped.
    """
    names: dict[str, str] = {}
    with Store(experiment.outputs.artifacts, lambda line: print_message(_with_stage_names(line, job, names))) as store:
        pipeline = pipeline_of(experiment, store)
        if not job:
            refuse_unread(unread(experiment, pipeline.order))
        names |= {key: name for name, key in pipeline.keys.items()}
        folder = run_folder(experiment, pipeline)
        sinks = experiment.logger.open(RunInfo(folder, yaml.safe_load(experiment.config), group))
        result = finished(folder, pipeline, experiment.film)
        if result is None or sinks:
            return _run(experiment, pipeline, folder, RunLog(folder / METRICS, sinks), job, stop)
    print_message(f"{job}: stored already" if job else "everything is stored already")
    return result


def pipeline_of(experiment: Experiment, store: Store) -> TrainingPipeline:
    """The pipeline of the experiment's stages, checked. Raises UserError."""
    return TrainingPipeline(experiment.stages, experiment.targets, experiment.env, experiment.hardware, store)


def run_folder(experiment: Experiment, pipeline: TrainingPipeline) -> Path:
    """outputs/runs/<algo>-<env>-s<seed>-<hash>: the same for equal targets, in a single run and in a sweep."""
    keys = "/".join(pipeline.keys[target] for target in pipeline.targets)
    digest = hashlib.sha256(keys.encode()).hexdigest()[:8]
    names = experiment.names
    return experiment.outputs.runs / f"{names.get('algo')}-{names.get('env')}-s{experiment.seed}-{digest}"


def finished(folder: Path, pipeline: TrainingPipeline, film: bool = False) -> dict[str, Any] | None:
    """The result.json of a finished run, in which all stages are marked as stored; None if work is left."""
    files = [RESULT, CURVES, REPORT, *([FILM] if film else [])]
    if not all((folder / name).exists() for name in files) or pipeline.missing():
        return None
    result = load_json_object(folder / RESULT, "status", "stages")
    if result["status"] != "done":
        return None
    if not all(stage["cached"] for stage in result["stages"].values()):
        for stage in result["stages"].values():
            stage["cached"] = True
        save_json(folder / RESULT, result)
    return result


def result_of_error(error: BaseException) -> dict[str, Any]:
    """Status, reason and exit code for result.json; the same command continues an "interrupted" run."""
    return {key: without_secrets(value) if isinstance(value, str) else value for key, value in _outcome(error).items()}


def _outcome(error: BaseException) -> dict[str, Any]:
    match to_run_error(error) or error:
        case Interrupted() | LabelsNeeded() as run_error:
            return {"status": "interrupted", "reason": str(run_error), "exit_code": run_error.exit_code}
        case RunError() as run_error:
            return {"status": "failed", "reason": str(run_error), "exit_code": run_error.exit_code}
        case Exception():
            reason = f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return {"status": "failed", "reason": reason, "exit_code": 1, "traceback": traceback.format_exc()}
    return {"status": "interrupted", "reason": "stopped", "exit_code": Interrupted.exit_code}


def _with_stage_names(line: str, job: str, names: Mapping[str, str]) -> str:
    """The store's line about an artifact, with the name of its stage."""
    for key, name in names.items():
        line = line.replace(key, f"{name} ({key})")
    return f"{job}: {line}" if job else line


def _run(
    experiment: Experiment, pipeline: TrainingPipeline, folder: Path, run_log: RunLog, job: str, stop: Path | None
) -> dict[str, Any]:
    _begin(experiment, pipeline, folder)
    try:
        reports = pipeline.run(run_log, job, stop)
        result = _result(experiment, pipeline, folder) | _scores(pipeline, reports) | _rewards(pipeline, folder)
        if experiment.film:
            _film(pipeline, folder, result, run_log)
        _draw(experiment, pipeline, folder, result)
    except BaseException as error:
        outcome = result_of_error(error)
        # On a full or removed disk nothing can be written; the error itself is raised.
        with suppress(OSError, RunError):
            save_json(folder / RESULT, _result(experiment, pipeline, folder) | outcome)
        with suppress(OSError):
            run_log.finish(outcome["status"], {})
        raise
    save_json(folder / RESULT, result)
    run_log.finish("done", result)
    return result


def _begin(experiment: Experiment, pipeline: TrainingPipeline, folder: Path) -> None:
    remove_stale_temp_files(folder)
    write_atomic(folder / "config.yaml", experiment.config.encode())
    overrides = [without_secrets(line) for line in experiment.line]
    write_atomic(folder / "overrides.yaml", "".join(f"- {json.dumps(line)}\n" for line in overrides).encode())
    save_json(folder / "provenance.json", provenance(experiment.hardware.device.value))
    # It remains if the process is killed, and marks the artifacts of the run as used.
    outcome = result_of_error(Interrupted("running, or its process was killed"))
    save_json(folder / RESULT, _result(experiment, pipeline, folder) | outcome)


def _result(experiment: Experiment, pipeline: TrainingPipeline, folder: Path) -> dict[str, Any]:
    """The result.json of a run without its scores; of each stored stage only the artifact."""
    stored = {name: key for name, key in pipeline.keys.items() if pipeline.store.find(key) is not None}
    return {
        "status": "done",
        "exit_code": 0,
        "run": folder.name,
        "options": experiment.options,
        "overrides": [without_secrets(line) for line in experiment.line],
        "scores": {},
        "stages": {name: {"artifact": key} for name, key in stored.items()},
    }


def _scores(pipeline: TrainingPipeline, reports: Mapping[str, Report]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for name in pipeline.targets:
        if Product.scores in pipeline.stages[name].provides():
            for policy, score in pipeline.product(name).items():
                scores[policy] = scores.get(policy, {}) | score
    # Trained policies come before the random one.
    scores |= {"random": scores.pop("random")} if "random" in scores else {}
    stages = {}
    for name, report in reports.items():
        stages[name] = {"artifact": report.key, "cached": report.cached, **report.summary}
        if name in scores:
            scores[name]["last5_mean"] = report.summary.get("last5_mean")
    return {"scores": scores, "stages": stages}


def _rewards(pipeline: TrainingPipeline, folder: Path) -> dict[str, Any]:
    """Evaluations of learned rewards for result.json; draws rewards.png, which also shows the returns."""
    evaluations: dict[str, Any] = {}
    for name in pipeline.targets:
        if Product.diagnosis in pipeline.stages[name].provides():
            for reward, by_data in pipeline.product(name).items():
                evaluations[reward] = evaluations.get(reward, {}) | by_data
    if not evaluations:
        return {}
    draw_rewards(evaluations, folder / REWARDS_FILE)
    without_returns = {
        reward: {data: {key: numbers[key] for key in numbers if key != "returns"} for data, numbers in by_data.items()}
        for reward, by_data in evaluations.items()
    }
    return {"rewards": without_returns}


def _film(pipeline: TrainingPipeline, folder: Path, result: Mapping[str, Any], run_log: RunLog) -> None:
    """Films an episode of the first policy of the scores, otherwise of the last one that was trained."""
    candidates = [name for name in [*result["scores"], *reversed(pipeline.order)] if name in pipeline.stages]
    name = next(name for name in candidates if Product.policy in pipeline.stages[name].provides())
    assert pipeline.env is not None
    expert = pipeline.product("expert") if "expert" in pipeline.order and name != "expert" else None
    labels = expert if isinstance(expert, Expert) and not expert.is_person else None
    policy = Policy(pipeline.product(name).agents()[0], pipeline.env)
    policy.film(folder / FILM, pipeline.env.film_episodes, expert=labels)
    run_log.film(name, folder / FILM)


def _draw(experiment: Experiment, pipeline: TrainingPipeline, folder: Path, result: Mapping[str, Any]) -> None:
    records = read_records(folder / METRICS)
    returns = {name: score["return_mean"] for name, score in result["scores"].items() if "return_mean" in score}
    references = {name: returns[name] for name in ("expert", "random") if name in returns}
    by_stage = {name: [record for record in records if record["stage"] == name] for name in pipeline.order}
    draw_curves(by_stage, folder / CURVES, references)
    page = report_html(folder, result, experiment.config, records, (folder / CURVES).read_bytes())
    write_atomic(folder / REPORT, page.encode())
