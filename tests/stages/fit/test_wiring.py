"""Checks of a training stage before anything is built, its inputs, its key and its expected environment steps."""

from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.agents.acting import ByPolicy
from lfd.agents.bcq import ImitationSpec
from lfd.agents.config import AgentConfig, Trunk
from lfd.agents.memory import GRUSpec
from lfd.agents.nets import QEnsembleSpec
from lfd.algos.bc import BC
from lfd.algos.cql import CQLDiscrete
from lfd.algos.crr import CRR
from lfd.algos.dqn import DQN
from lfd.algos.gail import GAIL
from lfd.algos.ppo import PPO
from lfd.algos.trex import TREX
from lfd.envs import Spaces
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner, Phase
from lfd.learner.optim import OptimConfig, Target
from lfd.sources.dataset import DatasetSource, Sequences
from lfd.sources.mix import Mix
from lfd.sources.preference_pairs import PreferencePairs
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages import CheckContext, PipelineContext, Product
from lfd.stages.collect import Collect
from lfd.stages.fit.agents import _copy_weights
from lfd.stages.fit.config import EvalConfig, Stop
from lfd.stages.fit.stage import Fit
from lfd.store.keys import describe
from tests import composed


@dataclass
class Unregistered(QEnsembleSpec):
    """A net of a package without an entry point."""


TD = {"td": DQN("demos")}
TARGETS = {"critic": Target()}


def dqn(**settings):
    return Algo(**{"agent": composed.q_net([8]), "losses": TD, "targets": TARGETS, **settings})


REFUSED = {
    "no losses": (dqn(losses={}), "has no losses for discrete actions"),
    "an agent without the net of the loss": (
        dqn(agent=composed.policy([8])),
        r"td \(DQN\) needs a critic of discrete actions; add .* to the algorithm; its agent has policy$",
    ),
    "no target network": (dqn(targets={}), "reads a target network of 'critic'; add targets"),
    "a target network of no module": (
        dqn(targets={"critic": Target(), "p": Target()}),
        "targets.p names no net; known: critic",
    ),
    "an optimizer of no module": (dqn(optim={"policy": OptimConfig()}), "optim.policy names no net; known: critic"),
    "an unknown dataset": (
        dqn(losses={"td": DQN("demo")}),
        "'demo', which is no stage with a dataset and no source; did you mean 'demos'",
    ),
    "PPO on a fixed dataset": (
        Algo(composed.policy_value([8]), {"ppo": PPO("demos")}),
        "needs the columns advantage, log_prob, value_target, which 'demos' .* does not have; read a rollout source",
    ),
    "a phase of an unknown loss": (
        dqn(phases={"a": Phase(["tdd"], steps=1)}),
        "names the loss 'tdd'; did you mean 'td'",
    ),
    "a phase of no loss": (dqn(phases={"a": Phase([], steps=1)}), "phases.a has no losses"),
    "target_kl with members": (
        Algo(composed.policy_value([8]), {"ppo": PPO("rollout")}, {"rollout": Rollout(target_kl=0.1)}),
        "target_kl: expected null, as members > 1 step together, got 0.1",
    ),
    "a loss in no phase": (
        dqn(losses={**TD, "gap": CQLDiscrete("demos")}, phases={"a": Phase(["gap"], steps=1)}),
        "losses.td is in no phase",
    ),
    "a net that no loss trains": (
        dqn(agent=composed.soft_policy_critic([8], critics=1)),
        "no loss trains the net 'policy' of algo.agent; add a loss, or remove the net with ~algo.agent.nets.policy",
    ),
    "two losses with different nets": (
        Algo(
            composed.reward_model(),
            {"a": GAIL({"learner": "demos", "expert": "demos"}), "b": TREX("demos")},
        ),
        "losses.a and losses.b bring different nets 'reward'; give both losses the same values, or set",
    ),
    "an acting rule whose nets are missing": (
        dqn(agent=replace(composed.q_net([8]), acts_by=ByPolicy())),
        "acts_by .ByPolicy. needs a policy; add",
    ),
    "several acting rules": (
        dqn(agent=AgentConfig({"critic": QEnsembleSpec(critics=1), "imitation": ImitationSpec()})),
        "acts_by: expected a rule, as the nets can act by several, got null; set acts_by",
    ),
    "different targets of one trunk": (
        Algo(
            replace(composed.policy_q([8]), trunk=Trunk.shared),
            {"crr": CRR("demos")},
            targets={"policy": Target(), "critic": Target(0.1)},
        ),
        "targets.critic: expected the values of targets.policy, as both nets share the encoder",
    ),
    "a target network of the trunk by itself": (
        dqn(
            agent=replace(composed.q_net([8]), memory=GRUSpec(4)),
            sequence_length=4,
            targets={"critic": Target(), "memory": Target()},
        ),
        "targets.memory: expected none, as it has a target network wherever .* remove it with ~algo.targets.memory",
    ),
    "a memory that no net reads": (
        Algo(
            replace(composed.reward_model(), memory=GRUSpec(4)),
            {"trex": TREX("pairs")},
            {"pairs": PreferencePairs("demos")},
            sequence_length=4,
        ),
        "algo.agent.memory: expected null, as none of the nets reward reads the encoder, got GRUSpec; leave it out",
    ),
    "pairs of segments for a memory": (
        Algo(
            replace(composed.policy([8]), memory=GRUSpec(4)),
            {"bc": BC("demos"), "trex": TREX("pairs")},
            {"pairs": PreferencePairs("demos")},
            sequence_length=4,
        ),
        "algo.sources.pairs: expected algo.sequence_length=1, as pairs of segments are no sequences .*, got 4",
    ),
    "whole episodes with members": (
        Algo(
            replace(composed.policy([8]), memory=GRUSpec(4)),
            {"bc": BC("demos")},
            {"demos": DatasetSource(sequences=Sequences.episodes)},
            sequence_length=4,
        ),
        "demos.sequences: expected windows or streams, as members > 1 step together .*, got episodes; set it to",
    ),
    "a net of a class that is registered nowhere": (
        dqn(agent=AgentConfig({"critic": Unregistered(critics=1)})),
        "tests.stages.fit.test_wiring:Unregistered: expected a registered class of the group net, as a stored agent",
    ),
    "a memory without sequences": (
        dqn(agent=replace(composed.q_net([8]), memory=GRUSpec(4))),
        "algo.sequence_length: expected more than 1 for an agent with a memory, got 1; set it to 16",
    ),
    "sequences for an agent without state": (
        dqn(sequence_length=4),
        "algo.sequence_length: expected 1 for an agent without memory, got 4",
    ),
}


@pytest.mark.parametrize(("algo", "message"), REFUSED.values(), ids=REFUSED)
def test_fit_with_mismatching_parts_is_refused(algo, message, counting, check_setup):
    fit = Fit(algo, 10, members=2 if "members" in message else 1)
    with pytest.raises(UserError, match=message):
        check_setup(fit, "learn", counting.spaces(), ["demos"])


def test_fit_of_discrete_actions_in_a_continuous_space_is_refused(counting_continuous, check_setup):
    with pytest.raises(UserError, match="acts_by: expected nets that can choose continuous actions, got critic; add"):
        check_setup(Fit(dqn(), 10), "learn", counting_continuous.spaces(), ["demos"])


def test_settings_of_a_source_that_no_loss_reads_print_a_message(counting, check_setup, capsys):
    algo = Algo(composed.policy([8]), {"bc": BC("demos")}, {"held": DatasetSource(validation=0.1)})
    check_setup(Fit(algo, 10), "learn", counting.spaces(), ["demos"])
    assert capsys.readouterr().err.endswith(
        "learn: no loss reads sources.held: its settings have no effect; "
        "+source@algo.sources.demos=dataset gives demos settings\n"
    )


def test_fit_bc_on_a_rollout_and_cql_on_a_replay_pass_the_checks(counting, check_setup):
    cloning = Algo(composed.policy([8]), {"bc": BC("fresh")}, {"fresh": Rollout()})
    check_setup(Fit(cloning, 10), "learn", counting.spaces(), [])
    losses = {"td": DQN("replay"), "gap": CQLDiscrete("replay")}
    check_setup(Fit(dqn(losses=losses, sources={"replay": Replay()}), 10), "learn", counting.spaces(), [])


def test_net_that_only_a_stage_trains_which_starts_from_this_one_or_from_which_it_starts_passes(counting, tmp_path):
    """As in bc_then_ppo, whose clone has the state value that PPO trains later."""
    clone = Fit(Algo(composed.policy_value([8]), {"bc": BC("demos")}), 10)
    ppo = Algo(composed.policy_value([8]), {"ppo": PPO("rollout")}, {"rollout": Rollout()})
    demos = Collect("random", transitions=100)

    def check(name, **stages):
        context = CheckContext(
            name=name, stages={"demos": demos, **stages}, spaces=counting.spaces(), env=counting, store=tmp_path
        )
        stages[name].check(context)

    check("clone", clone=clone, learn=Fit(ppo, 10, init_from="clone"))
    check("clone", first=Fit(ppo, 10), clone=replace(clone, init_from="first"))
    for others in ({}, {"learn": Fit(ppo, 10)}, {"learn": replace(clone, init_from="clone")}):
        with pytest.raises(UserError, match="^clone: no loss trains the net 'value' of algo.agent; add a loss, or"):
            check("clone", clone=clone, **others)


def test_agent_of_separate_trunks_with_a_memory_is_refused():
    with pytest.raises(UserError, match="^trunk: expected auto or shared, as an agent has one memory, got separate"):
        AgentConfig(memory=GRUSpec(4), trunk=Trunk.separate)


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
    small, large = composed.soft_policy_critic([4]), composed.soft_policy_critic([8])
    box = Spaces(gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Box(-2.0, 2.0, (1,)))
    with pytest.raises(UserError, match="its module 'policy' has other layers"):
        _copy_weights(small.build(box), large.build(box), "expert")
    normal = small.build(box)
    normal.normalize_observations()
    with pytest.raises(UserError, match="set algo.normalize_obs=false"):
        _copy_weights(normal, small.build(box), "expert")


def test_fit_source_that_is_read_twice_or_mixes_itself_is_refused(counting, check_setup):
    q = composed.q_net([4])
    losses = {"td": DQN("replay"), "gap": CQLDiscrete("both")}
    sources = {"replay": Replay(), "both": Mix({"replay": 0.5, "demos": 0.5})}
    twice = Fit(Algo(q, losses, sources, targets={"critic": Target()}), 10)
    with pytest.raises(UserError, match="'replay' is read twice"):
        check_setup(twice, "learn", counting.spaces(), ["demos"])
    loop = Fit(Algo(q, {"td": DQN("both")}, {"both": Mix({"both": 1.0})}, targets={"critic": Target()}), 10)
    with pytest.raises(UserError, match="both mixes itself"):
        check_setup(loop, "learn", counting.spaces(), ["demos"])


def test_learner_shared_encoder_has_the_optimizer_of_its_group(counting):
    frames = Spaces(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), gym.spaces.Discrete(2))
    algo = Algo(
        composed.policy_value(), {"ppo": PPO("rollout")}, optim={"policy": OptimConfig(max_grad_norm=0.5, eps=1e-5)}
    )
    learner = Learner([algo.agent.build(frames)], algo, 0, torch.device("cpu"))
    assert learner.optimizers["encoder"].config == OptimConfig(max_grad_norm=0.5, eps=1e-5)
    assert learner.optimizers["value"].config == OptimConfig()


PPO_TERM = {"ppo": PPO("rollout")}
ROLLOUT = {"rollout": Rollout(2, 16, epochs=2)}
SAME = Phase(["ppo"], epochs=3)
INTERACTING = {
    "a rollout": Algo(composed.policy_value([4]), PPO_TERM, ROLLOUT, batch_size=16),
    "a rollout in a round": Algo(
        composed.policy_value([4]), PPO_TERM, ROLLOUT, {"a": Phase(["ppo"], steps=2), "b": SAME}, batch_size=16
    ),
    "half a batch of a rollout": Algo(
        composed.policy([4]),
        {"bc": BC("mix")},
        {**ROLLOUT, "mix": Mix({"rollout": 0.5, "demos": 0.5})},
        batch_size=16,
    ),
    "a replay of a rollout": dqn(
        losses={"td": DQN("replay")},
        sources={"rollout": Rollout(4, 16, epochs=1), "replay": Replay(500, source="rollout", batch_size=8)},
    ),
    "a rollout with a batch size of its own": Algo(
        composed.policy_value([4]),
        {"ppo": PPO("rollout")},
        {"rollout": Rollout(4, 16, epochs=1, batch_size=32)},
        batch_size=16,
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
