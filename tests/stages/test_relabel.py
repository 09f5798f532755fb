"""Data with learnt rewards beside the true ones."""

import numpy as np
import pytest
import torch

from lfd.agents.judge import JudgeSpec
from lfd.agents.q import QNet
from lfd.algos.dqn import DQN
from lfd.algos.trex import TREX
from lfd.data import Writer
from lfd.errors import Refused
from lfd.learner import Algo, Target
from lfd.sources.dataset import Demonstrations
from lfd.sources.snippets import Snippets
from lfd.sources.table import LEARNT, rewards_of
from lfd.stages.collect import Collect
from lfd.stages.evaluate import of_data
from lfd.stages.fit import Fit
from lfd.stages.recipe import Checks
from lfd.stages.relabel import Relabel

COLUMNS = frozenset({"obs", "action", "reward", "true_reward", "next_obs", "discount", "return_to_go"})


def stages():
    source = Snippets(shortest=1, longest=3, stride=1, trajectories=0.5)
    algo = Algo(JudgeSpec(), {"trex": TREX("demos", hidden=[8])}, {"demos": source}, batch=8)
    return {
        "demos": Collect("random", episodes=15),
        "reward": Fit(algo, 20, check=Checks(0)),
        "relabelled": Relabel("demos", "reward"),
    }


def test_the_truth_is_untouched_and_the_learnt_rewards_stand_beside_it(run_stages, counting):
    pipeline = run_stages(stages(), counting)
    data, relabelled = pipeline.product("demos"), pipeline.product("relabelled")
    for name, column in data.columns.items():
        assert np.array_equal(relabelled.columns[name], column)
    rows = np.arange(len(data))
    assert np.array_equal(relabelled.successors(rows), data.successors(rows))
    assert np.array_equal(relabelled.returns(), data.returns()) and of_data(relabelled) == of_data(data)
    learnt = rewards_of(data, pipeline.product("reward").agents()[0], 0.99, torch.device("cpu"))
    assert np.array_equal(relabelled.columns[LEARNT], learnt.astype(np.float32)) and learnt.std() > 0
    assert relabelled.passport["made_by"] == data.passport["made_by"] and relabelled.passport["relabelled"]


@pytest.mark.parametrize("steps", [1, 2])
def test_sources_give_the_learnt_rewards_and_beside_them_the_true_ones(run_stages, counting, open_source, steps):
    """Trap: rewards estimated into a copy that nobody reads, so that the environment's are learnt from."""
    pipeline = run_stages(stages(), counting)
    data = pipeline.product("relabelled")
    agent = QNet([8]).build(counting.spaces())
    given = {"datasets": {"source": data}, "columns": COLUMNS, "gamma": 0.5}
    stream = open_source(Demonstrations(n_step=steps), agent, counting, **given)
    batch = stream._table.gather(torch.arange(len(data)))
    learnt, ends = np.array(data.columns[LEARNT]), data.ends - 1
    expected = learnt.copy()
    if steps == 2:
        expected[:-1] += 0.5 * np.where(np.isin(np.arange(len(data) - 1), ends), 0, learnt[1:])
    np.testing.assert_allclose(batch.reward, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(batch.true_reward, data.columns["rewards"]) and not np.allclose(expected, batch.true_reward)
    np.testing.assert_allclose(batch.return_to_go[ends], learnt[ends], rtol=1e-5)


def test_without_an_environment_it_is_learnt_from_as_from_the_frozen_reward(run_stages, counting):
    """To the same weights, whether rewards are looked up or estimated."""

    def learnt(reads, frozen):
        algo = Algo(QNet([8]), {"td": DQN(reads)}, targets={"q": Target()}, batch=16)
        fit = Fit(algo, 10, check=Checks(0), frozen=frozen)
        return run_stages(stages() | {"learn": fit}, counting).product("learn").agents()[0].state_dict()

    one, other = learnt("relabelled", {}), learnt("demos", {"reward": "reward"})
    truth = learnt("demos", {})
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert not all(torch.allclose(one[name], truth[name], atol=1e-6) for name in one)


def test_ranks_stay_those_of_the_true_rewards(run_stages, counting):
    again = stages()["reward"]
    again.algo.losses["trex"].reads = "relabelled"
    again.algo.sources = {"relabelled": again.algo.sources["demos"]}
    pipeline = run_stages(stages() | {"again": again}, counting)
    first, second = (pipeline.product(name).agents()[0].state_dict() for name in ("reward", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_killed_before_it_was_published_it_ends_with_the_same_bytes(run_stages, counting, monkeypatch):
    expected = run_stages(stages(), counting, "straight").product("relabelled").path.read_bytes()
    finalise, left = Writer.finalise, iter([1])

    def dies(self, path, passport):
        if "relabelled" in passport and next(left, None):
            raise KeyboardInterrupt
        finalise(self, path, passport)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finalise", dies)
        with pytest.raises(KeyboardInterrupt):
            run_stages(stages(), counting, "killed")
    assert run_stages(stages(), counting, "killed").product("relabelled").path.read_bytes() == expected


def test_what_gives_no_reward_is_refused(run_stages, counting):
    demos = Collect("random", episodes=4)
    with pytest.raises(Refused, match="relabelled: needs a reward, which 'demos' .collect. does not give"):
        run_stages({"demos": demos, "relabelled": Relabel("demos", "demos")}, counting)
    with pytest.raises(Refused, match="relabelled: no stage is called 'reward'"):
        run_stages({"demos": demos, "relabelled": Relabel("demos", "reward")}, counting)
