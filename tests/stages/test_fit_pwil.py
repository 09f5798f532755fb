"""fit_pwil: which transitions become atoms, and when it is refused."""

import numpy as np
import pytest
import torch

from lfd.agents import REWARD
from lfd.errors import UserError
from lfd.rng import derive
from lfd.stages.collect import Collect
from lfd.stages.fit_pwil import FitPWIL
from tests import composed
from tests.algos.cases import FRAMES, TWO, spaces

DEMOS = Collect("random", transitions=100)


def reward_of(run_stages, env, stage):
    pipeline = run_stages({"demos": DEMOS, "reward": stage}, env)
    return pipeline.product("demos"), pipeline.product("reward").agents()[0].nets[REWARD]


def test_fit_pwil_atoms_are_rows_drawn_without_replacement_by_the_seed(run_stages, counting):
    data, net = reward_of(run_stages, counting, FitPWIL(composed.pwil(atoms=10), "demos", seed=3))
    generator = torch.Generator().manual_seed(derive(derive(3, "source", 0), "draws"))
    rows = torch.rand((1, 100), generator=generator).argsort()[0, :10].numpy()
    assert np.array_equal(net.atoms[:, :2], data.observations(rows))
    lengths = (data.ends - data.starts)[data.episode_of(rows)]
    assert net.horizon == lengths.max()
    _, other = reward_of(run_stages, counting, FitPWIL(composed.pwil(atoms=10), "demos", seed=4))
    assert not torch.equal(net.atoms, other.atoms)


def test_fit_pwil_without_enough_transitions_is_refused(run_stages, counting):
    told = "reward.agent.nets.reward.atoms: expected at most the 100 transitions of 'demos', got 101"
    with pytest.raises(UserError, match=told):
        reward_of(run_stages, counting, FitPWIL(composed.pwil(atoms=101), "demos"))


def test_fit_pwil_of_frames_is_refused(check_setup):
    with pytest.raises(UserError, match="reward: PWIL needs vector observations, got frames"):
        check_setup(FitPWIL(composed.pwil(), "demos"), "reward", spaces(FRAMES, TWO), ["demos"])


def test_fit_pwil_snapshot_is_refused():
    with pytest.raises(UserError, match="frozen.reward=reward@1: fit_pwil has no snapshots"):
        FitPWIL(composed.pwil(), "demos").check_snapshot("learn: frozen.reward=reward@1", 1)
