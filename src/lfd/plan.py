"""`dry_run=true`: the stage graph as a table, with estimates; nothing is built or stored."""

from lfd.artifacts import Store, record_of
from lfd.estimates import Estimate, estimates
from lfd.experiment import Experiment, refuse_unread, unread
from lfd.log.progress import Span, short
from lfd.pipeline import TrainingPipeline, kind_of
from lfd.report.table import MISSING, align
from lfd.run import finished, pipeline_of, run_folder
from lfd.stages import Stage
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.recipe import Recipe

DAY = 24 * 3600.0  # seconds
HEADINGS = ["stage", "verb", "reads", "product", "", "amount", "time", "memory", "disk"]


def plan(experiment: Experiment, in_sweep: bool = False) -> str:
    """The table: a row a stage in the order of work, the total of what has to be made, and how it was estimated.

    Raises Refused where running the experiment would; of a sweep it is judged as a whole what nothing reads.
    """
    with Store(experiment.outputs / "artifacts") as store:
        pipeline = pipeline_of(experiment, store)
        if not in_sweep:
            refuse_unread(unread(experiment, pipeline.order))
        missing = pipeline.missing()
        found, note = estimates(pipeline, missing)
        rows = [_row(pipeline, name, found.get(name)) for name in pipeline.order]
        folder = run_folder(experiment, pipeline)
        done = finished(folder, pipeline, experiment.film) is not None
    lines = ["", f"run folder: {folder}" + (", finished" if done else "")]
    if missing:
        memory, disk = max(one.memory for one in found.values()), sum(one.disk for one in found.values())
        known = {name: one.seconds for name, one in found.items() if one.seconds is not None}
        seconds = Span.sum(known.values())
        time, *sizes = _cells(Estimate(seconds, memory, disk))
        rows.append(["total", *[""] * 5, f"≥ {time}" if len(known) < len(found) else time, *sizes])
        lines.append(note)
        if seconds.high > DAY:
            lines.append(_shortened(max(known, key=lambda name: known[name].high), pipeline))
    return "\n".join([align(HEADINGS, rows, left=6), *lines])


def _shortened(name: str, pipeline: TrainingPipeline) -> str:
    """What makes the longest stage shorter."""
    ways = []
    match pipeline.stages[name]:
        case Recipe():
            if name == "expert":
                ways.append("take it from an earlier run by expert=pretrained expert.path=outputs/runs/…")
            ways.append(f"set a smaller {name}.steps, a larger {name}.check.every, fewer {name}.check.episodes")
        case Collect():
            ways.append("ask for less data: dataset.transitions or dataset.episodes")
        case Evaluate():
            ways.append(f"set fewer {name}.episodes")
    return (
        f"more than a day, most of it for {name}: {'; '.join([*ways, 'it may be interrupted at any time and goes on'])}"
    )


def _row(pipeline: TrainingPipeline, name: str, estimate: Estimate | None) -> list[str]:
    stage, key = pipeline.stages[name], pipeline.keys[name]
    folder = pipeline.store.find(key)
    record = record_of(folder) if folder is not None else None
    state = "to make" if estimate else "stored" if record else "not needed"
    disk = f"{short(record['size'])}B" if record else MISSING
    cells = _cells(estimate) if estimate else [MISSING, MISSING, disk]
    reads = ", ".join(pipeline.reads(name)) or MISSING
    return [name, kind_of(stage), reads, key, state, _amount(stage), *cells]


def _cells(estimate: Estimate) -> list[str]:
    time = MISSING if estimate.seconds is None else str(estimate.seconds)
    return [time, f"{short(estimate.memory)}B", f"{short(estimate.disk)}B"]


def _amount(stage: Stage) -> str:
    match stage:
        case Recipe():
            members = f" × {stage.members} members" if stage.members > 1 else ""
            return f"{stage.steps:,} gradient steps{members}"
        case Collect():
            return f"{stage.total():,} {stage.unit}"
        case Evaluate():
            return f"{stage.episodes:,} episodes a policy"
    return f"{stage.total():,} {stage.unit}" if stage.total() else "all"
