"""Configurations of agents: acting rules, refusals, round trips as JSON, and shared trunks of pixels."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.agents.acting import ByPolicy, Greedy, GreedyRule, NoActing, PolicyRule
from lfd.agents.bcq import BCQ, ContinuousBCQRule, DiscreteBCQRule, ImitationSpec
from lfd.agents.config import AgentConfig, Trunk
from lfd.agents.memory import GRUSpec
from lfd.agents.nets import Head, PolicySpec, QEnsembleSpec, QuantileQSpec, ScalarSpec, StateValueSpec
from lfd.algos.bcq import BCQContinuous, BCQDiscrete
from lfd.algos.crr import CRR
from lfd.algos.dqn import DQN
from lfd.algos.gail import GAIL
from lfd.algos.ppo import PPO
from lfd.algos.sac import SAC
from lfd.algos.td3 import TD3Actor, TD3Critic
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner
from lfd.learner.optim import Target
from lfd.registry import from_json, to_json
from lfd.rng import GeneratorRng
from tests import composed
from tests.algos.cases import BOX, TWO, VECTOR, batch, built, spaces

SMALL_FRAMES = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)


@pytest.mark.parametrize(
    ("config", "action", "rule"),
    [
        (composed.of_nets([8], policy=PolicySpec()), TWO, PolicyRule),
        (composed.of_nets([8], critic=QEnsembleSpec(), policy=PolicySpec()), TWO, PolicyRule),
        (composed.of_nets([8], critic=QEnsembleSpec()), TWO, GreedyRule),
        (composed.of_nets([8], critic=QuantileQSpec(quantiles=3)), TWO, GreedyRule),
        (AgentConfig({"critic": QEnsembleSpec(), "policy": PolicySpec()}, acts_by=Greedy()), TWO, GreedyRule),
        (composed.bcq_discrete([8]), TWO, DiscreteBCQRule),
        (composed.bcq_continuous([8]), BOX, ContinuousBCQRule),
        (composed.critic([8]), BOX, type(None)),
        (composed.reward_model(), TWO, type(None)),
        (composed.of_nets([8], value=StateValueSpec()), TWO, type(None)),
    ],
)  # fmt: skip
def test_acting_rule_follows_from_the_nets(config, action, rule):
    agent = config.build(spaces(VECTOR, action))
    assert type(agent.rule) is rule and config.acts is (agent.rule is not None)


@pytest.mark.parametrize(
    ("config", "action", "message"),
    [
        (
            composed.of_nets([8], critic=QEnsembleSpec(), imitation=ImitationSpec()), TWO,
            "acts_by: expected a rule, as the nets can act by several, got null; set acts_by, as in "
            "/acts_by@agent.acts_by: greedy ",
        ),
        (
            composed.of_nets([8], critic=QEnsembleSpec()), BOX,
            "acts_by: expected nets that can choose continuous actions, got critic; add ",
        ),
        (
            AgentConfig({"critic": QEnsembleSpec()}, acts_by=ByPolicy()), TWO,
            r'acts_by \(ByPolicy\) needs a policy; add "/net@agent.nets.policy: policy" to the algorithm; '
            "its agent has critic$",
        ),
        (
            AgentConfig({"policy": StateValueSpec()}, acts_by=ByPolicy()), TWO,
            r"acts_by \(ByPolicy\) needs a policy, got another net policy of the agent; choose another algo",
        ),
        (
            AgentConfig({"critic": QEnsembleSpec()}, acts_by=Greedy()), BOX,
            r"acts_by \(Greedy\) needs a critic of discrete actions, got another net critic of the agent; choose ",
        ),
        (
            composed.of_nets([8], critic=QuantileQSpec()), BOX,
            "nets.critic: expected a net of continuous actions, got QuantileQSpec, which supports discrete ones; ",
        ),
    ],
)  # fmt: skip
def test_agent_that_cannot_act_as_configured_is_refused(config, action, message):
    with pytest.raises(UserError, match=f"^{message}"):
        config.build(spaces(VECTOR, action))


def test_memory_with_separate_trunks_is_refused():
    with pytest.raises(UserError, match="^trunk: expected auto or shared, as an agent has one memory, got separate"):
        AgentConfig({"policy": PolicySpec()}, GRUSpec(8), Trunk.separate)


@pytest.mark.parametrize("name", ["encoder", "memory"])
def test_net_with_the_name_of_a_part_of_the_trunk_is_refused(name):
    with pytest.raises(UserError, match=f"^nets.{name}: expected another name, got that of the agent's {name}"):
        AgentConfig({name: PolicySpec()})


def test_latents_of_bcq_are_stored_with_the_agent():
    agent = composed.bcq_continuous([8], candidates=5).build(spaces(VECTOR, BOX))
    assert agent.state_dict()["rule.latents"].shape == (5, 1, 6)


def test_net_with_an_encoder_of_its_own_can_act():
    class Own(PolicySpec):
        on_trunk = False

    agent = AgentConfig({"policy": Own(), "value": StateValueSpec()}, trunk=Trunk.shared).build(spaces(VECTOR, TWO))
    assert isinstance(agent.rule, PolicyRule) and agent.on_trunk == ("value",)
    assert agent.act(torch.randn(3, 4), (), None)[0].shape == (3,)


def test_agent_config_round_trips_as_json():
    loss = GAIL({"learner": "rollout", "expert": "demos"}, hidden=[7])
    nets = {"policy": PolicySpec(head=Head.gaussian), "critic": QEnsembleSpec(critics=5), "own": ScalarSpec(0.5)}
    config = AgentConfig(nets, GRUSpec(12), Trunk.shared, BCQ(9), [3, 4])
    config = Algo(config, {"gail": loss, "sac": SAC("rollout")}).agent_config(spaces(VECTOR, BOX))
    assert set(config.nets) == {*nets, "reward", "temperature"}
    content = to_json(config)
    assert content["fields"]["memory"] == {"part": "memory/gru", "fields": {"units": 12}}
    assert from_json(content, AgentConfig) == config
    assert from_json(to_json(AgentConfig()), AgentConfig) == AgentConfig()


@pytest.mark.parametrize(
    ("group", "path"), [("net", ("nets", "policy")), ("memory", ("memory",)), ("acts_by", ("acts_by",))]
)
def test_part_that_is_not_installed_is_named(group, path):
    content = to_json(AgentConfig({"policy": PolicySpec()}, GRUSpec(8), acts_by=NoActing()))
    part = content["fields"]
    for name in path:
        part = part[name]
    part["part"] = f"{group}/theirs"
    with pytest.raises(UserError, match=f"^{group}: expected an installed class, got 'theirs'; [^\n]*$"):
        from_json(content, AgentConfig)


PIXELS = {
    "ppo": (composed.policy_value(), TWO, [PPO("data")], ()),
    "dqn": (composed.q_net(), TWO, [DQN("data")], ("critic",)),
    "crr": (composed.policy_q(), TWO, [CRR("data")], ("policy", "critic")),
    "bcq_discrete": (composed.bcq_discrete(), TWO, [BCQDiscrete("data")], ("critic",)),
    "sac": (composed.soft_policy_critic(), BOX, [SAC("data")], ("critic",)),
    "td3": (composed.deterministic_policy_critic(), BOX, [TD3Critic("data"), TD3Actor("data")], ("policy", "critic")),
    "bcq_continuous": (composed.bcq_continuous([16], candidates=3), BOX, [BCQContinuous("data", samples=2)],
                       ("critic", "perturbation")),
}  # fmt: skip


@pytest.mark.parametrize("name", PIXELS)
def test_agent_of_pixels_shares_one_encoder_that_is_trained(name):
    config, action, losses, targets = PIXELS[name]
    agent = built(config, spaces(SMALL_FRAMES, action), *losses, targets=targets)
    assert agent.trunk == ("encoder",) and set(agent.on_trunk) == set(config.nets)
    assert set(agent.targets) == ({*targets, "encoder"} if targets else set())
    encoders = {part.split(".convolutions")[0] for part in agent.state_dict() if "convolutions" in part}
    assert encoders == {"nets.encoder"} | ({"targets.encoder"} if targets else set())
    rows = {str(index): loss for index, loss in enumerate(losses)}
    algo = Algo(config, rows, targets={target: Target() for target in targets})
    learner = Learner([agent], algo, 0, torch.device("cpu"))
    before = agent.nets["encoder"].linear.weight.detach().clone()
    seen = batch(SMALL_FRAMES, action, 1, size=4)
    learner.step({"data": seen}, list(rows))
    assert not torch.equal(agent.nets["encoder"].linear.weight, before)
    for rng in (None, GeneratorRng(0)):
        taken, _ = agent.act(seen.obs, (), rng)
        assert taken.shape == ((4,) if action is TWO else (4, 3)) and torch.isfinite(taken.float()).all()
