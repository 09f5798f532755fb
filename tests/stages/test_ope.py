"""Off-policy evaluation: scores of a policy from data alone."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lfd.agents.memory import GRUSpec
from lfd.algos.bc import BC
from lfd.algos.fqe import FQE
from lfd.data import Episode
from lfd.errors import UserError
from lfd.learner.learner import Algo
from lfd.learner.optim import Target
from lfd.stages import CheckContext
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit.agents import new_agents
from lfd.stages.fit.config import EvalConfig, Stop
from lfd.stages.fit.stage import Fit
from lfd.stages.load import Load
from lfd.stages.ope import OffPolicyEvaluation, discounted
from tests import composed


def learn(steps=2, **settings):
    return Fit(
        Algo(composed.policy([8]), {"bc": BC("demos")}, batch_size=16), steps, **{"eval": EvalConfig(0), **settings}
    )


def fqe(policy="learn", steps=3, members=2, gamma=0.9, **settings):
    algo = Algo(
        composed.critic([16]),
        {"fqe": FQE("demos")},
        lr=3e-3,
        batch_size=64,
        gamma=gamma,
        targets={"critic": Target(0.1)},
    )
    return OffPolicyEvaluation(algo, steps, members=members, frozen={"policy": policy}, **settings)


DEMOS = Collect("random", transitions=400)


@pytest.mark.parametrize("env", ["counting", "counting_continuous", "counting_dict"])
def test_ope_scores_have_an_interval_and_returns_of_the_data(run_stages, request, env):
    env = request.getfixturevalue(env)
    pipeline = run_stages({"demos": DEMOS, "learn": learn(), "fqe": fqe()}, env)
    scores = pipeline.product("fqe")
    learnt, data = scores["learn"], pipeline.product("demos")
    assert learnt["fqe_mean"] == pytest.approx(np.mean(learnt["fqe_members"])) and len(learnt["fqe_members"]) == 2
    width = 4 * np.std(learnt["fqe_members"], ddof=1)
    assert learnt["fqe_high"] - learnt["fqe_low"] == pytest.approx(width) and width > 0
    assert (learnt["start_states"], learnt["gamma"]) == (len(data.starts), 0.9)
    assert set(scores) == {"learn", "demos"} and scores["demos"]["return_mean"] > scores["demos"]["discounted_mean"]
    assert json.loads(json.dumps(scores)) == scores


def test_ope_of_one_member_has_no_interval(run_stages, counting):
    learnt = run_stages({"demos": DEMOS, "learn": learn(), "fqe": fqe(members=1)}, counting).product("fqe")["learn"]
    assert learnt["fqe_low"] is None and learnt["fqe_high"] is None and len(learnt["fqe_members"]) == 1


def test_ope_estimate_equals_the_return_if_actions_change_nothing(run_stages, write_data, counting):
    """Every episode has three steps that earn 1, 2, 3 and then terminates."""
    observations = np.stack([np.zeros(4), np.arange(4)], 1)
    episodes = [
        Episode(observations, np.arange(i, i + 3) % 2, np.array([1, 2, 3], np.float32), True, False) for i in range(20)
    ]
    path = write_data(episodes, counting.spaces()).path
    stages = {"demos": Load(str(path)), "learn": learn(), "fqe": fqe(steps=1_500)}
    scores = run_stages(stages, None).product("fqe")
    exact = 1 + 2 * 0.9 + 3 * 0.81
    assert scores["demos"]["discounted_mean"] == pytest.approx(exact)
    assert scores["learn"]["fqe_mean"] == pytest.approx(exact, abs=0.1)


def test_discounted_starts_again_in_each_episode_and_leaves_out_incomplete_ones(write_data, counting):
    def episode(length, truncated):
        rewards = np.full(length, -2, np.float32)
        return Episode(np.zeros((length + 1, 2)), np.zeros(length, int), rewards, False, truncated)

    data = write_data([episode(2, True), episode(1, True), episode(7, False)], counting.spaces())
    assert discounted(data, 0.5, sign=False)["discounted_mean"] == pytest.approx((-3 - 2) / 2)
    assert discounted(data, 0.5, sign=True)["discounted_mean"] == pytest.approx((-1.5 - 1) / 2)


def test_ope_of_snapshots_gives_their_scores(run_stages, counting):
    taught = learn(steps=20, snapshots=2, eval=EvalConfig(10, 1))
    taught.algo.lr = 0.3
    early, late, last = (
        run_stages({"demos": DEMOS, "learn": taught, "fqe": fqe(name, steps=30)}, counting).product("fqe")[name]
        for name in ("learn@0", "learn@1", "learn")
    )
    assert early["fqe_members"] != late["fqe_members"] == last["fqe_members"]


def test_ope_without_a_policy_is_refused(run_stages, counting):
    without_policy = fqe()
    without_policy.frozen = {}
    with pytest.raises(
        UserError,
        match=r"fqe.frozen.policy: expected a value, got none; set a policy, as in \+fqe.frozen.policy=learn",
    ):
        run_stages({"demos": DEMOS, "fqe": without_policy}, counting)


def test_ope_of_a_recurrent_policy_is_refused(counting, tmp_path):
    """Before anything is trained; a stored policy, as of the stage pretrained, when it is opened."""
    recurrent = replace(composed.policy([8]), memory=GRUSpec(4))
    stage = Fit(Algo(recurrent, {"bc": BC("demos")}, sequence_length=4), 2)
    spaces, stages = counting.spaces(), {"demos": DEMOS, "learn": stage, "fqe": fqe()}
    with pytest.raises(UserError, match="^fqe: frozen.policy=learn: expected a policy without memory, as losses read"):
        fqe().check(CheckContext(name="fqe", stages=stages, spaces=spaces, env=counting, store=tmp_path))
    stored = SimpleNamespace(agents=lambda snapshot: [recurrent.build(spaces)])
    with pytest.raises(UserError, match="^frozen.policy=learn: expected a policy without memory, as losses read it"):
        new_agents(fqe(), SimpleNamespace(spaces=spaces, products={"learn": stored}), torch.device("cpu"))


def test_ope_product_as_a_policy_is_refused(run_stages, counting):
    with pytest.raises(UserError, match="needs an actor"):
        run_stages({"demos": DEMOS, "learn": learn(), "fqe": fqe(), "score": Evaluate(["fqe"])}, counting)


@pytest.mark.parametrize("settings", [{"stop": Stop(score=1.0)}, {"stop": Stop(plateau=2)}, {"snapshots": 1}])
def test_fit_that_needs_episodes_without_an_environment_is_refused(run_stages, write_data, counting, settings):
    episode = Episode(np.zeros((3, 2)), np.zeros(2, int), np.ones(2, np.float32), True, False)
    path = str(write_data([episode], counting.spaces()).path)
    stages = {"demos": Load(path), "learn": learn(eval=EvalConfig(1), **settings), "fqe": fqe()}
    with pytest.raises(UserError, match="learn: stop rules on scores and snapshots need episodes"):
        run_stages(stages, None)
