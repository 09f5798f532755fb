"""Transitions that a collector takes, kept on disk, and batches drawn from them."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from lfd.batch import Batch, rows, tensors
from lfd.envs.spaces import Array
from lfd.envs.vec_env import Step
from lfd.maths import n_step
from lfd.rng import derive
from lfd.sources import SourceContext, StepRecorder
from lfd.sources.priorities import Priorities
from lfd.sources.rewards import RewardSelector
from lfd.sources.ring_buffer import RingBuffer


@final
class ReplayBuffer(StepRecorder):
    """The newest transitions of N environments, drawn uniformly or by priority."""

    def __init__(
        self, context: SourceContext, num_envs: int, capacity: int, slack: int, n_step: int = 1,
        constant_reward: float | None = None, per_alpha: float = 0.0, per_beta: Any = 0.4,
    ) -> None:  # fmt: skip
        """Opens a buffer whose draws see `capacity` transitions; `slack` more may be taken between two saves."""
        assert context.env is not None
        self._context, self._n_step = context, n_step
        self._rewards = RewardSelector(context, constant_reward, num_envs)
        self._generator = torch.Generator().manual_seed(derive(context.seed, "draws"))
        self._ring = RingBuffer(
            context.folder / "ring", context.agent.spaces, num_envs, capacity, slack, context.env.stack,
            self._rewards.recurrent is not None,
        )  # fmt: skip
        self._priorities = Priorities(per_alpha, per_beta, self._ring) if per_alpha else None
        self._round_start: Array = np.zeros(num_envs, np.int64)  # transitions of each env before this round
        self._drawn: Array = np.zeros(0, np.int64)  # leaves of the last batch drawn by priority
        self.on_policy_only = False  # draw from this round's transitions only

    def __len__(self) -> int:
        """Number of stored transitions, of all rounds."""
        return len(self._ring)

    def num_starts(self, length: int, this_round: bool = False) -> int:
        """Number of sequences of this length that may be drawn, all from this round if `this_round`."""
        return self._ring.num_starts(length, self._round_start if this_round else self._oldest)

    # Recording

    def begin_collection(self) -> None:
        self._round_start = self._ring.count.copy()

    def reset(self, index: int, obs: Any) -> None:
        if index:
            self._ring.cut()
        self._ring.begin(np.arange(self._ring.num_envs), obs)

    def add_step(self, action: Array, step: Step, reward: Array) -> None:
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

    # Drawing

    @property
    def _oldest(self) -> Array | int:
        """The number of each environment's first transition that this phase may draw."""
        return self._round_start if self.on_policy_only else 0

    @property
    def _phase_priorities(self) -> Priorities | None:
        """The priorities of this phase; None if it draws uniformly, as it does from a round's transitions."""
        return None if self.on_policy_only else self._priorities

    def feedback(self, values: Mapping[str, Any]) -> None:
        """Takes the priorities of the last batch."""
        if self._phase_priorities is not None and "priority" in values:
            self._phase_priorities.update(self._drawn, values["priority"].cpu().numpy())

    def draw(self, step: int) -> Batch:
        """Returns a batch [B, ...] or [B, L, ...]; `step` is the number of gradient steps so far."""
        length, ring = self._context.sequence, self._ring
        size = self._context.batch // length
        if (priorities := self._phase_priorities) is not None:
            fraction = torch.rand(size, generator=self._generator, dtype=torch.float64).numpy()
            self._drawn, weight = priorities.draw(fraction, step)
            batch = self._gather(*priorities.locate(self._drawn))
            return batch.having(weight=torch.from_numpy(weight).to(self._context.device))
        num_starts = ring.num_starts(length, self._oldest)
        index = torch.randint(num_starts, (size,), generator=self._generator).numpy()
        env, row = ring.locate(index, length, self._oldest)
        batch = self._gather(env, row)
        if length == 1:
            return batch
        first = torch.from_numpy(ring.column("age", env, row) == 0).to(self._context.device)
        return batch.having(first=first).map(lambda column: column.reshape(size, length, *column.shape[1:]))

    def _gather(self, env: Array, row: Array) -> Batch:
        ring, device = self._ring, self._context.device
        ahead = row[:, None] + np.arange(self._n_step)
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
        summed, discount, num_steps = n_step(reward, terminated, last, self._context.gamma)
        final = row + num_steps.numpy()
        columns: dict[str, Any] = {
            "action": torch.from_numpy(ring.column("action", env, row)),
            "reward": summed, "true_reward": torch.from_numpy(true_reward[:, 0]), "discount": discount,
            "terminated": terminated.gather(1, num_steps[:, None] - 1)[:, 0],
            "truncated": truncated.gather(1, num_steps[:, None] - 1)[:, 0],
        }  # fmt: skip
        columns = {name: column.to(device) for name, column in columns.items()}
        columns["obs"] = tensors(ring.observations(env, row), device)
        if "next_obs" in self._context.columns:
            columns["next_obs"] = tensors(ring.observations(env, final), device)
        return Batch(**columns)

    def _transitions(self, env: Array, row: Array, terminated: Tensor) -> Batch:
        """The columns that a reward model may read, at rows [N]; some may be final observations, which are not used."""
        ring, device = self._ring, self._context.device
        return Batch(
            obs=tensors(ring.observations(env, row), device),
            action=tensors(ring.column("action", env, row), device),
            next_obs=tensors(ring.observations(env, row + 1), device),
            discount=(self._context.gamma * (~terminated).float()).to(device),
        )

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the state as tensors and as JSON values; the transitions are in the files."""
        saved = {"generator": self._generator.get_state()}
        if self._priorities:
            saved["priorities"] = self._priorities.save()
        return saved, {"ring": self._ring.cursor()}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restores a state from `save`."""
        self._generator.set_state(tensors["generator"])
        self._ring.restore(state["ring"])
        if self._priorities:
            self._priorities.restore(tensors["priorities"])
