"""Scores of policies and of data on common start states."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from lfd.algos.bc import BC
from lfd.data import Episode
from lfd.envs import Gym
from lfd.episodes import PlayedEpisode, summarize
from lfd.errors import UserError
from lfd.learner.learner import Algo
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate, normalize
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from tests import composed


def learn(steps=2, **settings):
    return Fit(Algo(composed.policy([8]), {"bc": BC("demos")}, batch_size=16), steps, eval=EvalConfig(0), **settings)


DEMOS = Collect("random", transitions=101)


def test_evaluate_policies_have_the_same_start_states(run_stages, counting):
    stages = {
        "demos": DEMOS, "one": learn(), "other": learn(seed=1),
        "score": Evaluate(["one", "other"], episodes=20),
    }  # fmt: skip
    scores = run_stages(stages, counting).product("score")
    # In this environment only the start state decides the return.
    assert scores["one"]["return_mean"] == scores["other"]["return_mean"] == scores["random"]["return_mean"]
    assert scores["one"]["episodes"] == 20 and scores["one"]["return_std"] > 0


def test_evaluate_seed_determines_the_start_states(run_stages, counting):
    def score(name, **settings):
        student = learn(seed=settings.pop("learner", 0))
        stages = {"demos": DEMOS, "learn": student, "score": Evaluate(["learn"], **settings)}
        return run_stages(stages, counting, name).product("score")["learn"]["return_mean"]

    assert score("a") == score("b", learner=5) != score("c", seed=3)


def test_evaluate_scores_data_by_complete_episodes(run_stages, counting):
    stages = {"demos": DEMOS, "learn": learn(), "score": Evaluate(["learn"], episodes=4)}
    pipeline = run_stages(stages, counting)
    data, score = pipeline.product("demos"), pipeline.product("score")["demos"]
    whole = (data.columns["terminals"] | data.columns["timeouts"])[data.ends - 1]
    assert score["return_mean"] == pytest.approx(data.returns()[whole].mean()) and score["episodes"] == whole.sum()


def test_evaluate_ignores_cut_episodes_of_data(write_data, counting):
    def episode(length, truncated):
        return Episode(np.zeros((length + 1, 2)), np.zeros(length, int), np.ones(length, np.float32), False, truncated)

    assert write_data([episode(10, True), episode(3, False)], counting.spaces()).evaluate()["return_mean"] == 10
    only_cut = write_data([episode(3, False)], counting.spaces(), name="cut")
    assert only_cut.evaluate()["return_mean"] == 3


def test_evaluate_optional_inputs_are_not_run(run_stages, counting):
    unwanted = {"expert": Collect("random", transitions=10)}
    stages = {**unwanted, "demos": DEMOS, "learn": learn(), "score": Evaluate(["learn"], episodes=2)}
    pipeline = run_stages(stages, counting)
    assert "expert" not in pipeline.reports and set(pipeline.product("score")) == {"random", "learn", "demos"}


def test_evaluate_product_is_json(run_stages, counting):
    stages = {"demos": DEMOS, "learn": learn(), "score": Evaluate(["learn", "random"], episodes=3)}
    pipeline = run_stages(stages, counting)
    assert json.loads(json.dumps(pipeline.product("score"))) == pipeline.product("score")
    assert pipeline.reports["score"].summary["seconds"] > 0 and pipeline.reports["score"].summary["env_steps"] > 0


def test_evaluate_members_have_scores_of_each():
    played = [PlayedEpisode(value, 1, None, None) for value in (1, 3, 5, 7)]
    summary = summarize([[1, 3], [5, 7]], played)
    assert summary["members"] == [2.0, 6.0] and summary["return_mean"] == 4 and summary["success_rate"] is None


def test_normalize_is_zero_for_random_and_one_for_the_expert():
    scores = {"random": {"return_mean": 10.0}, "expert": {"return_mean": 30.0}, "learn": {"return_mean": 25.0}}
    normalize(scores)
    assert [score["normalized"] for score in scores.values()] == [0.0, 1.0, 0.75]
    worse = {"random": {"return_mean": 10.0}, "expert": {"return_mean": 10.0}}
    normalize(worse)
    assert worse["random"]["normalized"] is None


class Doors(gym.Env):
    """Both doors have to be tried; success is told in the step where that is done."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.tried = 0, set()
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t, before = self.t + 1, len(self.tried)
        self.tried.add(action)
        opens = len(self.tried) > max(before, 1)
        return np.zeros(1, np.float32), float(opens), self.t == 12, False, {"success": opens}


gym.register("Doors-v0", Doors)


def test_evaluate_stochastic_samples_actions(run_stages):
    def scores(store, **settings):
        stages = {"demos": Collect("random", transitions=300), "learn": learn(50)}
        return run_stages(stages | {"score": Evaluate(["learn"], episodes=20, **settings)}, Gym("Doors-v0"), store)

    mode, drawn, again = scores("a"), scores("b", stochastic=True), scores("c", stochastic=True)
    assert mode.product("score")["learn"]["return_mean"] == 0 and mode.product("score")["random"]["return_mean"] > 0.9
    assert drawn.product("score")["learn"]["return_mean"] > 0.9 and mode.keys["score"] != drawn.keys["score"]
    assert drawn.product("score") == again.product("score")
    told = drawn.product("score")["learn"]
    assert told["success_once_rate"] == told["return_mean"] > told["success_rate"]


def test_evaluate_num_envs_changes_no_scores(run_stages, counting, monkeypatch):
    asked = []
    make = Gym.make
    monkeypatch.setattr(
        Gym, "make", lambda env, count, *rest, **more: asked.append(count) or make(env, count, *rest, **more)
    )
    fit = Fit(Algo(composed.policy([8]), {"bc": BC("demos")}, batch_size=16), 2, eval=EvalConfig(1, 3, num_envs=2))
    stages = {"demos": DEMOS, "learn": fit, "score": Evaluate(["learn"], episodes=5, num_envs=3)}
    few = run_stages(stages, counting)
    assert asked == [8, 2, 3]
    stages["learn"], stages["score"] = replace(fit, eval=EvalConfig(1, 3)), Evaluate(["learn"], episodes=5)
    many = run_stages(stages, counting, "many")
    assert asked[3:] == [8, 3, 5] and few.product("score")["learn"] == many.product("score")["learn"]
    for wrong in (lambda: Evaluate(["learn"], num_envs=0), lambda: EvalConfig(num_envs=0)):
        with pytest.raises(UserError, match="num_envs: expected 1 or more, got 0"):
            wrong()
