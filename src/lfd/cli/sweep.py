"""Sweeps: the jobs of one command line, each checked, run and reported on its own."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import product
from math import ceil, isfinite, prod
from pathlib import Path
from typing import Any, final

import joblib
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from lfd.config.composer import Composer
from lfd.config.experiment import Experiment, build, refuse_unread, unread
from lfd.config.overrides import parsed
from lfd.errors import EXIT_CODES, Interrupted, RunError, UserError, external_error, external_errors, suggest
from lfd.files import load_json_object, write_atomic
from lfd.interrupts import ignore_signals, stop_request_handler
from lfd.log.progress import print_message
from lfd.report import sweep_html, sweep_json, sweep_table
from lfd.runs.dry_run import plan
from lfd.runs.run import RESULT, finished, pipeline_of, result_of_error, run_experiment, run_folder
from lfd.store.artifacts import Store
from lfd.store.outputs import Outputs
from lfd.store.provenance import without_secrets

Options = Callable[[str], list[str]]

MAX_JOBS = 10_000
NOT_STARTED = ("interrupted", "not started", Interrupted.exit_code)


@final
@dataclass(frozen=True)
class Sweep:
    """What a job, perhaps in another process, needs to know of its sweep."""

    id: str  # hash of the overrides: the same command line is the same sweep
    varies: tuple[str, ...]  # keys that differ between jobs
    num_parallel: int  # jobs that run at once and share the cores
    stop: Path  # all jobs stop once this file exists
    process: int  # id of the process that runs the sweep

    def name(self, overrides: Sequence[str]) -> str:
        """The name of a job within the sweep: its overrides that vary."""
        return " ".join(word for word in overrides if word.partition("=")[0].lstrip("+") in self.varies) or "job"


@final
@dataclass
class Job:
    """One job and, once it has ended, its result."""

    overrides: list[str]
    experiment: Experiment | None = None
    folder: Path | None = None  # the run folder; None if the job was refused before it had one
    internal_error: BaseException | None = None  # raised while the job was composed
    unread: list[Override] = field(default_factory=list)  # overrides that no stage reads
    result: dict[str, Any] | None = None  # as in result.json

    def end(self, result: dict[str, Any]) -> dict[str, Any]:
        """Ends the job with a result, to which its overrides are added."""
        self.result = result | {"overrides": [without_secrets(override) for override in self.overrides]}
        return self.result

    def stop(self, status: str, reason: str, exit_code: int) -> dict[str, Any]:
        """Ends the job without a result.json."""
        return self.end({"status": status, "reason": reason, "exit_code": exit_code})


def run_sweep(overrides: Sequence[str], composer: Composer) -> int:
    """Runs the jobs of all combinations of values that are not stored yet; returns the exit code."""
    line = parsed(overrides, sweep=True)
    master = composer.master([_line(override) for override in line if override.is_hydra_override()])
    own = [override for override in line if not override.is_hydra_override()]
    num_parallel(master, 1)
    jobs = [plan_job(overrides, composer, master) for overrides in combinations(own, composer.loader.options)]
    outputs = _outputs(jobs)
    _refuse_unread(jobs)
    if any(job.experiment and job.experiment.dry_run for job in jobs):
        return _print_plans(jobs)
    varies = tuple(override.get_key_element().lstrip("+") for override in own if override.is_sweep_override())
    name = sha256("\n".join(sorted(_line(override) for override in own)).encode()).hexdigest()[:8]
    folder = outputs.sweeps / name
    folder.mkdir(parents=True, exist_ok=True)
    pending = [job for job in jobs if job.result is None]
    sweep = Sweep(name, varies, num_parallel(master, len(pending)), folder / f".stop-{os.getpid()}", os.getpid())
    _announce(jobs, sweep)
    if pending:
        with external_errors("hydra/launcher"):
            launcher = composer.loader.launcher(master, partial(run_job, sweep=sweep))
        _run(pending, sweep, launcher)
    return _report(jobs, folder)


def _line(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def combinations(overrides: Sequence[Override], options: Options) -> list[list[str]]:
    """The overrides of each job; the last key varies fastest. `options` lists the options of a group, for glob()."""
    counts = [_count(override) for override in overrides]
    if (total := prod(counts)) > MAX_JOBS:
        raise UserError(f"-m: expected at most {MAX_JOBS:,} jobs, got {total:,}; sweep over fewer values")
    return [list(words) for words in product(*(_values(override, options) for override in overrides))]


def _count(override: Override) -> int:
    """The number of values of an override, computed without listing them."""
    line, value = _line(override), override.value()
    if isinstance(value, IntervalSweep):
        raise UserError(f"{line}: expected a list of values, got an interval; list the values, as in lr=1e-4,1e-3")
    if isinstance(value, RangeSweep):
        start, stop, step = value.start, value.stop, value.step
        if not all(isinstance(end, int | float) and isfinite(end) for end in (start, stop, step)) or not step:
            raise UserError(f"{line}: expected a range of finite numbers and a step other than 0")
        count = max(0, ceil((float(stop) - float(start)) / float(step)))  # type: ignore[arg-type]
    else:
        count = len(value.list) if isinstance(value, ChoiceSweep) else 1
    if not count:
        raise UserError(f"{line}: expected one value or more, got none; list values, as in seed=0,1,2")
    return count


def _values(override: Override, options_of: Options) -> list[str]:
    key, value = override.get_key_element(), override.value()
    if isinstance(value, Glob):
        options = options_of(override.key_or_group)
        if not options:
            raise UserError(
                f"{_line(override)}: expected a group, whose options glob() lists; list the values of {key}"
            )
        if not (matches := value.filter(options)):
            raise UserError(f"{_line(override)}: expected a pattern that matches an option; {suggest('', options)}")
        return [f"{key}={option}" for option in matches]
    if not override.is_sweep_override():
        return [_line(override)]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _refuse_unread(jobs: Sequence[Job]) -> None:
    """Refuses an override that no job reads."""
    accepted = [job for job in jobs if job.folder is not None]
    keys = set.intersection(*({override.get_key_element() for override in job.unread} for job in accepted))
    refuse_unread([override for override in accepted[0].unread if override.get_key_element() in keys])


def plan_job(overrides: list[str], composer: Composer, master: DictConfig) -> Job:
    """Composes and checks a job; its result is set if it is refused, or if a finished run is stored."""
    job = Job(overrides)
    try:
        job.experiment = composer.job(master, overrides)
        with Store(job.experiment.outputs.artifacts) as store:
            pipeline = pipeline_of(job.experiment, store)
            job.unread = unread(job.experiment, pipeline.order)
            job.folder = run_folder(job.experiment, pipeline)
            stored = finished(job.folder, pipeline, job.experiment.film)
            if stored is not None:
                job.end(stored)
    except UserError as error:
        job.stop("refused", str(error), error.exit_code)
    except (Exception, SystemExit) as error:  # the other jobs still run
        job.end(result_of_error(error))
        job.internal_error = error
    return job


def _outputs(jobs: Sequence[Job]) -> Outputs:
    """The output folders. If no job can run, raises the internal error of one, or UserError with all reasons."""
    for job in jobs:
        if job.experiment is not None and job.folder is not None:
            return job.experiment.outputs
    for error in (job.internal_error for job in jobs if job.internal_error is not None):
        raise error
    reasons = list(dict.fromkeys(job.result["reason"] for job in jobs if job.result is not None))
    raise UserError("; ".join(reasons))


def _composed_line(job: Job) -> list[str]:
    """The overrides of an accepted job, with those that its composition added."""
    assert job.experiment is not None
    return job.experiment.line


def _print_plans(jobs: Sequence[Job]) -> int:
    """Prints the plan of each job; returns the exit code."""
    for job in jobs:
        print(" ".join(job.overrides))
        if job.experiment is not None and job.folder is not None:
            print(plan(job.experiment, in_sweep=True), end="\n\n")
        elif job.result is not None:
            print(f"{job.result['status']}: {job.result['reason']}\n")
    return 2 if any(job.folder is None for job in jobs) else 0


def num_parallel(master: DictConfig, jobs: int) -> int:
    """The number of jobs that the launcher runs at once on this machine: `n_jobs` of the launcher, otherwise 1."""
    n_jobs = master.hydra.launcher.get("n_jobs")
    if n_jobs is not None and (not isinstance(n_jobs, int) or n_jobs == 0):
        raise UserError(f"hydra.launcher.n_jobs: expected a number of jobs, or -1 for one per core, got {n_jobs}")
    return 1 if n_jobs is None else max(1, min(joblib.effective_n_jobs(n_jobs), jobs))


def _announce(jobs: Sequence[Job], sweep: Sweep) -> None:
    refused = [job for job in jobs if job.folder is None]
    pending = sum(job.result is None for job in jobs)
    in_parallel = f", {sweep.num_parallel} in parallel" if sweep.num_parallel > 1 else ""
    count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    print_message(f"{count}: {len(jobs) - pending - len(refused)} stored already, {pending} to run{in_parallel}")
    for job in refused:
        assert job.result is not None
        print_message(f"refused: {sweep.name(job.overrides)}: {job.result['reason']}")


def _run(jobs: list[Job], sweep: Sweep, launcher: Launcher) -> None:
    """Launches jobs until all have ended. The death of a worker ends its pool; the other jobs get a new one."""
    sweep.stop.unlink(missing_ok=True)
    try:
        with stop_request_handler(sweep.stop.touch):
            while pending := [job for job in jobs if job.result is None]:
                start = time.time_ns()
                try:
                    returns = launcher.launch([_composed_line(job) for job in pending], initial_job_idx=0)
                    for job, job_return in zip(pending, returns, strict=True):
                        job.end(job_return.return_value)
                except BrokenExecutor:
                    record_dead_jobs(pending, start, sweep.stop.exists())
                except RunError:
                    raise
                except Exception as error:  # of the launcher: `run_job` raises none
                    raise external_error("hydra/launcher", error, "finished jobs are stored") from error
    finally:
        sweep.stop.unlink(missing_ok=True)


def record_dead_jobs(pending: Sequence[Job], start: int, stopped: bool) -> None:
    """After the death of a worker, ends started jobs with the result.json in their run folders.

    `start` is the time of the launch, in nanoseconds since 1970; `stopped` is true if the sweep was asked to stop.
    """
    for job in pending:
        assert job.folder is not None
        path = job.folder / RESULT
        if path.exists() and path.stat().st_mtime_ns >= start:
            result = job.end(load_json_object(path, "status", "exit_code"))
            if result["status"] == "interrupted" and not stopped:
                job.stop(
                    "failed", "the process of the job died, killed or out of memory; the same command tries again", 1
                )
        elif stopped:
            job.stop(*NOT_STARTED)
    if all(job.result is None for job in pending):
        for job in pending:
            job.stop("failed", "the process of the job died before the job started", 1)


def run_job(cfg: DictConfig, sweep: Sweep) -> dict[str, Any]:
    """Runs a job for a launcher; returns its result. It raises no error, as that would end the other jobs too."""
    settings = HydraConfig.get()
    # Unresolved: an interpolation in an override refers to the configuration, not to this list.
    overrides: Any = OmegaConf.to_container(settings.overrides.task, resolve=False)
    job = Job(overrides)
    if os.getpid() != sweep.process:
        # A terminal sends Ctrl-C to the whole process group; only the process of the sweep handles it.
        ignore_signals()
    if sweep.stop.exists():
        return job.stop(*NOT_STARTED)
    try:
        experiment = build(cfg, settings.runtime.choices, parsed(job.overrides, sweep=False))
        jobs = max(experiment.hardware.jobs, sweep.num_parallel)
        experiment.hardware = replace(experiment.hardware, jobs=jobs)
        name = sweep.name(job.overrides)
        return run_experiment(experiment, name, sweep.id, sweep.stop)
    # The other jobs continue; the reason is printed now and again in the table.
    except (Exception, SystemExit) as error:
        result = job.end(result_of_error(error))
        if isinstance(error, Interrupted):
            sweep.stop.touch()
        print_message(f"{sweep.name(job.overrides)}: {result['status']}: {result['reason']}")
        return result


def _report(jobs: Sequence[Job], folder: Path) -> int:
    """Prints the table and the path of sweep.json, writes sweep.json and sweep.html; returns the exit code."""
    results = [job.result for job in jobs if job.result is not None]
    write_atomic(folder / "sweep.json", sweep_json(results).encode())
    write_atomic(folder / "sweep.html", sweep_html(results).encode())
    print(sweep_table(results))
    print(folder / "sweep.json")
    codes = {result["exit_code"] for result in results}
    return next(code for code in EXIT_CODES if code in codes)
