"""Datasets with learned rewards in addition to the true ones."""

import numpy as np
import pytest
import torch

from lfd.algos.dqn import DQN
from lfd.algos.trex import TREX
from lfd.data import Writer
from lfd.errors import UserError
from lfd.learner.learner import Algo
from lfd.learner.optim import Target
from lfd.sources.columns import LEARNED
from lfd.sources.dataset import DatasetSource
from lfd.sources.preference_pairs import PreferencePairs
from lfd.sources.rewards import rewards_of
from lfd.stages.collect import Collect
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from lfd.stages.relabel import Relabel
from tests import composed

COLUMNS = frozenset({"obs", "action", "reward", "true_reward", "next_obs", "discount", "return_to_go"})


def stages():
    source = PreferencePairs(min_length=1, max_length=3, frame_stride=1, full_trajectory_prob=0.5)
    algo = Algo(composed.reward_model(), {"trex": TREX("demos", hidden=[8])}, {"demos": source}, batch_size=8)
    return {
        "demos": Collect("random", episodes=15),
        "reward": Fit(algo, 20, eval=EvalConfig(0)),
        "relabelled": Relabel("demos", "reward"),
    }


def test_relabel_adds_a_column_and_keeps_all_others(run_stages, counting):
    pipeline = run_stages(stages(), counting)
    data, relabelled = pipeline.product("demos"), pipeline.product("relabelled")
    for name, column in data.columns.items():
        assert np.array_equal(relabelled.columns[name], column)
    rows = np.arange(len(data))
    assert np.array_equal(relabelled.next_observations(rows), data.next_observations(rows))
    assert np.array_equal(relabelled.returns(), data.returns()) and relabelled.evaluate() == data.evaluate()
    learnt = rewards_of(data, pipeline.product("reward").agents()[0], 0.99, torch.device("cpu"))
    assert np.array_equal(relabelled.columns[LEARNED], learnt.astype(np.float32)) and learnt.std() > 0
    assert relabelled.metadata["made_by"] == data.metadata["made_by"] and relabelled.metadata["relabelled"]


@pytest.mark.parametrize("steps", [1, 2])
def test_sources_of_relabelled_data_return_learned_and_true_rewards(run_stages, counting, open_source, steps):
    """Trap: rewards estimated into a copy that nobody reads, so that the environment's are learnt from."""
    pipeline = run_stages(stages(), counting)
    data = pipeline.product("relabelled")
    agent = composed.q_net([8]).build(counting.spaces())
    given = {"products": {"source": data}, "columns": COLUMNS, "gamma": 0.5}
    stream = open_source(DatasetSource(n_step=steps), agent, counting, **given)
    batch = stream._columns.gather(torch.arange(len(data)))
    learnt, ends = np.array(data.columns[LEARNED]), data.ends - 1
    expected = learnt.copy()
    if steps == 2:
        expected[:-1] += 0.5 * np.where(np.isin(np.arange(len(data) - 1), ends), 0, learnt[1:])
    np.testing.assert_allclose(batch.reward, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(batch.true_reward, data.columns["rewards"]) and not np.allclose(expected, batch.true_reward)
    np.testing.assert_allclose(batch.return_to_go[ends], learnt[ends], rtol=1e-5)


def test_training_on_relabelled_data_equals_training_with_the_frozen_reward(run_stages, counting):
    """To the same weights, whether rewards are looked up or estimated."""

    def learnt(reads, frozen):
        algo = Algo(composed.q_net([8]), {"td": DQN(reads)}, targets={"critic": Target()}, batch_size=16)
        fit = Fit(algo, 10, eval=EvalConfig(0), frozen=frozen)
        return run_stages(stages() | {"learn": fit}, counting).product("learn").agents()[0].state_dict()

    one, other = learnt("relabelled", {}), learnt("demos", {"reward": "reward"})
    truth = learnt("demos", {})
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert not all(torch.allclose(one[name], truth[name], atol=1e-6) for name in one)


def test_relabel_keeps_ranks_of_true_rewards(run_stages, counting):
    again = stages()["reward"]
    again.algo.losses["trex"].reads = "relabelled"
    again.algo.sources = {"relabelled": again.algo.sources["demos"]}
    pipeline = run_stages(stages() | {"again": again}, counting)
    first, second = (pipeline.product(name).agents()[0].state_dict() for name in ("reward", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_relabel_killed_before_publishing_resumes_to_the_same_bytes(run_stages, counting, monkeypatch):
    expected = run_stages(stages(), counting, "straight").product("relabelled").path.read_bytes()
    finalize, left = Writer.finalize, iter([1])

    def dies(self, path, metadata):
        if "relabelled" in metadata and next(left, None):
            raise KeyboardInterrupt
        finalize(self, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finalize", dies)
        with pytest.raises(KeyboardInterrupt):
            run_stages(stages(), counting, "killed")
    assert run_stages(stages(), counting, "killed").product("relabelled").path.read_bytes() == expected


def test_relabel_without_a_reward_model_is_refused(run_stages, counting):
    demos = Collect("random", episodes=4)
    with pytest.raises(UserError, match="relabelled: needs a reward, which 'demos' .collect. does not provide"):
        run_stages({"demos": demos, "relabelled": Relabel("demos", "demos")}, counting)
    with pytest.raises(UserError, match="relabelled: no stage is called 'reward'"):
        run_stages({"demos": demos, "relabelled": Relabel("demos", "reward")}, counting)
