"""Networks of observations beside further vectors."""

import pytest
import torch

from lfd.nets import Net
from tests.algos.cases import DICT, FRAMES, VECTOR, observations


@pytest.mark.parametrize("space", [VECTOR, DICT, FRAMES])
def test_several_vectors_of_one_observation_are_as_each_alone(space):
    generator = torch.Generator().manual_seed(0)
    obs = observations(space, 4, generator)
    vectors = torch.randn(5, 4, 3, generator=generator)
    net = Net(space, [8], 2, extra=3)
    seen = []
    net.encoder.register_forward_hook(lambda module, inputs, features: seen.append(features.shape))
    together = net(obs, vectors)
    assert together.shape == (5, 4, 2) and [shape[:-1] for shape in seen] == [(4,)]
    torch.testing.assert_close(together, torch.stack([net(obs, vector) for vector in vectors]))
