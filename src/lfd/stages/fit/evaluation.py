"""Evaluation during training: episodes, validation on held-out rows, snapshots."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from lfd.batch import Batch
from lfd.episodes import PlayedEpisode, agent_policy, play, success_rates
from lfd.learner.learner import Learner
from lfd.rng import derive, reset_seeds
from lfd.sources import Stream
from lfd.stages import StageContext
from lfd.stages.fit.config import FitConfig
from lfd.stages.fit.metrics import RunningMeans
from lfd.stages.fit.streams import demo_steps
from lfd.stages.trained import save_agent


class Evaluator:
    """Evaluates the learner; it has random numbers of its own, so that evaluations change no bits of the training."""

    def __init__(self, fit: FitConfig, context: StageContext, learner: Learner, streams: Mapping[str, Stream]) -> None:
        self.fit, self.context, self.learner, self.streams = fit, context, learner, streams
        self.history: list[dict[str, Any]] = []  # one record for each evaluation with episodes, oldest first
        self.snapshots: list[dict[str, Any]] = []
        self._last_step = 0  # gradient step of the last evaluation
        self._env: Any = None

    @property
    def score(self) -> float | None:
        """Mean return of the last evaluation; None before the first."""
        return self.history[-1]["score"] if self.history else None

    def is_pending(self) -> bool:
        """True if the present gradient step was not evaluated and the stage has evaluations."""
        return self.fit.eval.every > 0 and self._last_step < self.learner.step_count

    def evaluate(self, seconds: float) -> None:
        """Plays episodes, validates, records both and saves a snapshot; `seconds` is the training time so far.

        Raises Interrupted; after a resume the evaluation is made again.
        """
        env_steps = sum(collector.env_steps for stream in self.streams.values() for collector in stream.collectors)
        head = {"step": self.learner.step_count, "env_steps": env_steps}
        played = self._play() if self.context.env is not None and self.fit.algo.agent.acts else {}
        if played:
            self.history.append({**head, **played})
        validated = self._validate()
        if played or validated:
            drawn = demo_steps(self.streams)
            self.context.record(seconds=round(seconds, 2), demo_steps=drawn, **head, **played, **validated)
        if self.fit.snapshots:
            file = f"snapshot-{self.learner.step_count}.safetensors"
            save_agent(self.context.folder, self.learner, file)
            self.snapshots.append({"file": file, "step": self.learner.step_count, "score": played["score"]})
        self._last_step = self.learner.step_count

    def _play(self) -> dict[str, Any]:
        assert self.context.env is not None
        episodes = self.fit.eval.episodes
        if self._env is None:
            self._env = self.context.env.make(self.fit.eval.num_envs or min(episodes, 16), training=False)
        seeds = reset_seeds(episodes, self.fit.seed, "check")  # another tag would give other start states
        played: list[PlayedEpisode] = []
        self.context.progress.update(self.learner.step_count)
        for agent in self.learner.agents:
            policy, before = partial(agent_policy, agent, self._env.num_envs, self.learner.device), len(played)
            report = partial(self._report, before, episodes * self.learner.members)
            report(0)
            played += play(self._env, policy, seeds, stopping=self.context.stopping, ended=report)
        self.context.progress.set_activity("")
        returns = np.array([episode.episode_return for episode in played])
        return {"score": float(returns.mean()), "score_std": float(returns.std()), **success_rates(played)}

    def _report(self, before: int, total: int, finished: int) -> None:
        # An evaluation may take longer than the gradient steps between two evaluations.
        self.context.progress.set_activity("evaluating", before + finished, total, "episodes")

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Means of the losses' metrics on held-out batches, as "<stage>/validation/<loss>/<metric>"."""
        means = RunningMeans()
        rng = self.learner.new_rng(derive(self.fit.seed, "validation", self.learner.step_count))
        for row, loss in self.fit.algo.losses.items():
            names = [name for name, _ in loss.slots.values()]
            held_out = [self.streams[name].held_out() for name in names]
            for parts in zip(*held_out, strict=False):
                batches: dict[str, Batch] = dict(zip(names, parts, strict=True))
                metrics = self.learner.evaluate([row], batches, rng)[row].metrics.named(row)
                means.add({f"{self.context.name}/validation/{key}": value for key, value in metrics.items()})
        return means.take()

    def thin_snapshots(self) -> list[dict[str, Any]]:
        """The configured number of snapshots, evenly spread; deletes the files of the others."""
        count = min(self.fit.snapshots, len(self.snapshots))
        kept = {round(i) for i in np.linspace(0, len(self.snapshots) - 1, count)} if count else set()
        for index, snapshot in enumerate(self.snapshots):
            if index not in kept:
                (self.context.folder / snapshot["file"]).unlink(missing_ok=True)
        return [self.snapshots[index] for index in sorted(kept)]

    def state(self) -> dict[str, Any]:
        return {"history": self.history, "snapshots": self.snapshots, "last_step": self._last_step}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.history, self.snapshots, self._last_step = state["history"], state["snapshots"], state["last_step"]

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
