"""The loop of a training stage: phases, evaluations, stop rules, snapshots, initial weights, members."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lfd.agents.config import AgentConfig
from lfd.agents.distributions import Categorical
from lfd.agents.nets import NetSpec, PolicyNet
from lfd.agents.roles import STATE_VALUE
from lfd.algos import Loss, LossOutput, Metrics
from lfd.algos.bc import BC
from lfd.algos.cql import CQLDiscrete
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.errors import Diverged, UserError
from lfd.learner.learner import Algo, Learner, Phase
from lfd.learner.optim import Target
from lfd.log import read_records
from lfd.registry import parts
from lfd.sources.dataset import DatasetSource
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit import evaluation
from lfd.stages.fit.config import EvalConfig, Stop
from lfd.stages.fit.evaluation import Evaluator
from lfd.stages.fit.stage import Fit
from tests import composed

SIZES = [8]
DEMOS = Collect("random", transitions=200)


def cloning(**settings):
    return Algo(composed.policy(SIZES), {"bc": BC("demos")}, batch_size=16, **settings)


def never(**settings):
    return Fit(**{"steps": 30, "eval": EvalConfig(0), **settings})


@pytest.fixture
def active(monkeypatch):
    """Names of the losses of every gradient step."""
    seen = []
    step = Learner.step

    def watched(self, batches, names, targets=None):
        seen.append(list(names))
        return step(self, batches, names, targets)

    monkeypatch.setattr(Learner, "step", watched)
    return seen


def test_fit_phases_alternate_in_rounds(counting, run_stages, active):
    losses = {"gap": CQLDiscrete("demos"), "td": DQN("demos")}
    rounds = {"first": Phase(["gap"], steps=3), "second": Phase(["td", "gap"], steps=2)}
    algo = Algo(composed.q_net(SIZES), losses, phases=rounds, targets={"critic": Target()})
    run_stages({"demos": DEMOS, "learn": never(algo=algo, steps=12)}, counting)
    assert active == ([["gap"]] * 3 + [["td", "gap"]] * 2) * 2 + [["gap"]] * 2


def test_fit_loss_with_every_runs_at_its_interval_within_a_phase(counting, run_stages, active):
    losses = {"gap": CQLDiscrete("demos", every=2), "td": DQN("demos")}
    alone = Algo(composed.q_net(SIZES), losses, targets={"critic": Target()})
    run_stages({"demos": DEMOS, "learn": never(algo=alone, steps=4)}, counting)
    assert active == [["gap", "td"], ["td"]] * 2
    active.clear()
    rounds = {"both": Phase(["gap", "td"], steps=3), "td": Phase(["td"], steps=2)}
    phased = Algo(composed.q_net(SIZES), losses, phases=rounds, targets={"critic": Target()})
    run_stages({"demos": DEMOS, "learn": never(algo=phased, steps=10)}, counting)
    assert active == [["gap", "td"], ["td"], ["gap", "td"], ["td"], ["td"]] * 2


@dataclass
class ValueOnly(Loss):
    """Trains nothing but the value."""

    needs: ClassVar = ("obs",)
    uses: ClassVar = {"value": STATE_VALUE}
    trains: ClassVar = ("value",)

    def __call__(self, agent, batch):
        return LossOutput({"value": agent.value(batch.obs).square().mean()}, Metrics())


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(), "...11...11"),
        (Target(update_interval=2), "...1....1."),
        (Target(tau=1, update_interval=3), "........1."),
        (Target(tau=1, update_interval=4), ".........1"),
    ],
)
def test_fit_target_networks_are_updated_only_in_phases_that_train_their_module(
    counting, run_stages, monkeypatch, target, expected
):
    updates = []
    update = Learner._update_targets
    monkeypatch.setattr(
        Learner, "_update_targets", lambda self, names: (updates.append("policy" in names), update(self, names))
    )
    rounds = {"value": Phase(["value"], steps=3), "policy": Phase(["bc"], steps=2)}
    losses = {"value": ValueOnly("demos"), "bc": BC("demos")}
    algo = Algo(composed.policy_value(SIZES), losses, phases=rounds, targets={"policy": target}, batch_size=16)
    run_stages({"demos": DEMOS, "learn": never(algo=algo, steps=10)}, counting)
    assert "".join(".1"[is_updated] for is_updated in updates) == expected


class Noisy(PolicyNet):
    """A network with dropout and batch normalization."""

    distribution = Categorical

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 2))

    def forward(self, obs):
        return Categorical(self.layers(obs))


@dataclass
class NoisySpec(NetSpec):
    leads_to: ClassVar = ("policy",)

    def build(self, inputs):
        return Noisy()


def test_fit_modules_are_in_training_mode_in_gradient_steps_only(counting, run_stages, monkeypatch):
    """Evaluation and validation use no dropout and change neither statistics nor the global generator."""
    modes, play = [], Evaluator._play

    def played(self):
        net, state = self.learner.agent.nets["policy"], torch.get_rng_state()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        result = play(self)
        self._validate()
        modes.append(net.training)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)
        return result

    monkeypatch.setattr(Evaluator, "_play", played)
    algo = Algo(
        AgentConfig({"policy": NoisySpec()}),
        {"bc": BC("demos")},
        {"demos": DatasetSource(validation=0.2)},
        batch_size=16,
    )
    monkeypatch.setitem(parts("net"), "noisy", NoisySpec)
    pipeline = run_stages({"demos": DEMOS, "learn": Fit(algo, 20, eval=EvalConfig(10, 2))}, counting)
    net = pipeline.product("learn").agents()[0].nets["policy"]
    assert modes == [False, False] and int(net.layers[0].num_batches_tracked) == 20


def test_fit_phase_of_epochs_has_the_steps_of_passes_over_its_source(counting, run_stages, active):
    losses = {"bc": BC("demos"), "ppo": PPO("rollout")}
    rounds = {"clone": Phase(["bc"], epochs=2), "improve": Phase(["ppo"], epochs=1)}
    sources = {"rollout": Rollout(2, 16, epochs=1)}
    algo = Algo(composed.policy_value(SIZES), losses, sources, rounds, batch_size=16)
    run_stages({"demos": Collect("random", transitions=40), "learn": never(algo=algo, steps=10)}, counting)
    assert active == ([["bc"]] * 6 + [["ppo"]] * 2) + [["bc"]] * 2


@pytest.mark.parametrize(
    ("stop", "score", "steps", "reason"),
    [
        (Stop(score=4.0), [1, 3, 5, 9], 30, "score"),
        (Stop(success_rate=0.5), [0.1, 0.4, 0.6], 30, "success_rate"),
        (Stop(plateau=2), [5, 6, 6, 4, 9], 40, "plateau"),
        (Stop(plateau=3), [5, 6, 6, 4, 9, 1], 60, "steps"),
        (Stop(seconds=1e-6), [], 0, "seconds"),
    ],
)
def test_fit_stop_rule_ends_the_training(counting, run_stages, monkeypatch, stop, score, steps, reason):
    scores = iter(score)

    def evaluate(self, seconds):
        value = next(scores)
        self._last_step = self.learner.step_count
        self.history.append({"step": self.learner.step_count, "score": value, "success_rate": value})

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    stages = {"demos": DEMOS, "learn": Fit(cloning(), 60, eval=EvalConfig(10), stop=stop)}
    if not steps:
        monkeypatch.setattr(Evaluator, "is_pending", lambda self: False)
    summary = run_stages(stages, counting).reports["learn"].summary
    assert (summary["gradient_steps"], summary["stopped_by"]) == (steps, reason)
    assert summary["converged"] == (reason in ("score", "success_rate"))


@pytest.mark.parametrize(("score", "stopped_by"), [(-1.0, "score"), (1e9, "steps")])
def test_fit_that_ends_before_its_first_evaluation_is_evaluated_at_the_end(counting, run_stages, score, stopped_by):
    short = Fit(cloning(), 5, eval=EvalConfig(1_000, 2), stop=Stop(score=score))
    summary = run_stages({"demos": DEMOS, "learn": short}, counting).reports["learn"].summary
    assert (summary["gradient_steps"], summary["stopped_by"]) == (5, stopped_by)
    assert summary["converged"] == (stopped_by == "score")
    assert summary["last5_mean"] is not None


def test_fit_without_evaluations_has_no_score_and_did_not_converge(counting, run_stages):
    summary = run_stages({"demos": DEMOS, "learn": never(algo=cloning())}, counting).reports["learn"].summary
    assert (summary["converged"], summary["last5_mean"]) == (False, None)


def test_fit_stop_env_steps_trains_on_the_last_collection(counting, run_stages):
    algo = Algo(
        composed.policy_value(SIZES), {"ppo": PPO("rollout")}, {"rollout": Rollout(2, 16, epochs=2)}, batch_size=16
    )
    stages = {"learn": never(algo=algo, steps=100, stop=Stop(env_steps=60))}
    summary = run_stages(stages, counting).reports["learn"].summary
    assert (summary["env_steps"], summary["gradient_steps"], summary["stopped_by"]) == (64, 8, "env_steps")


def test_fit_without_a_checkpoint_deletes_the_files_of_a_replay(counting, run_stages):
    replay = {"replay": Replay(200, 2, 20)}
    algo = Algo(composed.q_net(SIZES), {"td": DQN("replay")}, replay, targets={"critic": Target()}, batch_size=16)
    folder = run_stages({"learn": never(algo=algo, steps=30)}, counting).product("learn").folder
    assert not (folder / "state").exists() and not (folder / "sources").exists()
    with_resets = run_stages({"learn": never(algo=algo, steps=30, reset_every=20)}, counting, "other")
    kept = with_resets.product("learn").folder
    assert (kept / "state").exists() and (kept / "sources").exists()


def test_fit_evaluations_have_the_same_start_states(run_stages, counting):
    stages = {"demos": DEMOS, "learn": Fit(cloning(), 35, eval=EvalConfig(10, 4))}
    history = run_stages(stages, counting).product("learn").history
    assert [evaluation["step"] for evaluation in history] == [10, 20, 30, 35] and history[0]["success_rate"] is None
    assert len({evaluation["score"] for evaluation in history}) == 1  # no action changes a return there


def test_fit_validation_is_recorded(run_stages, write_data, counting):
    algo = Algo(
        composed.policy(SIZES), {"bc": BC("demos")}, {"demos": DatasetSource(validation=0.2)}, batch_size=16, lr=0.01
    )
    pipeline = run_stages({"demos": DEMOS, "learn": Fit(algo, 20, eval=EvalConfig(10, 1))}, counting)
    records = read_records(pipeline.product("learn").folder / "metrics.jsonl")
    validated = [record for record in records if "learn/validation/bc/bc_loss" in record]
    assert len(validated) == 2 and 0 <= validated[0]["learn/validation/bc/accuracy"] <= 1


def test_fit_snapshots_are_evenly_spread_states(run_stages, counting):
    fit = Fit(cloning(lr=0.1), 50, eval=EvalConfig(10, 1), snapshots=3)
    pipeline = run_stages({"demos": DEMOS, "learn": fit}, counting)
    trained = pipeline.product("learn")
    assert [snapshot["step"] for snapshot in trained.snapshots] == [10, 30, 50]
    weights = [trained.agents(k)[0].state_dict()["nets.policy.net.head.0.weight"] for k in range(3)]
    last = trained.agents()[0].state_dict()["nets.policy.net.head.0.weight"]
    assert torch.equal(weights[2], last) and not torch.equal(weights[0], weights[1])
    assert len(list(trained.folder.glob("snapshot-*"))) == 3
    with pytest.raises(UserError, match="snapshot 3: expected a number below 3"):
        trained.agents(3)


def test_fit_init_from_copies_weights(run_stages, counting):
    stages = {
        "demos": DEMOS,
        "first": never(algo=cloning(normalize_obs=True), steps=20),
        "second": never(algo=cloning(normalize_obs=True, lr=0.0), steps=1, init_from="first", seed=1),
    }
    pipeline = run_stages(stages, counting)
    first, second = (pipeline.product(name).agents()[0].state_dict() for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fit_init_from_without_common_modules_is_refused(run_stages, counting):
    other = Algo(composed.q_net(SIZES), {"gap": CQLDiscrete("demos")})
    stages = {"demos": DEMOS, "first": never(algo=cloning()), "second": never(algo=other, init_from="first")}
    with pytest.raises(UserError, match="expected a net in common with those of this stage .critic., got policy"):
        run_stages(stages, counting)


def test_fit_init_from_normalized_observations_without_normalization_is_refused(run_stages, counting):
    stages = {
        "demos": DEMOS,
        "first": never(algo=cloning(normalize_obs=True), steps=2),
        "second": never(algo=cloning(), steps=2, init_from="first"),
    }
    with pytest.raises(UserError, match="normalize_obs=true"):
        run_stages(stages, counting)


def test_fit_normalization_statistics_are_those_of_the_data_and_stored(run_stages, counting):
    pipeline = run_stages({"demos": DEMOS, "learn": never(algo=cloning(normalize_obs=True))}, counting)
    data = pipeline.product("demos")
    seen = data.observations(np.arange(len(data)))
    normaliser = pipeline.product("learn").agents()[0].normalizers["obs"]
    np.testing.assert_allclose(normaliser.mean, seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(normaliser.variance, seen.var(0), rtol=1e-3)


def test_fit_frozen_agents_keep_their_weights(run_stages, counting, monkeypatch):
    seen = []

    class Watching(BC):
        def __call__(self, agent, batch):
            seen.append(agent.frozen["teacher"].state_dict()["nets.policy.net.head.0.weight"].clone())
            return super().__call__(agent, batch)

    algo = Algo(composed.policy(SIZES), {"bc": Watching("demos")}, batch_size=16, lr=0.1)
    stages = {
        "demos": DEMOS,
        "first": never(algo=cloning(), steps=5),
        "second": never(algo=algo, steps=5, frozen={"teacher": "first"}),
    }
    pipeline = run_stages(stages, counting)
    first = pipeline.product("first").agents()[0].state_dict()["nets.policy.net.head.0.weight"]
    # Steps that repeat what was recorded do not call the loss.
    assert seen and all(torch.equal(weight, first) for weight in seen)
    assert not torch.equal(first, pipeline.product("second").agents()[0].state_dict()["nets.policy.net.head.0.weight"])


def test_fit_members_have_different_weights_and_scores_of_each(run_stages, counting):
    stages = {
        "demos": DEMOS,
        "learn": Fit(cloning(normalize_obs=True), 30, members=3, eval=EvalConfig(10, 2)),
        "score": Evaluate(["learn"], episodes=4),
    }
    pipeline = run_stages(stages, counting)
    trained = pipeline.product("learn")
    weights = [agent.state_dict()["nets.policy.net.head.0.weight"] for agent in trained.agents()]
    assert len(weights) == 3 and not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    score = pipeline.product("score")["learn"]
    assert len(score["members"]) == 3 and score["episodes"] == 12
    assert score["return_mean"] == pytest.approx(np.mean(score["members"]))


def test_fit_evaluation_plays_all_members(run_stages, counting, monkeypatch):
    seen = []
    greedy = evaluation.agent_policy

    def watched(agent, *rest):
        seen.append(agent.state_dict()["nets.policy.net.head.0.weight"].clone())
        return greedy(agent, *rest)

    monkeypatch.setattr(evaluation, "agent_policy", watched)
    run_stages({"demos": DEMOS, "learn": Fit(cloning(), 10, members=3, eval=EvalConfig(10, 2))}, counting)
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_fit_members_init_from_the_same_member(run_stages, counting):
    stages = {
        "demos": DEMOS,
        "first": never(algo=cloning(), steps=5, members=2),
        "second": never(algo=cloning(lr=0.0), steps=1, members=2, init_from="first"),
    }
    pipeline = run_stages(stages, counting)
    for one, other in zip(pipeline.product("first").agents(), pipeline.product("second").agents(), strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_fit_divergence_is_one_line(run_stages, counting):
    sources, slow = {"replay": Replay(100, 2, 10)}, {"critic": Target(tau=1.0)}
    algo = Algo(composed.q_net(SIZES), {"td": DQN("replay")}, sources, lr=1e38, targets=slow)
    with pytest.raises(Diverged, match="not finite at gradient step 100"):
        run_stages({"learn": never(algo=algo, steps=200)}, counting)


def test_fit_records_metrics_evaluations_and_history(run_stages, counting):
    algo = Algo(composed.policy_value(SIZES), {"ppo": PPO("rollout")}, {"rollout": Rollout(2, 16)}, batch_size=16)
    pipeline = run_stages({"learn": Fit(algo, 200, eval=EvalConfig(100, 2))}, counting)
    records = read_records(pipeline.product("learn").folder / "metrics.jsonl")
    assert [record["step"] for record in records] == [100, 100, 200, 200]
    assert {"learn/ppo/actor_loss", "learn/ppo/kl", "learn/train_return", "env_steps", "seconds"} <= records[0].keys()
    assert {"score", "score_std", "success_rate"} <= records[1].keys()
    assert json.loads((pipeline.product("learn").folder / "agent.json").read_text())["history"][1]["step"] == 200
