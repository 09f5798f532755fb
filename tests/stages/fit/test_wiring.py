"""Checks of a training stage before anything is built, its inputs, its key and its expected environment steps."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.agents.actor_critic import PolicySpec, PolicyValue, SoftPolicyCritic
from lfd.agents.q import QNet
from lfd.algos.bc import BC
from lfd.algos.cql import CQLDiscrete
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.envs import Spaces
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner, Phase
from lfd.learner.optim import OptimConfig, Target
from lfd.sources.dataset import DatasetSource
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages import PipelineContext, Product
from lfd.stages.collect import Collect
from lfd.stages.fit.agents import _copy_weights
from lfd.stages.fit.config import EvalConfig, Stop
from lfd.stages.fit.stage import Fit
from lfd.store.keys import describe

TD = {"td": DQN("demos")}
TARGETS = {"q": Target()}


def dqn(**settings):
    return Algo(**{"agent": QNet([8]), "losses": TD, "targets": TARGETS, **settings})


REFUSED = {
    "no losses": (dqn(losses={}), "has no losses for discrete actions"),
    "an agent without the methods of the loss": (
        dqn(agent=PolicySpec([8])),
        r"td \(DQN\) needs a QAgent; algo.agent builds a Actor",
    ),
    "no target network": (dqn(targets={}), "reads a target network of 'q'; add targets"),
    "a target network of no module": (
        dqn(targets={"q": Target(), "p": Target()}),
        "targets.p names no module of QAgent",
    ),
    "an optimizer of no module": (dqn(optim={"critic": OptimConfig()}), "optim.critic names no module of QAgent"),
    "an unknown dataset": (
        dqn(losses={"td": DQN("demo")}),
        "'demo', which is no stage with a dataset and no source; did you mean 'demos'",
    ),
    "PPO on a fixed dataset": (
        Algo(PolicyValue([8]), {"ppo": PPO("demos")}),
        "needs the columns advantage, log_prob, value_target, which 'demos' .* does not have; read a rollout source",
    ),
    "a phase of an unknown loss": (
        dqn(phases={"a": Phase(["tdd"], steps=1)}),
        "names the loss 'tdd'; did you mean 'td'",
    ),
    "a phase of no loss": (dqn(phases={"a": Phase([], steps=1)}), "phases.a has no losses"),
    "target_kl with members": (
        Algo(PolicyValue([8]), {"ppo": PPO("rollout")}, {"rollout": Rollout(target_kl=0.1)}),
        "target_kl: expected null, as members > 1 step together, got 0.1",
    ),
    "a loss in no phase": (
        dqn(losses={**TD, "gap": CQLDiscrete("demos")}, phases={"a": Phase(["gap"], steps=1)}),
        "losses.td is in no phase",
    ),
    "sequences for an agent without state": (
        dqn(sequence_length=4),
        "algo.sequence_length: QAgent is not recurrent and needs 1, got 4",
    ),
}


@pytest.mark.parametrize(("algo", "message"), REFUSED.values(), ids=REFUSED)
def test_fit_with_mismatching_parts_is_refused(algo, message, counting, check_setup):
    fit = Fit(algo, 10, members=2 if "members" in message else 1)
    with pytest.raises(UserError, match=message):
        check_setup(fit, "learn", counting.spaces(), ["demos"])


def test_fit_of_discrete_actions_in_a_continuous_space_is_refused(counting_continuous, check_setup):
    with pytest.raises(UserError, match="QNet acts in discrete action spaces, got a continuous one"):
        check_setup(Fit(dqn(), 10), "learn", counting_continuous.spaces(), ["demos"])


def test_settings_of_a_source_that_no_loss_reads_print_a_message(counting, check_setup, capsys):
    algo = Algo(PolicySpec([8]), {"bc": BC("demos")}, {"held": DatasetSource(validation=0.1)})
    check_setup(Fit(algo, 10), "learn", counting.spaces(), ["demos"])
    assert capsys.readouterr().err.endswith(
        "learn: no loss reads sources.held: its settings have no effect; "
        "+source@algo.sources.demos=dataset gives demos settings\n"
    )


def test_fit_bc_on_a_rollout_and_cql_on_a_replay_pass_the_checks(counting, check_setup):
    cloning = Algo(PolicySpec([8]), {"bc": BC("fresh")}, {"fresh": Rollout()})
    check_setup(Fit(cloning, 10), "learn", counting.spaces(), [])
    losses = {"td": DQN("replay"), "gap": CQLDiscrete("replay")}
    check_setup(Fit(dqn(losses=losses, sources={"replay": Replay()}), 10), "learn", counting.spaces(), [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: expected 1 or more, got 0"),
        ({"members": 0}, "members: expected 1 or more, got 0"),
        ({"reset_every": 0}, "reset_every: expected 1 or more, got 0"),
        ({"snapshots": -1}, "snapshots: expected 0 or more, got -1"),
        ({"stop": Stop(score=1.0), "eval": EvalConfig(0)}, "eval.every: stop rules on scores and snapshots need"),
        ({"snapshots": 1, "eval": EvalConfig(0)}, "eval.every: stop rules on scores and snapshots need"),
    ],
)
def test_fit_values_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Fit(**{"algo": dqn(), "steps": 10, **settings})


@pytest.mark.parametrize(("name", "value"), [("every", -1), ("episodes", 0), ("num_envs", 0)])
def test_eval_config_values_out_of_range_are_refused(name, value):
    with pytest.raises(UserError, match=f"eval.{name}: expected {value + 1} or more, got {value}"):
        EvalConfig(**{name: value})


def test_fit_inputs_are_datasets_of_losses_also_through_mixes():
    sources = {
        "mix": Mix({"inner": 0.5, "replay": 0.5}), "inner": Mix({"a": 0.5, "renamed": 0.5}), "replay": Replay(),
        "renamed": DatasetSource(dataset="b"), "idle": DatasetSource(dataset="c"),
    }  # fmt: skip
    fit = Fit(dqn(losses={"td": DQN("mix")}, sources=sources), 10, init_from="first", frozen={"teacher": "t"})
    assert fit.inputs() == {
        "a": Product.dataset, "b": Product.dataset, "first": Product.policy, "t": Product.policy,
    }  # fmt: skip
    assert fit.interacts() and not Fit(dqn(), 10).interacts()


def test_eval_config_is_part_of_the_key_only_if_results_are_used():
    def material(**settings):
        return describe(Fit(dqn(), 10, **settings).key_content(lambda path: ""))

    assert material(eval=EvalConfig(10)) == material(eval=EvalConfig(20))
    stop = {"stop": Stop(plateau=3)}
    assert material(eval=EvalConfig(10), **stop) != material(eval=EvalConfig(20), **stop)
    assert material(eval=EvalConfig(10), snapshots=1) != material(eval=EvalConfig(20), snapshots=1)


@pytest.mark.parametrize("rule", ["success_rate", "plateau", "env_steps", "seconds"])
def test_stop_values_out_of_range_are_refused(rule):
    with pytest.raises(UserError, match=f"stop.{rule}: expected a number above 0 or null, got 0"):
        Stop(**{rule: 0})


def test_copy_weights_from_another_network_is_refused(counting):
    small, large = SoftPolicyCritic([4]), SoftPolicyCritic([8])
    box = Spaces(gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Box(-2.0, 2.0, (1,)))
    with pytest.raises(UserError, match="its module 'policy' has other layers"):
        _copy_weights(small.build(box), large.build(box), "expert")
    normal = small.build(box)
    normal.normalize_observations()
    with pytest.raises(UserError, match="set algo.normalize_obs=false"):
        _copy_weights(normal, small.build(box), "expert")


def test_fit_source_that_is_read_twice_or_mixes_itself_is_refused(counting, check_setup):
    q = QNet([4])
    losses = {"td": DQN("replay"), "gap": CQLDiscrete("both")}
    sources = {"replay": Replay(), "both": Mix({"replay": 0.5, "demos": 0.5})}
    twice = Fit(Algo(q, losses, sources, targets={"q": Target()}), 10)
    with pytest.raises(UserError, match="'replay' is read twice"):
        check_setup(twice, "learn", counting.spaces(), ["demos"])
    loop = Fit(Algo(q, {"td": DQN("both")}, {"both": Mix({"both": 1.0})}, targets={"q": Target()}), 10)
    with pytest.raises(UserError, match="both mixes itself"):
        check_setup(loop, "learn", counting.spaces(), ["demos"])


def test_learner_shared_encoder_has_the_optimizer_of_its_group(counting):
    frames = Spaces(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), gym.spaces.Discrete(2))
    algo = Algo(PolicyValue(), {"ppo": PPO("rollout")}, optim={"policy": OptimConfig(max_grad_norm=0.5, eps=1e-5)})
    learner = Learner([algo.agent.build(frames)], algo, 0, torch.device("cpu"))
    assert learner.optimizers["encoder"].config == OptimConfig(max_grad_norm=0.5, eps=1e-5)
    assert learner.optimizers["value"].config == OptimConfig()


PPO_TERM = {"ppo": PPO("rollout")}
ROLLOUT = {"rollout": Rollout(2, 16, epochs=2)}
SAME = Phase(["ppo"], epochs=3)
INTERACTING = {
    "a rollout": Algo(PolicyValue([4]), PPO_TERM, ROLLOUT, batch_size=16),
    "a rollout in a round": Algo(
        PolicyValue([4]), PPO_TERM, ROLLOUT, {"a": Phase(["ppo"], steps=2), "b": SAME}, batch_size=16
    ),
    "half a batch of a rollout": Algo(
        PolicyValue([4]), {"bc": BC("mix")}, {**ROLLOUT, "mix": Mix({"rollout": 0.5, "demos": 0.5})}, batch_size=16
    ),
    "a replay": dqn(
        losses={"td": DQN("replay")}, sources={"replay": Replay(500, 1, learning_starts=64, env_steps_per_update=0.5)}
    ),
}


@pytest.mark.parametrize("algo", INTERACTING.values(), ids=INTERACTING)
def test_source_env_steps_estimate_equals_the_steps_taken(algo, counting, run_stages, tmp_path):
    fit = Fit(algo, 48, eval=EvalConfig(0))
    report = run_stages({"demos": Collect("random", transitions=50), "learn": fit}, counting).reports["learn"]
    context = PipelineContext(stages={}, spaces=counting.spaces(), env=counting, store=tmp_path)
    estimated = sum(source.env_steps(fit.use_of(name, "learn", context)) for name, source in algo.sources.items())
    assert estimated == report.summary["env_steps"] > 0
