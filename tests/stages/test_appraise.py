"""What a policy is worth, by the data alone."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from lfd.agents.actor_critic import Policy
from lfd.agents.critic import CriticNet
from lfd.algos.bc import Cloning
from lfd.algos.fqe import FQE
from lfd.data import Episode
from lfd.errors import Refused
from lfd.learner import Algo, Target
from lfd.stages.appraise import Appraise, discounted
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit import Fit
from lfd.stages.load import Load
from lfd.stages.recipe import Checks, Stop


def learn(steps=2, **settings):
    return Fit(Algo(Policy([8]), {"bc": Cloning("demos")}, batch=16), steps, **{"check": Checks(0), **settings})


def fqe(policy="learn", steps=3, members=2, gamma=0.9, **settings):
    algo = Algo(CriticNet([16]), {"fqe": FQE("demos")}, lr=3e-3, batch=64, gamma=gamma, targets={"critic": Target(0.1)})
    return Appraise(algo, steps, members=members, frozen={"policy": policy}, **settings)


DEMOS = Collect("random", transitions=400)


@pytest.mark.parametrize("env", ["counting", "counting_continuous", "counting_dict"])
def test_a_value_with_its_interval_and_the_data_beside_it(run_stages, request, env):
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


def test_one_member_has_no_interval(run_stages, counting):
    learnt = run_stages({"demos": DEMOS, "learn": learn(), "fqe": fqe(members=1)}, counting).product("fqe")["learn"]
    assert learnt["fqe_low"] is None and learnt["fqe_high"] is None and len(learnt["fqe_members"]) == 1


def test_it_finds_what_the_data_is_worth_where_actions_change_nothing(run_stages, write_data, counting):
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


def test_discounting_begins_anew_with_every_episode_and_leaves_cut_ones_out(write_data, counting):
    def episode(length, truncated):
        rewards = np.full(length, -2, np.float32)
        return Episode(np.zeros((length + 1, 2)), np.zeros(length, int), rewards, False, truncated)

    data = write_data([episode(2, True), episode(1, True), episode(7, False)], counting.spaces())
    assert discounted(data, 0.5, sign=False)["discounted_mean"] == pytest.approx((-3 - 2) / 2)
    assert discounted(data, 0.5, sign=True)["discounted_mean"] == pytest.approx((-1.5 - 1) / 2)


def test_an_earlier_state_of_a_policy_can_be_scored(run_stages, counting):
    taught = learn(steps=20, checkpoints=2, check=Checks(10, 1))
    taught.algo.lr = 0.3
    early, late, last = (
        run_stages({"demos": DEMOS, "learn": taught, "fqe": fqe(name, steps=30)}, counting).product("fqe")[name]
        for name in ("learn@0", "learn@1", "learn")
    )
    assert early["fqe_members"] != late["fqe_members"] == last["fqe_members"]


def test_whom_to_score_must_be_told(run_stages, counting):
    nobody = fqe()
    nobody.frozen = {}
    with pytest.raises(Refused, match=r"fqe: whom to score is missing; add \+fqe.frozen.policy=learn"):
        run_stages({"demos": DEMOS, "fqe": nobody}, counting)


def test_a_policy_with_memory_is_refused():
    learnt = SimpleNamespace(agents=lambda: [SimpleNamespace(recurrent=True)])
    with pytest.raises(Refused, match="fqe: learn acts by its memory"):
        fqe().run(SimpleNamespace(name="fqe", products={"learn": learnt}))


def test_its_product_is_no_policy(run_stages, counting):
    with pytest.raises(Refused, match="needs an actor"):
        run_stages({"demos": DEMOS, "learn": learn(), "fqe": fqe(), "score": Evaluate(["fqe"])}, counting)


@pytest.mark.parametrize("settings", [{"stop": Stop(score=1.0)}, {"stop": Stop(plateau=2)}, {"checkpoints": 1}])
def test_what_needs_episodes_is_refused_without_an_environment(run_stages, write_data, counting, settings):
    episode = Episode(np.zeros((3, 2)), np.zeros(2, int), np.ones(2, np.float32), True, False)
    path = str(write_data([episode], counting.spaces()).path)
    stages = {"demos": Load(path), "learn": learn(check=Checks(1), **settings), "fqe": fqe()}
    with pytest.raises(Refused, match="learn: stop rules on scores and checkpoints need episodes"):
        run_stages(stages, None)
