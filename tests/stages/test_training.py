"""What a fit does beside gradient steps: phases, checks, stop rules, snapshots, what it starts from, members."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lfd.agents.actor_critic import ActorCritic, Policy, PolicyValue
from lfd.agents.distributions import Categorical
from lfd.agents.q import QNet
from lfd.algos import Loss, Out
from lfd.algos.bc import Cloning
from lfd.algos.cql import ConservativeDiscrete
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.errors import Diverged, Refused
from lfd.learner import Algo, Learner, Phase, Target
from lfd.log import read_records
from lfd.registry import parts
from lfd.sources.dataset import Demonstrations
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages import checking
from lfd.stages.checking import Checking
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit import Fit
from lfd.stages.recipe import Checks, Stop

SIZES = [8]
DEMOS = Collect("random", transitions=200)


def cloning(**settings):
    return Algo(Policy(SIZES), {"bc": Cloning("demos")}, batch=16, **settings)


def never(**settings):
    return Fit(**{"steps": 30, "check": Checks(0), **settings})


@pytest.fixture
def active(monkeypatch):
    """Names of the losses of every gradient step."""
    seen = []
    step = Learner.step

    def watched(self, batches, names, following=None):
        seen.append(list(names))
        return step(self, batches, names, following)

    monkeypatch.setattr(Learner, "step", watched)
    return seen


def test_phases_follow_each_other_in_rounds(counting, run_stages, active):
    losses = {"gap": ConservativeDiscrete("demos"), "td": DQN("demos")}
    rounds = {"first": Phase(["gap"], steps=3), "second": Phase(["td", "gap"], steps=2)}
    algo = Algo(QNet(SIZES), losses, phases=rounds, targets={"q": Target()})
    run_stages({"demos": DEMOS, "learn": never(algo=algo, steps=12)}, counting)
    assert active == ([["gap"]] * 3 + [["td", "gap"]] * 2) * 2 + [["gap"]] * 2


def test_a_loss_with_every_runs_each_so_many_steps_of_its_phase(counting, run_stages, active):
    losses = {"gap": ConservativeDiscrete("demos", every=2), "td": DQN("demos")}
    alone = Algo(QNet(SIZES), losses, targets={"q": Target()})
    run_stages({"demos": DEMOS, "learn": never(algo=alone, steps=4)}, counting)
    assert active == [["gap", "td"], ["td"]] * 2
    active.clear()
    rounds = {"both": Phase(["gap", "td"], steps=3), "td": Phase(["td"], steps=2)}
    phased = Algo(QNet(SIZES), losses, phases=rounds, targets={"q": Target()})
    run_stages({"demos": DEMOS, "learn": never(algo=phased, steps=10)}, counting)
    assert active == [["gap", "td"], ["td"], ["gap", "td"], ["td"], ["td"]] * 2


@dataclass
class ValueOnly(Loss):
    """Trains nothing but the value."""

    needs: ClassVar = ("obs",)
    agents: ClassVar = ActorCritic
    trains: ClassVar = ("value",)

    def __call__(self, agent, batch):
        return Out({"value": agent.value(batch.obs).square().mean()})


@pytest.mark.parametrize(
    ("target", "follows"),
    [
        (Target(), "...11...11"),
        (Target(every=2), "...1....1."),
        (Target(period=3), "........1."),
        (Target(period=4), ".........1"),
    ],
)
def test_slow_copies_rest_while_their_module_does(counting, run_stages, monkeypatch, target, follows):
    followed = []
    follow = Learner._follow
    monkeypatch.setattr(
        Learner, "_follow", lambda self, names: (followed.append("policy" in names), follow(self, names))
    )
    rounds = {"value": Phase(["value"], steps=3), "policy": Phase(["bc"], steps=2)}
    losses = {"value": ValueOnly("demos"), "bc": Cloning("demos")}
    algo = Algo(PolicyValue(SIZES), losses, phases=rounds, targets={"policy": target}, batch=16)
    run_stages({"demos": DEMOS, "learn": never(algo=algo, steps=10)}, counting)

    assert "".join(".1"[one] for one in followed) == follows


class Noisy(nn.Module):
    """Drops half of what it sees while it is trained, and counts what it normalised."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 2))

    def forward(self, obs):
        return Categorical(self.layers(obs))


@dataclass
class NoisyPolicy(Policy):
    def build(self, spaces):
        agent = super().build(spaces)
        agent.nets["policy"] = Noisy()
        return agent


def test_modules_are_in_training_mode_within_gradient_steps_alone(counting, run_stages, monkeypatch):
    """No check, no validation and no collection sees dropout, or moves a statistic or the global generator."""
    modes, play = [], Checking._play

    def played(self):
        net, state = self.learner.agent.nets["policy"], torch.get_rng_state()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        found = play(self)
        self._validate()
        modes.append(net.training)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)
        return found

    monkeypatch.setattr(Checking, "_play", played)
    algo = Algo(NoisyPolicy(SIZES), {"bc": Cloning("demos")}, {"demos": Demonstrations(validation=0.2)}, batch=16)
    monkeypatch.setitem(parts("agent"), "noisy", NoisyPolicy)
    pipeline = run_stages({"demos": DEMOS, "learn": Fit(algo, 20, check=Checks(10, 2))}, counting)
    net = pipeline.product("learn").agents()[0].nets["policy"]
    assert modes == [False, False] and int(net.layers[0].num_batches_tracked) == 20


def test_a_phase_of_epochs_passes_over_its_source(counting, run_stages, active):
    losses = {"bc": Cloning("demos"), "ppo": PPO("rollout")}
    rounds = {"clone": Phase(["bc"], epochs=2), "improve": Phase(["ppo"], epochs=1)}
    sources = {"rollout": Rollout(2, 16, epochs=1)}
    algo = Algo(PolicyValue(SIZES), losses, sources, rounds, batch=16)
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
def test_stop_rules(counting, run_stages, monkeypatch, stop, score, steps, reason):
    told = iter(score)

    def check(self, seconds):
        value = next(told)
        self._checked = self.learner.step_count
        self.history.append({"step": self.learner.step_count, "score": value, "success_rate": value})

    monkeypatch.setattr(Checking, "check", check)
    stages = {"demos": DEMOS, "learn": Fit(cloning(), 60, check=Checks(10), stop=stop)}
    if not steps:
        monkeypatch.setattr(Checking, "is_open", lambda self: False)
    summary = run_stages(stages, counting).reports["learn"].summary
    assert (summary["gradient_steps"], summary["stopped_by"]) == (steps, reason)
    assert summary["converged"] == (reason in ("score", "success_rate"))


@pytest.mark.parametrize(("wanted", "stopped_by"), [(-1.0, "score"), (1e9, "steps")])
def test_a_fit_that_ends_before_its_first_check_is_checked_then(counting, run_stages, wanted, stopped_by):
    short = Fit(cloning(), 5, check=Checks(1_000, 2), stop=Stop(score=wanted))
    summary = run_stages({"demos": DEMOS, "learn": short}, counting).reports["learn"].summary
    assert (summary["gradient_steps"], summary["stopped_by"]) == (5, stopped_by)
    assert summary["converged"] == (stopped_by == "score")
    assert summary["last5_mean"] is not None


def test_a_fit_without_checks_has_no_score_and_did_not_converge(counting, run_stages):
    summary = run_stages({"demos": DEMOS, "learn": never(algo=cloning())}, counting).reports["learn"].summary
    assert (summary["converged"], summary["last5_mean"]) == (False, None)


def test_a_limit_of_env_steps_lets_the_last_collection_be_learnt_from(counting, run_stages):
    algo = Algo(PolicyValue(SIZES), {"ppo": PPO("rollout")}, {"rollout": Rollout(2, 16, epochs=2)}, batch=16)
    stages = {"learn": never(algo=algo, steps=100, stop=Stop(env_steps=60))}
    summary = run_stages(stages, counting).reports["learn"].summary
    assert (summary["env_steps"], summary["gradient_steps"], summary["stopped_by"]) == (64, 8, "env_steps")


def test_a_replay_without_a_checkpoint_is_not_kept(counting, run_stages):
    replay = {"replay": Replay(200, 2, 20)}
    algo = Algo(QNet(SIZES), {"td": DQN("replay")}, replay, targets={"q": Target()}, batch=16)
    folder = run_stages({"learn": never(algo=algo, steps=30)}, counting).product("learn").folder
    assert not (folder / "state").exists() and not (folder / "sources").exists()
    boundary = run_stages({"learn": never(algo=algo, steps=30, boundary=20)}, counting, "other")
    kept = boundary.product("learn").folder
    assert (kept / "state").exists() and (kept / "sources").exists()


def test_checks_use_the_same_start_states_every_time(run_stages, counting):
    stages = {"demos": DEMOS, "learn": Fit(cloning(), 35, check=Checks(10, 4))}
    history = run_stages(stages, counting).product("learn").history
    assert [check["step"] for check in history] == [10, 20, 30, 35] and history[0]["success_rate"] is None
    assert len({check["score"] for check in history}) == 1  # no action changes a return there


def test_validation_is_recorded_and_falls_with_what_is_learnt(run_stages, write_data, counting):
    algo = Algo(Policy(SIZES), {"bc": Cloning("demos")}, {"demos": Demonstrations(validation=0.2)}, batch=16, lr=0.01)
    pipeline = run_stages({"demos": DEMOS, "learn": Fit(algo, 20, check=Checks(10, 1))}, counting)
    records = read_records(pipeline.product("learn").folder / "metrics.jsonl")
    validated = [record for record in records if "learn/validation/bc" in record]
    assert len(validated) == 2 and 0 <= validated[0]["learn/validation/bc/accuracy"] <= 1


def test_snapshots_are_products_of_their_own(run_stages, counting):
    fit = Fit(cloning(lr=0.1), 50, check=Checks(10, 1), checkpoints=3)
    pipeline = run_stages({"demos": DEMOS, "learn": fit}, counting)
    trained = pipeline.product("learn")
    assert [one["step"] for one in trained.snapshots] == [10, 30, 50]
    weights = [trained.agents(k)[0].state_dict()["nets.policy.net.head.0.weight"] for k in range(3)]
    last = trained.agents()[0].state_dict()["nets.policy.net.head.0.weight"]
    assert torch.equal(weights[2], last) and not torch.equal(weights[0], weights[1])
    assert len(list(trained.folder.glob("snapshot-*"))) == 3
    with pytest.raises(Refused, match="snapshot 3 was not kept"):
        trained.agents(3)


def test_it_starts_from_an_earlier_product(run_stages, counting):
    stages = {
        "demos": DEMOS,
        "first": never(algo=cloning(normalize_obs=True), steps=20),
        "second": never(algo=cloning(normalize_obs=True, lr=0.0), steps=1, init_from="first", seed=1),
    }
    pipeline = run_stages(stages, counting)
    first, second = (pipeline.product(name).agents()[0].state_dict() for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_earlier_product_of_other_modules_is_refused(run_stages, counting):
    other = Algo(QNet(SIZES), {"gap": ConservativeDiscrete("demos")})
    stages = {"demos": DEMOS, "first": never(algo=cloning()), "second": never(algo=other, init_from="first")}
    with pytest.raises(Refused, match="no module in common"):
        run_stages(stages, counting)


def test_networks_of_normalised_observations_are_not_taken_over_without(run_stages, counting):
    stages = {
        "demos": DEMOS,
        "first": never(algo=cloning(normalize_obs=True), steps=2),
        "second": never(algo=cloning(), steps=2, init_from="first"),
    }
    with pytest.raises(Refused, match="normalize_obs=true"):
        run_stages(stages, counting)


def test_normalisation_is_that_of_the_data_and_travels_with_the_product(run_stages, counting):
    pipeline = run_stages({"demos": DEMOS, "learn": never(algo=cloning(normalize_obs=True))}, counting)
    data = pipeline.product("demos")
    seen = data.observations(np.arange(len(data)))
    normaliser = pipeline.product("learn").agents()[0].normalisers["obs"]
    np.testing.assert_allclose(normaliser.mean, seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(normaliser.variance, seen.var(0), rtol=1e-3)


def test_frozen_products_are_there_and_stay_as_they_are(run_stages, counting, monkeypatch):
    seen = []

    class Watching(Cloning):
        def __call__(self, agent, batch):
            seen.append(agent.frozen["teacher"].state_dict()["nets.policy.net.head.0.weight"].clone())
            return super().__call__(agent, batch)

    algo = Algo(Policy(SIZES), {"bc": Watching("demos")}, batch=16, lr=0.1)
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


def test_members_are_agents_of_their_own_and_scored_with_their_spread(run_stages, counting):
    stages = {
        "demos": DEMOS,
        "learn": Fit(cloning(normalize_obs=True), 30, members=3, check=Checks(10, 2)),
        "score": Evaluate(["learn"], episodes=4),
    }
    pipeline = run_stages(stages, counting)
    trained = pipeline.product("learn")
    weights = [agent.state_dict()["nets.policy.net.head.0.weight"] for agent in trained.agents()]
    assert len(weights) == 3 and not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    score = pipeline.product("score")["learn"]
    assert len(score["members"]) == 3 and score["episodes"] == 12
    assert score["return_mean"] == pytest.approx(np.mean(score["members"]))


def test_checks_of_members_play_all_of_them(run_stages, counting, monkeypatch):
    seen = []
    greedy = checking.greedy

    def watched(agent, *rest):
        seen.append(agent.state_dict()["nets.policy.net.head.0.weight"].clone())
        return greedy(agent, *rest)

    monkeypatch.setattr(checking, "greedy", watched)
    run_stages({"demos": DEMOS, "learn": Fit(cloning(), 10, members=3, check=Checks(10, 2))}, counting)
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_members_start_from_the_members_of_an_earlier_product(run_stages, counting):
    stages = {
        "demos": DEMOS,
        "first": never(algo=cloning(), steps=5, members=2),
        "second": never(algo=cloning(lr=0.0), steps=1, members=2, init_from="first"),
    }
    pipeline = run_stages(stages, counting)
    for one, other in zip(pipeline.product("first").agents(), pipeline.product("second").agents(), strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_diverged_training_is_told_in_one_line(run_stages, counting):
    sources, slow = {"replay": Replay(100, 2, 10)}, {"q": Target(tau=1.0)}
    algo = Algo(QNet(SIZES), {"td": DQN("replay")}, sources, lr=1e38, targets=slow)
    with pytest.raises(Diverged, match="not finite at gradient step 100"):
        run_stages({"learn": never(algo=algo, steps=200)}, counting)


def test_what_is_recorded(run_stages, counting):
    algo = Algo(PolicyValue(SIZES), {"ppo": PPO("rollout")}, {"rollout": Rollout(2, 16)}, batch=16)
    pipeline = run_stages({"learn": Fit(algo, 200, check=Checks(100, 2))}, counting)
    records = read_records(pipeline.product("learn").folder / "metrics.jsonl")
    assert [record["step"] for record in records] == [100, 100, 200, 200]
    assert {"learn/ppo", "learn/ppo/kl", "learn/train_return", "env_steps", "seconds"} <= records[0].keys()
    assert {"score", "score_std", "success_rate"} <= records[1].keys()
    assert json.loads((pipeline.product("learn").folder / "agent.json").read_text())["history"][1]["step"] == 200
