"""A little of the real work of a stage, timed: gradient steps on made-up batches, environment steps, acting."""

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, final

import gymnasium as gym
import numpy as np
import torch

from lfd.agents import Agent
from lfd.batch import Batch, tensors
from lfd.capture import RECORDS
from lfd.envs import Spaces
from lfd.episodes import greedy
from lfd.errors import Refused
from lfd.learner import Learner
from lfd.log.progress import Span
from lfd.nets import has_frames
from lfd.noise import Generated
from lfd.pipeline import TrainingPipeline
from lfd.sources.dataset import HELD_OUT
from lfd.stages.building import blank
from lfd.stages.collect import random_policy, split_name
from lfd.stages.recipe import Recipe

SECONDS = 0.3  # that something is tried for
PARTS = 3  # of that time, whose fastest and slowest pace are the estimate
LANES = 4  # environments side by side while they are tried


@final
class Trials:
    """What was tried once is not tried again. Nothing is written."""

    def __init__(self, pipeline: TrainingPipeline) -> None:
        self._stages, self._env, self._device = pipeline.stages, pipeline.env, pipeline.hardware.open()
        self._spaces, self._record = pipeline.spaces, pipeline.hardware.record
        self._learners: dict[str, Learner] = {}
        self._paces: dict[str, Span] = {}
        pipeline.hardware.set_threads(has_frames(self._spaces.observation))

    def learner(self, name: str, fit: Recipe) -> Learner:
        """An untrained learner of a fit."""
        if name not in self._learners:
            agents = [self._agent(fit) for _ in range(fit.members)]
            self._learners[name] = Learner(agents, fit.algo, fit.seed, self._device, self._record)
        return self._learners[name]

    def step_seconds(self, name: str, fit: Recipe) -> Span:
        """Of one gradient step; where rows are held out, a batch of these is validated too, for its memory."""
        needs: dict[str, set[str]] = {}
        for loss in fit.algo.losses.values():
            for source, columns in loss.slots.values():
                needs.setdefault(source, set()).update(columns)
        learner = self.learner(name, fit)
        members, sources = (fit.members,) if fit.members > 1 else (), fit.sources()
        leads = {source: (*members, *sources[source].shape(fit.algo.batch)) for source in needs}
        batches = {
            source: _made_up(columns, self._spaces, leads[source], self._device) for source, columns in needs.items()
        }
        self._validate(name, fit, needs, members)

        def step() -> None:
            metrics, _ = learner.step(batches, list(fit.algo.losses))
            # Reading a number waits for the device.
            next(iter(metrics.values())).sum().item()

        return timed(step)

    def _validate(self, name: str, fit: Recipe, needs: Mapping[str, set[str]], members: tuple[int, ...]) -> None:
        """Evaluate losses once on as many made-up rows as a validation takes at once."""
        sources, learner = fit.sources(), self.learner(name, fit)
        for row, loss in fit.algo.losses.items():
            read = [source for source, _ in loss.slots.values()]
            if all(getattr(sources[source], "validation", 0.0) for source in read) and fit.check.every:
                leads = {source: (*members, *sources[source].shape(HELD_OUT)) for source in read}
                batches = {one: _made_up(needs[one], self._spaces, leads[one], self._device) for one in read}
                with torch.no_grad():
                    learner.evaluate([row], batches, Generated(0, self._device, *members))

    def pace(self, policy: str) -> Span:
        """Seconds a transition where several environments are stepped side by side, acting included."""
        if policy not in self._paces:
            self._paces[policy] = self._env_pace + self._act_pace(policy)
        return self._paces[policy]

    @cached_property
    def _env_pace(self) -> Span:
        assert self._env is not None, "nothing that needs an environment comes so far without"
        try:
            env = self._env.make(LANES, training=True)
        except Refused:
            env = self._env.make(1, training=True)  # only one of them can be open at a time
        act = random_policy(self._spaces, env.num_envs, Generated(0))
        try:
            env.reset(range(env.num_envs))
            return timed(lambda: env.step(act(None))) * (1 / env.num_envs)
        finally:
            env.close()

    def _act_pace(self, policy: str) -> Span:
        stage = self._stages.get(policy)
        if not isinstance(stage, Recipe):
            return Span(0.0, 0.0)
        act = greedy(self.learner(policy, stage).agent, LANES, self._device)
        obs = _sampled(self._spaces.observation, (LANES,), np.random.default_rng(0))
        return timed(lambda: act(obs)) * (1 / LANES)

    def _agent(self, fit: Recipe) -> Agent:
        agent = blank(fit, self._spaces)
        agent.keep_targets(list(fit.algo.targets))
        for role, product in fit.frozen.items():
            other = self._stages[split_name(product)[0]]
            if isinstance(other, Recipe):
                agent.frozen[role] = self._agent(other)
        return agent.to(self._device)


def timed(work: Callable[[], Any]) -> Span:
    """Seconds that it takes, after the first times, which may have to set things up or record what they do."""
    for _ in range(RECORDS + 1):
        work()
    means = []
    for _ in range(PARTS):
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < SECONDS / PARTS:
            work()
            count += 1
        means.append((time.perf_counter() - start) / count)
    return Span(min(means), max(means))


def _made_up(columns: set[str], spaces: Spaces, lead: tuple[int, ...], device: torch.device) -> Batch:
    """A batch of the right shapes and types."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for column in columns:
        match column:
            case "obs" | "next_obs":
                made[column] = _sampled(spaces.observation, lead, rng)
            case "action" | "next_action":
                made[column] = _sampled(spaces.action, lead, rng)
            case "terminated" | "truncated":
                made[column] = np.zeros(lead, np.bool_)
            case "valid":
                made[column] = np.ones(lead, np.bool_)
            case "preferred":
                made[column] = np.zeros(lead[:-2], np.int64)
            case _:
                made[column] = rng.random(lead, np.float32)
    return Batch(**{name: tensors(column, device) for name, column in made.items()})


def _sampled(space: gym.Space[Any], lead: tuple[int, ...], rng: np.random.Generator) -> Any:
    match space:
        case gym.spaces.Dict():
            return {name: _sampled(part, lead, rng) for name, part in space.spaces.items()}
        case gym.spaces.Discrete():
            return rng.integers(int(space.n), size=lead)
    assert isinstance(space, gym.spaces.Box)
    if space.dtype == np.uint8:
        return rng.integers(256, size=(*lead, *space.shape), dtype=np.uint8)
    low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
    return (low + rng.random((*lead, *space.shape)) * (high - low)).astype(np.float32)
