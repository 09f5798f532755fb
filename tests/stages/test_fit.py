"""What is refused before anything is built, and what a key is made of."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.agents.actor_critic import Policy, PolicyValue, SoftPolicyCritic
from lfd.agents.q import QNet
from lfd.algos.bc import Cloning
from lfd.algos.cql import ConservativeDiscrete
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.envs import Spaces
from lfd.errors import Refused
from lfd.keys import describe
from lfd.learner import Algo, Learner, Phase, Target
from lfd.optim import Optim
from lfd.sources.dataset import Demonstrations
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages import Product
from lfd.stages.building import _take_over
from lfd.stages.fit import Fit
from lfd.stages.recipe import Checks, Stop

TD = {"td": DQN("demos")}
SLOW = {"q": Target()}


def dqn(**settings):
    return Algo(**{"agent": QNet([8]), "losses": TD, "targets": SLOW, **settings})


REFUSED = {
    "no losses": (dqn(losses={}), "has no losses for discrete actions"),
    "an agent without what the loss calls": (dqn(agent=Policy([8])), r"td \(DQN\) needs a QAgent.*builds a Actor"),
    "no slow copy": (dqn(targets={}), "reads a slow copy of 'q'; add targets"),
    "a slow copy of nothing": (dqn(targets={"q": Target(), "p": Target()}), "targets.p names no module of QAgent"),
    "an optimiser of nothing": (dqn(optim={"critic": Optim()}), "optim.critic names no module of QAgent"),
    "data from nowhere": (dqn(losses={"td": DQN("demo")}), "'demo', which no .* gives; did you mean 'demos'"),
    "PPO on a fixed dataset": (
        Algo(PolicyValue([8]), {"ppo": PPO("demos")}),
        "needs the columns advantage, log_prob, value_target, which 'demos' .* does not give; read a rollout source",
    ),
    "a phase of an unknown loss": (
        dqn(phases={"a": Phase(["tdd"], steps=1)}),
        "names the loss 'tdd'; did you mean 'td'",
    ),
    "a phase of no loss": (dqn(phases={"a": Phase([], steps=1)}), "phases.a has no losses"),
    "members that a KL stop would part": (
        Algo(PolicyValue([8]), {"ppo": PPO("rollout")}, {"rollout": Rollout(kl_stop=0.1)}),
        "members go on together",
    ),
    "a loss in no phase": (
        dqn(losses={**TD, "gap": ConservativeDiscrete("demos")}, phases={"a": Phase(["gap"], steps=1)}),
        "losses.td is in no phase",
    ),
    "sequences without memory": (dqn(sequence=4), "algo.sequence=4 is for agents with memory, QAgent has none"),
}


@pytest.mark.parametrize(("algo", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_together_is_refused(algo, message, counting):
    fit = Fit(algo, 10, members=2 if "members" in message else 1)
    with pytest.raises(Refused, match=message):
        fit.check_wiring("learn", counting.spaces(), ["demos"])


def test_an_algorithm_of_discrete_actions_is_refused_in_a_continuous_space(counting_continuous):
    with pytest.raises(Refused, match="QNet acts in discrete action spaces, the environment's is continuous"):
        Fit(dqn(), 10).check_wiring("learn", counting_continuous.spaces(), ["demos"])


def test_cloning_reads_a_rollout_and_every_offline_loss_a_replay(counting):
    cloning = Algo(Policy([8]), {"bc": Cloning("fresh")}, {"fresh": Rollout()})
    Fit(cloning, 10).check_wiring("learn", counting.spaces(), [])
    losses = {"td": DQN("replay"), "gap": ConservativeDiscrete("replay")}
    Fit(dqn(losses=losses, sources={"replay": Replay()}), 10).check_wiring("learn", counting.spaces(), [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"members": 0}, {"boundary": 0}, {"checkpoints": -1},
        {"stop": Stop(score=1.0), "check": Checks(0)}, {"checkpoints": 1, "check": Checks(0)},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(Refused):
        Fit(**{"algo": dqn(), "steps": 10, **wrong})


def test_inputs_are_the_datasets_that_losses_read_through_mixes_too():
    sources = {
        "mix": Mix({"inner": 0.5, "replay": 0.5}), "inner": Mix({"a": 0.5, "renamed": 0.5}), "replay": Replay(),
        "renamed": Demonstrations(of="b"), "idle": Demonstrations(of="c"),
    }  # fmt: skip
    fit = Fit(dqn(losses={"td": DQN("mix")}, sources=sources), 10, init_from="first", frozen={"teacher": "t"})
    assert fit.inputs() == {
        "a": Product.dataset, "b": Product.dataset, "first": Product.policy, "t": Product.policy,
    }  # fmt: skip
    assert fit.interacts() and not Fit(dqn(), 10).interacts()


def test_checks_are_part_of_the_key_only_where_something_reads_them():
    def material(**settings):
        return describe(Fit(dqn(), 10, **settings).material(lambda path: ""))

    assert material(check=Checks(10)) == material(check=Checks(20))
    stop = {"stop": Stop(plateau=3)}
    assert material(check=Checks(10), **stop) != material(check=Checks(20), **stop)
    assert material(check=Checks(10), checkpoints=1) != material(check=Checks(20), checkpoints=1)


@pytest.mark.parametrize("rule", ["success_rate", "plateau", "env_steps", "seconds"])
def test_stop_rules_that_would_end_an_untrained_agent_are_refused(rule):
    with pytest.raises(Refused, match=f"stop.{rule} is 0"):
        Stop(**{rule: 0})


def test_a_start_from_another_network_is_refused(counting):
    small, large = SoftPolicyCritic([4]), SoftPolicyCritic([8])
    box = Spaces(gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Box(-2.0, 2.0, (1,)))
    with pytest.raises(Refused, match="another network"):
        _take_over(small.build(box), large.build(box), "expert")
    normal = small.build(box)
    normal.normalise_observations()
    with pytest.raises(Refused, match="set algo.normalize_obs=false"):
        _take_over(normal, small.build(box), "expert")


def test_a_source_may_not_be_read_in_two_ways_or_mix_itself(counting):
    q = QNet([4])
    losses = {"td": DQN("replay"), "gap": ConservativeDiscrete("both")}
    sources = {"replay": Replay(), "both": Mix({"replay": 0.5, "demos": 0.5})}
    twice = Fit(Algo(q, losses, sources, targets={"q": Target()}), 10)
    with pytest.raises(Refused, match="'replay' is read in two ways"):
        twice.check_wiring("learn", counting.spaces(), ["demos"])
    loop = Fit(Algo(q, {"td": DQN("both")}, {"both": Mix({"both": 1.0})}, targets={"q": Target()}), 10)
    with pytest.raises(Refused, match="both mixes itself"):
        loop.check_wiring("learn", counting.spaces(), ["demos"])


def test_a_trunk_follows_as_the_groups_that_share_it(counting):
    frames = Spaces(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), gym.spaces.Discrete(2))
    algo = Algo(PolicyValue(), {"ppo": PPO("rollout")}, optim={"policy": Optim(clip=0.5, eps=1e-5)})
    learner = Learner([algo.agent.build(frames)], algo, 0, torch.device("cpu"))
    assert learner.descents["encoder"].config == Optim(clip=0.5, eps=1e-5)
    assert learner.descents["value"].config == Optim()
