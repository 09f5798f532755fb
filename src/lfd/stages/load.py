"""load: bring in a dataset that somebody else made."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from lfd.algos import MISSING
from lfd.data import Dataset, Writer
from lfd.data.episode import check_finite, cut
from lfd.data.readers import read
from lfd.data.readers.described import Described, described
from lfd.envs import Env, Spaces
from lfd.errors import Refused
from lfd.log.progress import tell
from lfd.stages import Lab, Product, Stage, Summary, positive
from lfd.stages.collect import DATA


@dataclass
class Load(Stage):
    gives: ClassVar[Product] = Product.dataset
    unit: ClassVar[str] = "transitions"

    path: str = MISSING  # a file or folder; its content, not its place, is part of the key
    transitions: int | None = None  # so many of the first; all when null
    episodes: int | None = None
    min_return: float | None = None  # episodes below are left out
    # Steps after which its episodes were cut off, which files often do not tell; the environment's when null.
    max_episode_steps: int | None = None

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
        if not path.exists():
            raise Refused(f"dataset.path={self.path}: there is no such file")
        return path

    def _described(self) -> Described:
        return described(self.file, self.max_episode_steps)

    def spaces(self) -> Spaces:
        return self._described().spaces

    def check_offline(self, name: str) -> None:
        if self.max_episode_steps is None and not self._described().tells_ends:
            raise Refused(
                f"{name}: {self.file} does not say how its episodes ended, and env=none knows no time limit; "
                "give dataset.max_episode_steps"
            )

    def material(self, digest: Callable[[Path], str]) -> Any:
        files = sorted(path for path in self.file.rglob("*") if path.is_file()) if self.file.is_dir() else [self.file]
        return replace(self, path=" ".join(digest(path) for path in files))

    def check_wiring(self, name: str, spaces: Spaces, datasets: list[str]) -> None:
        # A file that cannot be read is told before an expert is trained.
        next(iter(read(self.file, spaces, self.max_episode_steps)), None)

    def run(self, lab: Lab) -> Summary:
        stack = lab.env.stack if lab.env else self._described().stack
        began = time.monotonic()
        writer = Writer(lab.folder / "shards", lab.spaces, stack)
        if not (lab.folder / DATA).exists():
            self._copy(writer, lab)
        env = lab.env.fingerprint() if lab.env else None
        writer.finalise(lab.folder / DATA, {"env": env, "made_by": {"file": self.file.name}})
        data = Dataset.open(lab.folder / DATA)
        if not data.columns["rewards"].any():
            tell(f"{lab.name}: all rewards of {self.file.name} are 0, which cloning can do with and nothing else")
        return Summary(seconds=time.monotonic() - began, more={"passport": data.passport})

    def _copy(self, writer: Writer, lab: Lab) -> None:
        if writer.cursor:
            return
        transitions, episodes = self.transitions or math.inf, self.episodes or math.inf
        for index, episode in enumerate(read(self.file, lab.spaces, self.max_episode_steps or _time_limit(lab.env))):
            check_finite(episode, f"data: {self.file}, episode {index}")
            if writer.transitions >= transitions or writer.episodes >= episodes:
                break
            if self.min_return is None or float(episode.rewards.sum()) >= self.min_return:
                writer.add(cut(episode, int(min(transitions - writer.transitions, len(episode)))))
                lab.progress.update(writer.transitions)
        if self.min_return is not None and not writer.transitions:
            raise Refused(
                f"dataset.min_return={self.min_return:g}: no episode of {self.file} returns so much; ask for less"
            )
        for asked, has, unit in (
            (self.transitions, writer.transitions, "transitions"), (self.episodes, writer.episodes, "episodes")
        ):  # fmt: skip
            if asked is not None and has < asked:
                above = "" if self.min_return is None else f" in episodes with a return of at least {self.min_return:g}"
                raise Refused(f"dataset.{unit}={asked}: {self.file} has only {has} {unit}{above}; ask for fewer")
        writer.commit({"read": True})

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
