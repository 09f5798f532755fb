"""A stage warns of rewards of one sign unless all episodes run to one time limit."""

import re

import numpy as np
import pytest

from lfd.algos.gail import GAIL, RewardFn
from lfd.data import Episode
from lfd.learner.learner import Algo
from lfd.sources.dataset import DatasetSource
from lfd.stages.collect import Collect
from lfd.stages.fit.reward_bias import one_sided_rewards, survival_bias_warnings
from lfd.stages.fit.stage import Fit
from lfd.stages.fit_pwil import FitPWIL
from tests import composed


def data_of(write_data, spaces, lengths, over):
    episodes = [
        Episode(np.zeros((n + 1, 2), np.float32), np.zeros(n, np.int64), np.zeros(n, np.float32), over, not over)
        for n in lengths
    ]
    return write_data(episodes, spaces)


def fit(loss, **source):
    return Fit(Algo(composed.reward_model(), {"row": loss}, {"demos": DatasetSource(**source)}), 5)


def gail(form):
    return GAIL({"learner": "demos", "expert": "demos"}, reward_fn=form)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (fit(gail(RewardFn.gail)), "losses.row are never negative and .* longer episodes earn more"),
        (fit(gail(RewardFn.log_d)), "losses.row are never positive and .* shorter episodes earn more"),
        (fit(gail(RewardFn.airl), constant_reward=1.0), "sources.demos are never negative"),
        (fit(gail(RewardFn.airl), constant_reward=-1.0), "sources.demos are never positive"),
        (fit(gail(RewardFn.airl)), None),
    ],
)
def test_survival_bias_warnings_name_losses_and_sources_of_one_sign(stage, expected, counting, write_data):
    data = data_of(write_data, counting.spaces(), [3, 5], True)
    lines = survival_bias_warnings(stage, "learn", {"demos": data})
    if expected is None:
        assert not lines
    else:
        (line,) = lines
        assert re.search(expected, line) and "episodes of 'demos' last 3 to 5 steps (100% terminate)" in line


@pytest.mark.parametrize(
    ("lengths", "terminated", "warned"), [([4, 4], False, 0), ([4, 4], True, 1), ([4, 3], False, 1)]
)
def test_one_sided_rewards_with_one_time_limit_gives_no_warning(lengths, terminated, warned, counting, write_data):
    data = data_of(write_data, counting.spaces(), lengths, terminated)
    assert len(one_sided_rewards("learn", {"pwil": "never negative"}, ["demos"], {"demos": data})) == warned


def test_survival_bias_warnings_for_negative_rewards_do_not_depend_on_episodes(counting, write_data):
    data = data_of(write_data, counting.spaces(), [4, 4], False)
    (line,) = survival_bias_warnings(fit(gail(RewardFn.log_d)), "learn", {"demos": data})
    assert "never positive and the learner may end an episode: shorter episodes earn more with any actions" in line


@pytest.mark.parametrize(
    ("reward", "part"), [(FitPWIL(composed.pwil(atoms=64), "demos"), "pwil"), (fit(gail(RewardFn.gail)), "losses.row")]
)
def test_stage_warns_of_survival_bias_once(reward, part, counting, run_stages, capsys):
    run_stages({"demos": Collect("random", transitions=100), "reward": reward}, counting)
    assert capsys.readouterr().err.count(f"reward: rewards of {part} are never negative") == 1
