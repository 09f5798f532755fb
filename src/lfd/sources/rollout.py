"""On-policy: fresh steps of the learner, some epochs of minibatches over them, then fresh ones again."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lfd.agents.actor_critic import ActorCritic
from lfd.batch import Batch, tensors
from lfd.errors import Refused
from lfd.maths import gae
from lfd.noise import Generated, derive
from lfd.sources import TRANSITION, Source, Stream, World

ON_POLICY = frozenset({"log_prob", "value", "advantage", "value_target"})


@dataclass
class Rollout(Source):
    interacts: ClassVar[bool] = True

    num_envs: int = 8
    steps: int = 128  # of each environment in one collection
    epochs: int = 4  # passes over a collection, in minibatches of the algorithm's batch size
    lam: float = 0.95  # of generalised advantage estimation
    kl_stop: float | None = None  # nats; a collection is left early once the policy moved further than this
    scale_reward: bool = False  # by the running standard deviation of the discounted return

    def __post_init__(self) -> None:
        if min(self.num_envs, self.steps, self.epochs) < 1:
            raise Refused("num_envs, steps and epochs of a rollout are 1 or more")
        if not 0 <= self.lam <= 1:
            raise Refused(f"lam of a rollout is {self.lam}; a number in [0, 1] is expected")

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
        self._queue: deque[Tensor] = deque()
        self._held: Batch | None = None
        self._ended: list[tuple[float, int]] = []
        self._obs: Any = None
        self._memory: Any = ()

    @property
    def idle(self) -> bool:
        return not self._queue

    def boundary(self, index: int) -> None:
        # A cut episode needs no mark: a collection ends with a bootstrap from the true successor anyway.
        count = self.source.num_envs
        self._obs = self._env.reset([derive(self.world.seed, "reset", index, i) % 2**31 for i in range(count)])
        self._memory = self.world.agent.initial_state(count)
        self._scale.cut()

    def next(self) -> Batch:
        if not self._queue:
            self._held = self._collect()
            self._deal(len(self._held.action))
        assert self._held is not None
        index = self._queue.popleft()
        return self._held.map(lambda column: column[index])

    def epoch_steps(self) -> int:
        total = self.source.num_envs * self.source.steps
        return max(total // self.world.batch, 1)

    def feedback(self, values: Mapping[str, Tensor]) -> None:
        if self.source.kl_stop is not None and "kl" in values and float(values["kl"]) > self.source.kl_stop:
            self._queue.clear()

    def episodes(self) -> list[tuple[float, int]]:
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        self._env.close()

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        saved = {"noise": self._noise.state(), "generator": self._generator.get_state(), **self._scale.save()}
        if self._held is not None and self.world.agent.normalisers:
            saved |= {f"seen/{name}": value for name, value in _named(self._held.obs).items()}
        return saved, {"env_steps": self.env_steps}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._noise.restore(tensors["noise"])
        self._generator.set_state(tensors["generator"])
        self._scale.restore(tensors)
        seen = {name[5:]: value for name, value in tensors.items() if name.startswith("seen/")}
        if seen:
            seen = {name: value.to(self.world.device) for name, value in seen.items()}
            self._held = Batch(obs=seen if "" not in seen else seen[""])
        self.env_steps = int(state["env_steps"])

    def _deal(self, total: int) -> None:
        size = self.world.batch
        for _ in range(self.source.epochs):
            order = torch.randperm(total, generator=self._generator).to(self.world.device)
            parts = torch.split(order, size)
            # A short remainder would be a step of another batch size: it waits for the next permutation.
            self._queue.extend(part for part in parts if len(part) == size or len(parts) == 1)

    @torch.no_grad()
    def _collect(self) -> Batch:
        if self._held is not None:
            # Only now, so that all epochs over a collection saw the statistics that it was taken with.
            self.world.agent.update_normalisers(self._held.obs)
        steps = [self._step() for _ in range(self.source.steps)]
        device = self.world.device
        stacked = {name: _stack([step[name] for step in steps], device) for name in steps[0]}
        return self._with_advantages(stacked)

    def _step(self) -> dict[str, Any]:
        before = self._obs
        action, self._memory = self.world.agent.act(tensors(before, self.world.device), self._memory, self._noise)
        taken = action.cpu().numpy()
        step = self._env.step(taken)
        self._obs = step.obs
        fresh = torch.from_numpy(step.terminated | step.truncated | ~step.valid)
        self._memory = self.world.agent.restart(self._memory, fresh.to(self.world.device))
        self._ended += [(value, length) for _, value, length in step.finished]
        self.env_steps += int(step.valid.sum())
        reward = np.sign(step.reward) if self._sign else step.reward
        if self.source.scale_reward:
            reward = self._scale(reward, step.terminated | step.truncated, step.valid)
        return {
            "obs": before, "action": taken, "reward": reward, "true_reward": step.reward, "next_obs": step.next_obs,
            "terminated": step.terminated, "truncated": step.truncated, "valid": step.valid,
        }  # fmt: skip

    def _with_advantages(self, c: dict[str, Any]) -> Batch:
        agent, gamma = self.world.agent, self.world.gamma
        valid = c.pop("valid")
        c["discount"] = gamma * (~c["terminated"]).float()
        if self.world.columns & ON_POLICY:
            assert isinstance(agent, ActorCritic)
            prepared = agent.prepare(Batch(obs=c["obs"], next_obs=c["next_obs"], action=c["action"]))
            c["log_prob"] = agent.distribution(prepared.obs).log_prob(prepared.action)
            c["value"], next_value = agent.value(prepared.obs), agent.value(prepared.next_obs)
            done = c["terminated"] | c["truncated"]
            c["advantage"] = gae(c["reward"], c["value"], next_value, c["terminated"], done, gamma, self.source.lam)
            c["value_target"] = c["advantage"] + c["value"]
        keep = valid.flatten().nonzero().squeeze(-1)
        return Batch(**c).map(lambda column: column.flatten(0, 1)[keep])


class ReturnScale:
    """Divides rewards by the running standard deviation of the discounted return (Engstrom et al. 2020)."""

    def __init__(self, num_envs: int, gamma: float) -> None:
        self._gamma = gamma
        self._returns = np.zeros(num_envs)
        self._count, self._mean, self._moment = 0.0, 0.0, 0.0

    def __call__(self, reward: Any, done: Any, valid: Any) -> Any:
        self._returns = self._gamma * self._returns + reward
        for value in self._returns[valid]:
            self._count += 1
            delta = value - self._mean
            self._mean += delta / self._count
            self._moment += delta * (value - self._mean)
        self._returns[done] = 0.0
        return (reward / np.sqrt(self._moment / max(self._count, 1.0) + 1e-8)).astype(np.float32)

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
