"""One experiment from its objects to its run folder."""

import hashlib
import json
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lfd.artifacts import Store
from lfd.errors import Ending, Interrupted, LabelsNeeded, ending_of
from lfd.experiment import Experiment, refuse_unread, unread
from lfd.files import load_object, remove_left, save_json, write
from lfd.log import RunInfo, RunLog, read_records
from lfd.log.progress import tell
from lfd.pipeline import METRICS, Report, TrainingPipeline
from lfd.provenance import provenance, without_secrets
from lfd.reading import Policy
from lfd.report import curves, draw_rewards, report_html
from lfd.report.run_page import REWARDS
from lfd.stages import Product
from lfd.stages.recipe import Recipe

RESULT, CURVES, REPORT, FILM = "result.json", "curves.png", "report.html", "film.gif"


def run_experiment(
    experiment: Experiment, job: str = "", group: str | None = None, stop: Path | None = None
) -> dict[str, Any]:
    """Run it, or answer from what is stored; returns the content of result.json, which every way to end leaves behind.

    `job`, `group` and `stop` are of a job of a sweep: its name among the others, the sweep's, and the file whose
    appearance asks it to stop. Raises Interrupted when asked to stop.
    """
    names: dict[str, str] = {}
    with Store(experiment.outputs / "artifacts", lambda line: tell(_told(line, job, names))) as store:
        pipeline = pipeline_of(experiment, store)
        if not job:
            refuse_unread(unread(experiment, pipeline.order))
        names |= {key: name for name, key in pipeline.keys.items()}
        folder = run_folder(experiment, pipeline)
        sinks = experiment.logger.open(RunInfo(folder, yaml.safe_load(experiment.config), group))
        result = finished(folder, pipeline, experiment.film)
        if result is None or sinks:
            return _run(experiment, pipeline, folder, RunLog(folder / METRICS, sinks), job, stop)
    tell(f"{job}: stored already" if job else "everything is stored already")
    return result


def pipeline_of(experiment: Experiment, store: Store) -> TrainingPipeline:
    """The experiment's stages, wired and checked. Raises Refused."""
    return TrainingPipeline(experiment.stages, experiment.targets, experiment.env, experiment.hardware, store)


def run_folder(experiment: Experiment, pipeline: TrainingPipeline) -> Path:
    """outputs/runs/<algo>-<env>-s<seed>-<hash8>: the same for the same targets, alone or in a sweep."""
    keys = "/".join(pipeline.keys[target] for target in pipeline.targets)
    digest = hashlib.sha256(keys.encode()).hexdigest()[:8]
    names = experiment.names
    return experiment.outputs / "runs" / f"{names.get('algo')}-{names.get('env')}-s{experiment.seed}-{digest}"


def finished(folder: Path, pipeline: TrainingPipeline, film: bool = False) -> dict[str, Any] | None:
    """result.json of a run that has nothing left to do, every stage told as stored; None if there is something."""
    wanted = [RESULT, CURVES, REPORT, *([FILM] if film else [])]
    if not all((folder / name).exists() for name in wanted) or pipeline.missing():
        return None
    result = load_object(folder / RESULT, "status", "stages")
    if result["status"] != "done":
        return None
    if not all(stage["cached"] for stage in result["stages"].values()):
        for stage in result["stages"].values():
            stage["cached"] = True
        save_json(folder / RESULT, result)
    return result


def ended_by(error: BaseException) -> dict[str, Any]:
    """What result.json says of a run that this ended; one that is "interrupted" is continued by the same command."""
    return {key: without_secrets(value) if isinstance(value, str) else value for key, value in _end(error).items()}


def _end(error: BaseException) -> dict[str, Any]:
    match ending_of(error) or error:
        case Interrupted() | LabelsNeeded() as ending:
            return {"status": "interrupted", "reason": str(ending), "exit_code": ending.exit_code}
        case Ending() as ending:
            return {"status": "failed", "reason": str(ending), "exit_code": ending.exit_code}
        case Exception():
            reason = f"a fault of ours: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return {"status": "failed", "reason": reason, "exit_code": 1, "traceback": traceback.format_exc()}
    return {"status": "interrupted", "reason": "stopped", "exit_code": Interrupted.exit_code}


def _told(line: str, job: str, names: Mapping[str, str]) -> str:
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
        end = ended_by(error)
        # Where the disk is full or gone, nothing can be left there, and it is the error that counts.
        with suppress(OSError, Ending):
            save_json(folder / RESULT, _result(experiment, pipeline, folder) | end)
        with suppress(OSError):
            run_log.finish(end["status"], {})
        raise
    save_json(folder / RESULT, result)
    run_log.finish("done", result)
    return result


def _begin(experiment: Experiment, pipeline: TrainingPipeline, folder: Path) -> None:
    remove_left(folder)
    write(folder / "config.yaml", experiment.config.encode())
    overrides = [without_secrets(one) for one in experiment.overrides]
    write(folder / "overrides.yaml", "".join(f"- {json.dumps(one)}\n" for one in overrides).encode())
    save_json(folder / "provenance.json", provenance(experiment.hardware.device.value))
    # Killed without a chance to say so, it was interrupted; and what it uses is in use.
    end = ended_by(Interrupted("at work, or killed while it was"))
    save_json(folder / RESULT, _result(experiment, pipeline, folder) | end)


def _result(experiment: Experiment, pipeline: TrainingPipeline, folder: Path) -> dict[str, Any]:
    """result.json of a run that went well, but without scores; of the stages only where their products are."""
    stored = {name: key for name, key in pipeline.keys.items() if pipeline.store.find(key) is not None}
    return {
        "status": "done",
        "exit_code": 0,
        "run": folder.name,
        "options": experiment.options,
        "overrides": [without_secrets(one) for one in experiment.overrides],
        "scores": {},
        "stages": {name: {"artifact": key} for name, key in stored.items()},
    }


def _scores(pipeline: TrainingPipeline, reports: Mapping[str, Report]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for name in pipeline.targets:
        if pipeline.stages[name].gives is Product.scores:
            for policy, score in pipeline.product(name).items():
                scores[policy] = scores.get(policy, {}) | score
    # Those who learnt stand first.
    scores |= {"random": scores.pop("random")} if "random" in scores else {}
    stages = {}
    for name, report in reports.items():
        stages[name] = {"artifact": report.key, "cached": report.cached, **report.summary}
        if name in scores:
            scores[name]["last5_mean"] = report.summary.get("last5_mean")
    return {"scores": scores, "stages": stages}


def _rewards(pipeline: TrainingPipeline, folder: Path) -> dict[str, Any]:
    """What was found of learnt rewards: the numbers for result.json, all of it in a picture."""
    wanted = [name for name in pipeline.targets if pipeline.stages[name].gives is Product.diagnosis]
    found: dict[str, Any] = {}
    for name in wanted:
        for reward, by_data in pipeline.product(name).items():
            found[reward] = found.get(reward, {}) | by_data
    if not found:
        return {}
    draw_rewards(found, folder / REWARDS)
    shown = {
        reward: {data: {key: numbers[key] for key in numbers if key != "returns"} for data, numbers in by_data.items()}
        for reward, by_data in found.items()
    }
    return {"rewards": shown}


def _film(pipeline: TrainingPipeline, folder: Path, result: Mapping[str, Any], run_log: RunLog) -> None:
    """An episode of the policy that stands first in the scores."""
    trained = [name for name in [*result["scores"], *reversed(pipeline.order)] if name in pipeline.stages]
    name = next(name for name in trained if pipeline.stages[name].offers(Product.policy))
    assert pipeline.env is not None
    Policy(pipeline.product(name).agents()[0], pipeline.env).film(folder / FILM)
    run_log.film(name, folder / FILM)


def _draw(experiment: Experiment, pipeline: TrainingPipeline, folder: Path, result: Mapping[str, Any]) -> None:
    records = read_records(folder / METRICS)
    fits = [name for name in pipeline.order if isinstance(pipeline.stages[name], Recipe)]
    returns = {name: score["return_mean"] for name, score in result["scores"].items() if "return_mean" in score}
    references = {name: returns[name] for name in ("expert", "random") if name in returns}
    by_stage = {name: [record for record in records if record["stage"] == name] for name in fits}
    curves(by_stage, folder / CURVES, references)
    page = report_html(folder, result, experiment.config, records, (folder / CURVES).read_bytes())
    write(folder / REPORT, page.encode())
