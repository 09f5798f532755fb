"""Expected costs of a training stage: time from trial gradient steps on random batches, memory and disk from sizes."""

from collections.abc import Mapping
from math import ceil
from typing import final

import torch

from lfd.agents import Agent
from lfd.batch import Batch
from lfd.learner.learner import Learner
from lfd.log.progress import TimeEstimate
from lfd.nets import has_frames
from lfd.rng import GeneratorRng
from lfd.sources.columns import MAX_DEVICE_BYTES
from lfd.sources.dataset_streams import VALIDATION_BATCH
from lfd.stages import Estimate, EstimateContext
from lfd.stages.fit.config import FitConfig
from lfd.stages.policies import split_name
from lfd.stages.timing import random_batch, time_calls


@final
class FitCosts:
    """Estimates the costs of a training stage with an untrained learner."""

    def __init__(self, name: str, fit: FitConfig, context: EstimateContext) -> None:
        self._name, self._fit, self._context, self._device = name, fit, context, context.hardware.torch_device()
        agents = [self._agent() for _ in range(fit.members)]
        self._learner = Learner(agents, fit.algo, fit.seed, self._device, context.hardware.record and fit.fixed_shapes)
        self._members = (fit.members,) if fit.members > 1 else ()
        self._sources = {key: (source, fit.use_of(key, name, context)) for key, source in fit.read_sources().items()}
        self._columns: dict[str, set[str]] = {}  # by source
        for loss in fit.algo.losses.values():
            for source, columns in loss.slots.values():
                self._columns.setdefault(source, set()).update(columns)

    def _agent(self) -> Agent:
        fit, context = self._fit, self._context
        agent = fit.untrained_agent(context.spaces)
        agent.add_target_networks(list(fit.algo.targets))
        for role, product in fit.frozen.items():
            other = context.stages[split_name(product)[0]].untrained_agent(context.spaces)
            if other is not None:
                agent.frozen[role] = other.to(self._device)
        return agent.to(self._device)

    def estimate(self) -> Estimate:
        """Time, memory and disk of the whole stage."""
        fit, row_bytes = self._fit, self._context.row_bytes
        seconds = self._seconds()
        files = [source.stored_rows(use) for source, use in self._sources.values()]
        allocated, written = (sum(file[index] for file in files) * row_bytes for index in (0, 1))
        parameters = _bytes(self._learner.parameters) + _bytes(self._learner.buffers)
        # A checkpoint holds the weights and Adam's two moments, and two checkpoints are kept. The files of a replay
        # have twice the rows, for the ends of episodes.
        disk = parameters * (1 + 2 * 3 + fit.snapshots) + 2 * allocated
        return Estimate(seconds, parameters * 4 + written + self._held_data(), disk)

    def _seconds(self) -> TimeEstimate:
        fit, context = self._fit, self._context
        env_steps = sum(source.env_steps(use) for source, use in self._sources.values())
        env_steps = env_steps if fit.stop.env_steps is None else min(env_steps, fit.stop.env_steps)
        if context.env is not None and fit.eval.every and fit.algo.agent.acts:
            env_steps += ceil(fit.steps / fit.eval.every) * fit.eval.episodes * context.episode * fit.members
        seconds = self._step_seconds() * fit.steps
        return seconds + context.seconds_per_transition(self._name) * env_steps if env_steps else seconds

    def _step_seconds(self) -> TimeEstimate:
        """Seconds of one gradient step. It validates once too if rows are held out, so that memory is not missed."""
        batches = {source: self._random_batch(source, self._sources[source][1].batch) for source in self._columns}
        self._validate()

        def step() -> None:
            metrics, _ = self._learner.step(batches, list(self._fit.algo.losses))
            # item() waits until the device is done.
            next(iter(metrics.values())).sum().item()

        return time_calls(step)

    def _validate(self) -> None:
        """Evaluates losses once on a random batch of the size of a validation batch."""
        for row, loss in self._fit.algo.losses.items():
            sources = [source for source, _ in loss.slots.values()]
            if all(self._sources[source][0].holds_out for source in sources) and self._fit.eval.every:
                batches = {source: self._random_batch(source, VALIDATION_BATCH) for source in sources}
                with torch.no_grad():
                    self._learner.evaluate([row], batches, GeneratorRng(0, self._device, *self._members))

    def _random_batch(self, source: str, rows: int) -> Batch:
        columns, shape, length = (
            self._columns[source],
            self._sources[source][0].shape(rows),
            self._fit.algo.sequence_length,
        )
        if length > 1:
            columns, shape = columns | {"first"}, (rows // length, length)
        return random_batch(columns, self._context.spaces, (*self._members, *shape), self._device)

    def _held_data(self) -> int:
        """Bytes of the datasets: their files, whose pages count as memory, and copies of their columns in memory.

        A dataset below `MAX_DEVICE_BYTES` is copied with stacked frames and with next observations; vectors are held
        twice while they are packed.
        """
        context = self._context
        total, packing = 0, 1 if has_frames(context.spaces.observation) else 2
        for name, (source, _) in self._sources.items():
            copies = 2 if "next_obs" in self._columns.get(name, ()) else 1
            for product in source.products(name):
                file = context.stages[product].dataset_bytes(context)
                size = file * copies * context.stack
                total += file + (size * packing if size <= MAX_DEVICE_BYTES else 0)
        return total


def _bytes(named: Mapping[str, torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in named.values())
