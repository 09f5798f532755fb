"""One fit at work: the loop, its boundaries and its checkpoints."""

import math
import shutil
import time
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lfd.errors import Diverged, Interrupted
from lfd.files import Checkpoints
from lfd.learner import Learner
from lfd.log.progress import tell
from lfd.nets import has_frames
from lfd.noise import derive
from lfd.sources import Stream, World
from lfd.sources.members import opened
from lfd.stages import Lab, Summary
from lfd.stages.bias import survival_bias
from lfd.stages.building import new_agents
from lfd.stages.checking import Checking
from lfd.stages.means import Means
from lfd.stages.recipe import Recipe
from lfd.stages.rounds import Rounds
from lfd.stages.trained import save_trained

LOG_EVERY = 100  # gradient steps in a record of means


class Training:
    """Holds what runs: agents, learner, streams. What a resume needs is in `_state` or in them."""

    def __init__(self, fit: Recipe, lab: Lab) -> None:
        self.fit, self.lab = fit, lab
        self.device = lab.hardware.open()
        lab.hardware.set_threads(has_frames(lab.spaces.observation))
        agents = new_agents(fit, lab, self.device)
        self.learner = Learner(agents, fit.algo, fit.seed, self.device, lab.hardware.record)
        self.checkpoints = Checkpoints(lab.folder / "state")
        self._found = self.checkpoints.load()
        if self._found is None:
            # What is there was left by a run that was killed before its first checkpoint, perhaps within a copy.
            shutil.rmtree(lab.folder / "sources", ignore_errors=True)
        self.streams = self._open_streams()
        self.crossed = 0  # boundaries
        self.crossed_at = 0  # gradient steps at the last boundary
        self.rounds = Rounds(fit.algo, self.streams)
        self.seconds = 0.0
        self._since = time.monotonic()
        self._means = Means()
        self._ended: list[tuple[float, int]] = []  # training episodes that no record tells of yet
        self.checking = Checking(fit, lab, self.learner, self.streams)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self.streams.values():
            stream.close()
        self.checking.close()

    # Building

    def _open_streams(self) -> dict[str, Stream]:
        algo, sources = self.fit.algo, self.fit.sources()
        needs: dict[str, set[str]] = {}
        distinct: set[str] = set()
        for loss in algo.losses.values():
            for name, columns in loss.slots.values():
                needs.setdefault(name, set()).update(columns)
                distinct |= {name} if loss.rows else set()
        # A checkpoint falls between two rounds.
        boundary = self.fit.boundary + sum(phase.steps for phase in algo.phases.values())
        streams = {}
        for position, (name, wanted) in enumerate(needs.items()):
            # By position: a name may be that of a stage, which stands in no key.
            seed = derive(self.fit.seed, "source", position)
            world = World(
                name=name, env=self.lab.env, agents=self.learner.agents, datasets=self.lab.products,
                experts=self.lab.products, kept=self.lab.folder / name, sources=sources, columns=frozenset(wanted),
                batch=algo.batch, gamma=algo.gamma, seed=seed,
                folder=self.lab.folder / "sources" / name, boundary=boundary, device=self.device,
                sequence=algo.sequence, distinct=name in distinct, stopping=self.lab.stopping,
                doing=self.lab.progress.doing,
            )  # fmt: skip
            streams[name] = opened(sources[name], world)
        return streams

    # The loop

    def run(self) -> Summary:
        self._resume()
        try:
            self._check_if_due()
            while self._stopped() is None:
                if self.lab.stopping():
                    raise Interrupted(self._told_of_stop())
                if self._at_boundary():
                    if self.crossed:
                        self._save()
                    self._cross_boundary()
                self.step()
                if self.learner.step_count % LOG_EVERY == 0:
                    self._log()
                self._check_if_due()
                self.lab.progress.update(self.learner.step_count, self.checking.score)
        except Interrupted:
            # A round that has only half begun is begun again, from the state before it.
            if not self._interacting() and not self.rounds.entering:
                self._save()
            raise
        return self._finish()

    def _told_of_stop(self) -> str:
        told = f"{self.lab.name} stopped at gradient step {self.learner.step_count:,}"
        if not self._interacting():
            return told
        # No environment can be put back to where it was but by a reset.
        return f"{told} and goes on from {self.crossed_at:,}, the last boundary"

    def _check_if_due(self) -> None:
        if self.checking.is_open() and self.learner.step_count % self.fit.check.every == 0:
            self.checking.check(self._seconds())

    def step(self) -> None:
        active, done = self.rounds.next(self.learner.step_count)
        due = [name for name in active if done % self.fit.algo.losses[name].every == 0]
        read = dict.fromkeys(name for row in due for name, _ in self.fit.algo.losses[row].slots.values())
        batches = {name: self.streams[name].next() for name in read}
        metrics, feedback = self.learner.step(batches, due, self.rounds.following(self.learner, done))
        for name in read:
            prefix = f"{name}/"
            self.streams[name].feedback({k[len(prefix) :]: v for k, v in feedback.items() if k.startswith(prefix)})
        self._means.add(metrics)

    def _stopped(self) -> str | None:
        """Which rule ends the training now, if one does."""
        stop, checks = self.fit.stop, self.checking.history
        last = checks[-1] if checks else None
        if last is not None and stop.score is not None and last["score"] >= stop.score:
            return "score"
        if last is not None and stop.success_rate is not None and (last["success_rate"] or 0) >= stop.success_rate:
            return "success_rate"
        if stop.plateau is not None and len(checks) > stop.plateau:
            earlier = max(check["score"] for check in checks[: -stop.plateau])
            if all(check["score"] <= earlier for check in checks[-stop.plateau :]):
                return "plateau"
        if stop.env_steps is not None and self._env_steps() >= stop.env_steps and self._idle():
            return "env_steps"
        if stop.rounds is not None and self.rounds.begun >= stop.rounds and self.rounds.is_between():
            return "rounds"
        if stop.seconds is not None and self._seconds() >= stop.seconds:
            return "seconds"
        return "steps" if self.learner.step_count >= self.fit.steps else None

    def _env_steps(self) -> int:
        return sum(stream.env_steps for stream in self.streams.values())

    def _seconds(self) -> float:
        return self.seconds + time.monotonic() - self._since

    # What is told

    def _log(self) -> None:
        name = self.lab.name
        values = {f"{name}/{key}": value for key, value in self._means.take().items()}
        ended, self._ended = self._all_ended(), []
        if ended:
            values[f"{name}/train_return"] = float(np.mean([value for value, _ in ended]))
            values[f"{name}/train_length"] = float(np.mean([length for _, length in ended]))
        bad = [key for key, value in values.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(
                f"{bad[0]} is not finite at gradient step {self.learner.step_count}: the training diverged; "
                "a smaller lr or a clip in optim is the usual way out"
            )
        if self.rounds.begun:
            values[f"{name}/round"] = self.rounds.begun
        seconds = round(self._seconds(), 2)
        self.lab.record(step=self.learner.step_count, env_steps=self._env_steps(), seconds=seconds, **values)

    def _all_ended(self) -> list[tuple[float, int]]:
        for stream in self.streams.values():
            self._ended += stream.episodes()
        return self._ended

    # Boundaries and checkpoints

    def _at_boundary(self) -> bool:
        due = self.crossed == 0 or self.learner.step_count - self.crossed_at >= self.fit.boundary
        return due and self._idle()

    def _idle(self) -> bool:
        return self.rounds.is_between() and all(stream.idle for stream in self.streams.values())

    def _cross_boundary(self) -> None:
        for stream in self.streams.values():
            stream.boundary(self.crossed)
        self.crossed += 1
        self.crossed_at = self.learner.step_count

    def _save(self) -> None:
        saved: dict[str, Tensor] = {f"learner/{key}": value for key, value in self.learner.state().items()}
        states = {}
        for name, stream in self.streams.items():
            own, states[name] = stream.save()
            saved |= {f"source/{name}/{key}": value for key, value in own.items()}
        means, counts = self._means.save()
        saved |= {f"means/{key}": value for key, value in means.items()}
        state = {
            "sources": states, "checking": self.checking.state(), "crossed": self.crossed,
            "seconds": self._seconds(), "means": counts, "ended": self._all_ended(), "log": self.lab.metrics.offset(),
            **self.rounds.state(),
        }  # fmt: skip
        self.checkpoints.save(saved, state)

    def _resume(self) -> None:
        if self._found is None:
            self.lab.resume_log(0)
            for line in survival_bias(self.fit, self.lab.name, self.lab.products):
                tell(line)
            return
        saved, state = self._found
        self._found = None
        self.learner.restore(_under(saved, "learner/"))
        for name, stream in self.streams.items():
            stream.restore(_under(saved, f"source/{name}/"), state["sources"][name])
        means = {name: value.to(self.device) for name, value in _under(saved, "means/").items()}
        self._means.restore(means, state["means"])
        self.checking.restore(state["checking"])
        self.rounds.restore(state)
        self.crossed, self.seconds, self._ended = state["crossed"], state["seconds"], state["ended"]
        self.lab.resume_log(state["log"])
        self._since = time.monotonic()
        # The checkpoint was made on the point of crossing.
        self._cross_boundary()

    def _interacting(self) -> bool:
        return any(stream.interacts for stream in self.streams.values())

    def _refuse_divergence(self) -> None:
        for name, value in self.learner.parameters.items():
            if not torch.isfinite(value).all():
                raise Diverged(
                    f"{self.lab.name}: {name} is not finite after {self.learner.step_count} gradient steps: the "
                    "training diverged; a smaller lr or a clip in optim is the usual way out"
                )

    def _finish(self) -> Summary:
        self._refuse_divergence()
        # A longer version of this stage goes on from here, or from the last boundary. It has no check at this step if
        # none is due, hence the order.
        if self._at_boundary() or not self._interacting():
            self._save()
        if not self.checkpoints.folder.exists():
            # Nobody can go on from a replay without a checkpoint that tells of it.
            shutil.rmtree(self.lab.folder / "sources", ignore_errors=True)
        if self.checking.is_open():
            self.checking.check(self._seconds())
        stopped_by = self._stopped()
        save_trained(self.lab.folder, self.learner, self.checking.history, self._snapshots())
        scores = [check["score"] for check in self.checking.history]
        more = {
            "stopped_by": stopped_by,
            "converged": stopped_by in ("score", "success_rate"),
            "last5_mean": float(np.mean(scores[-5:])) if scores else None,
            "parameters": sum(value.numel() for value in self.learner.parameters.values()),
        }
        return Summary(self.learner.step_count, self._env_steps(), self._seconds(), more)

    def _snapshots(self) -> list[dict[str, Any]]:
        """Those that were asked for, or else the agents that drove in the rounds of an interactive source."""
        drivers = [path for stream in self.streams.values() for path in stream.drivers()]
        rounds = [{"file": str(path.relative_to(self.lab.folder)), "step": None, "score": None} for path in drivers]
        return self.checking.thin_snapshots() or rounds


def _under(saved: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in saved.items() if name.startswith(prefix)}
