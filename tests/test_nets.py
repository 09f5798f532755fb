"""Networks of observations beside further vectors."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.envs.spaces import Cells, Indices, Words
from lfd.learner.purity import unrecordable_modules
from lfd.learner.recording import RecordedStep
from lfd.log import progress
from lfd.nets import Flatten, NatureCNN, Net, encoder, features_of, is_frames
from lfd.nets.grid import BagOfWords, GridEncoder
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


CELLS, WORDS = Cells((7, 7), (11, 6, 4)), Words(("go", "to", "the", "red", "ball"), 6)
GRID = gym.spaces.Dict(image=CELLS, mission=WORDS)


def grids(*lead, seed=0):
    """Random cells [*lead, 7, 7, 3] and missions [*lead, 6]."""
    generator = torch.Generator().manual_seed(seed)
    cells = [torch.randint(size, (*lead, 7, 7), generator=generator) for size in CELLS.sizes]
    mission = torch.randint(1, 6, (*lead, 6), generator=generator)
    return {"image": torch.stack(cells, -1).byte(), "mission": mission.byte()}


def test_grid_encoder_is_summed_embeddings_film_and_linear_layers():
    torch.manual_seed(0)
    net = GridEncoder("image", CELLS, {"mission": WORDS})
    obs = grids(2)
    index = obs["image"].long()
    cells = sum(net.embeddings[part](index[..., part]) for part in range(3)).flatten(1, 2)
    words = net.instructions["mission"].embeddings.weight[obs["mission"].long()].sum(1)
    for film, layer in ((net.first_film, net.mix), (net.second_film, torch.nn.Flatten())):
        scale, shift = film(words)[:, None].chunk(2, -1)
        cells = layer(torch.relu(cells * (1 + scale) + shift))
    torch.testing.assert_close(net(obs), torch.relu(net.linear(cells)))


def test_encoder_is_chosen_by_the_class_of_a_space():
    """Equal numbers in a plain Box are a picture."""
    assert isinstance(encoder(CELLS), GridEncoder) and isinstance(encoder(WORDS), BagOfWords)
    assert isinstance(encoder(gym.spaces.Box(CELLS.low, CELLS.high, dtype=np.uint8)), Flatten)
    assert isinstance(encoder(Cells((40, 40), (11, 6, 4))), GridEncoder)
    for space, features in (
        (GRID, 128), (gym.spaces.Dict(image=CELLS), 128), (gym.spaces.Dict(mission=WORDS), 64),
        (gym.spaces.Dict(image=CELLS, direction=gym.spaces.Discrete(4), mission=WORDS), 132),
    ):  # fmt: skip
        assert features_of(encoder(space)) == features


@pytest.mark.parametrize("sizes", [[3, 2], [[3], [2]]])
def test_encoder_of_indices_is_one_hot_for_each(sizes):
    obs = torch.tensor([[[2, 0], [0, 1]]]).reshape(1, 2, *np.shape(sizes))
    encode = encoder(Indices(sizes))
    assert encode(obs).tolist() == [[[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]] and features_of(encode) == 5


def test_grid_encoder_with_leading_axes_equals_rows():
    net, obs = encoder(GRID), grids(2, 3, 4)
    rows = net({key: part.flatten(0, 2) for key, part in obs.items()})
    torch.testing.assert_close(net(obs), rows.reshape(2, 3, 4, 128))
    assert net({key: part[0, 0, 0] for key, part in obs.items()}).shape == (128,)


def test_grid_encoder_ignores_padding_and_order_of_words():
    net, obs = encoder(GRID), grids(1)
    missions = torch.tensor([[1, 2, 0, 0, 0, 0], [0, 0, 2, 0, 1, 0], [1, 3, 0, 0, 0, 0]]).byte()
    one, same, other = net({"image": obs["image"].expand(3, 7, 7, 3), "mission": missions})
    torch.testing.assert_close(one, same)
    assert not torch.allclose(one, other)


def test_grid_encoder_of_members_equals_each_alone():
    torch.manual_seed(0)
    nets, obs = [encoder(GRID) for _ in range(3)], grids(3, 5)
    weights, _ = torch.func.stack_module_state(nets)

    def loss(weights, obs):
        return torch.func.functional_call(nets[0], weights, (obs,)).square().mean()

    together = torch.vmap(torch.func.grad(loss))(weights, obs)
    for index, net in enumerate(nets):
        net({key: part[index] for key, part in obs.items()}).square().mean().backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(together[name][index], parameter.grad)


def test_grid_encoder_step_is_recorded():
    net = encoder(gym.spaces.Dict(image=CELLS, direction=gym.spaces.Discrete(4), mission=WORDS))
    assert not unrecordable_modules(net.modules())
    weights = list(net.parameters())
    step = RecordedStep(lambda obs: torch.autograd.grad(net(obs).square().mean(), weights))
    for seed in range(6):
        obs = {**grids(4, seed=seed), "direction": torch.arange(4)}
        wanted = torch.autograd.grad(net(obs).square().mean(), weights)
        torch.testing.assert_close(step(obs), wanted)
    assert [program is not None for program in step.programs.values()] == [True]
