"""Off-policy source: a replay buffer of the learner's experience."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lfd.batch import Batch, rows, tensors
from lfd.envs.spaces import Array
from lfd.errors import UserError
from lfd.hardware import check_disk
from lfd.maths import n_step
from lfd.rng import derive
from lfd.schedule import parse_schedule
from lfd.sources import TRANSITION, Source, SourceContext, Stream
from lfd.sources.collector import VecEnvCollector
from lfd.sources.priorities import Priorities
from lfd.sources.ring_buffer import RingBuffer
from lfd.sources.use import SourceUse


@dataclass
class Replay(Source):
    """The learner acts during the training; batches are drawn from its newest transitions, which are stored on disk."""

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
        if self.learning_starts > self.buffer_size:
            raise UserError(
                f"learning_starts: expected at most buffer_size={self.buffer_size}, got {self.learning_starts}; lower "
                "it or raise buffer_size"
            )

    def provides(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return TRANSITION | ({"weight"} if self.per_alpha else set())

    def check(self, use: SourceUse) -> None:
        if use.sequence > 1 and self.per_alpha:
            raise UserError(
                f"{use.key}.per_alpha: expected 0 with algo.sequence_length={use.sequence}, as prioritized draws are "
                f"of single transitions, got {self.per_alpha}; set it to 0"
            )
        use.refuse_constant_reward(self.constant_reward)
        needed = (self.buffer_size + self.learning_starts) * use.row_bytes * use.members
        check_disk(f"{use.key}.buffer_size={self.buffer_size}", needed, use.store)

    def env_steps(self, use: SourceUse) -> int:
        return self.learning_starts + round(self.env_steps_per_update * use.collecting * use.steps)

    def stored_rows(self, use: SourceUse) -> tuple[int, int]:
        rows = self.buffer_size + self.learning_starts + 2 * math.ceil(self.env_steps_per_update * use.reset_every)
        return rows, min(rows, self.learning_starts + math.ceil(self.env_steps_per_update * use.steps))

    @property
    def transition_steps(self) -> int:
        return self.n_step

    def open(self, context: SourceContext) -> Stream:
        return ReplayStream(self, context)


class ReplayStream(VecEnvCollector):
    """Batches drawn from a ring buffer of transitions, uniformly or by priority."""

    def __init__(self, source: Replay, context: SourceContext) -> None:
        super().__init__(context, source.num_envs, source.constant_reward)
        assert context.env is not None
        self.source = source
        self._generator = torch.Generator().manual_seed(derive(context.seed, "draws"))
        self._epsilon = parse_schedule(source.epsilon, "epsilon")
        self._action_noise = parse_schedule(source.action_noise, "action_noise")
        # twice, as the newest checkpoint may be damaged and as a checkpoint may wait for other sources
        slack = source.learning_starts + 2 * (
            math.ceil(source.env_steps_per_update * context.reset_every) + source.num_envs
        )
        self._ring = RingBuffer(
            context.folder / "ring", context.agent.spaces, source.num_envs, source.buffer_size, slack,
            context.env.stack, self._rewards.recurrent is not None,
        )  # fmt: skip
        self._priorities = Priorities(source.per_alpha, source.per_beta, self._ring) if source.per_alpha else None
        self._in_rounds = False
        self._on_policy_only = False
        self._round_start: Array = np.zeros(source.num_envs, np.int64)  # transitions of each env before this round
        self._steps = 0  # gradient steps so far
        self._credit = 0.0  # transitions that are still to be collected for gradient steps
        self._drawn: Array = np.zeros(0, np.int64)  # leaves of the last batch drawn by priority

    def reset_envs(self, index: int) -> None:
        if index:
            self._ring.cut()
        super().reset_envs(index)
        self._ring.begin(np.arange(self.source.num_envs), self._obs)

    def begin_round(self) -> None:
        """Collects the transitions for the steps of the round before, and at least one sequence."""
        self._in_rounds = True
        self._round_start = self._ring.count.copy()
        self._warm_up()
        self._spend_credit()
        while not self._ring.num_starts(self.context.sequence, self._round_start):
            self._credit -= self._interact(random=False)

    def begin_phase(self, on_policy_only: bool) -> None:
        self._on_policy_only = on_policy_only

    def next(self) -> Batch:
        self._credit += 0.0 if self._on_policy_only else self.source.env_steps_per_update
        if not self._in_rounds:
            self._warm_up()
            self._spend_credit()
        self._steps += 1
        return self._draw()

    def _warm_up(self) -> None:
        while len(self._ring) < self.source.learning_starts:
            self.context.set_activity("warming up", len(self._ring), self.source.learning_starts, "transitions")
            self._interact(random=True)
            if len(self._ring) >= self.source.learning_starts:
                self.context.set_activity("")

    def _spend_credit(self) -> None:
        while self._credit >= self.source.num_envs:
            self._credit -= self._interact(random=False)

    def epoch_steps(self) -> int:
        return max(self._ring.num_starts(1, self._oldest) // self.context.batch, 1)

    @property
    def _oldest(self) -> Array | int:
        """The number of each environment's first transition that this phase may draw."""
        return self._round_start if self._on_policy_only else 0

    def feedback(self, values: Mapping[str, Tensor]) -> None:
        if self._phase_priorities is not None and "priority" in values:
            self._phase_priorities.update(self._drawn, values["priority"].cpu().numpy())

    @property
    def _phase_priorities(self) -> Priorities | None:
        """The priorities of this phase; None if it draws uniformly, as it does from a round's transitions."""
        return None if self._on_policy_only else self._priorities

    def _interact(self, random: bool) -> int:
        """Acts once in each environment; returns the number of transitions, as environments may only be reset."""
        action = self._explore(random)
        step, reward = self._step(action)
        valid, only_reset = np.flatnonzero(step.valid), np.flatnonzero(~step.valid)
        done = np.flatnonzero(step.terminated | step.truncated)
        outcome = [step.reward, step.terminated, step.truncated, step.next_obs]
        if self._rewards.recurrent is not None:
            outcome.append(reward)
        self._ring.add(valid, action[valid], *(rows(column, valid) for column in outcome))
        if len(done):
            self._ring.end(done, rows(step.obs, done))
        if len(only_reset):
            self._ring.begin(only_reset, rows(step.obs, only_reset))
        if self._priorities:
            self._priorities.add(valid)
        return len(valid)

    def _explore(self, random: bool) -> Array:
        """Returns actions [N, ...]: random ones, or the agent's with exploration."""
        agent, count = self.context.agent, self.source.num_envs
        uniform = self._rng.uniform(count, 1 if agent.continuous is False else agent.action_size)
        if agent.continuous:
            if random:
                return agent.to_space(2 * uniform - 1).cpu().numpy()
            action, sigma = self._act(), self._action_noise(self._steps)
            if sigma:
                action = action + sigma * agent.action_scale * self._rng.normal(*action.shape)
            low, high = agent.action_bias - agent.action_scale, agent.action_bias + agent.action_scale
            return torch.clamp(action, low, high).cpu().numpy()
        random_action = (uniform[:, 0] * agent.action_size).long()
        if random:
            return random_action.cpu().numpy()
        action = self._act()
        explores = self._rng.uniform(count) < self._epsilon(self._steps)
        return torch.where(explores, random_action, action).cpu().numpy()

    def _draw(self) -> Batch:
        length, ring = self.context.sequence, self._ring
        size = self.context.batch // length
        if (priorities := self._phase_priorities) is not None:
            fraction = torch.rand(size, generator=self._generator, dtype=torch.float64).numpy()
            self._drawn, weight = priorities.draw(fraction, self._steps)
            batch = self._gather(*priorities.locate(self._drawn))
            return batch.having(weight=torch.from_numpy(weight).to(self.context.device))
        num_starts = ring.num_starts(length, self._oldest)
        index = torch.randint(num_starts, (size,), generator=self._generator).numpy()
        env, row = ring.locate(index, length, self._oldest)
        batch = self._gather(env, row)
        if length == 1:
            return batch
        first = torch.from_numpy(ring.column("age", env, row) == 0).to(self.context.device)
        return batch.having(first=first).map(lambda column: column.reshape(size, length, *column.shape[1:]))

    def _gather(self, env: Array, row: Array) -> Batch:
        ring, device = self._ring, self.context.device
        ahead = row[:, None] + np.arange(self.source.n_step)
        envs = np.broadcast_to(env[:, None], ahead.shape)
        true_reward = ring.column("reward", envs, ahead)
        terminated = torch.from_numpy(ring.column("terminated", envs, ahead))
        truncated = torch.from_numpy(ring.column("truncated", envs, ahead))
        last = terminated | truncated | torch.from_numpy(ahead + 1 >= ring.head[envs])
        reward = self._rewards.of_rows(
            self._rewards.data_rewards(true_reward),
            stored=lambda: ring.column("learned_reward", envs, ahead),
            transitions=lambda: self._transitions(envs.ravel(), ahead.ravel(), terminated.flatten()),
        )
        summed, discount, num_steps = n_step(reward, terminated, last, self.context.gamma)
        final = row + num_steps.numpy()
        columns: dict[str, Any] = {
            "action": torch.from_numpy(ring.column("action", env, row)),
            "reward": summed, "true_reward": torch.from_numpy(true_reward[:, 0]), "discount": discount,
            "terminated": terminated.gather(1, num_steps[:, None] - 1)[:, 0],
            "truncated": truncated.gather(1, num_steps[:, None] - 1)[:, 0],
        }  # fmt: skip
        columns = {name: column.to(device) for name, column in columns.items()}
        columns["obs"] = tensors(ring.observations(env, row), device)
        if "next_obs" in self.context.columns:
            columns["next_obs"] = tensors(ring.observations(env, final), device)
        return Batch(**columns)

    def _transitions(self, env: Array, row: Array, terminated: Tensor) -> Batch:
        """The columns that a reward model may read, at rows [N]; some may be final observations, which are not used."""
        ring, device = self._ring, self.context.device
        return Batch(
            obs=tensors(ring.observations(env, row), device),
            action=tensors(ring.column("action", env, row), device),
            next_obs=tensors(ring.observations(env, row + 1), device),
            discount=(self.context.gamma * (~terminated).float()).to(device),
        )

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        saved, state = super().save()
        saved["generator"] = self._generator.get_state()
        if self._priorities:
            saved["priorities"] = self._priorities.save()
        return saved, state | {"ring": self._ring.cursor(), "steps": self._steps, "credit": self._credit}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().restore(tensors, state)
        self._generator.set_state(tensors["generator"])
        self._ring.restore(state["ring"])
        self._steps, self._credit = state["steps"], state["credit"]
        if self._priorities:
            self._priorities.restore(tensors["priorities"])
