"""`dry_run=true`: a table of the stages with estimates; stores nothing."""

from lfd.config.experiment import Experiment, refuse_unread, unread
from lfd.log.progress import TimeEstimate, format_short
from lfd.pipeline import TrainingPipeline, stage_kind
from lfd.report.table import NO_VALUE, align_columns
from lfd.runs.costs import estimates
from lfd.runs.run import finished, pipeline_of, run_folder
from lfd.stages import Estimate
from lfd.store.artifacts import Store, read_record

DAY = 24 * 3600.0  # seconds
HEADINGS = ["stage", "verb", "reads", "product", "", "amount", "time", "memory", "disk"]


def plan(experiment: Experiment, in_sweep: bool = False) -> str:
    """A table with a row for each stage, the total of the stages to run, and how the costs were estimated.

    Raises UserError as running the experiment does. With `in_sweep`, overrides that nothing reads are not refused, as
    the sweep checks them for all jobs together.
    """
    with Store(experiment.outputs.artifacts) as store:
        pipeline = pipeline_of(experiment, store)
        if not in_sweep:
            refuse_unread(unread(experiment, pipeline.order))
        missing = pipeline.missing()
        costs, note = estimates(pipeline, missing)
        rows = [_row(pipeline, name, costs.get(name)) for name in pipeline.order]
        folder = run_folder(experiment, pipeline)
        is_finished = finished(folder, pipeline, experiment.film) is not None
    lines = ["", f"run folder: {folder}" + (", finished" if is_finished else "")]
    if missing:
        memory, disk = max(cost.memory for cost in costs.values()), sum(cost.disk for cost in costs.values())
        known = {name: cost.seconds for name, cost in costs.items() if cost.seconds is not None}
        seconds = TimeEstimate.sum(known.values())
        time, *sizes = _cells(Estimate(seconds, memory, disk))
        rows.append(["total", *[""] * 5, f"≥ {time}" if len(known) < len(costs) else time, *sizes])
        lines.append(note)
        if seconds.high > DAY:
            lines.append(_advice(max(known, key=lambda name: known[name].high), pipeline))
    return "\n".join([align_columns(HEADINGS, rows, left=6), *lines])


def _advice(name: str, pipeline: TrainingPipeline) -> str:
    """The settings that make the longest stage shorter."""
    ways = [*pipeline.stages[name].shortened(name), "the run may be interrupted, and the same command continues it"]
    return f"more than a day, most of it for {name}: {'; '.join(ways)}"


def _row(pipeline: TrainingPipeline, name: str, estimate: Estimate | None) -> list[str]:
    stage, key = pipeline.stages[name], pipeline.keys[name]
    folder = pipeline.store.find(key)
    record = read_record(folder) if folder is not None else None
    state = "to run" if estimate else "stored" if record else "not needed"
    disk = f"{format_short(record['size'])}B" if record else NO_VALUE
    cells = _cells(estimate) if estimate else [NO_VALUE, NO_VALUE, disk]
    reads = ", ".join(pipeline.reads(name)) or NO_VALUE
    return [name, stage_kind(stage), reads, key, state, stage.amount(), *cells]


def _cells(estimate: Estimate) -> list[str]:
    time = NO_VALUE if estimate.seconds is None else str(estimate.seconds)
    return [time, f"{format_short(estimate.memory)}B", f"{format_short(estimate.disk)}B"]
