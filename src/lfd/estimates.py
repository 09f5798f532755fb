"""What a stage will take: time by trying a little of the real work, memory and disk by counting bytes."""

import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, final

import gymnasium as gym
import numpy as np
import torch

from lfd.agents import Agent
from lfd.artifacts import record_of
from lfd.batch import Batch, tensors
from lfd.envs import Env, Spaces
from lfd.learner import Learner
from lfd.nets import has_frames
from lfd.noise import Generated
from lfd.pipeline import TrainingPipeline
from lfd.sources.dataset import RESIDENT
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages import Stage
from lfd.stages.collect import Collect, random_policy, split_name
from lfd.stages.episodes import greedy
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit import Fit
from lfd.stages.load import Load

TRIAL = 0.3  # seconds that something is tried for
EPISODE = 1_000  # steps of an episode where the environment's limit is higher or unknown
LANES = 8  # environments side by side while they are tried
ACROSS_DISK = 100e6  # bytes a second at which a foreign file is read and written again


@final
@dataclass
class Estimate:
    """Of one stage: seconds, largest memory of the process and size of the product, both in bytes."""

    seconds: float
    memory: int
    disk: int


@final
class Estimator:
    """Estimates of a pipeline's stages; what was tried once is not tried again."""

    def __init__(self, pipeline: TrainingPipeline) -> None:
        self.pipeline, self.env, self.hardware = pipeline, pipeline.env, pipeline.hardware
        self._paces: dict[str, float] = {}
        self._learners: dict[str, Learner] = {}
        self._earlier: list[str] = []
        self._episode = EPISODE
        if self.env is not None:
            self.hardware.set_threads(has_frames(self.env.spaces().observation))
            self._episode = _episode_limit(self.env)

    def of(self, name: str) -> Estimate:
        """The estimate of a stage that has to run, with whatever it goes on from."""
        stage = self.pipeline.stages[name]
        match stage:
            case Fit():
                seconds, memory, disk = self._fit(name, stage)
            case Collect():
                seconds, memory, disk = self._collect(stage)
            case Evaluate():
                seconds, memory, disk = self._evaluate(stage), 0, 10_000
            case Load():
                size = _size(stage)
                seconds, memory, disk = size / ACROSS_DISK, 0, size
            case _:
                seconds, memory, disk = 0.0, 0, 0
        return Estimate(seconds, _resident() + memory, disk)

    def notes(self) -> list[str]:
        """How the estimates came about."""
        if not (self._paces or self._learners):
            return []
        earlier = f"; for {', '.join(self._earlier)} by what a shorter version took" if self._earlier else ""
        return [
            f"estimates: gradient and environment steps tried here for {TRIAL} s each{earlier}; an episode counts as "
            f"{self._episode:,} steps; a stop rule may end a fit sooner; memory is that of the process at its largest"
        ]

    # fit

    def _fit(self, name: str, fit: Fit) -> tuple[float, int, int]:
        learner = self._learner(name, fit)
        ring = self._ring_rows(fit) * self._row_bytes()
        parameters = _bytes(learner.parameters) + _bytes(learner.buffers)
        # Checkpoints hold weights and both of Adam's moments; two of them are kept.
        disk = parameters * (1 + 2 * 3 + fit.checkpoints) + 2 * ring
        memory = parameters * 4 + ring + self._resident_data(fit)
        seconds = self._earlier_pace(name)
        if seconds is not None:
            self._earlier.append(name)
            return seconds * fit.steps, memory, disk
        seconds = fit.steps * self._step_seconds(fit, learner)
        seconds += _env_steps(fit) * self._pace(name)
        if self.env is not None and fit.check.every:
            checks = ceil(fit.steps / fit.check.every) * fit.check.episodes * self._episode * fit.members
            seconds += checks * self._pace(name)
        return seconds, memory, disk

    def _earlier_pace(self, name: str) -> float | None:
        """Seconds a gradient step of a stored fit that differs only in its length, if it was not much shorter."""
        lineage, least = self.pipeline.lineage(name), (self.pipeline.stages[name].total() or 0) // 10
        for folder in self.pipeline.store.root.glob("fit-*"):
            record = record_of(folder)
            summary = record["summary"] if record else {}
            if summary.get("lineage") == lineage and summary["gradient_steps"] >= max(least, 1):
                return float(summary["seconds"] / summary["gradient_steps"])
        return None

    def _learner(self, name: str, fit: Fit) -> Learner:
        if name not in self._learners:
            agents = [self._agent(fit) for _ in range(fit.members)]
            self._learners[name] = Learner(agents, fit.algo, fit.seed, self.hardware.open())
        return self._learners[name]

    def _agent(self, fit: Fit) -> Agent:
        agent = fit.algo.agent.build(self._spaces())
        for loss in fit.algo.losses.values():
            agent.add(loss.modules(agent))
        if fit.algo.normalize_obs:
            agent.normalise_observations()
        agent.keep_targets(list(fit.algo.targets))
        for role, product in fit.frozen.items():
            other = self.pipeline.stages[product]
            if isinstance(other, Fit):
                agent.frozen[role] = self._agent(other)
        return agent.to(self.hardware.open())

    def _step_seconds(self, fit: Fit, learner: Learner) -> float:
        """Of one gradient step, by some real ones on made-up batches."""
        needs: dict[str, set[str]] = {}
        for loss in fit.algo.losses.values():
            for source, columns in loss.slots.values():
                needs.setdefault(source, set()).update(columns)
        lead = (fit.members, fit.algo.batch) if fit.members > 1 else (fit.algo.batch,)
        batches = {source: _made_up(columns, self._spaces(), lead, learner.device) for source, columns in needs.items()}

        def step() -> None:
            metrics, _ = learner.step(batches, list(fit.algo.losses))
            # Reading a number waits for the device.
            next(iter(metrics.values())).sum().item()

        return _tried(step)

    def _ring_rows(self, fit: Fit) -> int:
        """Transitions that replays hold; their files are mapped and have as many rows again for the ends of episodes."""
        rings = [source for source in fit.read().values() if isinstance(source, Replay)]
        return sum(ring.capacity + ring.warmup + 2 * ceil(ring.rate * fit.boundary) for ring in rings)

    def _resident_data(self, fit: Fit) -> int:
        """Of the datasets that are small enough to be kept in memory."""
        held = 0
        for name, source in fit.read().items():
            for product in source.products(name):
                columns = {c for loss in fit.algo.losses.values() for n, cs in loss.slots.values() if n == name for c in cs}
                copies = (2 if "next_obs" in columns else 1) * (self.env.stack if self.env else 1)
                size = self._dataset_bytes(self.pipeline.stages[product]) * copies
                held += size if size <= RESIDENT else 0
        return held

    # collect, evaluate

    def _collect(self, stage: Collect) -> tuple[float, int, int]:
        steps = self._transitions(stage)
        policies = [split_name(policy)[0] for policy in stage.shares]
        pace = max(self._pace(policy) for policy in policies)
        in_flight = stage.num_envs * self._episode * self._row_bytes()
        return steps * pace, in_flight, steps * self._row_bytes()

    def _evaluate(self, stage: Evaluate) -> float:
        names = [split_name(name)[0] for name in stage.policies]
        names += [name for name in stage.also if name in self.pipeline.order]
        paces = [self._pace("random")]
        paces += [self._pace(name) for name in names if isinstance(self.pipeline.stages.get(name), Fit)]
        return stage.episodes * self._episode * sum(paces)

    def _transitions(self, stage: Collect) -> int:
        return stage.transitions or (stage.episodes or 0) * self._episode

    def _dataset_bytes(self, stage: Stage) -> int:
        match stage:
            case Collect():
                return self._transitions(stage) * self._row_bytes()
            case Load():
                return _size(stage)
        return 0

    # the environment

    def _spaces(self) -> Spaces:
        assert self.env is not None
        return self.env.spaces()

    def _row_bytes(self) -> int:
        """Of one stored transition: a frame is stored once, however often it stands in a stack."""
        spaces, stack = self._spaces(), self.env.stack if self.env else 1
        parts = spaces.observation.spaces.values() if isinstance(spaces.observation, gym.spaces.Dict) else [spaces.observation]
        frame = sum(int(np.prod(part.shape or ())) * np.dtype(part.dtype).itemsize for part in parts) // stack
        action = 8 if spaces.actions == "discrete" else 4 * int(np.prod(spaces.action.shape or ()))
        return frame + action + 4 + 2

    def _pace(self, policy: str) -> float:
        """Seconds a transition where several environments are stepped side by side, acting included."""
        if policy not in self._paces:
            self._paces[policy] = self._env_pace + self._act_pace(policy)
        return self._paces[policy]

    @cached_property
    def _env_pace(self) -> float:
        assert self.env is not None
        env, act = self.env.make(LANES, training=True), random_policy(self._spaces(), LANES, Generated(0))
        try:
            env.reset(range(LANES))
            return _tried(lambda: env.step(act(None))) / LANES
        finally:
            env.close()

    def _act_pace(self, policy: str) -> float:
        stage = self.pipeline.stages.get(policy)
        if not isinstance(stage, Fit):
            return 0.0
        device = self.hardware.open()
        act = greedy(self._learner(policy, stage).member(0), LANES, device)
        obs = _sampled(self._spaces().observation, (LANES,), np.random.default_rng(0))
        return _tried(lambda: act(obs)) / LANES


def _tried(step: Callable[[], Any]) -> float:
    """Seconds that `step` takes, after a first time that may have to set things up."""
    step()
    count, start = 0, time.perf_counter()
    while count < 1 or time.perf_counter() - start < TRIAL:
        step()
        count += 1
    return (time.perf_counter() - start) / count


def _env_steps(fit: Fit) -> int:
    """Transitions that a fit's gradient steps ask for from environments."""
    read = fit.read()
    shares = {part: share for source in read.values() if isinstance(source, Mix) for part, share in source.shares.items()}
    found = 0
    for name, source in read.items():
        match source:
            case Rollout():
                held = source.num_envs * source.steps
                batch = max(1, round(fit.algo.batch * shares.get(name, 1.0)))
                found += ceil(fit.steps / (source.epochs * max(held // batch, 1))) * held
            case Replay():
                found += source.warmup + round(source.rate * fit.steps)
    return found if fit.stop.env_steps is None else min(found, fit.stop.env_steps)


def _episode_limit(env: Env) -> int:
    single = env.single()
    try:
        limit = single.spec.max_episode_steps if single.spec is not None else None
    finally:
        single.close()
    return min(limit or EPISODE, EPISODE)


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
            case _:
                made[column] = rng.random(lead, np.float32)
    return Batch(**{name: tensors(column, device) for name, column in made.items()})


def _sampled(space: gym.Space[Any], lead: tuple[int, ...], rng: np.random.Generator) -> Any:
    match space:
        case gym.spaces.Dict():
            return {name: _sampled(part, lead, rng) for name, part in space.spaces.items()}
        case gym.spaces.Discrete():
            return rng.integers(int(space.n), size=lead)
        case gym.spaces.Box() if space.dtype == np.uint8:
            return rng.integers(256, size=(*lead, *space.shape), dtype=np.uint8)
    assert isinstance(space, gym.spaces.Box)
    uniform = rng.random((*lead, *space.shape), np.float32)
    low, high = np.maximum(space.low, -1), np.minimum(space.high, 1)
    return (low + uniform * (high - low)).astype(np.float32)


def _bytes(named: Mapping[str, torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in named.values())


def _size(stage: Load) -> int:
    path = stage.file
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(os.path.getsize(one) for one in files)


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
