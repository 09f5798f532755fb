"""Mixed batches: fractions, importance weights, feedback, validation rows and exact resumption."""

import numpy as np
import pytest
import torch

from lfd.data import Episode
from lfd.errors import UserError
from lfd.sources.dataset import DatasetSource
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from tests import composed


@pytest.fixture
def open_mix(counting, open_source, write_data):
    """A mix of demonstrations, in which action 1 is always taken and t counts from 100, and a replay."""
    observations = np.stack([np.full(11, 5000), 100 + np.arange(11)], 1).astype(np.float32)
    episode = Episode(observations, np.ones(10, np.int64), np.ones(10, np.float32), True, False)
    data = write_data([episode] * 4, counting.spaces())

    def open_it(replay, fractions=None, batch=10, demos=None, **context):
        mix = Mix(fractions or {"demos": 0.3, "replay": 0.7})
        sources = {"demos": demos or DatasetSource(), "replay": replay, "source": mix}
        torch.manual_seed(0)
        agent = composed.q_net([8]).build(counting.spaces())
        return open_source(mix, agent, counting, products={"demos": data}, sources=sources, batch=batch, **context)

    return open_it


def test_parts_have_their_fractions_of_every_batch(open_mix):
    stream = open_mix(Replay(100, 2, 10))
    for _ in range(5):
        batch = stream.next()
        assert (batch.obs[:3, 0] == 5000).all() and (batch.obs[3:, 0] < 5000).all() and len(batch.action) == 10
    (replay,) = stream.collectors
    assert replay.env_steps > 0 and replay.interacts


def test_fractions_are_rounded_to_the_batch_size(open_mix):
    batch = open_mix(Replay(100, 2, 10), {"demos": 1 / 3, "replay": 2 / 3}, batch=8).next()
    assert (batch.obs[:, 0] == 5000).sum() == 3 and len(batch.action) == 8


def test_mix_provides_the_columns_that_all_parts_provide():
    sources = {"demos": DatasetSource(), "replay": Replay()}
    columns = Mix({"demos": 0.5, "replay": 0.5}).provides(sources)
    assert columns == Replay().provides({}) and "next_action" not in columns


def test_prioritized_part_has_its_weights_and_gets_its_feedback(open_mix):
    stream = open_mix(Replay(100, 2, 10, per_alpha=1.0))
    assert (stream.next().weight[:3] == 1).all()
    replay = stream.parts["replay"]
    stream.feedback({"priority": torch.arange(10.0)})
    drawn = dict(zip(replay._buffer._drawn.tolist(), range(3, 10), strict=True))
    for leaf, error in drawn.items():
        assert replay._buffer._priorities._tree.weights(torch.tensor([leaf]).numpy()) == pytest.approx(error, rel=1e-5)


def test_held_out_rows_of_the_mix_are_those_of_its_parts(open_mix):
    assert len(open_mix(Replay(100, 2, 10)).held_out()) == 0
    held = open_mix(Replay(100, 2, 10), demos=DatasetSource(validation=0.25)).held_out()
    assert sum(len(batch.action) for batch in held) == 10


def test_restored_stream_continues_with_the_same_batches(open_mix):
    stream = open_mix(Replay(100, 2, 10))
    for _ in range(7):
        stream.next()
    tensors, state = stream.save()
    tensors = {name: value.clone() for name, value in tensors.items()}

    def go_on(stream):
        stream.parts["replay"].reset_envs(1)
        return [stream.next() for _ in range(30)]

    expected = go_on(stream)
    stream.restore(tensors, state)
    for one, other in zip(expected, go_on(stream), strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dict__)


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_mix_of_invalid_fractions_is_refused(fractions):
    with pytest.raises(UserError, match="^fractions: expected positive numbers that sum to 1, got {"):
        Mix(fractions)


def test_batch_too_small_for_its_fractions_is_refused(open_mix):
    with pytest.raises(
        UserError, match="algo.batch_size: expected a row for each of the fractions .*, got 10; raise it"
    ):
        open_mix(Replay(100, 2, 10), {"demos": 0.01, "replay": 0.99})
