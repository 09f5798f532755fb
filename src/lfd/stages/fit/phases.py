"""The phases of an algorithm, in rounds: which losses run in which gradient step."""

from collections.abc import Mapping
from typing import Any, final

from lfd.learner.learner import Algo, Learner, Phase
from lfd.sources import Stream


@final
class PhaseSchedule:
    """Position of a training in its phases; without phases all losses run in every step."""

    def __init__(self, algo: Algo, streams: Mapping[str, Stream]) -> None:
        self._losses, self._phases, self._streams = algo.losses, list(algo.phases.values()), streams
        self._index, self._done, self._todo = 0, 0, 0  # phase, gradient steps done in it, its length
        self._steps = [0] * len(self._phases)  # gradient steps of each phase over all rounds
        self.begun = 0  # rounds
        self.entering = False  # True while a phase begins, which may collect

    def next(self, step: int) -> tuple[list[str], int]:
        """The losses of gradient step `step` and the number of earlier steps of their phase; may begin a phase."""
        if not self._phases:
            return list(self._losses), step
        if self._is_over():
            self._index = (self._index + 1) % len(self._phases) if self._todo else 0
            self._done, self._todo = 0, self._enter(self._phases[self._index])
            self.begun += self._index == 0
        self._done += 1
        self._steps[self._index] += 1
        return self._phases[self._index].losses, self._done - 1

    def targets_due(self, learner: Learner, done: int) -> list[str] | None:
        """Target networks to update in the step that `next` returned last; None, all that are due, without phases."""
        if not self._phases:
            return None
        losses, due = self._phases[self._index].losses, []
        for module, target in learner.algo.targets.items():
            training = [
                steps
                for phase, steps in zip(self._phases, self._steps, strict=True)
                if learner.trains(phase.losses, module)
            ]
            if learner.trains(losses, module) and target.is_due(done, sum(training)):
                due.append(module)
        return due

    def is_between(self) -> bool:
        """True between two rounds; always without phases."""
        is_last = not self._phases or not self._todo or self._index == len(self._phases) - 1
        return is_last and (not self._phases or self._is_over())

    def _is_over(self) -> bool:
        phase = self._phases[self._index]
        return self._done >= self._todo or (phase.epochs > 0 and self._is_spent(phase))

    def _is_spent(self, phase: Phase) -> bool:
        return any(collector.spent for collector in self._epoch_source(phase).collectors)

    def _enter(self, phase: Phase) -> int:
        """Begins a phase; returns its gradient steps."""
        self.entering = True
        for stream in self._streams.values():
            for collector in stream.collectors if self._index == 0 else ():
                collector.begin_round()
            for collector in stream.collectors:
                collector.begin_phase(phase.on_policy_only)
        self.entering = False
        return phase.steps or phase.epochs * self._epoch_source(phase).epoch_steps()

    def _epoch_source(self, phase: Phase) -> Stream:
        """The stream of which an epoch of the phase is one pass."""
        return self._streams[next(iter(self._losses[phase.losses[0]].slots.values()))[0]]

    def state(self) -> dict[str, Any]:
        return {"phase": [self._index, self._done, self._todo], "rounds": self.begun, "phase_steps": self._steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._index, self._done, self._todo = state["phase"]
        self.begun, self._steps = state["rounds"], list(state["phase_steps"])
