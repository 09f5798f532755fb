"""TrainingPipeline: checks stages, computes their keys, and runs those whose products are not stored."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from lfd.envs import Env, Spaces
from lfd.errors import UserError, suggest
from lfd.files import file_sha256
from lfd.hardware import Hardware
from lfd.interrupts import stop_request_handler
from lfd.log import MetricsLog, Progress, RunLog, read_records
from lfd.registry import part_of
from lfd.stages import CheckContext, Product, Stage, StageContext
from lfd.store.artifacts import MARKER, ArtifactBuilder, Store, StoredArtifact, read_record
from lfd.store.durations import expected_seconds
from lfd.store.keys import describe
from lfd.store.provenance import provenance

METRICS = "metrics.jsonl"
STATE = "state"  # folder of the checkpoints of a stage


@dataclass
class Report:
    """Result of one stage of a run."""

    key: str  # of its artifact
    cached: bool  # True if the artifact was stored before
    summary: dict[str, Any]  # see `lfd.stages.Summary`


class TrainingPipeline:
    """Stages by name. A stage runs if a target needs its product and the product is not stored.

    Raises UserError if stages, environment and machine do not match; nothing is stored then.
    """

    def __init__(
        self, stages: Mapping[str, Stage], targets: list[str], env: Env | None, hardware: Hardware, store: Store
    ) -> None:
        self.stages, self.targets, self.env, self.hardware, self.store = stages, targets, env, hardware, store
        self.order = self._sorted()
        self.spaces = self._check()
        self._fingerprint = describe(env.fingerprint()) if env is not None else None
        self.keys = self._keys()
        self._opened: dict[str, Any] = {}

    # Names

    def _inputs(self, name: str) -> dict[str, Product]:
        return self._stage(name, "targets").inputs()

    def _stage(self, name: str, reader: str, product: Product | None = None) -> Stage:
        """A stage by its name; `reader` names it and uses it as `product`. Raises UserError."""
        if name not in self.stages:
            known = [other for other, stage in self.stages.items() if product is None or product in stage.provides()]
            known += ["random"] if product is Product.actor else []
            raise UserError(f"{reader}: no stage is called {name!r}; {suggest(name, known)}")
        return self.stages[name]

    def _sorted(self) -> list[str]:
        """Names of the stages that the targets need, each after the stages that it reads."""
        order: list[str] = []
        path: list[str] = []

        def visit(name: str, reader: str) -> None:
            if name in path:
                circle = " -> ".join([*path[path.index(name) :], name])
                raise UserError(f"stages read each other in a circle: {circle}; change an input of one of them")
            if name in order:
                return
            stage = self._stage(name, reader)
            path.append(name)
            for needed, product in stage.inputs().items():
                provider = self._stage(needed, name, product)
                if product not in provider.provides():
                    raise UserError(
                        f"{name}: needs {product.value}, which {needed!r} ({stage_kind(provider)}) does not provide; "
                        "name another stage"
                    )
                visit(needed, name)
            path.pop()
            order.append(name)

        if not self.targets:
            raise UserError(f"targets: expected one or more of {', '.join(sorted(self.stages))}, got an empty list")
        for target in self.targets:
            visit(target, "targets")
        return order

    def _optional_inputs(self, name: str) -> list[str]:
        """The optional inputs of a stage that this pipeline runs before it."""
        position = self.order.index(name)
        return [other for other in self.stages[name].optional_inputs() if other in self.order[:position]]

    def reads(self, name: str) -> list[str]:
        """All stages whose products a stage reads."""
        return list(dict.fromkeys([*self._inputs(name), *self._optional_inputs(name)]))

    # Wiring and keys

    def _check(self) -> Spaces:
        """Checks all stages; returns the spaces of the environment, or of files without one."""
        for name in self.order:
            self.stages[name].inspect_inputs(self.env, self.store.root)
        for name in self.order:
            if self.env is None and self.stages[name].interacts():
                raise UserError(f"{name}: needs an environment, got env=none; choose an env, or ope=fqe targets=[fqe]")
        spaces, store = self._spaces_of_files() if self.env is None else self.env.spaces(), self.store.root
        for name in self.order:
            context = CheckContext(name=name, stages=self.stages, spaces=spaces, env=self.env, store=store)
            self.stages[name].check(context)
        return spaces

    def _spaces_of_files(self) -> Spaces:
        of_files = {name: spaces for name in self.order if (spaces := self.stages[name].spaces()) is not None}
        if not of_files:
            raise UserError("env=none: no file has spaces; choose an env, or dataset=file dataset.path=...")
        (first, spaces), *others = of_files.items()
        for name, other in others:
            if other != spaces:
                raise UserError(
                    f"env=none: expected the spaces of {first!r} in the data of {name!r}, got others; leave one out"
                )
        return spaces

    def _keys(self) -> dict[str, str]:
        keys: dict[str, str] = {}
        for name in self.order:
            keys[name] = self.store.key(stage_kind(self.stages[name]), self.material(name, keys))
        return keys

    def material(self, name: str, keys: Mapping[str, str], without: tuple[str, ...] = ()) -> dict[str, Any]:
        """The content of a stage's key, with keys of artifacts in place of names of stages and without some fields."""
        stage, reads = self.stages[name], self.reads(name)
        described = describe(stage.key_content(self._digest))
        for field in without:
            described["fields"].pop(field)
        material: dict[str, Any] = {"stage": _renamed(described, {read: keys[read] for read in reads})}
        if self.env is not None:
            material["env"] = self._fingerprint
        return material

    def _digest(self, path: Path) -> str:
        return file_sha256(path, self.store.root / ".sha256")

    def lineage(self, name: str) -> str:
        """A key that is equal for versions of a stage which differ in the extendable fields only."""
        return self.store.key("lineage", self.material(name, self.keys, self.stages[name].extendable_fields))

    # Running

    def missing(self) -> list[str]:
        """The stages that have to run, in order: those that a target needs and whose product is not stored."""
        missing: set[str] = set()

        def visit(name: str) -> None:
            if name not in missing and self.store.find(self.keys[name]) is None:
                missing.add(name)
                for needed in self.reads(name):
                    visit(needed)

        for target in self.targets:
            visit(target)
        return [name for name in self.order if name in missing]

    def run(self, run_log: RunLog, job: str = "", stop: Path | None = None) -> dict[str, Report]:
        """Runs the missing stages; returns a report of every stage whose product is stored then.

        `job` is the name of the run in a sweep. A signal, or a file at `stop`, stops the run: it raises Interrupted.
        """
        missing = self.missing()
        progress = Progress([(name, self.expected(name) if name in missing else 0.0) for name in self.order], job=job)
        reports: dict[str, Report] = {}
        try:
            with _stop_requests(stop) as stopping:
                for name in self.order:
                    if name in missing:
                        reports[name] = self._make(name, run_log, progress, stopping)
                    elif (folder := self.store.find(self.keys[name])) is not None:
                        reports[name] = self._stored(name, folder, run_log, progress)
        finally:
            progress.close()
        return reports

    def expected(self, name: str) -> float | None:
        """Seconds that a stage will take, from artifacts of similar stages; None without any."""
        stage, material = self.stages[name], self.material(name, self.keys)
        return expected_seconds(
            self.store.root, stage_kind(stage), stage.extendable_fields, material, self.hardware.device.value
        )

    def product(self, name: str) -> Any:
        """The opened product of a stage whose artifact is stored."""
        if name not in self._opened:
            folder = self.store.find(self.keys[name])
            assert folder is not None, name
            self._opened[name] = self.stages[name].open(folder)
        return self._opened[name]

    def _stored(self, name: str, folder: Path, run_log: RunLog, progress: Progress) -> Report:
        run_log.replay(name, read_records(folder / METRICS))
        progress.report_stored(name)
        record = read_record(folder)
        assert record is not None
        return Report(self.keys[name], True, record["summary"])

    def _make(self, name: str, run_log: RunLog, progress: Progress, stopping: Callable[[], bool]) -> Report:
        with self.store.build(self.keys[name], stopping) as build:
            if isinstance(build, StoredArtifact):
                return self._stored(name, build.folder, run_log, progress)
            if not (build.folder / STATE).exists():
                self._continue_from_shorter(name, build.folder)
            stage = self.stages[name]
            # Taken before the stage runs, as the code may be edited meanwhile.
            made_by = provenance(self.hardware.device.value)
            progress.begin_stage(name, stage.length(), stage.unit)
            metrics = MetricsLog(build.folder / METRICS)
            products = {read: self.product(read) for read in self.reads(name)}
            context = StageContext(
                name=name, folder=build.folder, env=self.env, products=products, hardware=self.hardware,
                progress=progress, metrics=metrics, run_log=run_log, stopping=stopping, spaces=self.spaces,
            )  # fmt: skip
            try:
                summary = stage.run(context).to_json()
            except UserError:
                if not stage.resumes_after_error:
                    # A stage must not resume from files that a faulty environment or input made.
                    shutil.rmtree(build.folder, ignore_errors=True)
                raise
            finally:
                metrics.close()
            self._publish(name, build, summary, made_by)
            progress.end_stage(summary["seconds"])
        return Report(self.keys[name], False, summary)

    def _publish(self, name: str, build: ArtifactBuilder, summary: dict[str, Any], made_by: dict[str, Any]) -> None:
        if self.stages[name].extendable_fields:
            summary = {**summary, "lineage": self.lineage(name)}
        inputs = {read: self.keys[read] for read in self.reads(name)}
        build.publish(self.material(name, self.keys), inputs, summary, made_by)

    def _continue_from_shorter(self, name: str, folder: Path) -> None:
        """Copies the state of the longest stored version of this stage that is not longer than it."""
        if not self.stages[name].extendable_fields:
            return
        lineage, max_length = self.lineage(name), self.stages[name].length() or 0
        candidates: list[tuple[int, Path]] = []
        for other in self.store.root.glob(f"{stage_kind(self.stages[name])}-*"):
            record = read_record(other)
            if record and record["summary"].get("lineage") == lineage:
                length = int(record["summary"]["gradient_steps"])
                if length <= max_length and (other / STATE).exists():
                    candidates.append((length, other))
        if not candidates or (earlier := self.store.find(max(candidates)[1].name)) is None:
            return
        for path in [path for path in folder.rglob("*") if path.is_symlink()]:
            path.unlink()  # copytree overwrites files but not links
        ignored = shutil.ignore_patterns(MARKER, STATE)
        shutil.copytree(earlier, folder, dirs_exist_ok=True, symlinks=True, ignore=ignored)
        # The state comes last and by one rename: a run that is killed before it starts from the beginning.
        temporary = folder / f"{STATE}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(earlier / STATE, temporary)
        temporary.rename(folder / STATE)


def stage_kind(stage: Stage) -> str:
    """The registered name of a stage's class, with which the keys of its artifacts begin."""
    return part_of(stage).rpartition("/")[2].rpartition(":")[2].lower()


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A description of a stage with keys of artifacts in place of names of stages."""
    if isinstance(value, dict):
        return {_name(key, names): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return _name(value, names) if isinstance(value, str) else value


def _name(text: str, names: Mapping[str, str]) -> str:
    base, at, index = text.partition("@")
    return names[base] + at + index if base in names else text


@contextmanager
def _stop_requests(stop: Path | None) -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM and Ctrl-C only set a flag; stages read it and stop where they can resume."""
    is_requested = Event()
    with stop_request_handler(is_requested.set):
        yield lambda: is_requested.is_set() or (stop is not None and stop.exists())
