"""Sweeps: the jobs of one line, each judged, run and reported on its own."""

import os
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import product
from math import ceil, isfinite, prod
from pathlib import Path
from typing import Any, NoReturn, final

import joblib
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lfd.artifacts import Store
from lfd.composing import Composer
from lfd.errors import Ending, Interrupted, Refused, foreign_code, foreign_error, nearest
from lfd.experiment import Experiment, build, refuse_unread, unread
from lfd.files import load_object, write
from lfd.interrupts import asking
from lfd.interrupts import ignore as ignore_signals
from lfd.log.progress import tell
from lfd.plan import plan
from lfd.provenance import without_secrets
from lfd.refusals import check_hydra, check_options, parsed
from lfd.report import sweep_html, sweep_json, sweep_table
from lfd.run import RESULT, ended_by, finished, pipeline_of, run_experiment, run_folder

Options = Callable[[str], list[str]]
Explain = Callable[[BaseException, Namespace], NoReturn]
EXIT_CODES = (75, 74, 1, 3, 4, 2, 0)  # the first that a job has is the sweep's

MOST = 10_000  # jobs
NOT_BEGUN = ("interrupted", "not begun", Interrupted.exit_code)


@final
@dataclass(frozen=True)
class Sweep:
    """What a job, perhaps in another process, knows of the sweep that it is part of."""

    id: str  # of the line: the same line again is the same sweep
    varies: tuple[str, ...]  # keys that jobs differ in
    at_once: int  # jobs that share the cores
    stop: Path  # a file whose appearance asks all jobs to stop
    process: int  # that runs the sweep

    def name(self, overrides: Sequence[str]) -> str:
        """A job's name among the others."""
        return " ".join(one for one in overrides if one.partition("=")[0].lstrip("+") in self.varies) or "job"


@final
@dataclass
class Job:
    """One job: what is asked, and how it ended, once it has."""

    overrides: list[str]
    experiment: Experiment | None = None
    folder: Path | None = None  # of its run; None if it was refused before it had one
    fault: BaseException | None = None  # of ours, met while it was composed
    unread: list[Override] = field(default_factory=list)  # what nothing in it reads
    result: dict[str, Any] | None = None  # as in result.json

    def end(self, end: dict[str, Any]) -> dict[str, Any]:
        """It ended so, asked by these overrides."""
        self.result = end | {"overrides": [without_secrets(one) for one in self.overrides]}
        return self.result

    def stop(self, status: str, reason: str, exit_code: int) -> dict[str, Any]:
        """It ended without a result of its own."""
        return self.end({"status": status, "reason": reason, "exit_code": exit_code})


def run_sweep(given: Namespace, folder: Path, config: str, explain: Explain) -> int:
    """Run what is missing of all combinations of a line's values; returns the exit code.

    Args:
        given: the command line as Hydra's parser gives it.
        folder: conf/; `config` is the name of the primary configuration in it.
        explain: raises an error of a command line as Refused, or the error itself if it is none.
    """
    overrides = parsed(given.overrides, sweep=True)
    settings = [_line(one) for one in overrides if one.is_hydra_override()]
    if given.config_dir is not None:
        settings.append(f"hydra.searchpath=[file://{Path(given.config_dir).absolute()}]")
    with initialize_config_dir(str(folder), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration(config, [*settings, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        check_hydra(master.hydra, master.hydra)
        chosen = [one for one in overrides if not one.is_hydra_override()]
        _at_once(master, 1)
        options = Composer(folder, given.config_dir).options
        jobs = [_look(line, loader, master, given, explain, options) for line in _combinations(chosen, options)]
        outputs = _outputs(jobs)
        _refuse_unread(jobs)
        if any(job.experiment and job.experiment.dry_run for job in jobs):
            return _plans(jobs)
        varies = tuple(one.get_key_element().lstrip("+") for one in chosen if one.is_sweep_override())
        name = sha256("\n".join(sorted(_line(one) for one in chosen)).encode()).hexdigest()[:8]
        place = outputs / "sweeps" / name
        place.mkdir(parents=True, exist_ok=True)
        todo = [job for job in jobs if job.result is None]
        sweep = Sweep(name, varies, _at_once(master, len(todo)), place / f".stop-{os.getpid()}", os.getpid())
        _announce(jobs, sweep)
        if todo:
            _run(todo, sweep, HydraContext(loader, Callbacks(master)), master)
    return _report(jobs, place)


def _line(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _combinations(overrides: Sequence[Override], options: Options) -> list[list[str]]:
    """One list of overrides a job; the last key varies fastest. `options` gives those of a group, for a glob()."""
    counts = [_count(override) for override in overrides]
    if (total := prod(counts)) > MOST:
        raise Refused(f"these values make {total:,} jobs; {MOST:,} or fewer are expected, so sweep over fewer values")
    return [list(one) for one in product(*(_values(override, options) for override in overrides))]


def _count(override: Override) -> int:
    """How many values it has, which are not written out for that."""
    line, value = _line(override), override.value()
    if isinstance(value, IntervalSweep):
        raise Refused(f"{line}: a range of real numbers has no end; list the values, as in lr=1e-4,1e-3")
    if isinstance(value, RangeSweep):
        start, stop, step = value.start, value.stop, value.step
        if not all(isinstance(one, int | float) and isfinite(one) for one in (start, stop, step)) or not step:
            raise Refused(f"{line}: expected a range of finite numbers and a step other than 0")
        count = max(0, ceil((float(stop) - float(start)) / float(step)))  # type: ignore[arg-type]
    else:
        count = len(value.list) if isinstance(value, ChoiceSweep) else 1
    if not count:
        raise Refused(f"{line}: no value is in it; expected one or more, as in seed=0,1,2")
    return count


def _values(override: Override, options_of: Options) -> list[str]:
    key, value = override.get_key_element(), override.value()
    if isinstance(value, Glob):
        options = options_of(override.key_or_group)
        if not options:
            raise Refused(f"{_line(override)}: glob() chooses among options of a group; list the values of {key}")
        if not (found := value.filter(options)):
            raise Refused(f"{_line(override)}: no option of {key} is called so; {nearest('', options)}")
        return [f"{key}={one}" for one in found]
    if not override.is_sweep_override():
        return [_line(override)]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _refuse_unread(jobs: Sequence[Job]) -> None:
    """Refuse a key that no job reads."""
    wired = [job for job in jobs if job.folder is not None]
    keys = set.intersection(*({one.get_key_element() for one in job.unread} for job in wired))
    refuse_unread([one for job in wired[:1] for one in job.unread if one.get_key_element() in keys])


def _look(
    overrides: list[str], loader: Any, master: DictConfig, given: Namespace, explain: Explain, options: Options
) -> Job:
    """A job, refused if it must be, or answered if it was done before."""
    job = Job(overrides)
    try:
        cfg = loader.load_sweep_config(master, overrides)
        choices = cfg.hydra.runtime.choices
        check_hydra(cfg.hydra, master.hydra)
        check_options(parsed(overrides, sweep=False), options)
        with open_dict(cfg):
            del cfg["hydra"]
        job.experiment = build(cfg, choices, overrides)
        with Store(job.experiment.outputs / "artifacts") as store:
            pipeline = pipeline_of(job.experiment, store)
            job.unread = unread(job.experiment, pipeline.order)
            job.folder = run_folder(job.experiment, pipeline)
            stored = finished(job.folder, pipeline, job.experiment.film)
            if stored is not None:
                job.end(stored)
    except (Exception, SystemExit) as error:
        try:
            explain(error, Namespace(**{**vars(given), "overrides": overrides, "multirun": False}))
        except Refused as refusal:
            job.stop("refused", str(refusal), refusal.exit_code)
        except (Exception, SystemExit) as fault:  # it ends this job and no other
            job.end(ended_by(fault))
            job.fault = fault
    return job


def _outputs(jobs: Sequence[Job]) -> Path:
    """Where results go. Raises Refused, or a fault, if no job can run."""
    for job in jobs:
        if job.experiment is not None and job.folder is not None:
            return job.experiment.outputs
    for fault in (job.fault for job in jobs if job.fault is not None):
        raise fault
    reasons = list(dict.fromkeys(job.result["reason"] for job in jobs if job.result is not None))
    raise Refused("; ".join(reasons))


def _plans(jobs: Sequence[Job]) -> int:
    for job in jobs:
        print(" ".join(job.overrides))
        if job.experiment is not None and job.folder is not None:
            print(plan(job.experiment, in_sweep=True), end="\n\n")
        elif job.result is not None:
            print(f"{job.result['status']}: {job.result['reason']}\n")
    return 2 if any(job.folder is None for job in jobs) else 0


def _at_once(master: DictConfig, jobs: int) -> int:
    """How many jobs the launcher runs side by side on this machine: one, unless it has a number of its own."""
    asked = master.hydra.launcher.get("n_jobs")
    if asked is not None and (not isinstance(asked, int) or asked == 0):
        raise Refused(f"hydra.launcher.n_jobs is {asked}; how many at once is expected, or -1 for one on each core")
    return 1 if asked is None else max(1, min(joblib.effective_n_jobs(asked), jobs))


def _announce(jobs: Sequence[Job], sweep: Sweep) -> None:
    refused = [job for job in jobs if job.folder is None]
    todo = sum(job.result is None for job in jobs)
    side_by_side = f", {sweep.at_once} side by side" if sweep.at_once > 1 else ""
    count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    tell(f"{count}: {len(jobs) - todo - len(refused)} stored already, {todo} to run{side_by_side}")
    for job in refused:
        assert job.result is not None
        tell(f"refused: {sweep.name(job.overrides)}: {job.result['reason']}")


def _run(todo: list[Job], sweep: Sweep, context: HydraContext, master: DictConfig) -> None:
    """Launch until every job has ended: a worker that dies takes the pool with it, and the rest gets another."""
    sweep.stop.unlink(missing_ok=True)
    with foreign_code("hydra/launcher"):
        launcher = Plugins.instance().instantiate_launcher(context, partial(run_job, sweep=sweep), master)
    try:
        with asking(sweep.stop.touch):
            while pending := [job for job in todo if job.result is None]:
                begun = time.time_ns()
                try:
                    ends = launcher.launch([job.overrides for job in pending], initial_job_idx=0)
                    for job, end in zip(pending, ends, strict=True):
                        job.end(end.return_value)
                except BrokenExecutor:
                    _bury(pending, begun, sweep.stop.exists())
                except Ending:
                    raise
                except Exception as error:  # jobs raise nothing
                    raise foreign_error("hydra/launcher", error, "jobs that have run are stored") from error
    finally:
        sweep.stop.unlink(missing_ok=True)


def _bury(pending: Sequence[Job], begun: int, stopped: bool) -> None:
    """After the death of a worker: what the jobs that had begun left in their run folders is how they ended."""
    for job in pending:
        assert job.folder is not None
        path = job.folder / RESULT
        if path.exists() and path.stat().st_mtime_ns >= begun:
            end = job.end(load_object(path, "status", "exit_code"))
            if end["status"] == "interrupted" and not stopped:
                job.stop("failed", "its process died, killed or out of memory; the same command tries again", 1)
        elif stopped:
            job.stop(*NOT_BEGUN)
    if all(job.result is None for job in pending):
        for job in pending:
            job.stop("failed", "its process died before it could begin", 1)


def run_job(cfg: DictConfig, sweep: Sweep) -> dict[str, Any]:
    """A job as a launcher runs it. It returns how it ended and never raises: that would end its neighbours too."""
    settings = HydraConfig.get()
    # As they were typed: an interpolation in one belongs to the configuration, not to this list.
    overrides: Any = OmegaConf.to_container(settings.overrides.task, resolve=False)
    job = Job(overrides)
    if os.getpid() != sweep.process:
        # A terminal sends Ctrl-C to the whole group, but only the sweep's own process decides what it means.
        ignore_signals()
    if sweep.stop.exists():
        return job.stop(*NOT_BEGUN)
    try:
        experiment = build(cfg, settings.runtime.choices, job.overrides)
        jobs = max(experiment.hardware.jobs, sweep.at_once)
        experiment.hardware = replace(experiment.hardware, jobs=jobs)
        name = sweep.name(job.overrides)
        return run_experiment(experiment, name, sweep.id, sweep.stop)
    # Whatever it is, the other jobs go on; the reason is told at once and stands in the table.
    except (Exception, SystemExit) as error:
        end = job.end(ended_by(error))
        if isinstance(error, Interrupted):
            sweep.stop.touch()
        tell(f"{sweep.name(job.overrides)}: {end['status']}: {end['reason']}")
        return end


def _report(jobs: Sequence[Job], place: Path) -> int:
    """The table on stdout and as sweep.json and sweep.html, whose place is the last line; returns the exit code."""
    results = [job.result for job in jobs if job.result is not None]
    write(place / "sweep.json", sweep_json(results).encode())
    write(place / "sweep.html", sweep_html(results).encode())
    print(sweep_table(results))
    print(place / "sweep.json")
    codes = {result["exit_code"] for result in results}
    return next(code for code in EXIT_CODES if code in codes)
