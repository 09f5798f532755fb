"""Configurations of agents, one function for each family of algorithms."""

from collections.abc import Sequence
from dataclasses import replace

from lfd.agents.acting import NoActing
from lfd.agents.bcq import BCQ, ImitationSpec, PerturbationSpec, VAESpec
from lfd.agents.config import AgentConfig
from lfd.agents.nets import Head, NetSpec, PolicySpec, QEnsembleSpec, QuantileQSpec, StateValueSpec
from lfd.agents.pwil import PWIL
from lfd.nets import Activation

HIDDEN = (256, 256)


def of_nets(hidden: Sequence[int] = HIDDEN, **nets: NetSpec) -> AgentConfig:
    """An agent of these nets."""
    return AgentConfig(nets, hidden=list(hidden))


def policy(hidden: Sequence[int] = HIDDEN, head: Head = Head.tanh_gaussian) -> AgentConfig:
    """As of behavior cloning."""
    return of_nets(hidden, policy=PolicySpec(head=head))


def policy_value(hidden: Sequence[int] = (64, 64)) -> AgentConfig:
    """As of PPO."""
    nets = {"policy": PolicySpec(head=Head.gaussian, state_dependent_std=False), "value": StateValueSpec()}
    return AgentConfig(nets, hidden=list(hidden), activation=Activation.tanh, orthogonal=True)


def q_net(hidden: Sequence[int] = HIDDEN) -> AgentConfig:
    """As of DQN."""
    return of_nets(hidden, critic=QEnsembleSpec(critics=1))


def quantile_net(hidden: Sequence[int] = HIDDEN, quantiles: int = 200) -> AgentConfig:
    """As of QR-DQN."""
    return of_nets(hidden, critic=QuantileQSpec(quantiles=quantiles))


def soft_policy_critic(hidden: Sequence[int] = HIDDEN, critics: int = 2) -> AgentConfig:
    """As of SAC."""
    return of_nets(hidden, policy=PolicySpec(), critic=QEnsembleSpec(critics=critics))


def deterministic_policy_critic(
    hidden: Sequence[int] = HIDDEN, critics: int = 2, layer_norm: bool = False
) -> AgentConfig:
    """As of TD3."""
    critic = QEnsembleSpec(critics=critics, layer_norm=layer_norm)
    return of_nets(hidden, critic=critic, policy=PolicySpec(head=Head.deterministic))


def policy_critic(hidden: Sequence[int] = HIDDEN, critics: int = 2) -> AgentConfig:
    """As of AWAC."""
    policy = PolicySpec(head=Head.tanh_mean_gaussian, state_dependent_std=False)
    return of_nets(hidden, policy=policy, critic=QEnsembleSpec(critics=critics))


def policy_critic_value(hidden: Sequence[int] = HIDDEN) -> AgentConfig:
    """As of IQL."""
    return policy_critic(hidden).with_nets({"value": StateValueSpec()})


def policy_q(hidden: Sequence[int] = HIDDEN) -> AgentConfig:
    """As of CRR: a policy and a critic of discrete actions."""
    return of_nets(hidden, critic=QEnsembleSpec(critics=1), policy=PolicySpec())


def bcq_discrete(hidden: Sequence[int] = HIDDEN, threshold: float = 0.3) -> AgentConfig:
    nets = of_nets(hidden, critic=QEnsembleSpec(critics=1), imitation=ImitationSpec(threshold=threshold))
    return replace(nets, acts_by=BCQ())


def bcq_continuous(hidden: Sequence[int] = HIDDEN, phi: float = 0.05, candidates: int = 100) -> AgentConfig:
    nets = of_nets(hidden, vae=VAESpec(), perturbation=PerturbationSpec(phi=phi), critic=QEnsembleSpec())
    return replace(nets, acts_by=BCQ(candidates))


def critic(hidden: Sequence[int] = HIDDEN) -> AgentConfig:
    """As of FQE, which acts in no environment."""
    return replace(q_net(hidden), acts_by=NoActing())


def reward_model() -> AgentConfig:
    """For a loss that brings a reward model."""
    return AgentConfig()


def pwil(**settings: int) -> AgentConfig:
    return of_nets(reward=PWIL(**settings))
