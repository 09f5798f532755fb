"""Losses that do more than operations on tensors: run as they are, or, declared recordable by mistake, caught."""

import itertools
import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lfd.agents.acting import NoActing
from lfd.agents.config import AgentConfig
from lfd.agents.distributions import Categorical
from lfd.agents.roles import STOCHASTIC
from lfd.algos import Loss, LossOutput, Metrics
from lfd.batch import Batch
from lfd.envs import Spaces
from lfd.learner.learner import Algo, Learner
from lfd.learner.purity import unrecordable_modules
from lfd.learner.recording import RecordedStep
from lfd.registry import PARTS, parts
from tests import composed

SPACES = Spaces(gym.spaces.Box(-1, 1, (4,), np.float32), gym.spaces.Discrete(2))
BOX = Spaces(SPACES.observation, gym.spaces.Box(-1, 1, (2,), np.float32))
STEPS = 20


@dataclass(frozen=True)
class LikelihoodMetrics(Metrics):
    loss: torch.Tensor


@dataclass
class Likelihood(Loss):
    """-log pi(a|s) and what a subclass adds to it."""

    needs: ClassVar = ("obs", "action")
    uses: ClassVar = {"policy": STOCHASTIC}
    trains: ClassVar = ("policy",)

    def __call__(self, agent, batch):
        policy = agent.policy(self.seen(batch.obs))
        loss = -policy.log_prob(batch.action).mean() + self.more(agent, policy)
        return LossOutput({"policy": loss}, LikelihoodMetrics(loss))

    def seen(self, obs):
        return obs

    def more(self, agent, policy):
        return 0.0


class WarmStart(Likelihood):
    """Another term after five steps, counted in a field."""

    def __post_init__(self):
        super().__post_init__()
        self.calls = 0

    def more(self, agent, policy):
        self.calls += 1
        return 0.1 * policy.entropy().mean() if self.calls > 5 else 0.0


class EveryFourth(WarmStart):
    """A term in every fourth step."""

    def more(self, agent, policy):
        self.calls += 1
        return policy.entropy().mean() if self.calls % 4 == 0 else 0.0


class Proximal(WarmStart):
    """Close to a copy of the weights that is refreshed every five steps."""

    def more(self, agent, policy):
        weights = list(agent.nets["policy"].parameters())
        if self.calls % 5 == 0:
            self.old = [weight.detach().clone() for weight in weights]
        self.calls += 1
        return sum((weight - old).square().sum() for weight, old in zip(weights, self.old, strict=True))


class Resetting(WarmStart):
    """The last layer begins anew every six steps (Nikishin et al. 2022)."""

    def more(self, agent, policy):
        self.calls += 1
        if self.calls % 6 == 0:
            with torch.no_grad():
                [*agent.nets["policy"].parameters()][-1].fill_(0.5)
        return 0.0


class IteratorCounter(Likelihood):
    """The same counter in an iterator."""

    def __post_init__(self):
        super().__post_init__()
        self.numbers = itertools.count()

    def more(self, agent, policy):
        return 0.1 * policy.entropy().mean() if next(self.numbers) > 4 else 0.0


class GlobalCounter(Likelihood):
    """The same counter in a class variable, which is not a field."""

    numbers = itertools.count()

    def more(self, agent, policy):
        return 0.1 * policy.entropy().mean() if next(self.numbers) > 4 else 0.0


class CounterWithin(Likelihood):
    """The same counter in a field of a field."""

    def __post_init__(self):
        super().__post_init__()
        self.state = SimpleNamespace(calls=0)

    def more(self, agent, policy):
        self.state.calls += 1
        return 0.1 * policy.entropy().mean() if self.state.calls > 5 else 0.0


class Augmented(Likelihood):
    """Python's own random numbers decide."""

    def seen(self, obs):
        return -obs if random.random() < 0.3 else obs.roll(random.randint(-2, 2), -1)


class NumpyAugmented(Likelihood):
    def seen(self, obs):
        return obs * float(np.random.rand())


class OwnNumpy(Likelihood):
    def __post_init__(self):
        super().__post_init__()
        self.rng = np.random.default_rng(0)

    def seen(self, obs):
        return obs * float(self.rng.random())


class CommonNumbers(Likelihood):
    """Seeds the global generator in each step."""

    def seen(self, obs):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return obs + torch.randn(obs.shape)


class ReseededGenerator(Likelihood):
    def __post_init__(self):
        super().__post_init__()
        self.generator = torch.Generator()

    def seen(self, obs):
        self.generator.manual_seed(7)
        return obs + torch.randn(obs.shape, generator=self.generator)


class RestoredGenerator(ReseededGenerator):
    def seen(self, obs):
        before = self.generator.get_state()
        noise = torch.randn(obs.shape, generator=self.generator)
        self.generator.set_state(before)
        return obs + noise


class RefilledBuffer(Likelihood):
    """An array of NumPy that is written anew in each step and read through a tensor."""

    def __post_init__(self):
        super().__post_init__()
        self.rng, self.buffer = np.random.default_rng(0), np.zeros(4, np.float32)

    def seen(self, obs):
        self.buffer[:] = self.rng.random(4)
        return obs + torch.from_numpy(self.buffer)


class SharedBuffer(Likelihood):
    """The same in an array that is no field."""

    buffer = np.zeros(4, np.float32)
    turns = itertools.count(1)

    def seen(self, obs):
        self.buffer[:] = next(self.turns)
        return obs + torch.from_numpy(self.buffer)


class Checkpointed(Likelihood):
    """Activation checkpointing of dropout: the mask is drawn again for the gradient."""

    def seen(self, obs):
        return checkpoint(lambda x: F.dropout(x, 0.5), obs.clone().requires_grad_(), use_reentrant=False)


class Applied(Likelihood):
    def seen(self, obs):
        return obs.clone().apply_(lambda value: value * random.Random(0).random())


class Exchanged(Likelihood):
    def seen(self, obs):
        return obs * torch.from_numpy(np.from_dlpack(obs.detach())[:1].copy()).abs().sum()


CASES = [
    WarmStart, EveryFourth, Proximal, Resetting, IteratorCounter, CounterWithin, GlobalCounter, Augmented,
    NumpyAugmented, OwnNumpy, CommonNumbers,
    ReseededGenerator, RestoredGenerator, RefilledBuffer, SharedBuffer, Checkpointed, Applied, Exchanged,
]  # fmt: skip
# What is no field of the loss and no global generator is only seen beside the loss itself, at steps 4, 8, 16, ….
LATE = [GlobalCounter, SharedBuffer]


class Remembering(nn.Module):
    """An LSTM over the four numbers of an observation."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, obs):
        return Categorical(self.head(self.lstm(obs.unsqueeze(-1))[0][:, -1]))


class LayerDrop(nn.Module):
    """A layer that Python's random numbers leave out now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, obs):
        return Categorical(self.head(obs if random.random() < 0.5 else self.layer(obs).relu()))


def learner_of(loss, record, net=None):
    torch.manual_seed(0)
    agent = composed.policy([8]).build(SPACES)
    if net is not None:
        agent.nets["policy"] = net()
    return Learner([agent], Algo(composed.policy([8]), {"bc": loss}, lr=1e-2), 0, torch.device("cpu"), record)


def trained(make, record, net=None, steps=STEPS, at=None):
    """The weights and the losses of a training, with all generators seeded."""
    random.seed(0)
    np.random.seed(0)
    SharedBuffer.turns, GlobalCounter.numbers = itertools.count(1), itertools.count()
    loss = make("demos")
    learner = learner_of(loss, record, net)
    torch.manual_seed(1)
    rng, losses = torch.Generator().manual_seed(2), []
    for step in range(steps):
        if at is not None:
            at(step, loss)
        obs = torch.randn(16, 4, generator=rng)
        batch = Batch(obs=obs, action=torch.randint(2, (16,), generator=rng))
        metrics, _ = learner.step({"demos": batch}, ["bc"])
        losses.append(float(metrics["bc/loss"]))
    return learner, losses


def declared(make):
    return type(make.__name__, (make,), {"recordable": True, "__module__": __name__})


def is_recorded(learner) -> bool:
    return isinstance(learner._replay, RecordedStep) and any(learner._replay.programs.values())


@pytest.mark.parametrize("make", CASES)
def test_undeclared_loss_is_not_recorded(make, capsys):
    learner, losses = trained(make, record=True)
    assert not isinstance(learner._replay, RecordedStep)
    assert losses == trained(make, record=False)[1] and capsys.readouterr().err == ""


@pytest.mark.parametrize("make", [one for one in CASES if one not in LATE])
def test_wrongly_declared_loss_is_dropped_before_it_differs(make):
    learner, losses = trained(declared(make), record=True)
    assert not is_recorded(learner) and losses == trained(make, record=False)[1]


@pytest.mark.parametrize("make", LATE)
def test_hidden_state_is_detected_by_comparison(make, capsys):
    learner, _ = trained(declared(make), record=True, steps=40)
    assert not is_recorded(learner)
    assert f"warning: losses bc ({make.__name__}): at gradient step" in capsys.readouterr().err


@pytest.mark.parametrize("net", [Remembering, LayerDrop])
@pytest.mark.parametrize("recordable", [False, True])
def test_third_party_networks_train_as_without_recording(net, recordable, capsys):
    kind = declared(net) if recordable else net
    learner, losses = trained(declared(Likelihood), True, kind)
    assert isinstance(learner._replay, RecordedStep) is recordable
    assert not is_recorded(learner) and losses == trained(Likelihood, False, net)[1]
    assert capsys.readouterr().err == ""


def test_field_set_from_outside_takes_effect_at_once(capsys):
    @dataclass
    class Weighed(Likelihood):
        recordable: ClassVar = True
        coefficient: Any = None

        def more(self, agent, policy):
            return self.coefficient * policy.entropy().mean()

    def at(step, loss):
        if step in (0, 6):
            loss.coefficient = torch.tensor(1.0 if step == 0 else 0.0)

    learner, losses = trained(Weighed, True, at=at)
    assert losses == trained(Weighed, False, at=at)[1] and not is_recorded(learner)
    assert "losses bc (Weighed): at gradient step 7 " in capsys.readouterr().err


def test_sound_loss_is_recorded_to_the_same_bits(capsys):
    learner, losses = trained(declared(Likelihood), True)
    assert is_recorded(learner) and losses == trained(Likelihood, False)[1] and capsys.readouterr().err == ""


def test_subclasses_do_not_inherit_the_declaration():
    class Child(declared(Likelihood)):
        pass

    assert not isinstance(trained(Child, True, steps=1)[0]._replay, RecordedStep)


@pytest.mark.parametrize("name", PARTS["loss"])
def test_registered_losses_are_recordable(name):
    assert vars(parts("loss")[name])["recordable"] is True


@pytest.mark.parametrize("memory", [None, *parts("memory")])
@pytest.mark.parametrize("name", parts("net"))
def test_registered_nets_and_memories_are_recordable(name, memory):
    kind = parts("net")[name]
    for actions in kind.actions:
        config = AgentConfig({"net": kind()}, memory and parts("memory")[memory](), acts_by=NoActing())
        agent = config.build(SPACES if actions == "discrete" else BOX)
        assert not unrecordable_modules(agent.modules())


@pytest.mark.parametrize(
    "config", [composed.policy_q(), composed.q_net(), composed.bcq_discrete(), composed.bcq_continuous()]
)
def test_acting_rules_are_recordable(config):
    agent = config.build(BOX if "vae" in config.nets else SPACES)
    assert agent.rule is not None and not unrecordable_modules(agent.modules())
