"""TrainingPipeline: resolve names, check the wiring, skip what exists, run the rest, resume."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from lfd.artifacts import MARKER, Building, Done, Store, record_of
from lfd.envs import Env, Spaces
from lfd.errors import Refused, nearest
from lfd.files import file_sha256
from lfd.hardware import Hardware
from lfd.interrupts import asking
from lfd.keys import describe
from lfd.log import MetricsLog, Progress, RunLog, read_records
from lfd.paces import expected_seconds
from lfd.provenance import provenance
from lfd.registry import part_of
from lfd.stages import Lab, Product, Stage
from lfd.stages.feasible import check_feasible

METRICS = "metrics.jsonl"
STATE = "state"  # a stage's checkpoints


@dataclass
class Report:
    """How a stage's product came to be there."""

    key: str
    cached: bool
    summary: dict[str, Any]


class TrainingPipeline:
    """Stages by name. `targets` are wanted; a stage runs only if one of them needs it and its product is not stored."""

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

    def _stage(self, name: str, asked_by: str) -> Stage:
        if name not in self.stages:
            raise Refused(f"{asked_by}: no stage is called {name!r}; {nearest(name, self.stages)}")
        return self.stages[name]

    def _sorted(self) -> list[str]:
        """The demanded stages, each behind what it reads."""
        order: list[str] = []
        path: list[str] = []

        def visit(name: str, asked_by: str) -> None:
            if name in path:
                raise Refused(f"stages read each other in a circle: {' -> '.join([*path[path.index(name) :], name])}")
            if name in order:
                return
            stage = self._stage(name, asked_by)
            path.append(name)
            for needed, product in stage.inputs().items():
                giver = self._stage(needed, name)
                if not giver.offers(product):
                    raise Refused(f"{name}: needs {product.value}, which {needed!r} ({kind_of(giver)}) does not give")
                visit(needed, name)
            path.pop()
            order.append(name)

        if not self.targets:
            raise Refused(f"targets is empty; name what is wanted, one or more of {', '.join(sorted(self.stages))}")
        for target in self.targets:
            visit(target, "targets")
        return order

    def _beside(self, name: str) -> list[str]:
        """What a stage also reads because it is in the graph anyway."""
        position = self.order.index(name)
        return [other for other in self.stages[name].beside() if other in self.order[:position]]

    def reads(self, name: str) -> list[str]:
        """All stages whose products a stage reads."""
        return list(dict.fromkeys([*self._inputs(name), *self._beside(name)]))

    # Wiring and keys

    def _check(self) -> Spaces:
        """Refuse what does not fit together; returns the spaces that it does in."""
        for name in self.order:
            self.stages[name].look(self.env, self.store.root)
        if self.env is None:
            for name in self.order:
                self.stages[name].check_offline(name)
        spaces = self._spaces_of_files() if self.env is None else self.env.spaces()
        available = [name for name in self.stages if self.stages[name].gives is Product.dataset]
        for name in self.order:
            self.stages[name].check_wiring(name, spaces, available)
            self.stages[name].check_inputs(name, self.stages, spaces)
        stack = 1 if self.env is None else self.env.stack
        for name in self.order:
            check_feasible(name, self.stages, spaces, stack, self.store.root)
            if self.env is not None:
                self.stages[name].check_env(name, self.env)
        return spaces

    def _spaces_of_files(self) -> Spaces:
        told = {name: spaces for name in self.order if (spaces := self.stages[name].spaces()) is not None}
        if not told:
            raise Refused("env=none: no file tells the spaces; choose an env, or dataset=file dataset.path=...")
        (first, spaces), *others = told.items()
        for name, other in others:
            if other != spaces:
                raise Refused(
                    f"env=none: the data of {name!r} is from other spaces than that of {first!r}; leave one out"
                )
        return spaces

    def _keys(self) -> dict[str, str]:
        keys: dict[str, str] = {}
        for name in self.order:
            keys[name] = self.store.key(kind_of(self.stages[name]), self.material(name, keys))
        return keys

    def material(self, name: str, keys: Mapping[str, str], without: tuple[str, ...] = ()) -> dict[str, Any]:
        """What a stage's key is made of; names of stages stand in it as the keys of their products."""
        stage, reads = self.stages[name], self.reads(name)
        described = describe(stage.material(self._digest))
        for field in without:
            described["fields"].pop(field)
        material: dict[str, Any] = {"stage": _renamed(described, {read: keys[read] for read in reads})}
        if self.env is not None:
            material["env"] = self._fingerprint
        return material

    def _digest(self, path: Path) -> str:
        return file_sha256(path, self.store.root / ".sha256")

    def lineage(self, name: str) -> str:
        """The same for all versions of a stage that differ only in how long they go on."""
        return self.store.key("lineage", self.material(name, self.keys, self.stages[name].length_fields))

    # Running

    def missing(self) -> list[str]:
        """The stages that have to run, in order: those that a target needs and whose product is not stored."""
        wanted: set[str] = set()

        def visit(name: str) -> None:
            if name not in wanted and self.store.find(self.keys[name]) is None:
                wanted.add(name)
                for needed in self.reads(name):
                    visit(needed)

        for target in self.targets:
            visit(target)
        return [name for name in self.order if name in wanted]

    def run(self, run_log: RunLog, job: str = "", stop: Path | None = None) -> dict[str, Report]:
        """Make what is missing; returns a report of every stage whose product is there. Raises Interrupted.

        `job` is its name in a sweep; besides signals, a file appearing at `stop` asks it to stop.
        """
        missing = self.missing()
        progress = Progress([(name, self.expected(name) if name in missing else 0.0) for name in self.order], job=job)
        reports: dict[str, Report] = {}
        try:
            with _asked_to_stop(stop) as stopping:
                for name in self.order:
                    if name in missing:
                        reports[name] = self._make(name, run_log, progress, stopping)
                    elif (folder := self.store.find(self.keys[name])) is not None:
                        reports[name] = self._stored(name, folder, run_log, progress)
        finally:
            progress.close()
        return reports

    def expected(self, name: str) -> float | None:
        """Seconds that a stage will take, if a stored artifact tells."""
        stage, material = self.stages[name], self.material(name, self.keys)
        return expected_seconds(
            self.store.root, kind_of(stage), stage.length_fields, material, self.hardware.device.value
        )

    def product(self, name: str) -> Any:
        """The opened product of a stage that is stored."""
        if name not in self._opened:
            folder = self.store.find(self.keys[name])
            assert folder is not None, name
            self._opened[name] = self.stages[name].open(folder)
        return self._opened[name]

    def _stored(self, name: str, folder: Path, run_log: RunLog, progress: Progress) -> Report:
        run_log.begin(name, read_records(folder / METRICS))
        progress.cached(name)
        record = record_of(folder)
        assert record is not None
        return Report(self.keys[name], True, record["summary"])

    def _make(self, name: str, run_log: RunLog, progress: Progress, stopping: Callable[[], bool]) -> Report:
        with self.store.build(self.keys[name], stopping) as build:
            if isinstance(build, Done):
                return self._stored(name, build.folder, run_log, progress)
            if not (build.folder / STATE).exists():
                self._adopt(name, build.folder)
            stage = self.stages[name]
            # Of the code as it is now: somebody may edit it while the stage runs.
            made_by = provenance(self.hardware.device.value)
            progress.stage(name, stage.total(), stage.unit)
            metrics = MetricsLog(build.folder / METRICS)
            products = {read: self.product(read) for read in self.reads(name)}
            lab = Lab(
                name, build.folder, self.env, products, self.hardware, progress, metrics, run_log, stopping,
                self.spaces,
            )  # fmt: skip
            try:
                summary = stage.run(lab).to_json()
            except Refused:
                if not stage.goes_on:
                    # An environment that was mended meanwhile must not go on where it was wrong.
                    shutil.rmtree(build.folder, ignore_errors=True)
                raise
            finally:
                metrics.close()
            self._publish(name, build, summary, made_by)
            progress.end(summary["seconds"])
        return Report(self.keys[name], False, summary)

    def _publish(self, name: str, build: Building, summary: dict[str, Any], made_by: dict[str, Any]) -> None:
        if self.stages[name].length_fields:
            summary = {**summary, "lineage": self.lineage(name)}
        inputs = {read: self.keys[read] for read in self.reads(name)}
        build.publish(self.material(name, self.keys), inputs, summary, made_by)

    def _adopt(self, name: str, folder: Path) -> None:
        """Go on from the longest shorter version of this stage that is stored."""
        if not self.stages[name].length_fields:
            return
        lineage, most = self.lineage(name), self.stages[name].total() or 0
        found: list[tuple[int, Path]] = []
        for other in self.store.root.glob(f"{kind_of(self.stages[name])}-*"):
            record = record_of(other)
            if record and record["summary"].get("lineage") == lineage:
                length = int(record["summary"]["gradient_steps"])
                if length <= most and (other / STATE).exists():
                    found.append((length, other))
        if not found or (earlier := self.store.find(max(found)[1].name)) is None:
            return
        for path in [path for path in folder.rglob("*") if path.is_symlink()]:
            path.unlink()  # files are copied over, links are not
        ignored = shutil.ignore_patterns(MARKER, STATE)
        shutil.copytree(earlier, folder, dirs_exist_ok=True, symlinks=True, ignore=ignored)
        # Last and at once: whoever is killed before this has adopted nothing.
        beside = folder / f"{STATE}.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(earlier / STATE, beside)
        beside.rename(folder / STATE)


def kind_of(stage: Stage) -> str:
    """The name under which a stage's class is registered: what its artifact's key begins with."""
    return part_of(stage).rpartition("/")[2].rpartition(":")[2].lower()


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Names of stages, wherever they stand in a description, as the keys of their products."""
    if isinstance(value, dict):
        return {_name(key, names): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return _name(value, names) if isinstance(value, str) else value


def _name(text: str, names: Mapping[str, str]) -> str:
    base, at, index = text.partition("@")
    return names[base] + at + index if base in names else text


@contextmanager
def _asked_to_stop(stop: Path | None) -> Iterator[Callable[[], bool]]:
    """While inside, SIGTERM and Ctrl-C only ask to stop; the stages do so where they can resume."""
    asked = Event()
    with asking(asked.set):
        yield lambda: asked.is_set() or (stop is not None and stop.exists())
