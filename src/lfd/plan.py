"""`dry_run=true`: the stage graph as a table, with estimates; nothing is built or stored."""

from lfd.artifacts import Store, record_of
from lfd.estimates import Estimate, Estimator
from lfd.experiment import Experiment
from lfd.log.progress import clock, short
from lfd.pipeline import TrainingPipeline
from lfd.report.table import MISSING, align
from lfd.run import finished, pipeline_of, run_folder
from lfd.stages import Stage
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit import Fit

HEADINGS = ["stage", "verb", "reads", "product", "", "amount", "time", "memory", "disk"]


def plan(experiment: Experiment) -> str:
    """The table: a row a stage in the order of work, the total of what has to be made, and how it was estimated.

    Raises Refused where running the experiment would.
    """
    with Store(experiment.outputs / "artifacts") as store:
        pipeline = pipeline_of(experiment, store)
        missing = pipeline.missing()
        estimator = Estimator(pipeline)
        estimates = {name: estimator.of(name) for name in missing}
        rows = [_row(pipeline, name, estimates.get(name)) for name in pipeline.order]
        folder = run_folder(experiment, pipeline)
        done = finished(folder, pipeline) is not None
    if missing:
        seconds = sum(estimate.seconds for estimate in estimates.values())
        memory = max(estimate.memory for estimate in estimates.values())
        disk = sum(estimate.disk for estimate in estimates.values())
        rows.append(["total", "", "", "", "", "", *_cells(Estimate(seconds, memory, disk))])
    where = f"run folder: {folder}" + (", finished" if done else "")
    return "\n".join([align(HEADINGS, rows, left=6), "", where, *estimator.notes()])


def _row(pipeline: TrainingPipeline, name: str, estimate: Estimate | None) -> list[str]:
    stage, key = pipeline.stages[name], pipeline.keys[name]
    folder = pipeline.store.find(key)
    record = record_of(folder) if folder is not None else None
    state = "to make" if estimate else "stored" if record else "not needed"
    disk = f"{short(record['size'])}B" if record else MISSING
    cells = _cells(estimate) if estimate else [MISSING, MISSING, disk]
    reads = ", ".join(pipeline.reads(name)) or MISSING
    return [name, type(stage).__name__.lower(), reads, key, state, _amount(stage), *cells]


def _cells(estimate: Estimate) -> list[str]:
    return [clock(estimate.seconds), f"{short(estimate.memory)}B", f"{short(estimate.disk)}B"]


def _amount(stage: Stage) -> str:
    match stage:
        case Fit():
            members = f" × {stage.members} members" if stage.members > 1 else ""
            return f"{stage.steps:,} gradient steps{members}"
        case Collect():
            return f"{stage.total():,} {stage.unit}"
        case Evaluate():
            return f"{stage.episodes:,} episodes a policy"
    return f"{stage.total():,} {stage.unit}" if stage.total() else "all"
