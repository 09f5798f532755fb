"""Agents: units of actions and observations, target networks, memory and recurrent states."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.agents.nets import Head
from lfd.agents.units import Normalizer
from lfd.algos.awac import sampled_action
from lfd.batch import Batch
from lfd.envs import Spaces
from lfd.errors import UserError
from lfd.rng import GeneratorRng
from tests import composed

VECTOR = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
BOX = gym.spaces.Box(np.array([0.0, -10.0], np.float32), np.array([1.0, 30.0], np.float32))
TWO = gym.spaces.Discrete(2)


def test_actions_are_in_units_of_the_space():
    agent = composed.policy([8], head=Head.tanh_gaussian).build(Spaces(VECTOR, BOX))
    actions = agent.act(100 * torch.randn(500, 3), (), GeneratorRng(0))[0].numpy()
    assert actions.shape == (500, 2)
    assert (actions >= BOX.low).all() and (actions <= BOX.high).all() and actions[:, 1].max() > 15


def test_preprocess_maps_actions_to_minus_one_and_one():
    """Asymmetric bounds detect swapped minima and maxima."""
    agent = composed.policy([8]).build(Spaces(VECTOR, BOX))
    batch = Batch(obs=torch.zeros(3, 3), action=torch.tensor([[0.0, -10.0], [0.5, 10.0], [1.0, 30.0]]))
    prepared = agent.preprocess(batch).action
    torch.testing.assert_close(prepared, torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(agent.to_space(prepared), batch.action)


@pytest.mark.parametrize("config", [composed.reward_model(), composed.critic([8])])
def test_act_without_a_policy_is_refused(config):
    agent = config.build(Spaces(VECTOR, TWO))
    with pytest.raises(UserError, match="expected an agent with a policy, got .*; name a stage that trains a policy"):
        agent.act(torch.zeros(1, 3), (), None)


def test_build_with_an_unbounded_action_space_is_refused():
    with pytest.raises(UserError, match="the action space: expected finite bounds, got Box"):
        composed.policy([8]).build(Spaces(VECTOR, gym.spaces.Box(-np.inf, np.inf, (1,))))


def test_act_is_greedy_without_rng_and_sampled_with_rng():
    agent = composed.policy_value([8]).build(Spaces(VECTOR, TWO))
    obs = torch.randn(200, 3)
    greedy = agent.act(obs, (), None)[0]
    assert torch.equal(greedy, agent.policy(obs).mode()) and torch.equal(greedy, agent.act(obs, (), None)[0])
    assert not torch.equal(greedy, agent.act(obs, (), GeneratorRng(0))[0])


def test_normalizer_statistics_equal_those_of_all_data():
    data = torch.randn(1000, 3, dtype=torch.float64).float() * torch.tensor([1.0, 10.0, 0.1]) + 5
    normalizer = Normalizer((3,))
    assert torch.equal(normalizer(data), data / (1 + 1e-3))
    for part in data.split([1, 399, 600]):
        normalizer.update(part)
    torch.testing.assert_close(normalizer.mean, data.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalizer.variance, data.var(0, unbiased=False), rtol=1e-3, atol=1e-5)


def test_normalizer_clips_outliers():
    normalizer = Normalizer((2,))
    wild = torch.tensor([[1e9, -0.5]])
    assert torch.equal(normalizer(wild), wild / (1 + 1e-3))  # before the first update
    normalizer.update(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))  # the second never moves
    assert normalizer(wild).tolist() == [[100.0, -100.0]]
    loaded = Normalizer((2,))
    loaded.load_state_dict(normalizer.state_dict())
    assert loaded(wild).tolist() == [[100.0, -100.0]]
    restored = Normalizer((2,))
    for name, value in normalizer.named_buffers():
        getattr(restored, name).copy_(value)
    assert restored(wild).tolist() == [[100.0, -100.0]]


def test_normalize_observations_applies_to_floats_only():
    seen = gym.spaces.Box(0, 255, (3,), np.uint8)
    space = gym.spaces.Dict({"pose": VECTOR, "room": gym.spaces.Discrete(5), "seen": seen})
    agent = composed.q_net([8]).build(Spaces(space, TWO))
    agent.normalize_observations()
    assert set(agent.normalizers) == {"pose"}


def test_target_network_is_a_copy_without_gradients():
    agent = composed.q_net([8]).build(Spaces(VECTOR, TWO))
    agent.add_target_networks(["critic"])
    obs = torch.randn(4, 3)
    assert (
        torch.equal(agent.q_all(obs, target=True), agent.q_all(obs).detach())
        and not agent.q_all(obs, target=True).requires_grad
    )
    with torch.no_grad():
        next(agent.nets["critic"].parameters()).add_(1.0)
    assert not torch.equal(agent.q_all(obs, target=True), agent.q_all(obs).detach())


def test_net_runs_once_per_gradient_step_for_the_same_input():
    agent = composed.soft_policy_critic([8]).build(Spaces(VECTOR, BOX))
    calls = []
    agent.nets["policy"].register_forward_hook(lambda *_: calls.append(1))
    obs = torch.randn(4, 3)
    agent.begin_step(GeneratorRng(0))
    assert agent.policy(obs) is agent.policy(obs)
    agent.policy(obs.clone())
    with torch.no_grad():
        agent.policy(obs)
    agent.end_step()
    assert len(calls) == 3


def test_restart_resets_the_state_of_ended_episodes_only():
    agent = composed.q_net([8]).build(Spaces(VECTOR, TWO))
    agent.initial_state = lambda number: {"h": torch.zeros(number, 2)}
    memory = agent.restart({"h": torch.ones(3, 2)}, torch.tensor([False, True, False]))
    assert memory["h"][:, 0].tolist() == [1.0, 0.0, 1.0]
    assert composed.q_net([8]).build(Spaces(VECTOR, TWO)).restart((), torch.tensor([True])) == ()


def test_unprocess_inverts_preprocess():
    pendulum = Spaces(gym.spaces.Box(-8, 8, (3,), np.float32), gym.spaces.Box(-2, 2, (1,), np.float32))
    agent = composed.policy([4]).build(pendulum)
    agent.normalize_observations()
    generator = torch.Generator().manual_seed(0)
    obs = 5 + 3 * torch.randn(64, 3, generator=generator)
    agent.update_normalizers(obs)
    batch = Batch(obs=obs, next_obs=obs + 1, action=4 * torch.rand(64, 1, generator=generator) - 2)
    raw = agent.unprocess(agent.preprocess(batch))
    for name in ("obs", "next_obs", "action"):
        torch.testing.assert_close(getattr(raw, name), getattr(batch, name))


def test_awac_samples_actions_within_the_bounds():
    agent = composed.policy_critic([8]).build(Spaces(VECTOR, BOX))
    agent.begin_step(GeneratorRng(0))
    drawn = sampled_action(agent, 100 * torch.randn(500, 3))
    assert drawn.min() == -1 and drawn.max() == 1 and ((drawn > -1) & (drawn < 1)).any()
    assert agent.q(torch.randn(500, 3), drawn).shape == (500, 2)


def test_discrete_critics_values_are_those_of_the_taken_actions():
    agent = composed.policy_critic([8], critics=3).build(Spaces(VECTOR, TWO))
    obs = torch.randn(6, 3)
    both = torch.stack([agent.q(obs, torch.full((6,), action)) for action in (0, 1)])
    tables = torch.stack([net(obs) for net in agent.nets["critic"].nets], -1)
    assert both.shape == (2, 6, 3) and torch.equal(both, tables.transpose(0, 1))
