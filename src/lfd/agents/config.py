"""Configuration of an agent: its trunk, its nets by name, and how it acts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import nn

from lfd.agents import ActingSpec, Agent
from lfd.agents.acting import ByPolicy, Greedy, NoActing
from lfd.agents.bcq import BCQ
from lfd.agents.memory import MemorySpec
from lfd.agents.nets import NetInputs, NetSpec, PolicyNet
from lfd.agents.roles import Role
from lfd.agents.trunk import ENCODER, MEMORY
from lfd.envs.spaces import Spaces
from lfd.errors import UserError
from lfd.nets import Activation, Net, encoder, features_of, orthogonal

POLICY_GAIN = 0.01  # of orthogonal last layers, so that the first actions depend little on the observation


class Trunk(Enum):
    """Whether nets share one encoder; auto: if it has weights, or if the agent has a memory."""

    auto = "auto"
    shared = "shared"
    separate = "separate"


@dataclass
class AgentConfig:
    """An agent of an encoder by the observation space, a memory and nets by name.

    A net's name is its group in `optim` and `targets`. The group "encoder" is the shared encoder.
    """

    nets: dict[str, NetSpec] = field(default_factory=dict)  # name -> net
    # MemorySpec | None: behind the encoder; null = none. Any, as OmegaConf merges no interpolation into such a field
    memory: Any = None
    trunk: Trunk = Trunk.auto  # whether the nets share one encoder
    acts_by: ActingSpec | None = None  # how it chooses actions; null = by the only rule that its nets make possible
    hidden: list[int] = field(default_factory=lambda: [256, 256])  # units per hidden layer of a net, unless it sets its
    activation: Activation = Activation.relu  # of hidden layers of a net, unless it sets its own
    orthogonal: bool = False  # orthogonal initial weights (Andrychowicz et al. 2021), as PPO has

    def __post_init__(self) -> None:
        for name in (ENCODER, MEMORY):
            if name in self.nets:
                raise UserError(f"nets.{name}: expected another name, got that of the agent's {name}; rename the net")
        if not isinstance(self.memory, MemorySpec | None):
            raise UserError(
                f"memory: expected an option of the group memory, got {self.memory!r}; choose one, as in "
                "+memory@algo.agent.memory=gru"
            )
        if self.memory is not None and self.trunk is Trunk.separate:
            raise UserError("trunk: expected auto or shared, as an agent has one memory, got separate; leave it out")

    @property
    def acts(self) -> bool:
        """True if the agent has a policy; False if it is a reward model or a critic."""
        return self.acts_by.acts if self.acts_by is not None else any(spec.leads_to for spec in self.nets.values())

    def with_nets(self, nets: Mapping[str, NetSpec]) -> "AgentConfig":
        """The configuration with the nets that losses bring, unless it has nets of these names."""
        return replace(self, nets=self.nets | {name: spec for name, spec in nets.items() if name not in self.nets})

    def build(self, spaces: Spaces) -> Agent:
        """Builds an agent; its weights are drawn from torch's global generator. Raises UserError, see `check_nets`."""
        trunk = self._trunk(spaces)
        features = features_of(trunk[[*trunk][-1]]) if trunk else None
        deep = any(True for module in trunk.values() for _ in module.parameters())
        inputs = NetInputs(spaces, features, deep, self.hidden, self.activation)
        on_trunk = [name for name, spec in self.nets.items() if spec.on_trunk]
        nets = {name: self._net(name, inputs) for name in on_trunk}
        if self.orthogonal:
            for net in nets.values():
                _orthogonal(net)
        own = replace(inputs, features=None)
        nets |= {name: self._net(name, own) for name in self.nets if name not in nets}
        rule = self._rule(spaces, nets).build(spaces)
        return Agent(spaces, {**trunk, **nets}, on_trunk if trunk else (), rule)

    def _trunk(self, spaces: Spaces) -> dict[str, nn.Module]:
        """The shared encoder and memory; empty if every net has an encoder of its own."""
        if self.trunk is Trunk.separate or not any(spec.on_trunk for spec in self.nets.values()):
            return {}
        if self.trunk is Trunk.auto and self.memory is None and not _is_learned(spaces):
            return {}
        shared: dict[str, nn.Module] = {ENCODER: encoder(spaces.observation)}
        if self.orthogonal:
            orthogonal(shared[ENCODER], 2**0.5)
        if self.memory is not None:
            shared[MEMORY] = self.memory.build(features_of(shared[ENCODER]))
        return shared

    def _net(self, name: str, inputs: NetInputs) -> nn.Module:
        spec, actions = self.nets[name], inputs.spaces.actions
        if actions not in spec.actions:
            raise UserError(
                f"nets.{name}: expected a net of {actions} actions, got {type(spec).__name__}, which supports "
                f"{', '.join(spec.actions)} ones; choose another algo or env"
            )
        return spec.build(inputs)

    def _rule(self, spaces: Spaces, nets: Mapping[str, nn.Module]) -> ActingSpec:
        """The acting rule that is set, or the only one that is possible."""
        if self.acts_by is not None:
            for name, role in self.acts_by.uses(spaces).items():
                check_role("acts_by", self.acts_by, name, role, nets)
            return self.acts_by
        possible = [
            rule for rule in (ByPolicy(), Greedy(), BCQ())
            if all(name in nets and role.fits(nets[name]) for name, role in rule.uses(spaces).items())
        ]  # fmt: skip
        if len(possible) > 1 and isinstance(possible[0], ByPolicy):
            possible = possible[:1]
        if len(possible) > 1:
            raise UserError(
                "acts_by: expected a rule, as the nets can act by several, got null; set acts_by, as in "
                "/acts_by@agent.acts_by: greedy (or bcq)"
            )
        if not possible and self.acts:
            raise UserError(
                f"acts_by: expected nets that can choose {spaces.actions} actions, got {', '.join(nets) or 'none'}; "
                'add "/net@agent.nets.policy: policy" to the algorithm, or "/acts_by@agent.acts_by: none"'
            )
        return possible[0] if possible else NoActing()


def check_role(what: str, user: object, name: str, role: Role, nets: Mapping[str, nn.Module]) -> None:
    """Raises UserError, which begins with `what`, unless the net `name` exists and fits the role that a part reads."""
    if name in nets and role.fits(nets[name]):
        return
    need = f"{what} ({type(user).__name__}) needs {role.text}"
    if name in nets:
        raise UserError(f"{need}, got another net {name} of the agent; choose another algo, env or option of the net")
    has = f"; its agent has {', '.join(nets)}" if nets else ""
    raise UserError(f'{need}; add "/net@agent.nets.{name}: {role.option}" to the algorithm{has}')


def _is_learned(spaces: Spaces) -> bool:
    """True if the encoder of the observations has weights."""
    with torch.device("meta"):
        return any(True for _ in encoder(spaces.observation).parameters())


def _orthogonal(module: nn.Module) -> None:
    for net in module.modules():
        if isinstance(net, Net):
            orthogonal(net, POLICY_GAIN if isinstance(module, PolicyNet) else 1.0)


A = TypeVar("A", bound=Agent | None)


def build_on_meta(make: Callable[[], A]) -> A:
    """Builds an agent on the meta device, which takes no memory; on the default device if that is not supported."""
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        return make()  # plugins may compute with values while they build an agent
