"""Agents: an encoder, a memory and named nets, their target networks, observation statistics, and an acting rule."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, overload

import torch
from torch import Tensor, nn

from lfd.agents.distributions import Distribution, Stochastic
from lfd.agents.nets import ContinuousQNet, DiscreteQNet
from lfd.agents.roles import Role
from lfd.agents.trunk import ENCODER, Nets
from lfd.batch import Observation
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.maths import gather_action
from lfd.rng import Rng

REWARD = "reward"  # name of a reward model's net, and its role as a frozen agent

D = TypeVar("D", bound=Distribution)


class Agent(Nets):
    """Named nets by parameter group, in front of them a trunk of encoder and memory if they share one.

    Losses work in network units; `act` takes raw observations and returns actions in units of the action space.
    Gradients go to parameter *groups*: each net is a group of its own name; the groups "encoder" and "memory" are
    trained by the summed terms of the nets in `on_trunk`.

    A net named "reward" maps a preprocessed batch of transitions to rewards [B], which sources put into `reward`. A
    recurrent reward model (`RecurrentReward`) is called once per step, in episode order, and its rewards are stored.
    A net whose product differs from its training form has a method `publish`, which is called once at the end.
    """

    recordable = True

    def __init__(
        self,
        spaces: Spaces,
        nets: dict[str, nn.Module],
        on_trunk: Sequence[str] = (),
        rule: "ActingRule | None" = None,
    ) -> None:
        """Makes an agent of its parts; `nets` may have an encoder and a memory, which the nets `on_trunk` share."""
        super().__init__(spaces, nets, on_trunk)
        self.rule = rule
        self.frozen: dict[str, Agent] = {}  # by role; a loss calls frozen.preprocess(agent.unprocess(batch))

    @torch.no_grad()
    def act(self, obs: Observation, state: Any, rng: Rng | None) -> tuple[Tensor, Any]:
        """Actions, [N, A] in units of the space or int64 [N], and the next recurrent state, at raw observations.

        They are greedy, or sampled if `rng` is given. Raises UserError if the agent has no policy.
        """
        if self.rule is None:
            raise UserError(
                f"expected an agent with a policy, got one of {', '.join(self.nets)}; name a stage that trains a policy"
            )
        obs = self.normalize_obs(obs)
        if self.trunk:
            features = self.nets[ENCODER](obs)
            if self.recurrent:
                memory = self._memory()
                features, state = memory(memory.project(features), state)
            self._remember(obs, features)
        try:
            action: Tensor = self.rule(self, obs, rng)
        finally:
            self._forget(obs)
        return self.to_space(action), state

    def reward_model(self) -> "Agent | None":
        """The agent with the learned reward, itself or the frozen one in the role "reward"; None without one."""
        return self if REWARD in self.nets else self.frozen.get(REWARD)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns `function(self, *args)`, so that `torch.func.functional_call` can call any function of the agent."""
        return function(self, *args)

    @overload
    def policy(self, obs: Observation, *, target: bool = False) -> Stochastic: ...

    @overload
    def policy(self, obs: Observation, kind: type[D], target: bool = False) -> D: ...

    def policy(self, obs: Observation, kind: type[Any] = Stochastic, target: bool = False) -> Any:
        """The distribution of the net "policy", of this kind, at observations [B, ...] in network units."""
        policy = self.net("policy", self.features(obs, target), target=target)
        assert isinstance(policy, kind)
        return policy

    def value(self, obs: Observation) -> Tensor:
        """State values [B] of the net "value" at observations [B, ...] in network units."""
        values: Tensor = self.net("value", self.features(obs))
        return values

    def q_all(self, obs: Observation, target: bool = False, only: int | None = None) -> Tensor:
        """Values [B, critics, A] of all discrete actions at observations [B, ...] by the net "critic".

        `only` computes the first critics alone; a target network has no gradient.
        """
        critic = self.nets["critic"]
        assert isinstance(critic, DiscreteQNet)
        return critic.values(self.q_outputs(obs, target, only))

    def q_outputs(self, obs: Observation, target: bool = False, only: int | None = None) -> Tensor:
        """Outputs [B, N, A] of the net "critic" of discrete actions, such as quantiles; see `q_all`."""
        return self._critic(self.features(obs, target), only, target=target)

    def q(self, obs: Observation, action: Tensor, target: bool = False, only: int | None = None) -> Tensor:
        """Values [..., B, critics] of actions [..., B, A], or int64 [B], by the net "critic"; see `q_all`."""
        if self.continuous:
            return self._critic(self.features(obs, target), action, only, target=target)
        return gather_action(self.q_all(obs, target, only), action)

    def _critic(self, *inputs: Any, target: bool) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not target):
            values: Tensor = self.net("critic", *inputs, target=target)
        return values

    def action_gradients(self, obs: Observation, action: Tensor) -> Tensor:
        """Gradients [critics, B, A] of each critic by actions [B, A]; they can be differentiated again."""
        critic, features = self.nets["critic"], self.features(obs)
        assert isinstance(critic, ContinuousQNet)
        copies = action.expand(critic.number, *action.shape)
        gradients: Tensor = torch.func.grad(lambda actions: critic.each(features, actions).sum())(copies)
        return gradients

    def publish(self) -> None:
        """Makes the agent a product: modules take their final form, and no parameter is trained any more."""
        for module in self.modules():
            if module is not self and hasattr(module, "publish"):
                module.publish()  # type: ignore[operator]
        self.eval().requires_grad_(False)


class ActingRule(nn.Module, ABC):
    """Chooses actions by the nets of an agent; it may have buffers, which are stored with the agent."""

    @abstractmethod
    def forward(self, agent: Agent, obs: Observation, rng: Rng | None) -> Tensor:
        """Actions, [N, A] or int64 [N], and observations [N, ...] are in network units.

        Actions are greedy, or sampled if `rng` is given.
        """


@dataclass
class ActingSpec(ABC):
    """The configuration group `acts_by`: builds an acting rule."""

    acts: ClassVar[bool] = True  # False for an agent without a policy, which has a reward or a critic only

    @abstractmethod
    def uses(self, spaces: Spaces) -> dict[str, Role]:
        """Returns the names of the nets that it reads, and what each must be able to do."""

    @abstractmethod
    def build(self, spaces: Spaces) -> ActingRule | None:
        """Builds the rule; its buffers are drawn from torch's global generator."""
