"""Estimates the cost of stages: time by trying a few steps, memory and disk by counting bytes."""

import os
import resource
import sys
from typing import final

import numpy as np

from lfd.agents import Agent
from lfd.envs import Env
from lfd.episodes import agent_policy
from lfd.errors import UserError
from lfd.log.progress import TimeEstimate
from lfd.nets import has_frames
from lfd.pipeline import TrainingPipeline
from lfd.rng import GeneratorRng
from lfd.stages import Estimate, EstimateContext
from lfd.stages.player import random_policy
from lfd.stages.timing import SECONDS, random_elements, time_calls

EPISODE = 1_000  # steps of an episode if the environment's limit is higher or unknown
NUM_ENVS = 4  # environments in the trial


def estimates(pipeline: TrainingPipeline, names: list[str]) -> tuple[dict[str, Estimate], str]:
    """Estimates for the named stages, and a line that says how they were made; stores nothing.

    The memory of an estimate is the peak memory of the process.
    """
    estimator = CostEstimator(pipeline)
    return {name: estimator.of(name) for name in names}, estimator.note()


@final
class CostEstimator(EstimateContext):
    """Makes estimates; the time of a transition is measured once for the environment and for each policy."""

    def __init__(self, pipeline: TrainingPipeline) -> None:
        super().__init__(
            stages=pipeline.stages, order=pipeline.order, spaces=pipeline.spaces, env=pipeline.env,
            store=pipeline.store.root, hardware=pipeline.hardware,
            episode=EPISODE if pipeline.env is None else _episode_limit(pipeline.env),
        )  # fmt: skip
        self._pipeline = pipeline
        self._device = pipeline.hardware.torch_device()
        self._earlier: list[str] = []
        self._agents: dict[str, Agent | None] = {}
        self._transition_times: dict[str, TimeEstimate] = {}
        self._env_step_time: TimeEstimate | None = None
        pipeline.hardware.set_up_torch(has_frames(self.spaces.observation))

    def of(self, name: str) -> Estimate:
        """The estimate of a stage that is not stored."""
        # The trial runs even if the time is known, as its gradient steps and validations count in the memory.
        trial = self.stages[name].estimate(name, self)
        seconds = self._pipeline.expected(name)
        if seconds is not None:
            self._earlier.append(name)
        span = trial.seconds if seconds is None else TimeEstimate(seconds, seconds)
        return Estimate(span, _peak_memory() + trial.memory, trial.disk)

    def note(self) -> str:
        """The line that says how the estimates were made."""
        earlier = f" ({', '.join(self._earlier)}: the time of an earlier run)" if self._earlier else ""
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
        busy = f"; the machine is busy (load {load:.1f} on {cores} cores)" if load > cores else ""
        return (
            f"estimates: gradient and environment steps timed for {SECONDS} s each{earlier}; an episode counts as "
            f"{self.episode:,} steps; a stop rule may end a training stage earlier{busy}"
        )

    def agent(self, policy: str) -> Agent | None:
        if policy not in self._agents:
            stage = self.stages.get(policy)
            agent = None if stage is None else stage.untrained_agent(self.spaces)
            self._agents[policy] = None if agent is None else agent.to(self._device)
        return self._agents[policy]

    def seconds_per_transition(self, policy: str) -> TimeEstimate:
        if self._env_step_time is None:
            self._env_step_time = self._timed_env()
        if policy not in self._transition_times:
            self._transition_times[policy] = self._env_step_time + self._action_time(policy)
        return self._transition_times[policy]

    def _timed_env(self) -> TimeEstimate:
        assert self.env is not None, "stages that step an environment are refused without one"
        try:
            env = self.env.make(NUM_ENVS, training=True)
        except UserError:
            env = self.env.make(1, training=True)  # of some environments only one can be open
        act = random_policy(self.spaces, env.num_envs, GeneratorRng(0))
        try:
            env.reset(range(env.num_envs))
            return time_calls(lambda: env.step(act(None))) * (1 / env.num_envs)
        finally:
            env.close()

    def _action_time(self, policy: str) -> TimeEstimate:
        agent = self.agent(policy)
        if agent is None:
            return TimeEstimate(0.0, 0.0)
        act = agent_policy(agent, NUM_ENVS, self._device)
        obs = random_elements(self.spaces.observation, (NUM_ENVS,), np.random.default_rng(0))
        return time_calls(lambda: act(obs)) * (1 / NUM_ENVS)


def _episode_limit(env: Env) -> int:
    single = env.make_single()
    try:
        limit = single.spec.max_episode_steps if single.spec is not None else None
        if limit is None:
            single.reset(seed=0)
            limit = getattr(single.unwrapped, "max_steps", None)  # a level of BabyAI sets it when it is reset
    finally:
        single.close()
    return min(limit or EPISODE, EPISODE)


def _peak_memory() -> int:
    """Peak memory of this process in bytes; Linux reports KiB, macOS bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
