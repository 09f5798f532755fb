"""What is refused before anything is built, and what a key is made of."""

import pytest

from lfd.agents.actor_critic import Policy, PolicyValue
from lfd.agents.q import QNet
from lfd.algos.bc import Cloning
from lfd.algos.cql import ConservativeDiscrete
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.errors import Refused
from lfd.keys import describe
from lfd.learner import Algo, Optim, Phase, Target
from lfd.sources.dataset import Demonstrations
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages import Product
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
    "a phase of an unknown loss": (dqn(phases={"a": Phase(["dt"], steps=1)}), "names the loss 'dt'; did you mean 'td'"),
    "a phase of no loss": (dqn(phases={"a": Phase([], steps=1)}), "phases.a has no losses"),
    "members with an environment": (
        dqn(losses={"td": DQN("replay")}, sources={"replay": Replay()}),
        "members=2 needs sources without an environment",
    ),
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
        {"steps": 0}, {"members": 0}, {"boundary": 0}, {"checkpoints": -1}, {"stop": Stop(plateau=0)},
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
