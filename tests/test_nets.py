"""Networks of observations beside further vectors."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.log import progress
from lfd.nets import NatureCNN, Net, encoder, is_frames
from tests.algos.cases import DICT, FRAMES, VECTOR, observations


@pytest.mark.parametrize("space", [VECTOR, DICT, FRAMES])
def test_net_with_several_vectors_equals_each_alone(space):
    generator = torch.Generator().manual_seed(0)
    obs = observations(space, 4, generator)
    vectors = torch.randn(5, 4, 3, generator=generator)
    net = Net(space, [8], 2, extra=3)
    seen = []
    net.encoder.register_forward_hook(lambda module, inputs, features: seen.append(features.shape))
    together = net(obs, vectors)
    assert together.shape == (5, 4, 2) and [shape[:-1] for shape in seen] == [(4,)]
    torch.testing.assert_close(together, torch.stack([net(obs, vector) for vector in vectors]))


def picture(*shape, dtype=np.uint8):
    return gym.spaces.Box(0, 255, shape, dtype)


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((4, 84, 84), (1, 2, 0)), ((84, 84, 3), (0, 1, 2)), ((3, 60, 80), (1, 2, 0)), ((96, 64, 1), (0, 1, 2)),
        ((84, 84, 12), (0, 1, 2)), ((12, 84, 84), (1, 2, 0)), ((64, 64), (0, 1)), ((36, 50), (0, 1)),
        ((4, 64, 64, 3), (1, 2, 0, 3)), ((4, 3, 64, 64), (2, 3, 0, 1)), ((64, 64, 3, 4), (0, 1, 2, 3)),
    ],
)  # fmt: skip
def test_nature_cnn_reads_any_order_of_axes(shape, order):
    """As the convolutions read the same numbers with the sides first and all else as channels behind."""
    assert is_frames(picture(*shape))
    torch.manual_seed(0)
    net = NatureCNN(shape)
    frames = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    pixels = frames.reshape(6, *shape).permute(0, *(axis + 1 for axis in order))
    pixels = pixels.reshape(6, *pixels.shape[1:3], -1).permute(0, 3, 1, 2).float() / 255
    wanted = torch.relu(net.linear(net.convolutions(pixels).flatten(1))).reshape(2, 3, 512)
    torch.testing.assert_close(net(frames), wanted)


@pytest.mark.parametrize(
    "space", [picture(35, 84, 3), picture(32, 32, 3), picture(84, 84, 3, dtype=np.float32), picture(2, 2, 2, 64, 64)]
)
def test_picture_without_convolutions_is_flattened_with_a_message(space, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_printed", set())
    assert not is_frames(space)
    for _ in range(2):
        assert encoder(space).features == np.prod(space.shape)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"an observation {list(space.shape)} {space.dtype} is read as a vector of ")


def test_small_grid_or_vector_is_flattened_without_a_message(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_printed", set())
    encoder(picture(7, 7, 3))
    encoder(picture(5_000))
    assert capsys.readouterr().err == ""
