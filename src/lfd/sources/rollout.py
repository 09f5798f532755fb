"""On-policy source: collects steps of the learner, passes over them in minibatches, and collects again."""

import copy
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lfd.batch import Batch
from lfd.errors import UserError
from lfd.rng import derive
from lfd.schedule import Schedule, parse_schedule
from lfd.sources import TRANSITION, Source, SourceContext, Stream
from lfd.sources.collector import VecEnvCollector
from lfd.sources.rewards import ReturnScale
from lfd.sources.rollout_buffer import ON_POLICY, RolloutBuffer
from lfd.sources.teacher import Teacher, take_expert_actions
from lfd.sources.use import SourceUse


@dataclass
class Rollout(Source):
    """The learner acts for some steps, learns from them for some epochs, and drops them."""

    interacts: ClassVar[bool] = True
    updates_normalizer: ClassVar[bool] = True
    is_recordable: ClassVar[bool] = True

    num_envs: int = 8  # environments
    num_steps: int = 128  # steps of each environment in a collection
    epochs: int = 4  # passes over a collection, in minibatches of batch_size rows; unused with phases
    gae_lambda: float = 0.95  # lambda of generalized advantage estimation, in [0, 1]
    target_kl: float | None = None  # nats; epochs end early once the policy moved further than this; null = never
    # divide rewards by the running standard deviation of the discounted return, and clip them; learned rewards are
    # divided by the deviation of all steps up to the present collection's, and not clipped
    normalize_reward: bool = False
    # the stage of an expert that labels every state with its action, in the column expert_action; empty = none
    expert: str = field(default="", metadata={"key": "set"})
    # probability that the expert's action is taken, in each environment at each step (teacher forcing, Ross et al.
    # 2011): a number, or a schedule over gradient steps
    expert_prob: Any = field(default=0.0, metadata={"key": "set"})
    # for agents whose policy draws nothing: fraction of random discrete actions, and Gaussian noise on continuous ones,
    # in halves of their range; numbers, or schedules over gradient steps
    epsilon: Any = field(default=0.0, metadata={"key": "set"})
    action_noise: Any = field(default=0.0, metadata={"key": "set"})

    revision: ClassVar[int] = 2  # scaled rewards are clipped

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_steps", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if not 0 <= self.gae_lambda <= 1:
            raise UserError(f"gae_lambda: expected a number in [0, 1], got {self.gae_lambda}")
        if self.target_kl is not None and self.target_kl <= 0:
            raise UserError(f"target_kl: expected a number of nats above 0 or null, got {self.target_kl}")
        parse_schedule(self.epsilon, "epsilon", 0, 1)
        parse_schedule(self.action_noise, "action_noise")
        if _is_set(parse_schedule(self.expert_prob, "expert_prob", 0, 1)) and not self.expert:
            raise UserError(
                f"expert_prob: expected 0 without an expert, got {self.expert_prob}; set expert to the stage of one"
            )

    def provides(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return TRANSITION | ON_POLICY | ({"expert_action"} if self.expert else set())

    def experts(self) -> tuple[str, ...]:
        return (self.expert,) if self.expert else ()

    def check(self, use: SourceUse) -> None:
        rows = self.num_envs * self.num_steps
        if rows < use.rows:
            raise UserError(
                f"{use.batch_key}: expected at most num_envs * num_steps = {rows} rows of a collection of {use.name}, "
                f"got {use.rows}; lower it or raise num_steps"
            )
        for name in ("epsilon", "action_noise"):
            if "log_prob" in use.columns and _is_set(parse_schedule(getattr(self, name), name)):
                raise UserError(
                    f"{use.key}.{name}: expected 0, as a loss reads the log_prob of the policy's own actions, got "
                    f"{getattr(self, name)}; set it to 0"
                )
        if self.num_steps % use.sequence:
            raise UserError(
                f"{use.key}.num_steps: expected a multiple of algo.sequence_length={use.sequence}, got "
                f"{self.num_steps}; change one of them"
            )
        if use.members > 1 and self.target_kl is not None:
            raise UserError(
                f"{use.key}.target_kl: expected null, as members > 1 step together, got {self.target_kl}; set it "
                "to null"
            )

    def env_steps(self, use: SourceUse) -> int:
        rows = self.num_envs * self.num_steps
        return math.ceil(use.steps / self.collection_steps(use.rows, use.round_steps, use.round_epochs)) * rows

    def collection_steps(self, batch: int, round_steps: int, round_epochs: int) -> int:
        """Gradient steps from one collection to the next, for batches of so many rows."""
        minibatches = max(self.num_envs * self.num_steps // batch, 1)
        return round_steps + round_epochs * minibatches or self.epochs * minibatches

    def open(self, context: SourceContext) -> Stream:
        return RolloutStream(self, context)


class RolloutStream(VecEnvCollector):
    """Minibatches of rows, or of sequences, of the last collection, in random order."""

    def __init__(self, source: Rollout, context: SourceContext) -> None:
        super().__init__(context, source.num_envs)
        self.source = source
        self._generator = torch.Generator().manual_seed(derive(context.seed, "minibatches"))
        self._scale = ReturnScale(source.num_envs, context.gamma)
        self._teacher = Teacher(source.expert, context, self._env) if source.expert else None
        self._expert_prob = parse_schedule(source.expert_prob, "expert_prob")
        self._epsilon = parse_schedule(source.epsilon, "epsilon")
        self._action_noise = parse_schedule(source.action_noise, "action_noise")
        self._steps = 0  # gradient steps so far
        self._scale_before = self._scale  # the scale before the last collection
        self._in_rounds = False
        self._spent = False
        self._queue: deque[Tensor] = deque()  # row numbers of the next minibatches
        self._new_obs: Any = None  # [T, N, ...] observations of the last collection, which no statistics contain yet
        self._buffer: RolloutBuffer | None = None  # the last collection
        self._batch: Batch | None = None  # its rows or sequences, with estimates

    @property
    def idle(self) -> bool:
        return self._in_rounds or not self._queue

    @property
    def spent(self) -> bool:
        return self._spent

    def reset_envs(self, index: int) -> None:
        # an interrupted episode needs no mark, as a collection ends with a bootstrap from the true successor
        super().reset_envs(index)
        self._scale.cut()
        if self._teacher:
            self._teacher.begin()

    def begin_round(self) -> None:
        self._in_rounds = True
        self._collect()

    def begin_phase(self, on_policy_only: bool) -> None:
        self._estimate()
        self._queue.clear()
        self._spent = False

    @property
    def checkpoint_transitions(self) -> int:
        context, source, round_epochs = self.context, self.source, self.context.round_epochs
        if source.target_kl is not None:
            # only the first epoch counts, as the others may be left out
            source, round_epochs = replace(source, epochs=1), min(round_epochs, 1)
        steps = source.collection_steps(context.batch, context.round_steps, round_epochs)
        return (math.ceil(context.reset_every / steps) + 1) * source.num_envs * source.num_steps

    def collect_if_due(self) -> None:
        if not self._queue and not self._in_rounds:
            self._collect()
            self._estimate()
            self._queue_minibatches(self.source.epochs)

    def next(self) -> Batch:
        self.collect_if_due()
        if not self._queue:
            self._queue_minibatches(1)
        self._steps += 1
        assert self._batch is not None
        return self._batch.at(self._queue.popleft())

    def epoch_steps(self) -> int:
        total = self.source.num_envs * self.source.num_steps
        return max(total // self.context.batch, 1)

    def feedback(self, values: Mapping[str, Tensor]) -> None:
        if self.source.target_kl is not None and "kl" in values and float(values["kl"]) > self.source.target_kl:
            self._queue.clear()
            self._spent = True

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        saved, state = super().save()
        saved |= {"generator": self._generator.get_state(), **self._scale.save()}
        if self._new_obs is not None and self.context.agent.normalizers:
            parts = self._new_obs if isinstance(self._new_obs, dict) else {"": self._new_obs}
            saved |= {f"new_obs/{name}": value for name, value in parts.items()}
        return saved, {**state, "steps": self._steps}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().restore(tensors, state)
        self._steps = int(state["steps"])
        self._generator.set_state(tensors["generator"])
        self._scale.restore(tensors)
        prefix, device = "new_obs/", self.context.device
        parts = {name[len(prefix) :]: value.to(device) for name, value in tensors.items() if name.startswith(prefix)}
        if parts:
            self._new_obs = parts.get("", parts)

    def _queue_minibatches(self, epochs: int) -> None:
        assert self._batch is not None
        total, size = len(self._batch.action), self.context.batch // self.context.sequence
        for _ in range(epochs):
            order = torch.randperm(total, generator=self._generator).to(self.context.device)
            parts = torch.split(order, size)
            # a smaller remainder is dropped, as it would be a step of another batch size
            self._queue.extend(part for part in parts if len(part) == size or len(parts) == 1)

    @torch.no_grad()
    def _collect(self) -> None:
        if self._new_obs is not None:
            # only now, so that all epochs over a collection have the statistics that it was collected with
            self.context.agent.update_normalizers(self._new_obs)
        self._scale_before = copy.deepcopy(self._scale)
        for recorder in self._recorders:
            recorder.begin_collection()
        states, steps, count = [], [], self.source.num_envs
        for index in range(self.source.num_steps):
            if index % self.context.sequence == 0:
                states.append(self._memory)
            self.context.set_activity("collecting", index * count, self.source.num_steps * count, "transitions")
            steps.append(self._one_step())
        self.context.set_activity("")
        self._buffer = RolloutBuffer(self.context, steps, states)
        self._new_obs = self._buffer.columns["obs"]

    def _one_step(self) -> dict[str, Any]:
        """Steps every environment; returns columns [N, ...]."""
        obs, first, labeled = self._obs, self._first, {}
        action = self._choose().cpu().numpy()
        if self._teacher:
            labeled["expert_action"] = labels = self._teacher.labels(obs)
            action = take_expert_actions(action, labels, self._expert_prob(self._steps), self._rng)
        step, reward = self._step(action)
        if self._teacher:
            self._teacher.restart(self._first)
        if self.source.normalize_reward and not self._rewards.has_model:
            reward = self._scale(reward, step.terminated | step.truncated, step.valid)
        return {
            "obs": obs, "action": action, "reward": reward, "true_reward": step.reward, "next_obs": step.next_obs,
            "terminated": step.terminated, "truncated": step.truncated, "valid": step.valid, "first": first, **labeled,
        }  # fmt: skip

    def _choose(self) -> Tensor:
        """Returns the agent's actions [N, ...], with exploration if it is set."""
        if _is_set(self._epsilon) or _is_set(self._action_noise):
            return self._act_exploring(self._epsilon(self._steps), self._action_noise(self._steps))
        return self._act()

    @torch.no_grad()
    def _estimate(self) -> None:
        """Computes rewards, values and advantages of the collection by the present networks."""
        assert self._buffer is not None
        reward = self._buffer.columns["reward"]
        if self._rewards.has_model:
            reward = self._rewards.model_rewards(self._buffer.transitions()).reshape(reward.shape)
            if self.source.normalize_reward:
                reward = reward / float(self._deviation(reward, self._buffer.columns))
        self._batch = self._buffer.batch(reward, self.source.gae_lambda)

    def _deviation(self, reward: Tensor, columns: Mapping[str, Any]) -> np.float64:
        """The deviation of the returns of learned rewards [T, N] so far, including those of the present collection."""
        self._scale = copy.deepcopy(self._scale_before)
        counted = (reward, columns["terminated"] | columns["truncated"], columns["valid"])
        for step in zip(*(column.cpu().numpy() for column in counted), strict=True):
            self._scale.count(*step)
        return self._scale.deviation


def _is_set(schedule: Schedule) -> bool:
    """True if the value is above 0 at some step."""
    return schedule.start > 0 or schedule.end > 0
