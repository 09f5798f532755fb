"""Experts that the run does not train: the policy of an earlier run, a script, a person."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch

from lfd.agents import Agent
from lfd.algos import MISSING
from lfd.envs import Spaces
from lfd.envs.spaces import refuse_other_words
from lfd.errors import UserError
from lfd.experts.experts import Keyboard, Queue, Scripted, script_content
from lfd.files import load_json_object, save_json
from lfd.stages import CheckContext, Product, Stage, StageContext, Summary
from lfd.stages.trained import Trained, open_trained, read_trained, trained_folder, undamaged


@final
@dataclass
class Pretrained(Stage):
    """Copies the policy of a finished run."""

    path: str = MISSING  # folder of a run or of a fit artifact; its content, not the path, is part of the key
    stage: str = "learn"  # the stage of that run whose policy is copied

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.policy, Product.actor, Product.labels})

    @property
    def folder(self) -> Path:
        if self.path == MISSING:
            raise UserError(
                "expert.path: expected a value, got none; set a run's folder, as in expert.path=outputs/runs/ppo-…"
            )
        with undamaged(Path(self.path)):
            return trained_folder(Path(self.path).expanduser(), self.stage)

    def key_content(self, digest: Callable[[Path], str]) -> Any:
        # Weights and description of the agent; the other files are its history.
        files = sorted(path for path in self.folder.iterdir() if path.suffix == ".safetensors")
        return replace(self, path=" ".join(digest(path) for path in [*files, self.folder / "agent.json"]), stage="")

    def check(self, context: CheckContext) -> None:
        name, spaces = context.name, context.spaces
        trained = read_trained(self.folder, Path(self.path))
        if not trained.acts:
            raise UserError(f"{name}.path: expected a policy, got the reward model {self.path}; choose another run")
        way_out = "choose an expert that this version of lfd trained"
        refuse_other_words(f"{name}.path", spaces.observation, trained.spaces.observation, way_out)
        for what in ("observation", "action"):
            expected, got = getattr(spaces, what), getattr(trained.spaces, what)
            if expected != got:
                raise UserError(
                    f"{name}.path: expected the {what} space {expected}, got {got} of {self.path}; choose an expert of "
                    "this environment"
                )

    def untrained_agent(self, spaces: Spaces) -> Agent | None:
        # The caller may be on the meta device, but weights are read from files.
        with torch.device("cpu"):
            return self.open(self.folder).agents()[0]

    def run(self, context: StageContext) -> Summary:
        began = time.monotonic()
        for path in self.folder.iterdir():
            if path.suffix == ".safetensors" or path.name == "agent.json":
                shutil.copy2(path, context.folder)
        # The files may have changed since they were checked.
        read_trained(context.folder, Path(self.path))
        return Summary(seconds=time.monotonic() - began)

    @staticmethod
    def open(folder: Path) -> Trained:
        return open_trained(folder)


@final
@dataclass
class Script(Stage):
    """A Python function as an expert: called with an environment, it returns the policy for an episode of it."""

    script: str = MISSING  # package.module:function, or the name of one of lfd's scripts, as babyai_bot

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.actor, Product.labels})

    def key_content(self, digest: Callable[[Path], str]) -> Any:
        # An expert with another content of its file gets another key.
        return replace(self, script=script_content(self.script, digest))

    def check(self, context: CheckContext) -> None:
        if self.script == MISSING:
            name = context.name
            raise UserError(
                f"{name}.script: expected a value, got none; set a function, as in {name}.script=my_module:my_function"
            )
        script_content(self.script, digest=str)
        if context.env is None:
            return
        # One call before anything runs, so that errors of the script come early.
        env = context.env.make(1, training=False)
        try:
            obs = env.reset([0])
            Scripted(self.script).policy(env, torch.device("cpu"))(obs)
        finally:
            env.close()

    def run(self, context: StageContext) -> Summary:
        save_json(context.folder / "script.json", {"script": self.script})
        return Summary()

    @staticmethod
    def open(folder: Path) -> Scripted:
        return Scripted(str(load_json_object(folder / "script.json", "script")["script"]))


@final
@dataclass
class KeyboardExpert(Stage):
    """A person who acts at the terminal, by keys."""

    revision: ClassVar[int] = 2  # the product names the actions

    annotator: str = ""  # name of the person; another name gives new data

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.actor, Product.labels})

    def run(self, context: StageContext) -> Summary:
        assert context.env is not None
        save_json(context.folder / "actions.json", {"names": context.env.action_names()})
        return Summary()

    @staticmethod
    def open(folder: Path) -> Keyboard:
        return Keyboard(load_json_object(folder / "actions.json", "names")["names"])


@final
@dataclass
class QueueExpert(Stage):
    """A person or a program that labels states while the run waits."""

    annotator: str = ""  # name of the person or program; another name gives new labels

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.labels})

    def run(self, context: StageContext) -> Summary:
        return Summary()

    @staticmethod
    def open(folder: Path) -> Queue:
        return Queue()
