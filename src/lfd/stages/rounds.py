"""Which losses run when: the phases of an algorithm, round after round."""

from collections.abc import Mapping
from typing import Any, final

from lfd.learner import Algo, Learner, Phase
from lfd.sources import Stream


@final
class Rounds:
    """Where a training stands in its phases; without phases all losses run in every step."""

    def __init__(self, algo: Algo, streams: Mapping[str, Stream]) -> None:
        self._losses, self._phases, self._streams = algo.losses, list(algo.phases.values()), streams
        self._index, self._done, self._todo = 0, 0, 0  # the phase, gradient steps done in it, and to do
        self._steps = [0] * len(self._phases)  # gradient steps of each phase over all rounds
        self.begun = 0
        self.entering = False  # is a phase just beginning?

    def next(self, step: int) -> tuple[list[str], int]:
        """The losses of gradient step `step` and how many steps their phase had before; entering fixes its length."""
        if not self._phases:
            return list(self._losses), step
        if self._is_over():
            self._index = (self._index + 1) % len(self._phases) if self._todo else 0
            self._done, self._todo = 0, self._enter(self._phases[self._index])
            self.begun += self._index == 0
        self._done += 1
        self._steps[self._index] += 1
        return self._phases[self._index].losses, self._done - 1

    def following(self, learner: Learner, done: int) -> list[str] | None:
        """The slow copies that follow in the step that `next` told of last; None without phases."""
        if not self._phases:
            return None
        here, found = self._phases[self._index].losses, []
        for module, target in learner.algo.targets.items():
            training = [
                steps
                for phase, steps in zip(self._phases, self._steps, strict=True)
                if learner.trains(phase.losses, module)
            ]
            if learner.trains(here, module) and target.is_due(done, sum(training)):
                found.append(module)
        return found

    def is_between(self) -> bool:
        """Is no round half done?"""
        is_last = not self._phases or not self._todo or self._index == len(self._phases) - 1
        return is_last and (not self._phases or self._is_over())

    def _is_over(self) -> bool:
        phase = self._phases[self._index]
        return self._done >= self._todo or (phase.epochs > 0 and self._passed_over(phase).spent)

    def _enter(self, phase: Phase) -> int:
        """How many gradient steps the phase has."""
        self.entering = True
        for stream in self._streams.values():
            if self._index == 0:
                stream.begin_round()
            stream.begin_phase(phase.fresh)
        self.entering = False
        return phase.steps or phase.epochs * self._passed_over(phase).epoch_steps()

    def _passed_over(self, phase: Phase) -> Stream:
        """What a phase's epochs are passes over."""
        return self._streams[next(iter(self._losses[phase.losses[0]].slots.values()))[0]]

    def state(self) -> dict[str, Any]:
        return {"phase": [self._index, self._done, self._todo], "rounds": self.begun, "phase_steps": self._steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._index, self._done, self._todo = state["phase"]
        self.begun, self._steps = state["rounds"], list(state["phase_steps"])
