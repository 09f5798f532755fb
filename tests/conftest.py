"""An environment whose every number is known, and the means to run a source or a pipeline on it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lfd.agents import Agent
from lfd.data import Dataset, Episode, Writer
from lfd.envs import Env, Spaces, VecEnv
from lfd.envs.env import Gym
from lfd.envs.gym_vec_env import GymVecEnv
from lfd.hardware import Hardware
from lfd.log import RunLog
from lfd.pipeline import TrainingPipeline
from lfd.sources import Source, SourceContext, Stream
from lfd.sources.members import open_for_members
from lfd.stages import CheckContext, Stage
from lfd.stages.collect import Collect
from lfd.store.artifacts import Store

COUNTING = "Counting-v0"


class Counting(gym.Env):
    """Observation (name of the episode, t); step t gives reward t. An episode e has 1 + e % 5 steps and then
    terminates if e is even, is truncated if e is odd. Actions change nothing."""

    def __init__(self, actions: str = "discrete", render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2) if actions == "discrete" else gym.spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.name, self.t = int(self.np_random.integers(1, 1000)), 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        over = self.t >= 1 + self.name % 5
        return self._seen(), float(self.t), over and self.name % 2 == 0, over and self.name % 2 == 1, {}

    def _seen(self) -> Any:
        return np.array([self.name, self.t], np.float32)


class CountingDict(gym.ObservationWrapper):
    """The same with its two numbers under names."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(Counting())
        number = gym.spaces.Box(0, np.inf, (1,), np.float32)
        self.observation_space = gym.spaces.Dict({"name": number, "t": number})

    def observation(self, seen: Any) -> Any:
        return {"name": seen[:1], "t": seen[1:]}


gym.register(COUNTING, Counting)
gym.register("CountingDict-v0", CountingDict)


@final
@dataclass
class NextStep(Env):
    """The same, its vector environment spending a call on every reset."""

    def make_single(self, render: bool = False) -> gym.Env:
        return gym.make(self.id)

    def make(self, num_envs: int, training: bool, render: bool = False) -> VecEnv:
        vector = SyncVectorEnv([self.make_single] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
        return GymVecEnv(vector, self.spaces())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def counting() -> Gym:
    return Gym(COUNTING)


@pytest.fixture
def counting_continuous() -> Gym:
    return Gym(COUNTING, {"actions": "continuous"})


@pytest.fixture
def counting_dict() -> Gym:
    return Gym("CountingDict-v0")


@pytest.fixture
def counting_next_step() -> NextStep:
    return NextStep(COUNTING)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first: begun last, they would run on when all others are done."""
    items.sort(key=lambda item: "every_row" not in item.name and "random_override" not in item.name)


@pytest.fixture
def open_source(tmp_path: Path) -> Callable[..., Stream]:
    """A source's stream, after its first reset."""

    def open_it(
        source: Source, agent: Agent | list[Agent], env: Env | None = None, members: int = 1, **context: Any
    ) -> Stream:
        given: dict[str, Any] = {
            "name": "source", "env": env, "products": {}, "product_folder": tmp_path / "kept", "sources": {},
            "agents": agent if isinstance(agent, list) else [agent] * members,
            "columns": frozenset({"obs", "action", "reward", "next_obs", "discount", "terminated", "truncated"}),
            "stream": {}.__getitem__, "batch": 64, "gamma": 0.9, "seed": 0, "folder": tmp_path / "source",
            "reset_every": 1000, "device": torch.device("cpu"),
        }  # fmt: skip
        stream = open_for_members(source, SourceContext(**{**given, **context}))
        for collector in stream.collectors:
            collector.reset_envs(0)
        return stream

    return open_it


@pytest.fixture
def write_data(tmp_path: Path) -> Callable[..., Dataset]:
    """A dataset of these episodes."""

    def write(episodes: list[Episode], spaces: Spaces, stack: int = 1, name: str = "data") -> Dataset:
        writer = Writer(tmp_path / name / "shards", spaces, stack)
        for episode in episodes:
            writer.add(episode)
        writer.finalize(tmp_path / name / "data.hdf5", {})
        return Dataset.open(tmp_path / name / "data.hdf5")

    return write


@pytest.fixture
def check_setup(tmp_path: Path) -> Callable[..., None]:
    """Check a stage in spaces alone, beside collections of these names."""

    def check(stage: Stage, name: str, spaces: Spaces, datasets: list[str]) -> None:
        stages = {one: Collect("random", transitions=100) for one in datasets}
        stage.check(CheckContext(name=name, stages=stages, spaces=spaces, env=None, store=tmp_path))

    return check


@pytest.fixture
def run_stages(tmp_path: Path) -> Callable[..., TrainingPipeline]:
    """Stages by name, run to the last of them; returns the pipeline, to ask for products."""

    def run(stages: dict[str, Stage], env: Env | None, store: str = "store") -> TrainingPipeline:
        opened = Store(tmp_path / store)
        pipeline = TrainingPipeline(stages, [list(stages)[-1]], env, Hardware(), opened)
        log = RunLog(tmp_path / f"{store}-run" / "metrics.jsonl")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pipeline.reports = pipeline.run(log)  # type: ignore[attr-defined]
        log.finish("done", {})
        return pipeline

    return run
