"""load: bring in a dataset that somebody else made."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from lfd.algos import MISSING
from lfd.data import Dataset, Episode, Writer
from lfd.data.dataset import is_own
from lfd.data.episode import cut, kept_of
from lfd.data.readers import read, source
from lfd.data.survey import Survey, bounded, survey
from lfd.envs import Env, Spaces
from lfd.errors import Refused
from lfd.files import file_sha256, load_object, save_json
from lfd.keys import key_of
from lfd.log.progress import tell
from lfd.stages import Lab, Product, Stage, Summary, positive
from lfd.stages.collect import DATA

_STOPPED = 0.1  # share of episodes of one length that looks like a time limit
_LOOKS = 1  # raised when a look through a file comes to find something else
_HELD: dict[Path, list[Episode]] = {}  # of the file that was looked through last, if it is not large


@dataclass
class Load(Stage):
    gives: ClassVar[Product] = Product.dataset
    unit: ClassVar[str] = "transitions"
    revision: ClassVar[int] = 2  # spaces that a file tells are taken, and resets are found in any unit

    path: str = MISSING  # a file or folder; its content, not its place, is part of the key
    transitions: int | None = None  # so many of the first; all when null
    episodes: int | None = None
    min_return: float | None = None  # episodes below are left out
    # Steps after which its episodes were cut off, which files often do not tell; the environment's when null.
    max_episode_steps: int | None = None
    # Continuous actions beyond the environment's bounds are brought to these; refused otherwise.
    clip_actions: bool = False

    def __post_init__(self) -> None:
        positive(self, transitions=self.transitions, episodes=self.episodes, max_episode_steps=self.max_episode_steps)

    def inputs(self) -> dict[str, Product]:
        return {}

    def interacts(self) -> bool:
        return False

    def total(self) -> int | None:
        return self.transitions

    @property
    def file(self) -> Path:
        if self.path == MISSING:
            raise Refused("dataset.path is missing; give the file, as in dataset=file dataset.path=demos.npz")
        path = Path(self.path).expanduser()
        if not path.exists() and not path.is_symlink():
            raise Refused(f"dataset.path={self.path}: there is no such file")
        return source(path)

    def look(self, env: Env | None, store: Path) -> None:
        limit = self.max_episode_steps or _time_limit(env)
        spaces, stack = (None, 1) if env is None else (env.spaces(), env.stack)
        # Who is refused leaves nothing behind, a store neither.
        memo, self._looked_at = store / ".sha256" if store.is_dir() else None, self._stamp()
        asked = replace(self, path=self._content(partial(file_sha256, memo=memo)))
        material = {
            "looks": _LOOKS, "load": asked, "limit": limit, "stack": stack, "spaces": spaces and spaces.to_json()
        }  # fmt: skip
        self._remembered = store / ".read" / f"{key_of('read', material)}.json"
        if self._remembered.exists():
            self._found = Survey.from_json(load_object(self._remembered, *Survey._fields))
            return
        self._found, episodes = survey(self.file, spaces, stack, limit, self._chosen, self.clip_actions)
        _HELD.clear()
        if episodes is not None:
            _HELD[self._remembered] = episodes
        if store.is_dir():
            self._remember()

    def _remember(self) -> None:
        self._remembered.parent.mkdir(parents=True, exist_ok=True)
        save_json(self._remembered, self._found.to_json())

    def spaces(self) -> Spaces:
        return self._found.spaces

    def check_offline(self, name: str) -> None:
        if self.max_episode_steps is None and not self._found.tells_ends:
            raise Refused(
                f"{name}: {self.file} does not say how its episodes ended, and env=none knows no time limit; "
                "give dataset.max_episode_steps"
            )

    def material(self, digest: Callable[[Path], str]) -> Any:
        return replace(self, path=self._content(digest))

    def _content(self, digest: Callable[[Path], str]) -> str:
        return " ".join(digest(path) for path in self._files())

    def _files(self) -> list[Path]:
        file = self.file
        return sorted(path for path in file.rglob("*") if path.is_file()) if file.is_dir() else [file]

    def _stamp(self) -> list[tuple[int, int]]:
        """What tells a file that was changed from the one that it was."""
        return [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in self._files())]

    def run(self, lab: Lab) -> Summary:
        began = time.monotonic()
        if self._stamp() != self._looked_at:
            raise Refused(f"dataset.path={self.path} has changed since it was looked through; repeat the command")
        writer = Writer(lab.folder / "shards", lab.spaces, self._found.stack)
        if not (lab.folder / DATA).exists():
            self._copy(writer, lab)
        env, made_by = lab.env.fingerprint() if lab.env else None, {"file": self.file.name}
        writer.finalise(lab.folder / DATA, {"env": env, "made_by": made_by} | self._origin(env))
        self._remember()
        data = Dataset.open(lab.folder / DATA)
        for note in self._found.notes:
            tell(f"{lab.name}: {note}")
        if not data.columns["rewards"].any():
            tell(f"{lab.name}: all rewards of {self.file.name} are 0, which cloning can do with and nothing else")
        if lab.env is not None and self.max_episode_steps is None:
            _tell_limit(f"{lab.name}: {self.file.name}", self._found.lengths, lab.env)
        return Summary(seconds=time.monotonic() - began, more={"passport": data.passport})

    def _origin(self, env: dict[str, Any] | None) -> dict[str, Any]:
        """What the passport of one of our own files says of how it was made."""
        beside = self.file.parent / "passport.json"
        if not (self.file.is_file() and is_own(self.file) and beside.is_file()):
            return {}
        passport = Dataset.open(self.file).passport
        kept = {"made_by": passport.get("made_by")} | ({} if env else {"env": passport.get("env")})
        return {name: value for name, value in kept.items() if value is not None}

    def _copy(self, writer: Writer, lab: Lab) -> None:
        if writer.cursor:
            return
        episodes: Iterable[Episode] | None = _HELD.pop(self._remembered, None)
        if episodes is None:
            limit = self.max_episode_steps or _time_limit(lab.env)
            episodes = self._chosen(read(self.file, lab.spaces, limit, self._found.stack))
        for episode in episodes:
            infos = {name: episode.infos[name] for name in self._found.infos}
            writer.add(bounded(replace(episode, infos=infos), lab.spaces.action))
            lab.progress.update(writer.transitions)
        writer.commit({"read": True})

    def _chosen(self, episodes: Iterator[Episode]) -> Iterator[Episode]:
        """The first episodes of a return until there are as many as asked for. Raises Refused if there are fewer."""
        wanted, whole = self.transitions or math.inf, self.episodes or math.inf
        transitions = count = 0
        for episode in episodes:
            if transitions >= wanted or count >= whole:
                break
            if self.min_return is None or float(episode.rewards.sum()) >= self.min_return:
                chosen = cut(episode, int(min(wanted - transitions, len(episode))))
                kept = kept_of(chosen)
                transitions, count = transitions + kept, count + (kept > 0)
                yield chosen
        if self.min_return is not None and not transitions:
            raise Refused(
                f"dataset.min_return={self.min_return:g}: no episode of {self.file} returns so much; ask for less"
            )
        if not transitions:
            raise Refused(
                f"data: {self.file} has no step with a successor: none of its episodes terminated, and each is of one "
                "step without a final observation; expected next_observations, or episodes that terminate"
            )
        for asked, has, unit in ((self.transitions, transitions, "transitions"), (self.episodes, count, "episodes")):
            if asked is not None and has < asked:
                above = "" if self.min_return is None else f" in episodes with a return of at least {self.min_return:g}"
                raise Refused(f"dataset.{unit}={asked}: {self.file} has only {has} {unit}{above}; ask for fewer")

    @staticmethod
    def open(folder: Path) -> Dataset:
        return Dataset.open(folder / DATA)


def _time_limit(env: Env | None) -> int | None:
    """Steps after which an episode of the environment is cut off, which files often do not tell from its end."""
    if env is None:
        return None
    one = env.single()
    try:
        return one.spec.max_episode_steps if one.spec else None
    finally:
        one.close()


def _tell_limit(what: str, lengths: Mapping[str, int], env: Env) -> None:
    """A line if a file's episodes were stopped after another number of steps than the environment's are."""
    limit, longest, same, stopped = _time_limit(env), *(lengths[name] for name in ("longest", "same", "stopped"))
    if limit is None:
        return
    if stopped and stopped != limit:
        tell(f"{what}: its episodes were stopped after {stopped} steps, {env.id} stops after {limit}; returns differ")
    elif longest > limit:
        tell(f"{what}: episodes go on for up to {longest} steps, {env.id} stops after {limit}; returns differ")
    elif not stopped and longest < limit and same > max(1, _STOPPED * lengths["episodes"]):
        tell(
            f"{what}: {same} of {lengths['episodes']} episodes end after exactly {longest} steps, {env.id} stops after "
            f"{limit}; if that was a time limit and no end of the task, give dataset.max_episode_steps={longest}"
        )
