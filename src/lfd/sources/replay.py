"""Off-policy: a ring of the learner's own experience."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lfd.batch import Batch, rows, tensors
from lfd.errors import Refused
from lfd.maths import n_step
from lfd.noise import Generated, derive
from lfd.schedule import schedule
from lfd.sources import TRANSITION, Source, Stream, World, learnt_rewards
from lfd.sources.ring import Array, Ring, SumTree
from lfd.sources.running import RunningReward


@dataclass
class Replay(Source):
    interacts: ClassVar[bool] = True

    capacity: int = 100_000  # transitions that may be drawn
    num_envs: int = 8
    warmup: int = 1_000  # transitions before the first gradient step, by random actions
    rate: float = 1.0  # transitions for each gradient step; in rounds they are collected when the next one begins
    n_step: int = 1
    reward: float | None = None  # a constant in place of the environment's
    epsilon: Any = 0.0  # share of random actions, discrete; a number or a schedule over gradient steps
    sigma: Any = 0.0  # Gaussian noise on continuous actions, in halves of their range; a number or a schedule
    priority: float = 0.0  # draws in proportion to |error|^priority (alpha of Schaul et al. 2016); 0 = all alike
    priority_beta: Any = 0.4  # corrected by importance weights^beta; a number or a schedule

    def __post_init__(self) -> None:
        schedule(self.epsilon, "epsilon of a replay", 0, 1)
        schedule(self.sigma, "sigma of a replay")
        schedule(self.priority_beta, "priority_beta of a replay", 0, 1)
        if not 0 <= self.priority <= 1:
            raise Refused(f"priority of a replay is {self.priority}; a number in [0, 1] is expected")
        if min(self.capacity, self.num_envs, self.warmup, self.n_step) < 1 or self.rate <= 0:
            raise Refused("capacity, num_envs, warmup and n_step of a replay are 1 or more, and rate is above 0")
        if self.warmup > self.capacity:
            raise Refused(f"warmup of a replay is {self.warmup}, more than its capacity of {self.capacity}")

    def gives(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return TRANSITION | ({"weight"} if self.priority else set())

    def open(self, world: World) -> Stream:
        return ReplayStream(self, world)


class ReplayStream(Stream):
    interacts = True

    def __init__(self, source: Replay, world: World) -> None:
        assert world.env is not None
        self.source, self.world = source, world
        self.env_steps = 0
        self._env = world.env.make(source.num_envs, training=True)
        self._sign = world.env.sign_reward
        self._noise = Generated(derive(world.seed, "noise"), world.device)
        self._generator = torch.Generator().manual_seed(derive(world.seed, "draws"))
        self._explore = (schedule(source.epsilon, "epsilon"), schedule(source.sigma, "sigma"))
        # Twice, because the newest checkpoint may be damaged and because a boundary waits for other sources.
        slack = source.warmup + 2 * (math.ceil(source.rate * world.boundary) + source.num_envs)
        spaces, stack = world.agent.spaces, world.env.stack
        self._paid = RunningReward.of(world.agent, source.num_envs)
        self._judged = self._paid is None and world.agent.judge() is not None
        paid = self._paid is not None
        self._ring = Ring(world.folder / "ring", spaces, source.num_envs, source.capacity, slack, stack, paid)
        self._priorities = Priorities(source, self._ring) if source.priority else None
        self._in_rounds = False
        self._fresh = False
        self._since: Array = np.zeros(source.num_envs, np.int64)  # transitions of each lane before this round
        self._steps = 0  # gradient steps served
        self._credit = 0.0
        self._ended: list[tuple[float, int]] = []
        self._obs: Any = None
        self._memory: Any = ()
        self._drawn: Array = np.zeros(0, np.int64)

    def boundary(self, index: int) -> None:
        count = self.source.num_envs
        if index:
            self._ring.cut()
        self._obs = self._env.reset([derive(self.world.seed, "reset", index, i) % 2**31 for i in range(count)])
        self._memory = self.world.agent.initial_state(count)
        if self._paid:
            self._paid.restart()
        self._ring.begin(np.arange(count), self._obs)

    def begin_round(self) -> None:
        """Collect what the steps of the round before asked for, and enough to draw from."""
        self._in_rounds = True
        self._since = self._ring.count.copy()
        self._warm_up()
        self._spend_credit()
        while not self._ring.places(self.world.sequence, self._since):
            self._credit -= self._interact(warm=False)

    def begin_phase(self, fresh: bool) -> None:
        self._fresh = fresh

    def next(self) -> Batch:
        self._credit += 0.0 if self._fresh else self.source.rate
        if not self._in_rounds:
            self._warm_up()
            self._spend_credit()
        self._steps += 1
        return self._draw()

    def _warm_up(self) -> None:
        while len(self._ring) < self.source.warmup:
            self.world.doing("warming up", len(self._ring), self.source.warmup, "transitions")
            self._interact(warm=True)
            if len(self._ring) >= self.source.warmup:
                self.world.doing("")

    def _spend_credit(self) -> None:
        while self._credit >= self.source.num_envs:
            self._credit -= self._interact(warm=False)

    def epoch_steps(self) -> int:
        return max(self._ring.places(1, self._drawable) // self.world.batch, 1)

    @property
    def _drawable(self) -> Array | int:
        """The transition of each lane from which on it may be drawn from now."""
        return self._since if self._fresh else 0

    def feedback(self, values: Mapping[str, Tensor]) -> None:
        if self._by_priority is not None and "priority" in values:
            self._by_priority.update(self._drawn, values["priority"].cpu().numpy())

    def episodes(self) -> list[tuple[float, int]]:
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        self._env.close()

    @property
    def _by_priority(self) -> "Priorities | None":
        """What this phase draws by; what the round collected is drawn from evenly."""
        return None if self._fresh else self._priorities

    def _interact(self, warm: bool) -> int:
        """One action in each environment; returns how many transitions that made: a call may also only reset some."""
        action = self._act(warm)
        step = self._env.step(action)
        made, only_reset = np.flatnonzero(step.valid), np.flatnonzero(~step.valid)
        done = np.flatnonzero(step.terminated | step.truncated)
        outcome = [step.reward, step.terminated, step.truncated, step.next_obs]
        if self._paid:
            outcome.append(self._paid.pay_step(self._obs, action, step, self.world.gamma))
        self._ring.add(made, action[made], *(rows(column, made) for column in outcome))
        if len(done):
            self._ring.end(done, rows(step.obs, done))
        if len(only_reset):
            self._ring.begin(only_reset, rows(step.obs, only_reset))
        if self._priorities:
            self._priorities.grow(made)
        self._obs = step.obs
        fresh = step.terminated | step.truncated | ~step.valid
        self._memory = self.world.agent.restart(self._memory, torch.from_numpy(fresh).to(self.world.device))
        self._ended += [(value, length) for _, value, length in step.finished]
        self.env_steps += len(made)
        return len(made)

    def _act(self, warm: bool) -> Array:
        agent, device, count = self.world.agent, self.world.device, self.source.num_envs
        uniform = self._noise.uniform(count, 1 if agent.continuous is False else agent.action_size)
        if agent.continuous:
            if warm:
                return agent.to_space(2 * uniform - 1).cpu().numpy()
            action, self._memory = self.world.agent.act(tensors(self._obs, device), self._memory, self._noise)
            sigma = self._explore[1](self._steps)
            if sigma:
                action = action + sigma * agent.reach * self._noise.normal(*action.shape)
            low, high = agent.centre - agent.reach, agent.centre + agent.reach
            return torch.clamp(action, low, high).cpu().numpy()
        random = (uniform[:, 0] * agent.action_size).long()
        if warm:
            return random.cpu().numpy()
        action, self._memory = self.world.agent.act(tensors(self._obs, device), self._memory, self._noise)
        explores = self._noise.uniform(count) < self._explore[0](self._steps)
        return torch.where(explores, random, action).cpu().numpy()

    def _draw(self) -> Batch:
        length, ring = self.world.sequence, self._ring
        size = self.world.batch // length
        if (priorities := self._by_priority) is not None:
            share = torch.rand(size, generator=self._generator, dtype=torch.float64).numpy()
            self._drawn, weight = priorities.draw(share, self._steps)
            batch = self._gather(*priorities.locate(self._drawn))
            return batch.having(weight=torch.from_numpy(weight).to(self.world.device))
        places = ring.places(length, self._drawable)
        index = torch.randint(places, (size,), generator=self._generator).numpy()
        lane, row = ring.locate(index, length, self._drawable)
        batch = self._gather(lane, row)
        if length == 1:
            return batch
        first = torch.from_numpy(ring.column("age", lane, row) == 0).to(self.world.device)
        return batch.having(first=first).map(lambda column: column.reshape(size, length, *column.shape[1:]))

    def _gather(self, lane: Array, row: Array) -> Batch:
        ring, device = self._ring, self.world.device
        ahead = row[:, None] + np.arange(self.source.n_step)
        lanes = np.broadcast_to(lane[:, None], ahead.shape)
        true_reward = torch.from_numpy(ring.column("reward", lanes, ahead))
        terminated = torch.from_numpy(ring.column("terminated", lanes, ahead))
        truncated = torch.from_numpy(ring.column("truncated", lanes, ahead))
        last = terminated | truncated | torch.from_numpy(ahead + 1 >= ring.head[lanes])
        if self._judged:
            reward = self._judge(lanes, ahead, terminated).reshape(ahead.shape)
        elif self._paid:
            reward = torch.from_numpy(ring.column("paid", lanes, ahead))
        elif self.source.reward is not None:
            reward = torch.full_like(true_reward, self.source.reward)
        else:
            reward = true_reward.sign() if self._sign else true_reward
        summed, discount, taken = n_step(reward, terminated, last, self.world.gamma)
        final = row + taken.numpy()
        columns: dict[str, Any] = {
            "action": torch.from_numpy(ring.column("action", lane, row)),
            "reward": summed, "true_reward": true_reward[:, 0], "discount": discount,
            "terminated": terminated.gather(1, taken[:, None] - 1)[:, 0],
            "truncated": truncated.gather(1, taken[:, None] - 1)[:, 0],
        }  # fmt: skip
        columns = {name: column.to(device) for name, column in columns.items()}
        columns["obs"] = tensors(ring.observations(lane, row), device)
        if "next_obs" in self.world.columns:
            columns["next_obs"] = tensors(ring.observations(lane, final), device)
        return Batch(**columns)

    def _judge(self, lane: Array, row: Array, terminated: Tensor) -> Tensor:
        """[N] learnt rewards of these transitions; those of rows that are none are never used."""
        ring, device, lane, row = self._ring, self.world.device, lane.ravel(), row.ravel()
        transitions = Batch(
            obs=tensors(ring.observations(lane, row), device),
            action=tensors(ring.column("action", lane, row), device),
            next_obs=tensors(ring.observations(lane, row + 1), device),
            discount=(self.world.gamma * (~terminated).float()).flatten().to(device),
        )
        return learnt_rewards(self.world.agents, transitions).cpu()

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        saved = {"noise": self._noise.state(), "generator": self._generator.get_state()}
        if self._priorities:
            saved["priorities"] = self._priorities.save()
        state = {"ring": self._ring.cursor(), "steps": self._steps, "credit": self._credit, "env_steps": self.env_steps}
        return saved, state

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._noise.restore(tensors["noise"])
        self._generator.set_state(tensors["generator"])
        self._ring.return_to(state["ring"])
        self._steps, self._credit, self.env_steps = state["steps"], state["credit"], state["env_steps"]
        if self._priorities:
            self._priorities.restore(tensors["priorities"])


class Priorities:
    """Weights of what may be drawn: a lane's n-th transition has its leaf n modulo the capacity."""

    def __init__(self, source: Replay, ring: Ring) -> None:
        self._alpha, self._beta, self._ring = source.priority, schedule(source.priority_beta, "priority_beta"), ring
        self._tree = SumTree(ring.lanes * ring.capacity)
        self._largest = 1.0

    def grow(self, lanes: Array) -> None:
        """The newest transition of each of these lanes, at the largest priority seen."""
        leaf = lanes * self._ring.capacity + (self._ring.count[lanes] - 1) % self._ring.capacity
        if len(leaf):
            self._tree.set(leaf, np.full(len(leaf), self._largest**self._alpha))

    def draw(self, share: Array, step: int) -> tuple[Array, Array]:
        """Leaves [B] and their importance weights [B], the largest of which is 1."""
        leaf = self._tree.find(share)
        weight = (len(self._ring) * self._tree.weights(leaf) / self._tree.total) ** -self._beta(step)
        return leaf, (weight / weight.max()).astype(np.float32)

    def locate(self, leaf: Array) -> tuple[Array, Array]:
        lane, slot = np.divmod(leaf, self._ring.capacity)
        newest = self._ring.count[lane] - 1
        nth = newest - (newest - slot) % self._ring.capacity
        return lane, self._ring.position(lane, nth)

    def update(self, leaf: Array, error: Array) -> None:
        priority = error + 1e-6
        self._largest = max(self._largest, float(priority.max()))
        self._tree.set(leaf, priority**self._alpha)

    def save(self) -> Tensor:
        return torch.from_numpy(np.append(self._tree.save(), self._largest))

    def restore(self, saved: Tensor) -> None:
        leaves = saved.numpy()
        self._tree.restore(leaves[:-1])
        self._largest = float(leaves[-1])
