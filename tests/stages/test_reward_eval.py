"""Comparison of learned with true rewards, by hand and in a pipeline."""

import json
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lfd.agents import REWARD
from lfd.agents.nets import NetSpec
from lfd.algos import Loss, LossOutput, Metrics
from lfd.algos.dqn import DQN
from lfd.algos.trex import TREX
from lfd.errors import UserError
from lfd.learner.learner import Algo
from lfd.learner.optim import Target
from lfd.registry import parts
from lfd.sources.preference_pairs import PreferencePairs
from lfd.sources.replay import Replay
from lfd.stages.collect import Collect
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from lfd.stages.reward_eval import RewardEvaluation, agreement, calibration, correlation, spread
from tests import composed


def trex(**settings):
    source = PreferencePairs(min_length=1, max_length=3, frame_stride=1, full_trajectory_prob=0.5)
    return Fit(
        Algo(composed.reward_model(), {"trex": TREX("demos", hidden=[8])}, {"demos": source}, **settings),
        20,
        eval=EvalConfig(0),
    )


def test_agreement_equals_a_calculation_by_hand():
    true, predicted = np.array([1.0, 2.0, 4.0, 4.0]), np.array([0.0, 3.0, 1.0, 3.0])
    found = agreement(predicted, true)
    # Better over worse: 3 - 0, 1 - 0, 3 - 0, 1 - 3 and 3 - 3.
    assert found["pairs"] == 5 and found["accuracy"] == pytest.approx(3.5 / 5)
    assert found["margin"] == pytest.approx((3 + 1 + 3 - 2 + 0) / 5)
    assert found["pearson"] == pytest.approx(np.corrcoef(true, predicted)[0, 1])
    assert found["spearman"] == pytest.approx(np.corrcoef([0, 1, 2.5, 2.5], [0, 2.5, 1, 2.5])[0, 1])
    assert found["returns"] == {"predicted": predicted.tolist(), "true": true.tolist()}


def test_agreement_of_equal_order_has_rank_correlation_one():
    true = np.arange(20.0)
    found = agreement(np.exp(true), true)
    assert found["spearman"] == pytest.approx(1) and found["accuracy"] == 1 and found["pearson"] < 0.9
    assert agreement(-np.exp(true), true)["spearman"] == pytest.approx(-1)


def test_agreement_of_constants_has_no_correlation():
    found = agreement(np.zeros(3), np.arange(3.0))
    assert found["pearson"] is None and found["spearman"] is None and found["accuracy"] == 0.5
    equal = agreement(np.arange(3.0), np.zeros(3))
    assert equal["pairs"] == 0 and equal["accuracy"] is None and correlation(np.ones(2), np.arange(2.0)) is None


def test_calibration_of_margins_drawn_by_the_model_has_no_error():
    """Margins by the model itself, at a temperature of 5."""
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(0, 10, 50_000))
    right = rng.random(len(size)) < 1 / (1 + np.exp(-size / 5))
    found = calibration(np.where(right, size, -size))
    assert found["temperature"] == pytest.approx(5, rel=0.15) and found["calibration_error"] < 0.02
    bins = found["calibration"]
    assert len(bins) == 5 and sum(one["pairs"] for one in bins) == len(size)
    assert all(abs(one["predicted"] - one["right"]) < 0.03 for one in bins)
    # One that is right no more often where its margin is large is not.
    assert calibration(np.where(rng.random(len(size)) < 0.7, size, -size))["calibration_error"] > 0.05


def test_spread_histogram_counts_every_step():
    found = spread(np.array([0.0, 0.0, 1.0, 4.0]))
    assert sum(found["histogram"]["counts"]) == 4 and found["histogram"]["edges"][0] == 0
    assert found["reward_mean"] == 1.25 and found["reward_std"] == pytest.approx(math.sqrt(2.6875))


def test_reward_eval_predicted_returns_are_sums_over_episodes(run_stages, counting):
    stages = {
        "demos": Collect("random", episodes=12),
        "reward": trex(),
        "reward_eval": RewardEvaluation(["reward"], ["demos"]),
    }
    pipeline = run_stages(stages, counting)
    data, agent = pipeline.product("demos"), pipeline.product("reward").agents()[0]
    found = pipeline.product("reward_eval")["reward"]["demos"]
    assert found["returns"]["true"] == data.returns().tolist()
    net = agent.nets[REWARD]
    obs = torch.from_numpy(np.asarray(data.columns["observations"]))
    hidden = torch.relu(obs @ net.head[0].weight.T + net.head[0].bias) @ net.head[2].weight.T + net.head[2].bias
    steps = ((hidden[:, 0] - net.mean * (1 - net.terminated)) / net.std).detach().numpy()
    expected = [steps[start:end].sum() for start, end in zip(data.starts, data.ends, strict=True)]
    assert found["returns"]["predicted"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert sum(found["histogram"]["counts"]) == len(data)


class Fixed(nn.Module):
    """1 for each step, whatever it is."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        return self.value.expand(batch.obs.shape[:-1])


@dataclass
class FixedSpec(NetSpec):
    on_trunk: ClassVar = False

    def build(self, inputs):
        return Fixed()


class Standing(Loss):
    needs = ("obs",)
    trains = (REWARD,)

    def brings(self, spaces):
        return {REWARD: FixedSpec()}

    def __call__(self, agent, batch):
        return LossOutput({REWARD: 0 * agent.nets[REWARD].value}, Metrics())


def test_reward_eval_of_a_policy_stage_uses_its_reward_model(run_stages, counting, monkeypatch):
    monkeypatch.setitem(parts("loss"), "standing", Standing)
    monkeypatch.setitem(parts("net"), "fixed", FixedSpec)
    losses = {"td": DQN("replay"), "reward": Standing("replay")}
    algo = Algo(composed.q_net([8]), losses, {"replay": Replay(100, 4, 30)}, targets={"critic": Target()}, batch_size=8)
    stages = {
        "demos": Collect("random", episodes=12),
        "learn": Fit(algo, 2, eval=EvalConfig(0)),
        "reward_eval": RewardEvaluation(["learn"], ["demos"]),
    }
    found = run_stages(stages, counting).product("reward_eval")["learn"]["demos"]
    # Longer episodes of this environment return more.
    assert found["spearman"] == pytest.approx(1) and found["reward_std"] == 0
    json.dumps(found, allow_nan=False)


def test_reward_eval_with_bad_input_is_refused(run_stages, counting):
    demos = Collect("random", episodes=12)
    with pytest.raises(UserError, match="rewards: expected rewards and data"):
        RewardEvaluation(["reward"])
    with pytest.raises(UserError, match="reward_eval: needs a reward, which 'demos' .collect. does not provide"):
        run_stages({"demos": demos, "reward_eval": RewardEvaluation(["demos"], ["demos"])}, counting)
    with pytest.raises(UserError, match="reward_eval: no stage is called 'reward'"):
        run_stages({"demos": demos, "reward_eval": RewardEvaluation(["reward"], ["demos"])}, counting)
    many = trex()
    many.members = 2
    with pytest.raises(UserError, match="reward_eval.rewards: reward: expected a single reward model, got 2 members"):
        run_stages({"demos": demos, "reward": many, "reward_eval": RewardEvaluation(["reward"], ["demos"])}, counting)
