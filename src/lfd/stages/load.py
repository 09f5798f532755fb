"""load: bring in a dataset that somebody else made."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from lfd.algos import MISSING
from lfd.data import Dataset, Writer
from lfd.data.readers import read
from lfd.errors import Refused
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

    def __post_init__(self) -> None:
        positive(self, transitions=self.transitions, episodes=self.episodes)

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

    def material(self) -> Any:
        return replace(self, path=content_sha256(self.file))

    def run(self, lab: Lab) -> Summary:
        stack = lab.env.stack if lab.env else 1
        writer = Writer(lab.folder / "shards", lab.spaces, stack)
        if not (lab.folder / DATA).exists():
            self._copy(writer, lab)
        env = lab.env.fingerprint() if lab.env else None
        writer.finalise(lab.folder / DATA, {"env": env, "made_by": {"file": self.file.name}})
        return Summary(more={"passport": Dataset.open(lab.folder / DATA).passport})

    def _copy(self, writer: Writer, lab: Lab) -> None:
        if writer.cursor:
            return
        for episode in read(self.file, lab.spaces):
            if self.transitions is not None and writer.transitions >= self.transitions:
                break
            if self.episodes is not None and writer.episodes >= self.episodes:
                break
            if self.min_return is None or float(episode.rewards.sum()) >= self.min_return:
                writer.add(episode)
                lab.progress.update(writer.transitions)
        writer.commit({"read": True})

    @staticmethod
    def open(folder: Path) -> Dataset:
        return Dataset.open(folder / DATA)
