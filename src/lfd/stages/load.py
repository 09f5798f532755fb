"""load: import a dataset from a file."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from lfd.algos import MISSING
from lfd.data import Dataset, Episode, Writer
from lfd.data.dataset import is_lfd_file
from lfd.data.episode import cut_episode, num_usable_steps
from lfd.data.readers import read, resolve_source
from lfd.data.readers.plugins import plugin_version
from lfd.data.survey import Survey, clip_to_bounds, survey
from lfd.envs import Env, Spaces
from lfd.errors import UserError
from lfd.files import file_sha256, load_json_object, save_json
from lfd.log.progress import print_message
from lfd.stages import (
    CheckContext,
    DatasetSummary,
    Estimate,
    EstimateContext,
    Product,
    Stage,
    StageContext,
    Summary,
    positive,
)
from lfd.stages.collect import DATA
from lfd.stages.sizes import copy_time
from lfd.store.keys import key_of

_SAME_LENGTH_SHARE = 0.1  # share of episodes of equal length that suggests a time limit
_SURVEY_VERSION = 2  # raise it when the survey of an unchanged file gives another result
_EPISODES: dict[Path, list[Episode]] = {}  # by cache file: episodes of the last survey, if they are small


@dataclass
class Load(Stage):
    """Imports a dataset from a file or folder in one of the supported formats."""

    unit: ClassVar[str] = "transitions"
    revision: ClassVar[int] = 2  # spaces come from the file if it has them, and resets are found in any unit

    path: str = MISSING  # file or folder; its content, not the path, is part of the key
    transitions: int | None = None  # number of transitions from the beginning; null: all
    episodes: int | None = None  # number of episodes from the beginning; null: all
    min_return: float | None = None  # least undiscounted return of an imported episode
    max_episode_steps: int | None = None  # time limit of its episodes, in steps; null: that of the environment
    clip_actions: bool = False  # clip continuous actions to the bounds of the environment; false refuses others

    def __post_init__(self) -> None:
        positive(self, transitions=self.transitions, episodes=self.episodes, max_episode_steps=self.max_episode_steps)

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.dataset})

    def length(self) -> int | None:
        return self.transitions

    @property
    def file(self) -> Path:
        if self.path == MISSING:
            raise UserError(
                "dataset.path: expected a value, got none; set it to a file, as in dataset=file dataset.path=demos.npz"
            )
        path = Path(self.path).expanduser()
        if not path.exists() and not path.is_symlink():
            raise UserError(f"dataset.path={self.path}: there is no such file; check the path")
        return resolve_source(path)

    def inspect_inputs(self, env: Env | None, store: Path) -> None:
        limit = self.max_episode_steps or _time_limit(env)
        spaces, stack = (None, 1) if env is None else (env.spaces(), env.stack)
        # A run that is refused must not create the store.
        memo, self._surveyed_stamp = store / ".sha256" if store.is_dir() else None, self._stamp()
        stage = replace(self, path=self._content(partial(file_sha256, memo=memo)))
        material = {
            "version": _SURVEY_VERSION, "load": stage, "limit": limit, "stack": stack,
            "spaces": spaces and spaces.to_json(),
        }  # fmt: skip
        self._cache_file = store / ".read" / f"{key_of('read', material)}.json"
        if self._cache_file.exists():
            self._survey = Survey.from_json(load_json_object(self._cache_file, *Survey._fields))
            return
        self._survey, episodes = survey(self.file, spaces, stack, limit, self._select, self.clip_actions)
        _EPISODES.clear()
        if episodes is not None:
            _EPISODES[self._cache_file] = episodes
        if store.is_dir():
            self._save_survey()

    def _save_survey(self) -> None:
        self._cache_file.parent.mkdir(parents=True, exist_ok=True)
        save_json(self._cache_file, self._survey.to_json())

    def spaces(self) -> Spaces:
        return self._survey.spaces

    def check(self, context: CheckContext) -> None:
        if context.env is None and self.max_episode_steps is None and not self._survey.has_end_flags:
            raise UserError(
                f"{context.name}: {self.file} does not tell how its episodes ended, and env=none has no time limit; "
                "set dataset.max_episode_steps"
            )

    def dataset_bytes(self, context: EstimateContext) -> int:
        return sum(path.stat().st_size for path in self._files())

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        size = self.dataset_bytes(context)
        return Estimate(copy_time(size), disk=size)

    def key_content(self, digest: Callable[[Path], str]) -> Any:
        return replace(self, path=self._content(digest))

    def _content(self, digest: Callable[[Path], str]) -> str:
        """Hashes of the files, and the version of the package that reads them if lfd does not."""
        return " ".join([*map(digest, self._files()), *filter(None, [plugin_version(self.file)])])

    def _files(self) -> list[Path]:
        file = self.file
        return sorted(path for path in file.rglob("*") if path.is_file()) if file.is_dir() else [file]

    def _stamp(self) -> list[tuple[int, int]]:
        """Sizes and times of change of the files, by which a changed file is noticed."""
        return [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in self._files())]

    def run(self, context: StageContext) -> Summary:
        began = time.monotonic()
        if self._stamp() != self._surveyed_stamp:
            raise UserError(f"dataset.path={self.path} has changed since it was checked; repeat the command")
        writer = Writer(context.folder / "shards", context.spaces, self._survey.stack)
        if not (context.folder / DATA).exists():
            self._copy(writer, context)
        env, made_by = context.env.fingerprint() if context.env else None, {"file": self.file.name}
        writer.finalize(context.folder / DATA, {"env": env, "made_by": made_by} | self._origin(env))
        self._save_survey()
        data = Dataset.open(context.folder / DATA)
        for note in self._survey.notes:
            print_message(f"{context.name}: {note}")
        if not data.columns["rewards"].any():
            print_message(
                f"{context.name}: all rewards of {self.file.name} are 0: only behavior cloning can use this dataset"
            )
        if context.env is not None and self.max_episode_steps is None:
            _report_time_limit(f"{context.name}: {self.file.name}", self._survey.lengths, context.env)
        return DatasetSummary(seconds=time.monotonic() - began, metadata=data.metadata)

    def _origin(self, env: dict[str, Any] | None) -> dict[str, Any]:
        """How a dataset of lfd was made, from its metadata; empty for other files."""
        metadata_file = self.file.parent / "metadata.json"
        if not (self.file.is_file() and is_lfd_file(self.file) and metadata_file.is_file()):
            return {}
        metadata = Dataset.open(self.file).metadata
        origin = {"made_by": metadata.get("made_by")} | ({} if env else {"env": metadata.get("env")})
        return {name: value for name, value in origin.items() if value is not None}

    def _copy(self, writer: Writer, context: StageContext) -> None:
        if writer.cursor:
            return
        episodes: Iterable[Episode] | None = _EPISODES.pop(self._cache_file, None)
        if episodes is None:
            limit = self.max_episode_steps or _time_limit(context.env)
            episodes = self._select(read(self.file, context.spaces, limit, self._survey.stack))
        for episode in episodes:
            infos = {name: episode.infos[name] for name in self._survey.infos}
            writer.add(clip_to_bounds(replace(episode, infos=infos), context.spaces.action))
            context.progress.update(writer.transitions)
        writer.commit({"read": True})

    def _select(self, episodes: Iterator[Episode]) -> Iterator[Episode]:
        """The first episodes with a return of at least `min_return`, as many as `episodes` or `transitions` tells.

        Raises UserError if there are fewer.
        """
        max_transitions, max_episodes = self.transitions or math.inf, self.episodes or math.inf
        transitions = count = 0
        for episode in episodes:
            if transitions >= max_transitions or count >= max_episodes:
                break
            if self.min_return is None or float(episode.rewards.sum()) >= self.min_return:
                selected = cut_episode(episode, int(min(max_transitions - transitions, len(episode))))
                steps = num_usable_steps(selected)
                transitions, count = transitions + steps, count + (steps > 0)
                yield selected
        if self.min_return is not None and not transitions:
            raise UserError(
                f"dataset.min_return={self.min_return:g}: no episode of {self.file} returns so much; set a smaller one"
            )
        if not transitions:
            raise UserError(
                f"data: {self.file} has no transition with a next observation: expected next_observations, or episodes "
                "that terminate or have more than one step"
            )
        for expected, got, unit in ((self.transitions, transitions, "transitions"), (self.episodes, count, "episodes")):
            if expected is not None and got < expected:
                above = "" if self.min_return is None else f" in episodes with a return of at least {self.min_return:g}"
                raise UserError(f"dataset.{unit}={expected}: {self.file} has only {got} {unit}{above}; set fewer")

    @staticmethod
    def open(folder: Path) -> Dataset:
        return Dataset.open(folder / DATA)


def _time_limit(env: Env | None) -> int | None:
    """The time limit of an environment's episodes, in steps; None without one."""
    if env is None:
        return None
    single = env.make_single()
    try:
        return single.spec.max_episode_steps if single.spec else None
    finally:
        single.close()


def _report_time_limit(what: str, lengths: Mapping[str, int], env: Env) -> None:
    """Prints a line if the time limit of a file's episodes seems to differ from that of the environment."""
    limit, longest, same, stopped = _time_limit(env), *(lengths[name] for name in ("longest", "same", "stopped"))
    if limit is None:
        return
    if stopped and stopped != limit:
        print_message(
            f"{what}: its episodes were cut off after {stopped} steps, those of {env.id} after {limit}; returns differ"
        )
    elif longest > limit:
        print_message(
            f"{what}: episodes have up to {longest} steps, {env.id} cuts them off after {limit}; returns differ"
        )
    elif not stopped and longest < limit and same > max(1, _SAME_LENGTH_SHARE * lengths["episodes"]):
        print_message(
            f"{what}: {same} of {lengths['episodes']} episodes end after exactly {longest} steps, {env.id} cuts them "
            f"off after {limit}; if {longest} was a time limit, set dataset.max_episode_steps={longest}"
        )
