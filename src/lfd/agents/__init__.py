"""Agents: named networks, their target networks, observation statistics, and how they act."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lfd.agents.distributions import Distribution
from lfd.batch import Batch, Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.rng import Rng

REWARD = "reward"  # name of a reward model's module, and its role as a frozen agent

# Standard deviations at which a normalized observation is clipped, as outliers would dominate all other features.
# Gymnasium and Stable-Baselines3 clip at 10, which CartPole and LunarLander reach in normal episodes.
CLIP = 100.0


class Normalizer(nn.Module):
    """Normalizes vector observations by running statistics (buffers); the identity before the first `update`."""

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
        """Adds a batch of observations [N, ...] to the statistics (Chan et al. 1979)."""
        flat = x.reshape(-1, *self.mean.shape).float()
        count, mean, variance = len(flat), flat.mean(0), flat.var(0, unbiased=False)
        total = self.count + count
        delta = mean - self.mean
        moments = self.variance * self.count + variance * count + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.variance.copy_(moments / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized observations [..., *shape]."""
        z: Tensor = (x - self.mean) / (self.variance.sqrt() + 1e-3)
        limit = CLIP / (self.count > 0)  # infinite before the first update; a tensor, as recorded steps read it anew
        return z.clamp(-limit, limit)

    def inverse(self, x: Tensor) -> Tensor:
        """Observations [..., *shape] of normalized ones, where these were not clipped."""
        return x * (self.variance.sqrt() + 1e-3) + self.mean


class _Step:
    """State of the running gradient step; an object of its own, because setting attributes of a module is slow."""

    def __init__(self) -> None:
        self.rng: Rng | None = None
        self.memo: dict[tuple[Any, ...], tuple[Any, Any]] = {}


class Agent(nn.Module, ABC):
    """Named modules by parameter group, their target networks, and how they act.

    Losses work in network units: `preprocess` normalizes observations and maps continuous actions to [-1, 1]. `act`
    takes raw observations and returns actions in units of the action space. Gradients go to parameter *groups*: each
    module is a group of its own name; a module in `shared` is trained by the summed losses of the groups listed there.

    A module named "reward" maps a preprocessed batch of transitions to rewards [B], which sources put into `reward`. A
    recurrent reward model (`RecurrentReward`) is called once per step, in episode order, and its rewards are stored.
    A recurrent agent overrides `initial_state` and `unroll`. A module whose product differs from its training form has
    a method `publish`, which is called once at the end.
    """

    shared: dict[str, tuple[str, ...]]
    action_bias: Tensor  # [A] centers of the bounds of continuous actions
    action_scale: Tensor  # [A] half of the ranges

    def __init__(self, spaces: Spaces, nets: dict[str, nn.Module]) -> None:
        super().__init__()
        self.spaces = spaces
        self.nets = nn.ModuleDict(nets)
        self.targets = nn.ModuleDict()
        self.normalizers = nn.ModuleDict()
        self.shared = {}
        self.frozen: dict[str, Agent] = {}  # by role; a loss calls frozen.preprocess(agent.unprocess(batch))
        self._now = _Step()
        if isinstance(spaces.action, gym.spaces.Box):
            low, high = spaces.action.low, spaces.action.high
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise UserError(
                    f"the action space: expected finite bounds, got {spaces.action}; bound it with a gymnasium wrapper"
                )
            self.register_buffer("action_bias", torch.as_tensor((high + low) / 2, dtype=torch.float32))
            self.register_buffer("action_scale", torch.as_tensor((high - low) / 2, dtype=torch.float32))

    def act(self, obs: Observation, state: Any, rng: Rng | None) -> tuple[Tensor, Any]:
        """Actions, [N, A] in units of the space or int64 [N], and the next recurrent state, at raw observations.

        They are greedy, or sampled if `rng` is given. Raises UserError if the agent has no policy.
        """
        raise UserError(
            f"expected an agent with a policy, got {type(self).__name__}; name a stage that trains a policy"
        )

    def initial_state(self, number: int) -> Any:
        """The recurrent state at the start of `number` episodes; () for an agent without memory."""
        return ()

    @property
    def recurrent(self) -> bool:
        """True if the agent has a recurrent state, and is trained on sequences."""
        return bool(_pytree.tree_leaves(self.initial_state(1)))

    def restart(self, state: Any, done: Tensor) -> Any:
        """The recurrent state with the rows where `done` [N] is True reset to an episode's start."""

        def pick(running: Tensor, initial: Tensor) -> Tensor:
            return torch.where(done.reshape(-1, *[1] * (running.dim() - 1)), initial, running)

        return _pytree.tree_map(pick, state, self.initial_state(len(done)))

    def unroll(self, batch: Batch) -> Batch:
        """Flattens preprocessed sequences [B, L] to rows [B * L] whose observations are outputs of the memory.

        The memory starts at `state`, if the batch has it, and restarts at each `first`; `next_obs` is encoded with the
        memory of its own step.
        """
        return batch

    def reward_model(self) -> "Agent | None":
        """The agent with the learned reward, itself or the frozen one in the role "reward"; None without one."""
        return self if REWARD in self.nets else self.frozen.get(REWARD)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns `function(self, *args)`, so that `torch.func.functional_call` can call any function of the agent."""
        return function(self, *args)

    def net(self, name: str, *inputs: Any, target: bool = False) -> Any:
        """The output of a module, or of its target network, computed once per gradient step for the same inputs."""
        module = (self.targets if target else self.nets)[name]
        if self._now.rng is None:
            return module(*inputs)
        key, memo = (name, target, torch.is_grad_enabled(), *map(id, inputs)), self._now.memo
        if key not in memo:
            # the inputs are stored with the output, as an id is unique only while its object lives
            memo[key] = (module(*inputs), inputs)
        return memo[key][0]

    def begin_step(self, rng: Rng, training: bool = True) -> None:
        """Starts a gradient step; with `training` modules are in training mode until `end_step`."""
        self._now.rng, self._now.memo = rng, {}
        if training:
            self.train()

    def end_step(self) -> None:
        """Ends the gradient step and sets all modules to evaluation mode."""
        self._now.rng, self._now.memo = None, {}
        if self.training:
            self.eval()

    @property
    def rng(self) -> Rng:
        """The random numbers of the running gradient step."""
        assert self._now.rng is not None, "only inside a gradient step"
        return self._now.rng

    def publish(self) -> None:
        """Makes the agent a product: modules take their final form, and no parameter is trained any more."""
        for module in self.modules():
            if module is not self and hasattr(module, "publish"):
                module.publish()  # type: ignore[operator]
        self.eval().requires_grad_(False)

    def add(self, modules: dict[str, nn.Module]) -> None:
        """Adds modules that a loss brings, such as multipliers and discriminators, unless the name exists."""
        for name, module in modules.items():
            if name not in self.nets:
                self.nets[name] = module

    def add_target_networks(self, names: list[str]) -> None:
        """Adds target networks of these modules, as copies."""
        for name in names:
            self.targets[name] = copy.deepcopy(self.nets[name]).requires_grad_(False)

    def normalize_observations(self) -> None:
        """Adds normalization of vector observations, the identity until the statistics are updated."""
        space = self.spaces.observation
        parts = space.items() if isinstance(space, gym.spaces.Dict) else [("obs", space)]
        for name, part in parts:
            if isinstance(part, gym.spaces.Box) and np.issubdtype(part.dtype, np.floating):
                self.normalizers[name] = Normalizer(part.shape)

    def update_normalizers(self, obs: Observation) -> None:
        """Adds raw observations [N, ...] to the statistics of the normalizers."""
        for name, normalizer in self.normalizers.items():
            assert isinstance(normalizer, Normalizer)
            normalizer.update(obs[name] if isinstance(obs, dict) else obs)

    def normalize_obs(self, obs: Observation) -> Observation:
        """Normalizes raw observations [N, ...]."""
        if not self.normalizers:
            return obs
        if isinstance(obs, dict):
            return {name: self.normalizers[name](x) if name in self.normalizers else x for name, x in obs.items()}
        normalized: Tensor = self.normalizers["obs"](obs)
        return normalized

    def preprocess(self, batch: Batch) -> Batch:
        """Converts a source's batch to network units: normalized observations, actions in [-1, 1]."""
        return self._convert(batch, self.normalize_obs, lambda action: (action - self.action_bias) / self.action_scale)

    def unprocess(self, batch: Batch) -> Batch:
        """Converts a preprocessed batch back to the source's units, for a frozen agent with its own preprocessing."""
        return self._convert(batch, self._unnormalize_obs, self.to_space)

    def _convert(self, batch: Batch, obs: Callable[[Any], Any], action: Callable[[Tensor], Tensor]) -> Batch:
        """Applies functions to observations, if they are normalized, and to continuous actions."""
        functions: dict[str, Callable[[Any], Any]] = {}
        functions |= dict.fromkeys(("obs", "next_obs"), obs) if self.normalizers else {}
        functions |= dict.fromkeys(("action", "next_action"), action) if self.continuous else {}
        columns = batch.__dict__
        changed = {name: function(columns[name]) for name, function in functions.items() if name in columns}
        return batch.having(**changed) if changed else batch

    def _unnormalize_obs(self, obs: Observation) -> Observation:
        if isinstance(obs, dict):
            return {name: self._inverse(name, x) if name in self.normalizers else x for name, x in obs.items()}
        return self._inverse("obs", obs)

    def _inverse(self, name: str, x: Tensor) -> Tensor:
        normalizer = self.normalizers[name]
        assert isinstance(normalizer, Normalizer)
        return normalizer.inverse(x)

    def to_space(self, action: Tensor) -> Tensor:
        """Converts actions of networks, in [-1, 1], to units of the action space."""
        return action * self.action_scale + self.action_bias if self.continuous else action

    @property
    def continuous(self) -> bool:
        """True if actions are continuous."""
        return self.spaces.actions == "continuous"

    @property
    def action_size(self) -> int:
        """Number of discrete actions, or of dimensions of continuous ones."""
        space = self.spaces.action
        return int(space.n) if isinstance(space, gym.spaces.Discrete) else math.prod(space.shape or ())


class PolicyAgent(Agent):
    """An agent whose policy is a distribution over actions: group "policy"."""

    @abstractmethod
    def distribution(self, obs: Observation) -> Distribution:
        """The policy's distribution at observations [B, ...] in network units."""

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, rng: Rng | None) -> tuple[Tensor, Any]:
        policy = self.distribution(self.normalize_obs(obs))
        return self.to_space(policy.mode() if rng is None else policy.sample(rng)), state


@dataclass
class AgentSpec(ABC):
    """The configuration group `agent`: builds an agent."""

    actions: ClassVar[tuple[str, ...]] = ("discrete", "continuous")  # kinds of action spaces that the agent supports
    acts: ClassVar[bool] = True  # False for an agent without a policy, which has a reward or a critic only

    @abstractmethod
    def build(self, spaces: Spaces) -> Agent:
        """Builds an agent; its weights are drawn from torch's global generator."""


A = TypeVar("A", bound=Agent | None)


def build_on_meta(make: Callable[[], A]) -> A:
    """Builds an agent on the meta device, which takes no memory; on the default device if that is not supported."""
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        return make()  # plugins may compute with values while they build an agent
