"""Looking at a fit while it trains: episodes of its own, held-out rows, snapshots."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from lfd.batch import Batch
from lfd.episodes import Played, greedy, play, success_rates
from lfd.learner import Learner, metric_name
from lfd.noise import derive
from lfd.sources import Stream
from lfd.stages import Lab
from lfd.stages.means import Means
from lfd.stages.recipe import Recipe
from lfd.stages.trained import save_agent


class Checking:
    """Draws from streams of its own, so that no check moves a bit of the training."""

    def __init__(self, fit: Recipe, lab: Lab, learner: Learner, streams: Mapping[str, Stream]) -> None:
        self.fit, self.lab, self.learner, self.streams = fit, lab, learner, streams
        self.history: list[dict[str, Any]] = []  # of the checks with episodes, oldest first
        self.snapshots: list[dict[str, Any]] = []
        self._checked = 0  # gradient steps at the last check
        self._env: Any = None

    @property
    def score(self) -> float | None:
        """Of the last check."""
        return self.history[-1]["score"] if self.history else None

    def is_open(self) -> bool:
        """Is there none yet at the present step, in a fit that has checks?"""
        return self.fit.check.every > 0 and self._checked < self.learner.step_count

    def check(self, seconds: float) -> None:
        """Play, validate, record; `seconds` of training so far. Raises Interrupted, and is then made again."""
        env_steps = sum(stream.env_steps for stream in self.streams.values())
        head = {"step": self.learner.step_count, "env_steps": env_steps}
        played = self._play() if self.lab.env is not None and self.fit.algo.agent.acts else {}
        if played:
            self.history.append({**head, **played})
        validated = self._validate()
        if played or validated:
            self.lab.record(seconds=round(seconds, 2), **head, **played, **validated)
        if self.fit.checkpoints:
            file = f"snapshot-{self.learner.step_count}.safetensors"
            save_agent(self.lab.folder, self.learner, file)
            self.snapshots.append({"file": file, "step": self.learner.step_count, "score": played["score"]})
        self._checked = self.learner.step_count

    def _play(self) -> dict[str, Any]:
        assert self.lab.env is not None
        episodes = self.fit.check.episodes
        if self._env is None:
            self._env = self.lab.env.make(self.fit.check.num_envs or min(episodes, 16), training=False)
        seeds = [derive(self.fit.seed, "check", index) % 2**31 for index in range(episodes)]
        played: list[Played] = []
        self.lab.progress.update(self.learner.step_count)
        for agent in self.learner.agents:
            policy, before = partial(greedy, agent, self._env.num_envs, self.learner.device), len(played)
            told = partial(self._tell, before, episodes * self.learner.members)
            told(0)
            played += play(self._env, policy, seeds, stopping=self.lab.stopping, ended=told)
        self.lab.progress.doing("")
        values = np.array([episode.value for episode in played])
        return {"score": float(values.mean()), "score_std": float(values.std()), **success_rates(played)}

    def _tell(self, before: int, total: int, over: int) -> None:
        # A check may take longer than the steps between two of them.
        self.lab.progress.doing("checking", before + over, total, "episodes")

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """The losses on held-out batches: "<stage>/validation/<loss>/<metric>"."""
        means = Means()
        noise = self.learner.new_noise(derive(self.fit.seed, "validation", self.learner.step_count))
        for row, loss in self.fit.algo.losses.items():
            names = [name for name, _ in loss.slots.values()]
            held = [self.streams[name].held_out() for name in names]
            for parts in zip(*held, strict=False):
                batches: dict[str, Batch] = dict(zip(names, parts, strict=True))
                out = self.learner.evaluate([row], batches, noise)[row]
                means.add({f"{self.lab.name}/validation/{metric_name(row, k)}": v for k, v in out.metrics.items()})
        return means.take()

    def thin_snapshots(self) -> list[dict[str, Any]]:
        """As many of the snapshots as were asked for, evenly spread; the others' files go."""
        count = min(self.fit.checkpoints, len(self.snapshots))
        chosen = {round(i) for i in np.linspace(0, len(self.snapshots) - 1, count)} if count else set()
        for index, snapshot in enumerate(self.snapshots):
            if index not in chosen:
                (self.lab.folder / snapshot["file"]).unlink(missing_ok=True)
        return [self.snapshots[index] for index in sorted(chosen)]

    def state(self) -> dict[str, Any]:
        return {"history": self.history, "snapshots": self.snapshots, "checked": self._checked}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.history, self.snapshots, self._checked = state["history"], state["snapshots"], state["checked"]

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
