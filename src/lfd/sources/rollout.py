"""On-policy: fresh steps of the learner, some epochs of minibatches over them, then fresh ones again."""

import copy
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from lfd.agents.actor_critic import ActorCritic
from lfd.batch import Batch, tensors
from lfd.errors import Refused
from lfd.maths import gae
from lfd.noise import Generated, derive
from lfd.sources import TRANSITION, Source, Stream, World, learnt_rewards
from lfd.sources.running import RunningReward

LARGEST = 10.0  # scaled reward
ON_POLICY = frozenset({"log_prob", "value", "advantage", "value_target"})


@dataclass
class Rollout(Source):
    interacts: ClassVar[bool] = True

    num_envs: int = 8
    steps: int = 128  # of each environment in one collection
    epochs: int = 4  # passes over a collection, in minibatches of the algorithm's batch size; phases count their own
    lam: float = 0.95  # of generalised advantage estimation
    kl_stop: float | None = None  # nats; a collection is left early once the policy moved further than this
    # By the running standard deviation of the discounted return, and clipped; learnt rewards by that of all steps so
    # far, the present ones too, and not clipped.
    scale_reward: bool = False

    revision: ClassVar[int] = 2  # scaled rewards are clipped

    def __post_init__(self) -> None:
        if min(self.num_envs, self.steps, self.epochs) < 1:
            raise Refused("num_envs, steps and epochs of a rollout are 1 or more")
        if not 0 <= self.lam <= 1:
            raise Refused(f"lam of a rollout is {self.lam}; a number in [0, 1] is expected")
        if self.kl_stop is not None and self.kl_stop <= 0:
            raise Refused(f"kl_stop of a rollout is {self.kl_stop}; a number of nats above 0, or null, is expected")

    def gives(self, sources: Mapping[str, Source]) -> frozenset[str]:
        return TRANSITION | ON_POLICY

    def open(self, world: World) -> Stream:
        return RolloutStream(self, world)


class RolloutStream(Stream):
    interacts = True

    def __init__(self, source: Rollout, world: World) -> None:
        assert world.env is not None
        self.source, self.world = source, world
        self.env_steps = 0
        self._env = world.env.make(source.num_envs, training=True)
        self._sign = world.env.sign_reward
        self._noise = Generated(derive(world.seed, "noise"), world.device)
        self._generator = torch.Generator().manual_seed(derive(world.seed, "minibatches"))
        self._scale = ReturnScale(source.num_envs, world.gamma)
        self._scale_before = self._scale  # as it was before the collection, where its rewards are estimated anew
        self._paid = RunningReward.of(world.agent, source.num_envs)
        self._judged = self._paid is None and world.agent.judge() is not None
        self._in_rounds = False
        self._spent = False
        self._queue: deque[Tensor] = deque()
        self._taken: dict[str, Any] | None = None  # the collection as it was taken, [T, N, ...]
        self._held: Batch | None = None  # what is learnt from: its rows, or sequences
        self._ended: list[tuple[float, int]] = []
        self._obs: Any = None
        self._first: Any = None  # [N] bool: has the episode just begun?
        self._memory: Any = ()

    @property
    def idle(self) -> bool:
        return self._in_rounds or not self._queue

    @property
    def spent(self) -> bool:
        return self._spent

    def boundary(self, index: int) -> None:
        # A cut episode needs no mark: a collection ends with a bootstrap from the true successor anyway.
        count = self.source.num_envs
        self._obs = self._env.reset([derive(self.world.seed, "reset", index, i) % 2**31 for i in range(count)])
        self._first = np.ones(count, np.bool_)
        self._memory = self.world.agent.initial_state(count)
        if self._paid:
            self._paid.restart()
        self._scale.cut()

    def begin_round(self) -> None:
        self._in_rounds = True
        self._collect()

    def begin_phase(self, fresh: bool) -> None:
        self._appraise()
        self._queue.clear()
        self._spent = False

    def next(self) -> Batch:
        if not self._queue and not self._in_rounds:
            self._collect()
            self._appraise()
            self._deal(self.source.epochs)
        elif not self._queue:
            self._deal(1)
        assert self._held is not None
        return self._held.at(self._queue.popleft())

    def epoch_steps(self) -> int:
        total = self.source.num_envs * self.source.steps
        return max(total // self.world.batch, 1)

    def feedback(self, values: Mapping[str, Tensor]) -> None:
        if self.source.kl_stop is not None and "kl" in values and float(values["kl"]) > self.source.kl_stop:
            self._queue.clear()
            self._spent = True

    def episodes(self) -> list[tuple[float, int]]:
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        self._env.close()

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        saved = {"noise": self._noise.state(), "generator": self._generator.get_state(), **self._scale.save()}
        if self._taken is not None and self.world.agent.normalisers:
            saved |= {f"seen/{name}": value for name, value in _named(self._taken["obs"]).items()}
        return saved, {"env_steps": self.env_steps}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._noise.restore(tensors["noise"])
        self._generator.set_state(tensors["generator"])
        self._scale.restore(tensors)
        seen = {name[5:]: value for name, value in tensors.items() if name.startswith("seen/")}
        if seen:
            seen = {name: value.to(self.world.device) for name, value in seen.items()}
            self._taken = {"obs": seen if "" not in seen else seen[""]}
        self.env_steps = int(state["env_steps"])

    def _deal(self, epochs: int) -> None:
        assert self._held is not None
        total, size = len(self._held.action), self.world.batch // self.world.sequence
        for _ in range(epochs):
            order = torch.randperm(total, generator=self._generator).to(self.world.device)
            parts = torch.split(order, size)
            # A short remainder would be a step of another batch size: it waits for the next permutation.
            self._queue.extend(part for part in parts if len(part) == size or len(parts) == 1)

    @torch.no_grad()
    def _collect(self) -> None:
        agent, device = self.world.agent, self.world.device
        if self._taken is not None:
            # Only now, so that all epochs over a collection saw the statistics that it was taken with.
            agent.update_normalisers(self._taken["obs"])
        self._scale_before = copy.deepcopy(self._scale)
        memories, steps, count = [], [], self.source.num_envs
        for index in range(self.source.steps):
            if index % self.world.sequence == 0:
                memories.append(self._memory)
            self.world.doing("collecting", index * count, self.source.steps * count, "transitions")
            steps.append(self._step())
        self.world.doing("")
        taken = {name: _stack([step[name] for step in steps], device) for name in steps[0]}
        taken["discount"] = self.world.gamma * (~taken["terminated"]).float()
        # [T / L, N, ...]: the memory that every sequence begins with.
        taken["state"] = _pytree.tree_map(lambda *parts: torch.stack(parts), *memories)
        self._taken = taken
        if self.world.columns & ON_POLICY:
            rows = self._rows()
            taken["log_prob"] = self._grid(self._critic().distribution(rows.obs).log_prob(rows.action))

    def _step(self) -> dict[str, Any]:
        before, first = self._obs, self._first
        action, self._memory = self.world.agent.act(tensors(before, self.world.device), self._memory, self._noise)
        taken = action.cpu().numpy()
        step = self._env.step(taken)
        self._obs = step.obs
        self._first = step.terminated | step.truncated | ~step.valid
        self._memory = self.world.agent.restart(self._memory, torch.from_numpy(self._first).to(self.world.device))
        self._ended += [(value, length) for _, value, length in step.finished]
        self.env_steps += int(step.valid.sum())
        reward = np.sign(step.reward) if self._sign else step.reward
        if self._paid:
            reward = self._paid.pay_step(before, taken, step, self.world.gamma)
        if self.source.scale_reward and not self._judged:
            reward = self._scale(reward, step.terminated | step.truncated, step.valid)
        return {
            "obs": before, "action": taken, "reward": reward, "true_reward": step.reward, "next_obs": step.next_obs,
            "terminated": step.terminated, "truncated": step.truncated, "valid": step.valid, "first": first,
        }  # fmt: skip

    @torch.no_grad()
    def _appraise(self) -> None:
        """Rewards, values and advantages of the collection by the networks as they are now."""
        c = dict(self._taken or {})
        steps, count = c["valid"].shape
        if self._judged:
            transitions = Batch(**{name: c[name] for name in ("obs", "action", "next_obs", "discount")})
            rewards = learnt_rewards(self.world.agents, transitions.map(lambda column: column.flatten(0, 1)))
            c["reward"] = rewards.reshape(steps, count)
            if self.source.scale_reward:
                c["reward"] = c["reward"] / float(self._deviation(c))
        if self.world.columns & ON_POLICY:
            rows, critic = self._rows(), self._critic()
            c["value"], next_value = self._grid(critic.value(rows.obs)), self._grid(critic.value(rows.next_obs))
            done = c["terminated"] | c["truncated"]
            gamma, lam = self.world.gamma, self.source.lam
            c["advantage"] = gae(c["reward"], c["value"], next_value, c["terminated"], done, gamma, lam)
            c["value_target"] = c["advantage"] + c["value"]
        self._held = self._arranged(c)

    def _deviation(self, c: dict[str, Any]) -> np.float64:
        """Of the returns of learnt rewards so far, those of the present collection as it is judged now."""
        self._scale = copy.deepcopy(self._scale_before)
        names = ("reward", "terminated", "truncated", "valid")
        for reward, terminated, truncated, valid in zip(*(c[name].cpu().numpy() for name in names), strict=True):
            self._scale.count(reward, terminated | truncated, valid)
        return self._scale.deviation

    def _critic(self) -> ActorCritic:
        agent = self.world.agent
        assert isinstance(agent, ActorCritic)
        return agent

    def _rows(self) -> Batch:
        """What the networks are shown of the collection: [T * N, ...], but lane after lane where they remember."""
        assert self._taken is not None
        agent = self.world.agent
        steps = Batch(**{name: self._taken[name] for name in ("obs", "next_obs", "action", "first")})
        if not agent.recurrent:
            return agent.prepare(steps.map(lambda column: column.flatten(0, 1)))
        lanes = agent.prepare(steps.map(lambda column: column.transpose(0, 1)))
        return agent.unroll(lanes.having(state=_pytree.tree_map(lambda states: states[0], self._taken["state"])))

    def _grid(self, values: Tensor) -> Tensor:
        """One number for each of these rows as [T, N]."""
        steps, count = self.source.steps, self.source.num_envs
        return values.reshape(count, steps).T if self.world.agent.recurrent else values.reshape(steps, count)

    def _arranged(self, c: dict[str, Any]) -> Batch:
        valid, first, state, length = c.pop("valid"), c.pop("first"), c.pop("state"), self.world.sequence
        if length == 1:
            keep = valid.flatten().nonzero().squeeze(-1)
            return Batch(**c).map(lambda column: column.flatten(0, 1)[keep])
        if not valid.all():
            raise Refused("sequences need environments that are reset in the step that ends an episode")
        # [T, N, ...] -> [N * T / L, L, ...]
        sequences = Batch(**c, first=first).map(
            lambda column: column.transpose(0, 1).reshape(-1, length, *column.shape[2:])
        )
        return sequences.having(state=_pytree.tree_map(lambda states: states.transpose(0, 1).flatten(0, 1), state))


class ReturnScale:
    """Divides rewards by the running standard deviation of the discounted return (Engstrom et al. 2020).

    What comes of it is clipped, as CleanRL does: the deviation of the first rewards is next to nothing.
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self._gamma = gamma
        self._returns = np.zeros(num_envs)
        self._count, self._mean, self._moment = 0.0, 0.0, 0.0

    def __call__(self, reward: Any, done: Any, valid: Any) -> Any:
        self.count(reward, done, valid)
        return np.clip(reward / self.deviation, -LARGEST, LARGEST).astype(np.float32)

    @property
    def deviation(self) -> np.float64:
        # A number of numpy's: divided by one of Python's, rewards would be rounded as float32 on the way.
        found: np.float64 = np.sqrt(np.float64(self._moment / max(self._count, 1.0) + 1e-8))
        return found

    def count(self, reward: Any, done: Any, valid: Any) -> None:
        """One step [N] of every environment."""
        self._returns = self._gamma * self._returns + reward
        for value in self._returns[valid]:
            self._count += 1
            delta = value - self._mean
            self._mean += delta / self._count
            self._moment += delta * (value - self._mean)
        self._returns[done] = 0.0

    def cut(self) -> None:
        self._returns[:] = 0.0

    def save(self) -> dict[str, Tensor]:
        return {"scale": torch.tensor([self._count, self._mean, self._moment], dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._count, self._mean, self._moment = tensors["scale"].tolist()


def _stack(parts: list[Any], device: torch.device) -> Any:
    """[N, ...] of each step -> tensors [T, N, ...]."""
    if isinstance(parts[0], dict):
        return {name: _stack([part[name] for part in parts], device) for name in parts[0]}
    return torch.from_numpy(np.stack(parts)).to(device)


def _named(obs: Any) -> dict[str, Tensor]:
    return obs if isinstance(obs, dict) else {"": obs}
