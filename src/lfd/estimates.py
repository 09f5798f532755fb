"""What a stage will take: time by trying a little of the real work, memory and disk by counting bytes."""

import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import final

import gymnasium as gym
import numpy as np
import torch

from lfd.envs import Env
from lfd.log.progress import Span
from lfd.nets import has_frames
from lfd.pipeline import TrainingPipeline
from lfd.sources.interactive import Interactive
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.sources.table import RESIDENT
from lfd.stages import Stage
from lfd.stages.collect import Collect, split_name
from lfd.stages.evaluate import Evaluate
from lfd.stages.inspect import Inspect
from lfd.stages.load import Load
from lfd.stages.recipe import Recipe
from lfd.stages.relabel import Relabel
from lfd.trials import SECONDS, Trials

EPISODE = 1_000  # steps of an episode where the environment's limit is higher or unknown
ACROSS_DISK = 100e6  # bytes a second at which data is read and written again, or judged


@final
@dataclass
class Estimate:
    """Of one stage: seconds (None where unknown), largest memory of the process and size of the product in bytes."""

    seconds: Span | None
    memory: int
    disk: int


def estimates(pipeline: TrainingPipeline, names: list[str]) -> tuple[dict[str, Estimate], str]:
    """Of the named stages, each with what it goes on from, and a line that says how; nothing is built or stored."""
    estimator = Estimator(pipeline)
    return {name: estimator.of(name) for name in names}, estimator.note()


@final
class Estimator:
    """Estimates in an environment, or without one for what needs none."""

    def __init__(self, pipeline: TrainingPipeline) -> None:
        self.pipeline, self.env, self.trials = pipeline, pipeline.env, Trials(pipeline)
        self._stack = 1 if pipeline.env is None else pipeline.env.stack
        self._earlier: list[str] = []
        self._episode = EPISODE if pipeline.env is None else _episode_limit(pipeline.env)

    def of(self, name: str) -> Estimate:
        """The estimate of a stage that has to run."""
        stage, seconds = self.pipeline.stages[name], self.pipeline.expected(name)
        earlier = None if seconds is None else Span(seconds, seconds)
        if earlier is not None:
            self._earlier.append(name)
        match stage:
            case Recipe():
                return self._fit(name, stage, earlier)
            case Collect():
                return self._collect(stage, earlier)
            case Evaluate():
                return Estimate(self._evaluation(stage) if earlier is None else earlier, _resident(), 10_000)
            case Load():
                return _copied(stage)
            case Relabel() | Inspect():
                return self._judged(stage, earlier)
        return Estimate(None, _resident(), 0)

    def note(self) -> str:
        """How the estimates came about."""
        earlier = f" ({', '.join(self._earlier)}: as long as an earlier one took)" if self._earlier else ""
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
        busy = f"; other work keeps this machine busy (load {load:.1f} on {cores} cores)" if load > cores else ""
        return (
            f"estimates: gradient and environment steps tried here for {SECONDS} s each{earlier}; an episode counts as "
            f"{self._episode:,} steps; a stop rule may end a fit sooner{busy}"
        )

    def _fit(self, name: str, fit: Recipe, earlier: Span | None) -> Estimate:
        # Tried first, even where the time is known: what a step and a validation take counts in the memory.
        seconds, learner = self._training(name, fit), self.trials.learner(name, fit)
        rings = self._replayed(fit)
        room, touched = (sum(sizes) * self._row_bytes() for sizes in zip(*rings, strict=True)) if rings else (0, 0)
        parameters = _bytes(learner.parameters) + _bytes(learner.buffers)
        # A checkpoint holds the weights and Adam's two moments, and two checkpoints are kept. A replay's files have as
        # many rows again, for the ends of episodes.
        disk = parameters * (1 + 2 * 3 + fit.checkpoints) + 2 * room
        memory = _resident() + parameters * 4 + touched + self._held_data(fit)
        return Estimate(earlier or seconds, memory, disk)

    def _training(self, name: str, fit: Recipe) -> Span:
        env_steps = _env_steps(fit)
        if self.env is not None and fit.check.every and fit.algo.agent.acts:
            env_steps += ceil(fit.steps / fit.check.every) * fit.check.episodes * self._episode * fit.members
        seconds = self.trials.step_seconds(name, fit) * fit.steps
        return seconds + self.trials.pace(name) * env_steps if env_steps else seconds

    def _replayed(self, fit: Recipe) -> list[tuple[int, int]]:
        """Of each replay of the fit: transitions that its files have room for, and those that come in."""
        rings = [source for source in fit.read().values() if isinstance(source, Replay)]
        room = [ring.capacity + ring.warmup + 2 * ceil(ring.rate * fit.boundary) for ring in rings]
        taken = [ring.warmup + ceil(ring.rate * fit.steps) for ring in rings]
        return [(size, min(size, count)) for size, count in zip(room, taken, strict=True)]

    def _held_data(self, fit: Recipe) -> int:
        """Bytes of the files of datasets, whose pages count as memory, and of what is held beside them.

        Those that are small enough are held with frames stacked and successors beside them, numbers twice while they
        are packed.
        """
        held, packing = 0, 1 if has_frames(self.pipeline.spaces.observation) else 2
        for name, source in fit.read().items():
            slots = [slot for loss in fit.algo.losses.values() for slot in loss.slots.values()]
            copies = 2 if any(read == name and "next_obs" in columns for read, columns in slots) else 1
            for product in source.products(name):
                file = self._dataset_bytes(self.pipeline.stages[product])
                size = file * copies * self._stack
                held += file + (size * packing if size <= RESIDENT else 0)
        return held

    def _dataset_bytes(self, stage: Stage) -> int:
        match stage:
            case Collect():
                return self._transitions(stage) * self._row_bytes()
            case Load():
                return _size(stage)
            case Relabel():
                return self._dataset_bytes(self.pipeline.stages[stage.data])
        return 0

    def _judged(self, stage: Relabel | Inspect, earlier: Span | None) -> Estimate:
        """Data read once, each row on its way through a network; a copy of it where it is relabelled."""
        names = [stage.data] if isinstance(stage, Relabel) else stage.data
        size = sum(self._dataset_bytes(self.pipeline.stages[name]) for name in names)
        disk = size if isinstance(stage, Relabel) else 10_000
        return Estimate(_across_disk(size) if earlier is None else earlier, _resident(), disk)

    def _collect(self, stage: Collect, earlier: Span | None) -> Estimate:
        seconds = earlier
        if seconds is None:
            paces = [self.trials.pace(split_name(policy)[0]) for policy in stage.shares]
            seconds = max(paces, key=lambda pace: pace.high) * self._transitions(stage)
        playing = stage.num_envs * self._episode * self._row_bytes()
        return Estimate(seconds, _resident() + playing, self._dataset_bytes(stage))

    def _transitions(self, stage: Collect) -> int:
        return stage.transitions or (stage.episodes or 0) * self._episode

    def _evaluation(self, stage: Evaluate) -> Span:
        names = [split_name(name)[0] for name in stage.policies]
        names += [name for name in stage.also if name in self.pipeline.order and name not in names]
        policies = ["random", *(name for name in names if isinstance(self.pipeline.stages.get(name), Recipe))]
        return Span.sum(self.trials.pace(name) for name in policies) * (stage.episodes * self._episode)

    def _row_bytes(self) -> int:
        """Of one stored transition; a frame is stored once, however often it stands in a stack."""
        seen, spaces = self.pipeline.spaces.observation, self.pipeline.spaces
        parts = seen.spaces.values() if isinstance(seen, gym.spaces.Dict) else [seen]
        frame = sum(int(np.prod(part.shape or ())) * np.dtype(part.dtype).itemsize for part in parts) // self._stack
        action = 8 if spaces.actions == "discrete" else 4 * int(np.prod(spaces.action.shape or ()))
        return frame + action + 4 + 2


def _env_steps(fit: Recipe) -> int:
    """Transitions that a fit's gradient steps ask for from environments."""
    read, phases = fit.read(), fit.algo.phases.values()
    mixes = [source for source in read.values() if isinstance(source, Mix)]
    shares = {part: share for mix in mixes for part, share in mix.shares.items()}
    found = 0
    for name, source in read.items():
        match source:
            case Rollout():
                held = source.num_envs * source.steps
                batch = max(1, round(fit.algo.batch * shares.get(name, 1.0)))
                passes = [phase.steps or phase.epochs * max(held // batch, 1) for phase in phases]
                found += ceil(fit.steps / (sum(passes) or source.epochs * max(held // batch, 1))) * held
            case Replay():
                asked = [phase.steps * (not phase.fresh) for phase in phases]
                share = sum(asked) / sum(phase.steps for phase in phases) if any(asked) else 1.0
                found += source.warmup + round(source.rate * share * fit.steps)
            case Interactive():
                found += source.transitions * (fit.stop.rounds or 1)
    return found if fit.stop.env_steps is None else min(found, fit.stop.env_steps)


def _episode_limit(env: Env) -> int:
    single = env.single()
    try:
        limit = single.spec.max_episode_steps if single.spec is not None else None
    finally:
        single.close()
    return min(limit or EPISODE, EPISODE)


def _copied(stage: Load) -> Estimate:
    size = _size(stage)
    return Estimate(_across_disk(size), _resident(), size)


def _across_disk(size: int) -> Span:
    return Span(size / ACROSS_DISK, size / ACROSS_DISK)


def _size(stage: Load) -> int:
    path = stage.file
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(os.path.getsize(one) for one in files)


def _bytes(named: Mapping[str, torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in named.values())


def _resident() -> int:
    """Bytes that this process has had in memory at most; Linux counts them in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
