"""Off-policy source: a replay buffer of the learner's experience, its own or that of a rollout."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from torch import Tensor

from lfd.batch import Batch
from lfd.errors import UserError, suggest
from lfd.hardware import check_disk
from lfd.schedule import parse_schedule
from lfd.sources import TRANSITION, Collector, Source, SourceContext, Stream
from lfd.sources.collector import VecEnvCollector
from lfd.sources.replay_buffer import ReplayBuffer
from lfd.sources.use import SourceUse

ACTING = (
    "num_envs",
    "learning_starts",
    "env_steps_per_update",
    "epsilon",
    "action_noise",
)  # fields of an own collector


@dataclass
class Replay(Source):
    """The learner acts during the training; batches are drawn from its newest transitions, which are stored on disk.

    With `source` it keeps what that rollout collects, and acts in no environment of its own.
    """

    interacts: ClassVar[bool] = True

    buffer_size: int = 100_000  # transitions that may be drawn
    num_envs: int = 8  # environments
    learning_starts: int = 1_000  # transitions of random actions before the first gradient step
    env_steps_per_update: float = 1.0  # transitions per gradient step; with phases collected when a round begins
    n_step: int = 1  # environment steps in a transition
    constant_reward: float | None = None  # replaces the environment's reward; null = the environment's
    epsilon: Any = 0.0  # fraction of random discrete actions; a number, or a schedule over gradient steps
    action_noise: Any = 0.0  # Gaussian noise on continuous actions, in halves of their range; a number or a schedule
    per_alpha: float = 0.0  # exponent of priorities |error|^alpha (Schaul et al. 2016); 0 = uniform draws
    per_beta: Any = 0.4  # exponent of the importance weights of prioritized draws; a number or a schedule
    # the rollout of the stage whose transitions it keeps; empty = it collects
    source: str = field(default="", metadata={"key": "set"})

    def __post_init__(self) -> None:
        parse_schedule(self.epsilon, "epsilon", 0, 1)
        parse_schedule(self.action_noise, "action_noise")
        parse_schedule(self.per_beta, "per_beta", 0, 1)
        if not 0 <= self.per_alpha <= 1:
            raise UserError(f"per_alpha: expected a number in [0, 1], got {self.per_alpha}")
        for name in ("buffer_size", "num_envs", "learning_starts", "n_step"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.env_steps_per_update <= 0:
            raise UserError(f"env_steps_per_update: expected a number above 0, got {self.env_steps_per_update}")
        if self.source:
            for item in fields(self):
                if item.name in ACTING and getattr(self, item.name) != item.default:
                    raise UserError(
                        f"{item.name}: expected none beside source={self.source}, which collects, got "
                        f"{getattr(self, item.name)}; set it in {self.source}, or leave it out"
                    )
        elif self.learning_starts > self.buffer_size:
            raise UserError(
                f"learning_starts: expected at most buffer_size={self.buffer_size}, got {self.learning_starts}; lower "
                "it or raise buffer_size"
            )

    def provides(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return TRANSITION | ({"weight"} if self.per_alpha else set())

    def reads(self) -> tuple[str, ...]:
        return (self.source,) if self.source else ()

    def check(self, use: SourceUse) -> None:
        if self.source:
            self._check_source(use)
        if use.sequence > 1 and self.per_alpha:
            raise UserError(
                f"{use.key}.per_alpha: expected 0 with algo.sequence_length={use.sequence}, as prioritized draws are "
                f"of single transitions, got {self.per_alpha}; set it to 0"
            )
        use.refuse_constant_reward(self.constant_reward)
        needed = (self.buffer_size + self._warm_up_steps) * use.row_bytes * use.members
        check_disk(f"{use.key}.buffer_size={self.buffer_size}", needed, use.store)

    def _check_source(self, use: SourceUse) -> None:
        """Raises UserError if `source` is none that can be followed."""
        names = [name for name, source in use.sources.items() if source.is_recordable]
        if self.source not in names:
            got = f", a {type(use.sources[self.source]).__name__}" if self.source in use.sources else ""
            raise UserError(
                f"{use.key}.source: expected a rollout source of the algorithm, got {self.source!r}{got}; "
                f"{suggest(self.source, names)}"
            )
        mix = use.reads[self.source].mix
        if mix is not None:
            raise UserError(
                f"{use.key}.source: expected a source that losses read directly, got {self.source!r}, a part of "
                f"{mix}; mix {use.name} instead"
            )

    @property
    def _warm_up_steps(self) -> int:
        return 0 if self.source else self.learning_starts

    def env_steps(self, use: SourceUse) -> int:
        if self.source:
            return 0  # those of the rollout
        return self.learning_starts + round(self.env_steps_per_update * use.collecting * use.steps)

    def stored_rows(self, use: SourceUse) -> tuple[int, int]:
        rows = self.buffer_size + self._warm_up_steps + 2 * self._env_steps_in(use.reset_every, use)
        return rows, min(rows, self._warm_up_steps + self._env_steps_in(use.steps, use))

    def _env_steps_in(self, steps: int, use: SourceUse) -> int:
        """Transitions that are stored in so many gradient steps."""
        if self.source:
            return use.sources[self.source].env_steps(replace(use.reads[self.source], steps=steps))
        return math.ceil(self.env_steps_per_update * steps)

    @property
    def transition_steps(self) -> int:
        return self.n_step

    def open(self, context: SourceContext) -> Stream:
        return RolloutReplayStream(self, context) if self.source else ReplayStream(self, context)


class ReplayStream(VecEnvCollector):
    """Batches drawn from the transitions of its own environments."""

    def __init__(self, source: Replay, context: SourceContext) -> None:
        super().__init__(context, source.num_envs, source.constant_reward)
        self.source = source
        self._epsilon = parse_schedule(source.epsilon, "epsilon")
        self._action_noise = parse_schedule(source.action_noise, "action_noise")
        # twice, as the newest checkpoint may be damaged and as a checkpoint may wait for other sources
        slack = source.learning_starts + 2 * self.checkpoint_transitions
        self._buffer = _buffer(source, context, source.num_envs, slack)
        self.record_to(self._buffer)
        self._in_rounds = False
        self._steps = 0  # gradient steps so far
        self._credit = 0.0  # transitions that are still to be collected for gradient steps

    @property
    def checkpoint_transitions(self) -> int:
        return math.ceil(self.source.env_steps_per_update * self.context.reset_every) + self.source.num_envs

    def begin_round(self) -> None:
        """Collects the transitions for the steps of the round before, and at least one sequence."""
        self._in_rounds = True
        self._buffer.begin_collection()
        self._warm_up()
        self._spend_credit()
        while not self._buffer.num_starts(self.context.sequence, this_round=True):
            self._credit -= self._interact(random=False)

    def begin_phase(self, on_policy_only: bool) -> None:
        self._buffer.on_policy_only = on_policy_only

    def next(self) -> Batch:
        self._credit += 0.0 if self._buffer.on_policy_only else self.source.env_steps_per_update
        if not self._in_rounds:
            self._warm_up()
            self._spend_credit()
        self._steps += 1
        return self._buffer.draw(self._steps)

    def _warm_up(self) -> None:
        while len(self._buffer) < self.source.learning_starts:
            self.context.set_activity("warming up", len(self._buffer), self.source.learning_starts, "transitions")
            self._interact(random=True)
            if len(self._buffer) >= self.source.learning_starts:
                self.context.set_activity("")

    def _spend_credit(self) -> None:
        while self._credit >= self.source.num_envs:
            self._credit -= self._interact(random=False)

    def _interact(self, random: bool) -> int:
        """Acts once in each environment; returns the number of transitions, as environments may only be reset."""
        epsilon, action_noise = self._epsilon(self._steps), self._action_noise(self._steps)
        step, _ = self._step(self._act_exploring(epsilon, action_noise, random).cpu().numpy())
        return int(step.valid.sum())

    def epoch_steps(self) -> int:
        return max(self._buffer.num_starts(1) // self.context.batch, 1)

    def feedback(self, values: Mapping[str, Any]) -> None:
        self._buffer.feedback(values)

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        saved, state = super().save()
        buffer, cursor = self._buffer.save()
        return saved | buffer, state | cursor | {"steps": self._steps, "credit": self._credit}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().restore(tensors, state)
        self._buffer.restore(tensors, state)
        self._steps, self._credit = state["steps"], state["credit"]


class RolloutReplayStream(Collector):
    """Batches drawn from the transitions that a rollout collects, which counts them and resets the environments."""

    interacts = False

    def __init__(self, source: Replay, context: SourceContext) -> None:
        super().__init__()
        self.context = context
        self._rollout = context.stream(source.source).collectors[context.member]
        slack = 2 * self._rollout.checkpoint_transitions
        self._buffer = _buffer(source, context, self._rollout.num_envs, slack)
        self._rollout.record_to(self._buffer)
        self._steps = 0  # gradient steps so far

    def begin_phase(self, on_policy_only: bool) -> None:
        self._buffer.on_policy_only = on_policy_only

    def next(self) -> Batch:
        if not len(self._buffer):
            self._rollout.collect_if_due()
        self._steps += 1
        return self._buffer.draw(self._steps)

    def epoch_steps(self) -> int:
        return max(self._buffer.num_starts(1) // self.context.batch, 1)

    def feedback(self, values: Mapping[str, Any]) -> None:
        self._buffer.feedback(values)

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        saved, state = self._buffer.save()
        return saved, {**state, "steps": self._steps}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._buffer.restore(tensors, state)
        self._steps = int(state["steps"])

    def close(self) -> None:
        """Does nothing, as the rollout closes the environments."""


def _buffer(source: Replay, context: SourceContext, num_envs: int, slack: int) -> ReplayBuffer:
    return ReplayBuffer(
        context, num_envs, source.buffer_size, slack, source.n_step, source.constant_reward, source.per_alpha,
        source.per_beta,
    )  # fmt: skip
