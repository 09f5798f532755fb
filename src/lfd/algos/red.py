"""Random expert distillation (Wang et al. 2019): a reward for being where the expert was."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from lfd.agents import REWARD, Agent
from lfd.agents.judge import Inputs, RewardNet
from lfd.algos import Loss, Out
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.nets import Activation, Parameter

PACE = 10.0  # log sigma moves by so many learning rates a step: it follows an error that falls by orders of magnitude


class SupportReward(nn.Module):
    """exp(-sigma * |f_hat(s, a) - f(s, a)|^2) of transitions [B, ...] -> [B]; f is random and never changes."""

    def __init__(self, agent: Agent, loss: "RED") -> None:
        super().__init__()
        nets = (RewardNet(agent.spaces, loss.hidden, loss.activation, loss.inputs, loss.outputs) for _ in range(2))
        self.learnt, self.random = next(nets), fixed(next(nets))
        self.scale = Parameter(0.0)

    @property
    def log_sigma(self) -> Tensor:
        value: Tensor = PACE * self.scale()
        return value

    def error(self, batch: Batch) -> Tensor:
        """[B] mean square over the outputs."""
        error: Tensor = (self.learnt(batch) - self.random(batch)).square().mean(-1)
        return error

    def forward(self, batch: Batch) -> Tensor:
        return (-self.log_sigma.exp() * self.error(batch)).exp()


@dataclass
class RED(Loss):
    """E |f_hat - f|^2 over the demonstrations; beside it sigma is learnt from the same errors.

    sigma * E - c log sigma, with the error E held fast, is least where sigma * E = c: so the demonstrations' mean
    exponent is c = -log `expert`, however small the error has become.
    """

    hidden: list[int] = field(default_factory=lambda: [64, 64])  # units of each hidden layer, of f and of f_hat
    activation: Activation = Activation.relu
    inputs: Inputs = Inputs.obs_action
    outputs: int = 16  # numbers that f gives of a transition
    expert: float = 0.99  # about the mean reward of the demonstrations, from which sigma follows

    needs: ClassVar = ("obs",)
    agents: ClassVar = Agent
    trains: ClassVar = (REWARD,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs < 1 or not 0 < self.expert < 1:
            raise Refused(f"outputs {self.outputs}, expert {self.expert}: 1 or more, and a number in (0, 1), expected")

    @property
    def slots(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {"": (self.reads, self.inputs.columns)}

    @property
    def one_sided(self) -> str:
        return "never negative"

    def modules(self, agent: Agent) -> dict[str, nn.Module]:
        return {REWARD: SupportReward(agent, self)}

    def __call__(self, agent: Agent, batch: Batch) -> Out:
        net = agent.nets[REWARD]
        assert isinstance(net, SupportReward)
        error = net.error(batch).mean()
        sigma = net.log_sigma.exp()
        scale = sigma * error.detach() + math.log(self.expert) * net.log_sigma
        reward = torch.exp(-sigma * error).detach()
        return Out({REWARD: error + scale}, {"loss": error.detach(), "sigma": sigma.detach(), "reward": reward})


def fixed(net: nn.Module) -> nn.Module:
    """The network with its weights as buffers: saved with it, and no gradient changes them."""
    for module in list(net.modules()):
        for name, value in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, value.detach())
    return net
