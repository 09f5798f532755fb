"""Experts that are not trained here: an earlier policy, a script, a person."""

import shutil
import time
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch

from lfd.algos import MISSING
from lfd.envs import Env, Spaces
from lfd.errors import Refused
from lfd.experts import Keyboard, Queue, Scripted, script_file
from lfd.files import load_object, save_json
from lfd.stages import Lab, Product, Stage, Summary
from lfd.stages.trained import Trained, open_trained, read_trained, trained_folder, undamaged


@dataclass
class Ready(Stage, ABC):
    """Somebody who needs no training."""

    gives: ClassVar[Product] = Product.labels

    def inputs(self) -> dict[str, Product]:
        return {}

    def interacts(self) -> bool:
        return False

    def total(self) -> int | None:
        return None


@final
@dataclass
class Pretrained(Ready):
    """The policy of a finished run."""

    path: str = MISSING  # a run's folder, or a fit artifact's; its content, not its place, is part of the key
    stage: str = "learn"  # whose policy of that run

    def offers(self, product: Product) -> bool:
        return product in (Product.policy, Product.actor, Product.labels)

    @property
    def folder(self) -> Path:
        if self.path == MISSING:
            raise Refused("expert.path is missing; give a run, as in expert=pretrained expert.path=outputs/runs/ppo-…")
        with undamaged(Path(self.path)):
            return trained_folder(Path(self.path).expanduser(), self.stage)

    def material(self, digest: Callable[[Path], str]) -> Any:
        # Weights and what is built around them; the rest of the folder tells how they came to be.
        files = sorted(path for path in self.folder.iterdir() if path.suffix == ".safetensors")
        return replace(self, path=" ".join(digest(path) for path in [*files, self.folder / "agent.json"]), stage="")

    def check_wiring(self, name: str, spaces: Spaces, datasets: list[str]) -> None:
        trained = read_trained(self.folder, Path(self.path))
        if not trained.acts:
            raise Refused(f"{name}: {self.path} judges and does not act; choose a policy")
        theirs = trained.spaces
        for what in ("observation", "action"):
            if getattr(theirs, what) != getattr(spaces, what):
                raise Refused(
                    f"{name}: {self.path} knows the {what} space {getattr(theirs, what)}, here it is "
                    f"{getattr(spaces, what)}; choose an expert of this environment"
                )

    def run(self, lab: Lab) -> Summary:
        began = time.monotonic()
        for path in self.folder.iterdir():
            if path.suffix == ".safetensors" or path.name == "agent.json":
                shutil.copy2(path, lab.folder)
        # Somebody may have changed it while it was copied.
        read_trained(lab.folder, Path(self.path))
        return Summary(seconds=time.monotonic() - began)

    @staticmethod
    def open(folder: Path) -> Trained:
        return open_trained(folder)


@final
@dataclass
class Script(Ready):
    """A function, in Python, that is given an environment and answers with how to act in it."""

    script: str = MISSING  # package.module:function

    def offers(self, product: Product) -> bool:
        return product in (Product.actor, Product.labels)

    def material(self, digest: Callable[[Path], str]) -> Any:
        # Another content of its file is another expert.
        return replace(self, script=f"{self.script} {digest(script_file(self.script))}")

    def check_wiring(self, name: str, spaces: Spaces, datasets: list[str]) -> None:
        if self.script == MISSING:
            raise Refused(f"{name}.script is missing; name a function, as in {name}.script=my_module:my_function")
        script_file(self.script)

    def check_env(self, name: str, env: Env) -> None:
        """Asks it once what to do first, before anybody waits for it."""
        one = env.make(1, training=False)
        try:
            seen = one.reset([0])
            Scripted(self.script).policy(one, torch.device("cpu"))(seen)
        finally:
            one.close()

    def run(self, lab: Lab) -> Summary:
        save_json(lab.folder / "script.json", {"script": self.script})
        return Summary()

    @staticmethod
    def open(folder: Path) -> Scripted:
        return Scripted(str(load_object(folder / "script.json", "script")["script"]))


@final
@dataclass
class Live(Ready):
    """A person who drives at the terminal."""

    revision: ClassVar[int] = 2  # the product names the actions

    who: str = ""  # another name is another person, whose data is made anew

    def offers(self, product: Product) -> bool:
        return product in (Product.actor, Product.labels)

    def run(self, lab: Lab) -> Summary:
        assert lab.env is not None
        save_json(lab.folder / "actions.json", {"names": lab.env.action_names()})
        return Summary()

    @staticmethod
    def open(folder: Path) -> Keyboard:
        return Keyboard(load_object(folder / "actions.json", "names")["names"])


@final
@dataclass
class Later(Ready):
    """Somebody, a person or a program, who labels states while the run waits."""

    who: str = ""  # another name is another person, whose labels are asked for anew

    def run(self, lab: Lab) -> Summary:
        return Summary()

    @staticmethod
    def open(folder: Path) -> Queue:
        return Queue()
