"""Agents: named modules, `act`, and the observation statistics that belong to them."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lfd.agents.distributions import Distribution
from lfd.batch import Batch, Observation
from lfd.envs.spaces import Spaces
from lfd.errors import Refused
from lfd.noise import Noise

REWARD = "reward"  # the module, and the role of a frozen product, that replaces the environment's reward


# Standard deviations beyond which a normalised observation is clipped. A glitch, or a feature that hardly moved in the
# data and does in play, would drown all others. Gymnasium and stable-baselines 3 clip at 10, which lies within what
# CartPole and LunarLander show by themselves.
CLIP = 100.0


class Normaliser(nn.Module):
    """Running mean and variance of a vector observation; the identity until `update` was called.

    Statistics are buffers of the agent: saved, exported and applied with it.
    """

    recordable = True

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Merge a batch [N, ...] into the statistics (Chan et al. 1979)."""
        flat = x.reshape(-1, *self.mean.shape).float()
        count, mean, variance = len(flat), flat.mean(0), flat.var(0, unbiased=False)
        total = self.count + count
        delta = mean - self.mean
        moments = self.variance * self.count + variance * count + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.variance.copy_(moments / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = (x - self.mean) / (self.variance.sqrt() + 1e-3)
        limit = CLIP / (self.count > 0)  # infinite while nothing is known; a recorded step reads it anew
        return z.clamp(-limit, limit)

    def inverse(self, x: Tensor) -> Tensor:
        return x * (self.variance.sqrt() + 1e-3) + self.mean


class _Step:
    """What belongs to the running gradient step; an object of its own, as a module is slow to set attributes."""

    def __init__(self) -> None:
        self.noise: Noise | None = None
        self.memo: dict[tuple[Any, ...], tuple[Any, Any]] = {}


class Agent(nn.Module, ABC):
    """Named modules by group, their slow copies, and how they act.

    Losses see network units: `prepare` normalises observations and maps continuous actions to [-1, 1]; `act` takes raw
    observations and answers in units of the action space. A gradient goes to a *group*: by default each module is a
    group of its own name; a module in `shared` is trained by the sum of the terms of the groups listed there.

    A module called "reward" takes a prepared batch of transitions and answers [B]; sources put that into `reward`.
    One with memory (`RecurrentReward`) is asked about each step once, in order, and what it answered stays.
    An agent with memory overrides `initial_state` and `unroll`, so that losses need not know of it.
    A module that gives something else as a product than while it is trained has a method `publish`, called once then.
    """

    shared: dict[str, tuple[str, ...]]
    centre: Tensor  # [A] of the bounds of continuous actions
    reach: Tensor  # [A] half their range

    def __init__(self, spaces: Spaces, nets: dict[str, nn.Module]) -> None:
        super().__init__()
        self.spaces = spaces
        self.nets = nn.ModuleDict(nets)
        self.targets = nn.ModuleDict()
        self.normalisers = nn.ModuleDict()
        self.shared = {}
        self.frozen: dict[str, Agent] = {}  # by role; in a loss: frozen.prepare(agent.raw(batch))
        self._now = _Step()
        if isinstance(spaces.action, gym.spaces.Box):
            low, high = spaces.action.low, spaces.action.high
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise Refused(f"the action space {spaces.action} has no bounds; finite low and high are expected")
            self.register_buffer("centre", torch.as_tensor((high + low) / 2, dtype=torch.float32))
            self.register_buffer("reach", torch.as_tensor((high - low) / 2, dtype=torch.float32))

    def act(self, obs: Observation, state: Any, noise: Noise | None) -> tuple[Tensor, Any]:
        """Actions for raw observations [N, ...]: the greedy ones, or with noise those of a stochastic policy.

        Returns the actions, [N, A] in units of the space or int64 [N], and the next recurrent state. Raises Refused
        where the agent only judges what others do.
        """
        raise Refused(f"a {type(self).__name__} judges and does not act; ask a stage that trains a policy")

    def initial_state(self, number: int) -> Any:
        """The recurrent state at the start of `number` episodes; empty for agents without memory."""
        return ()

    @property
    def recurrent(self) -> bool:
        """Does it act by what it remembers, and so learn from sequences?"""
        return bool(_pytree.tree_leaves(self.initial_state(1)))

    def restart(self, state: Any, done: Tensor) -> Any:
        """The recurrent state with the rows [N] whose episode is over set back to its start."""

        def pick(running: Tensor, fresh: Tensor) -> Tensor:
            return torch.where(done.reshape(-1, *[1] * (running.dim() - 1)), fresh, running)

        return _pytree.tree_map(pick, state, self.initial_state(len(done)))

    def unroll(self, batch: Batch) -> Batch:
        """Prepared sequences [B, L] as rows [B * L] whose observations are what the memory made of them.

        It begins in `state` (or fresh) and anew at each `first`; `next_obs` is seen with the memory of its own step.
        """
        return batch

    def judge(self) -> "Agent | None":
        """Who gives the learnt reward: the agent itself, or the one that is frozen in the role "reward"."""
        return self if REWARD in self.nets else self.frozen.get(REWARD)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(self, *args)`: the way through `torch.func.functional_call`."""
        return function(self, *args)

    def net(self, name: str, *inputs: Any, target: bool = False) -> Any:
        """The output of a module (or of its slow copy), computed once in a gradient step for the same inputs."""
        module = (self.targets if target else self.nets)[name]
        if self._now.noise is None:
            return module(*inputs)
        key, memo = (name, target, torch.is_grad_enabled(), *map(id, inputs)), self._now.memo
        if key not in memo:
            # The inputs are kept with the output: an id is only unique while its object lives.
            memo[key] = (module(*inputs), inputs)
        return memo[key][0]

    def begin_step(self, noise: Noise, training: bool = True) -> None:
        """Modules are in training mode within a gradient step alone: not while the agent acts, judges or is scored."""
        self._now.noise, self._now.memo = noise, {}
        if training:
            self.train()

    def end_step(self) -> None:
        self._now.noise, self._now.memo = None, {}
        if self.training:
            self.eval()

    @property
    def draws(self) -> Noise:
        """The noise of the running gradient step."""
        assert self._now.noise is not None, "only inside a gradient step"
        return self._now.noise

    def publish(self) -> None:
        """Make a product of it: frozen, and with what its modules are when nothing trains them any longer."""
        for module in self.modules():
            if module is not self and hasattr(module, "publish"):
                module.publish()  # type: ignore[operator]
        self.eval().requires_grad_(False)

    def add(self, modules: dict[str, nn.Module]) -> None:
        """Take in modules that a loss brings: multipliers, discriminators."""
        for name, module in modules.items():
            if name not in self.nets:
                self.nets[name] = module

    def keep_targets(self, names: list[str]) -> None:
        """Make slow copies of these modules, beginning equal to them."""
        for name in names:
            self.targets[name] = copy.deepcopy(self.nets[name]).requires_grad_(False)

    def normalise_observations(self) -> None:
        """Normalise vector observations from now on; the identity until the statistics are updated."""
        space = self.spaces.observation
        parts = space.items() if isinstance(space, gym.spaces.Dict) else [("obs", space)]
        for name, part in parts:
            if isinstance(part, gym.spaces.Box) and np.issubdtype(part.dtype, np.floating):
                self.normalisers[name] = Normaliser(part.shape)

    def update_normalisers(self, obs: Observation) -> None:
        for name, normaliser in self.normalisers.items():
            assert isinstance(normaliser, Normaliser)
            normaliser.update(obs[name] if isinstance(obs, dict) else obs)

    def observe(self, obs: Observation) -> Observation:
        """Raw observations in network units."""
        if not self.normalisers:
            return obs
        if isinstance(obs, dict):
            return {name: self.normalisers[name](x) if name in self.normalisers else x for name, x in obs.items()}
        normalised: Tensor = self.normalisers["obs"](obs)
        return normalised

    def prepare(self, batch: Batch) -> Batch:
        """A source's batch in network units."""
        changed: dict[str, Any] = {}
        for name in ("obs", "next_obs"):
            if self.normalisers and name in batch.__dict__:
                changed[name] = self.observe(getattr(batch, name))
        for name in ("action", "next_action"):
            if self.continuous and name in batch.__dict__:
                changed[name] = (getattr(batch, name) - self.centre) / self.reach
        return batch.having(**changed) if changed else batch

    def raw(self, batch: Batch) -> Batch:
        """A prepared batch as its source gave it: for a frozen agent, which prepares it in units of its own."""
        changed: dict[str, Any] = {}
        for name in ("obs", "next_obs"):
            if self.normalisers and name in batch.__dict__:
                changed[name] = self._unobserve(getattr(batch, name))
        for name in ("action", "next_action"):
            if self.continuous and name in batch.__dict__:
                changed[name] = self.to_space(getattr(batch, name))
        return batch.having(**changed) if changed else batch

    def _unobserve(self, obs: Observation) -> Observation:
        if isinstance(obs, dict):
            return {name: self._inverse(name, x) if name in self.normalisers else x for name, x in obs.items()}
        return self._inverse("obs", obs)

    def _inverse(self, name: str, x: Tensor) -> Tensor:
        normaliser = self.normalisers[name]
        assert isinstance(normaliser, Normaliser)
        return normaliser.inverse(x)

    def to_space(self, action: Tensor) -> Tensor:
        """Actions of networks in units of the space."""
        return action * self.reach + self.centre if self.continuous else action

    @property
    def continuous(self) -> bool:
        return self.spaces.actions == "continuous"

    @property
    def action_size(self) -> int:
        """Number of actions, or of their dimensions."""
        space = self.spaces.action
        return int(space.n) if isinstance(space, gym.spaces.Discrete) else math.prod(space.shape or ())


class PolicyAgent(Agent):
    """An agent with a policy that is a distribution over actions: group "policy"."""

    @abstractmethod
    def distribution(self, obs: Observation) -> Distribution:
        """The policy at observations in network units."""

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, noise: Noise | None) -> tuple[Tensor, Any]:
        policy = self.distribution(self.observe(obs))
        return self.to_space(policy.mode() if noise is None else policy.sample(noise)), state


@dataclass
class AgentSpec(ABC):
    """How an agent is built: the `agent` group."""

    actions: ClassVar[tuple[str, ...]] = ("discrete", "continuous")  # where it can act
    acts: ClassVar[bool] = True  # False for one that only judges: its fit gives a reward and no policy

    @abstractmethod
    def build(self, spaces: Spaces) -> Agent:
        """A new agent, its weights drawn from torch's global generator."""


def sketched(make: Callable[[], Agent]) -> Agent:
    """An agent by its shapes alone, which takes no memory however large they are."""
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        # Other people's agents may want to see numbers while they are built.
        return make()
