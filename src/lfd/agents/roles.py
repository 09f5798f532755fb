"""Roles: what a loss or an acting rule may ask of a net of an agent."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from lfd.agents.distributions import Categorical, Distribution, Reparameterized, Stochastic
from lfd.agents.nets import ContinuousQNet, DiscreteQNet, PolicyNet, QuantileQNet, ValueNet


@dataclass(frozen=True)
class Role:
    """What a loss asks of a net: a capability, not a class."""

    text: str  # for messages, as in "a critic"
    option: str  # the option of the group `net` that has it
    fits: Callable[[nn.Module], bool]


def _policy(kind: type[Distribution]) -> Callable[[nn.Module], bool]:
    """True of policies whose distributions are of the kind."""
    return lambda net: isinstance(net, PolicyNet) and issubclass(net.distribution, kind)


POLICY = Role("a policy", "policy", _policy(Distribution))
STOCHASTIC = Role("a policy with densities (any head but deterministic)", "policy", _policy(Stochastic))
REPARAMETERIZED = Role(
    "a policy with a mean and a standard deviation (continuous actions, any head but deterministic)", "policy",
    _policy(Reparameterized),
)  # fmt: skip
CATEGORICAL = Role("a policy of discrete actions", "policy", _policy(Categorical))
STATE_VALUE = Role("a state value", "state_value", lambda net: isinstance(net, ValueNet))
CRITIC = Role("a critic", "q_ensemble", lambda net: isinstance(net, DiscreteQNet | ContinuousQNet))
DISCRETE_CRITIC = Role("a critic of discrete actions", "q_ensemble", lambda net: isinstance(net, DiscreteQNet))
CONTINUOUS_CRITIC = Role("a critic of continuous actions", "q_ensemble", lambda net: isinstance(net, ContinuousQNet))
QUANTILES = Role("a critic with quantiles", "quantile_q", lambda net: isinstance(net, QuantileQNet))
