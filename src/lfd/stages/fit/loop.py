"""The loop of a training stage: gradient steps, resets of environments, checkpoints."""

import math
import shutil
import time
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lfd.errors import Diverged, Interrupted
from lfd.files import Checkpoints
from lfd.learner.learner import Learner
from lfd.log.progress import print_message
from lfd.nets import has_frames
from lfd.sources import Collector
from lfd.stages import StageContext, Summary
from lfd.stages.fit.agents import new_agents
from lfd.stages.fit.config import FitConfig
from lfd.stages.fit.evaluation import Evaluator
from lfd.stages.fit.metrics import RunningMeans
from lfd.stages.fit.phases import PhaseSchedule
from lfd.stages.fit.reward_bias import survival_bias_warnings
from lfd.stages.fit.streams import demo_steps, open_streams
from lfd.stages.trained import save_trained

LOG_EVERY = 100  # gradient steps between two records of means


@dataclass(frozen=True, kw_only=True)
class TrainingSummary(Summary):
    """Result of a training stage."""

    stopped_by: str | None  # the rule of `stop` that ended it, or "steps"
    converged: bool  # True if a rule on scores or success rates ended it
    last5_mean: float | None  # mean score of the last five evaluations, in units of the return
    parameters: int  # numbers in all members


class TrainLoop:
    """The agents, learner and streams of a running training stage; `_save` stores all state that a resume needs."""

    def __init__(self, fit: FitConfig, context: StageContext) -> None:
        self.fit, self.context = fit, context
        self.device = context.hardware.torch_device()
        context.hardware.set_up_torch(has_frames(context.spaces.observation))
        agents = new_agents(fit, context, self.device)
        self.learner = Learner(agents, fit.algo, fit.seed, self.device, context.hardware.record and fit.fixed_shapes)
        self.checkpoints = Checkpoints(context.folder / "state")
        self._checkpoint = self.checkpoints.load()
        if self._checkpoint is None:
            # These files are from a run that was killed before its first checkpoint, and may be incomplete.
            shutil.rmtree(context.folder / "sources", ignore_errors=True)
        self.streams = open_streams(fit, context, agents, self.device)
        read = {name for loss in fit.algo.losses.values() for name, _ in loss.slots.values()}
        self._followed = [name for name in self.streams if name not in read]
        self.collectors = [collector for stream in self.streams.values() for collector in stream.collectors]
        self.resets = 0  # of the environments, so far
        self.last_reset = 0  # gradient step of the last reset
        self.phases = PhaseSchedule(fit.algo, self.streams)
        self.seconds = 0.0
        self._since = time.monotonic()
        self._means = RunningMeans()
        self._episodes: list[tuple[float, int]] = []  # (return, length) of episodes since the last record
        self.evaluator = Evaluator(fit, context, self.learner, self.streams)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for collector in self.collectors:
            collector.close()
        self.evaluator.close()

    # The loop

    def run(self) -> TrainingSummary:
        self._resume()
        try:
            self._evaluate_if_due()
            while self._stopped() is None:
                if self.context.stopping():
                    raise Interrupted(self._stop_message())
                if self._is_reset_due():
                    if self.resets:
                        self._save()
                    self._reset_envs()
                self.step()
                if self.learner.step_count % LOG_EVERY == 0:
                    self._log()
                self._evaluate_if_due()
                self.context.progress.update(self.learner.step_count, self.evaluator.score)
        except Interrupted:
            # A collection that was interrupted begins again from the checkpoint before it.
            if not self._interacts() and not self.phases.entering:
                self._save()
            raise
        return self._finish()

    def _stop_message(self) -> str:
        message = f"{self.context.name} stopped at gradient step {self.learner.step_count:,}"
        if not self._interacts():
            return message
        # The state of an environment cannot be saved, so training resumes from a reset.
        return f"{message} and will resume from {self.last_reset:,}, the last reset of its environments"

    def _evaluate_if_due(self) -> None:
        if self.evaluator.is_pending() and self.learner.step_count % self.fit.eval.every == 0:
            self.evaluator.evaluate(self._seconds())

    def step(self) -> None:
        active, done = self.phases.next(self.learner.step_count)
        due = [name for name in active if done % self.fit.algo.losses[name].every == 0]
        read = dict.fromkeys(name for row in due for name, _ in self.fit.algo.losses[row].slots.values())
        for name in self._followed:
            # a rollout that no loss reads collects for its replay as if one did
            self.streams[name].next()
        batches = {name: self.streams[name].next() for name in read}
        metrics, feedback = self.learner.step(batches, due, self.phases.targets_due(self.learner, done))
        for name in read:
            prefix = f"{name}/"
            self.streams[name].feedback({k[len(prefix) :]: v for k, v in feedback.items() if k.startswith(prefix)})
        self._means.add(metrics)

    def _stopped(self) -> str | None:
        """The rule that ends the training at this step; None if it continues."""
        stop, history = self.fit.stop, self.evaluator.history
        last = history[-1] if history else None
        if last is not None and stop.score is not None and last["score"] >= stop.score:
            return "score"
        if last is not None and stop.success_rate is not None and (last["success_rate"] or 0) >= stop.success_rate:
            return "success_rate"
        if stop.plateau is not None and len(history) > stop.plateau:
            best = max(evaluation["score"] for evaluation in history[: -stop.plateau])
            if all(evaluation["score"] <= best for evaluation in history[-stop.plateau :]):
                return "plateau"
        if stop.env_steps is not None and self._env_steps() >= stop.env_steps and self._is_idle():
            return "env_steps"
        if stop.rounds is not None and self.phases.begun >= stop.rounds and self.phases.is_between():
            return "rounds"
        if stop.seconds is not None and self._seconds() >= stop.seconds:
            return "seconds"
        return "steps" if self.learner.step_count >= self.fit.steps else None

    def _env_steps(self) -> int:
        return sum(collector.env_steps for collector in self.collectors)

    def _seconds(self) -> float:
        return self.seconds + time.monotonic() - self._since

    # Records

    def _log(self) -> None:
        name = self.context.name
        values = {f"{name}/{key}": value for key, value in self._means.take().items()}
        episodes, self._episodes = self._finished_episodes(), []
        if episodes:
            values[f"{name}/train_return"] = float(np.mean([episode_return for episode_return, _ in episodes]))
            values[f"{name}/train_length"] = float(np.mean([length for _, length in episodes]))
        for key, value in values.items():
            if not math.isfinite(value):
                raise self._divergence(key)
        if self.phases.begun:
            values[f"{name}/round"] = self.phases.begun
        seconds = round(self._seconds(), 2)
        steps = {"env_steps": self._env_steps(), "demo_steps": demo_steps(self.streams)}
        self.context.record(step=self.learner.step_count, **steps, seconds=seconds, **values)

    def _finished_episodes(self) -> list[tuple[float, int]]:
        for collector in self.collectors:
            self._episodes += collector.episodes()
        return self._episodes

    # Resets of environments and checkpoints

    def _is_reset_due(self) -> bool:
        due = self.resets == 0 or self.learner.step_count - self.last_reset >= self.fit.reset_every
        return due and self._is_idle()

    def _is_idle(self) -> bool:
        return self.phases.is_between() and all(collector.idle for collector in self.collectors)

    def _reset_envs(self) -> None:
        for collector in self.collectors:
            collector.reset_envs(self.resets)
        self.resets += 1
        self.last_reset = self.learner.step_count

    def _save(self) -> None:
        saved: dict[str, Tensor] = {f"learner/{key}": value for key, value in self.learner.state().items()}
        states = {}
        for name, stream in self.streams.items():
            own, states[name] = stream.save()
            saved |= {f"source/{name}/{key}": value for key, value in own.items()}
        means, counts = self._means.save()
        saved |= {f"means/{key}": value for key, value in means.items()}
        state = {
            "sources": states, "evaluator": self.evaluator.state(), "resets": self.resets,
            "seconds": self._seconds(), "means": counts, "episodes": self._finished_episodes(),
            "log": self.context.metrics.offset(), **self.phases.state(),
        }  # fmt: skip
        self.checkpoints.save(saved, state)

    def _resume(self) -> None:
        if self._checkpoint is None:
            self.context.resume_log(0)
            for line in survival_bias_warnings(self.fit, self.context.name, self.context.products):
                print_message(line)
            return
        saved, state = self._checkpoint
        self._checkpoint = None
        self.learner.restore(_under(saved, "learner/"))
        for name, stream in self.streams.items():
            stream.restore(_under(saved, f"source/{name}/"), state["sources"][name])
        means = {name: value.to(self.device) for name, value in _under(saved, "means/").items()}
        self._means.restore(means, state["means"])
        self.evaluator.restore(state["evaluator"])
        self.phases.restore(state)
        self.resets, self.seconds, self._episodes = state["resets"], state["seconds"], state["episodes"]
        self.context.resume_log(state["log"])
        self._since = time.monotonic()
        # The checkpoint was saved just before a reset.
        self._reset_envs()

    def _interacts(self) -> bool:
        return any(collector.interacts for collector in self.collectors)

    def _check_finite(self) -> None:
        for name, value in self.learner.parameters.items():
            if not torch.isfinite(value).all():
                raise self._divergence(f"{self.context.name}/{name}")

    def _divergence(self, what: str) -> Diverged:
        return Diverged(
            f"{what} is not finite at gradient step {self.learner.step_count}: the training diverged; set a smaller "
            "lr, or max_grad_norm in optim"
        )

    def _finish(self) -> TrainingSummary:
        self._check_finite()
        # A longer version of this stage continues from here, or from the last reset. The checkpoint comes before the
        # last evaluation, which the longer version does not make unless it is due.
        if self._is_reset_due() or not self._interacts():
            self._save()
        if not self.checkpoints.folder.exists():
            # Without a checkpoint no run can resume from the files of a replay.
            shutil.rmtree(self.context.folder / "sources", ignore_errors=True)
        if self.evaluator.is_pending():
            self.evaluator.evaluate(self._seconds())
        stopped_by = self._stopped()
        save_trained(self.context.folder, self.learner, self.evaluator.history, self._snapshots())
        scores = [evaluation["score"] for evaluation in self.evaluator.history]
        return TrainingSummary(
            self.learner.step_count,
            self._env_steps(),
            self._seconds(),
            stopped_by=stopped_by,
            converged=stopped_by in ("score", "success_rate"),
            last5_mean=float(np.mean(scores[-5:])) if scores else None,
            parameters=sum(value.numel() for value in self.learner.parameters.values()),
        )

    def _snapshots(self) -> list[dict[str, Any]]:
        """The configured snapshots; without any, the policies that acted in the rounds of an interactive source."""
        streams = [stream for stream in self.streams.values() if isinstance(stream, Collector)]
        files = [path.relative_to(self.context.folder) for stream in streams for path in stream.round_policies()]
        rounds = [{"file": str(file), "step": None, "score": None} for file in files]
        return self.evaluator.thin_snapshots() or rounds


def _under(saved: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in saved.items() if name.startswith(prefix)}
