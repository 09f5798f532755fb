"""Rewards of one sign are warned of where episodes need not last."""

import re

import numpy as np
import pytest

from lfd.agents.judge import JudgeSpec
from lfd.algos.gail import Discriminator, Form
from lfd.algos.pwil import PWIL
from lfd.data import Episode
from lfd.learner import Algo
from lfd.sources.dataset import Demonstrations
from lfd.stages.bias import survival_bias
from lfd.stages.collect import Collect
from lfd.stages.fit import Fit


def data_of(write_data, spaces, lengths, over):
    episodes = [
        Episode(np.zeros((n + 1, 2), np.float32), np.zeros(n, np.int64), np.zeros(n, np.float32), over, not over)
        for n in lengths
    ]
    return write_data(episodes, spaces)


def fit(loss, **source):
    return Fit(Algo(JudgeSpec(), {"row": loss}, {"demos": Demonstrations(**source)}), 5)


def gail(form):
    return Discriminator({"learner": "demos", "expert": "demos"}, form=form)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (fit(gail(Form.expert)), "losses.row are never negative and .* longer episodes earn more"),
        (fit(gail(Form.log)), "losses.row are never positive and .* shorter episodes earn more"),
        (fit(PWIL("demos")), "losses.row are never negative"),
        (fit(gail(Form.difference), reward=1.0), "sources.demos are never negative"),
        (fit(gail(Form.difference), reward=-1.0), "sources.demos are never positive"),
        (fit(gail(Form.difference)), None),
    ],
)
def test_who_is_warned_of(made, said, counting, write_data):
    data = data_of(write_data, counting.spaces(), [3, 5], True)
    lines = survival_bias(made, "learn", {"demos": data})
    if said is None:
        assert not lines
    else:
        (line,) = lines
        assert re.search(said, line) and "episodes of 'demos' last 3 to 5 steps (100% terminate)" in line


@pytest.mark.parametrize(
    ("lengths", "terminated", "warned"), [([4, 4], False, 0), ([4, 4], True, 1), ([4, 3], False, 1)]
)
def test_episodes_that_all_run_to_one_limit_are_no_reason(lengths, terminated, warned, counting, write_data):
    data = data_of(write_data, counting.spaces(), lengths, terminated)
    assert len(survival_bias(fit(PWIL("demos")), "learn", {"demos": data})) == warned


def test_what_pays_for_short_episodes_is_always_one(counting, write_data):
    data = data_of(write_data, counting.spaces(), [4, 4], False)
    (line,) = survival_bias(fit(gail(Form.log)), "learn", {"demos": data})
    assert "never positive and the learner may end an episode: whatever is done, shorter episodes earn more" in line


def test_a_fit_tells_of_it_once_when_it_begins(counting, run_stages, capsys):
    run_stages({"demos": Collect("random", transitions=100), "reward": fit(PWIL("demos", atoms=64))}, counting)
    told = capsys.readouterr().err
    assert told.count("reward: rewards of losses.row are never negative") == 1
