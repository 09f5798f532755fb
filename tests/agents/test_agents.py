import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.agents import Normaliser
from lfd.agents.actor_critic import Head, Policy, PolicyValue, SoftPolicyCritic
from lfd.agents.critic import CriticNet
from lfd.agents.judge import JudgeSpec
from lfd.agents.policy_critic import PolicyCritic
from lfd.agents.q import QNet
from lfd.batch import Batch
from lfd.envs import Spaces
from lfd.errors import Refused
from lfd.noise import Generated

VECTOR = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
BOX = gym.spaces.Box(np.array([0.0, -10.0], np.float32), np.array([1.0, 30.0], np.float32))
TWO = gym.spaces.Discrete(2)


def test_actions_are_in_units_of_the_space():
    agent = Policy([8], head=Head.squashed).build(Spaces(VECTOR, BOX))
    actions = agent.act(100 * torch.randn(500, 3), (), Generated(0))[0].numpy()
    assert actions.shape == (500, 2)
    assert (actions >= BOX.low).all() and (actions <= BOX.high).all() and actions[:, 1].max() > 15


def test_losses_see_actions_between_minus_one_and_one_on_every_side():
    """A minimum taken for a maximum would give other bounds."""
    agent = Policy([8]).build(Spaces(VECTOR, BOX))
    batch = Batch(obs=torch.zeros(3, 3), action=torch.tensor([[0.0, -10.0], [0.5, 10.0], [1.0, 30.0]]))
    prepared = agent.prepare(batch).action
    torch.testing.assert_close(prepared, torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(agent.to_space(prepared), batch.action)


@pytest.mark.parametrize("spec", [JudgeSpec(), CriticNet([8])])
def test_who_only_judges_does_not_act(spec):
    agent = spec.build(Spaces(VECTOR, TWO))
    with pytest.raises(Refused, match="judges and does not act; ask a stage that trains a policy"):
        agent.act(torch.zeros(1, 3), (), None)


def test_an_action_space_without_bounds_is_refused():
    with pytest.raises(Refused, match="no bounds"):
        Policy([8]).build(Spaces(VECTOR, gym.spaces.Box(-np.inf, np.inf, (1,))))


def test_without_noise_it_acts_greedily_and_with_it_it_draws():
    agent = PolicyValue([8]).build(Spaces(VECTOR, TWO))
    obs = torch.randn(200, 3)
    greedy = agent.act(obs, (), None)[0]
    assert torch.equal(greedy, agent.distribution(obs).mode()) and torch.equal(greedy, agent.act(obs, (), None)[0])
    assert not torch.equal(greedy, agent.act(obs, (), Generated(0))[0])


def test_running_statistics_are_those_of_all_data():
    data = torch.randn(1000, 3, dtype=torch.float64).float() * torch.tensor([1.0, 10.0, 0.1]) + 5
    normaliser = Normaliser((3,))
    assert torch.equal(normaliser(data), data / (1 + 1e-3))
    for part in data.split([1, 399, 600]):
        normaliser.update(part)
    torch.testing.assert_close(normaliser.mean, data.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normaliser.variance, data.var(0, unbiased=False), rtol=1e-3, atol=1e-5)


def test_what_lies_far_from_all_that_was_seen_is_clipped():
    normaliser = Normaliser((2,))
    wild = torch.tensor([[1e9, -0.5]])
    assert torch.equal(normaliser(wild), wild / (1 + 1e-3))  # as long as nothing was seen
    normaliser.update(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))  # the second never moves
    assert normaliser(wild).tolist() == [[100.0, -100.0]]
    loaded = Normaliser((2,))
    loaded.load_state_dict(normaliser.state_dict())
    assert loaded(wild).tolist() == [[100.0, -100.0]]
    restored = Normaliser((2,))
    for name, value in normaliser.named_buffers():
        getattr(restored, name).copy_(value)
    assert restored(wild).tolist() == [[100.0, -100.0]]


def test_only_numbers_are_normalised():
    seen = gym.spaces.Box(0, 255, (3,), np.uint8)
    space = gym.spaces.Dict({"pose": VECTOR, "room": gym.spaces.Discrete(5), "seen": seen})
    agent = QNet([8]).build(Spaces(space, TWO))
    agent.normalise_observations()
    assert set(agent.normalisers) == {"pose"}


def test_the_slow_copy_is_a_copy_and_no_gradient_reaches_it():
    agent = QNet([8]).build(Spaces(VECTOR, TWO))
    agent.keep_targets(["q"])
    obs = torch.randn(4, 3)
    assert torch.equal(agent.target_q(obs), agent.q(obs).detach()) and not agent.target_q(obs).requires_grad
    with torch.no_grad():
        next(agent.nets["q"].parameters()).add_(1.0)
    assert not torch.equal(agent.target_q(obs), agent.q(obs).detach())


def test_a_module_runs_once_in_a_step_for_the_same_input():
    agent = SoftPolicyCritic([8]).build(Spaces(VECTOR, BOX))
    calls = []
    agent.nets["policy"].register_forward_hook(lambda *_: calls.append(1))
    obs = torch.randn(4, 3)
    agent.begin_step(Generated(0))
    assert agent.distribution(obs) is agent.distribution(obs)
    agent.distribution(obs.clone())
    with torch.no_grad():
        agent.distribution(obs)
    agent.end_step()
    assert len(calls) == 3


def test_restart_sets_back_the_memory_of_ended_episodes_only():
    agent = QNet([8]).build(Spaces(VECTOR, TWO))
    agent.initial_state = lambda number: {"h": torch.zeros(number, 2)}
    memory = agent.restart({"h": torch.ones(3, 2)}, torch.tensor([False, True, False]))
    assert memory["h"][:, 0].tolist() == [1.0, 0.0, 1.0]
    assert QNet([8]).build(Spaces(VECTOR, TWO)).restart((), torch.tensor([True])) == ()


def test_a_prepared_batch_can_be_given_back_raw():
    pendulum = Spaces(gym.spaces.Box(-8, 8, (3,), np.float32), gym.spaces.Box(-2, 2, (1,), np.float32))
    agent = Policy([4]).build(pendulum)
    agent.normalise_observations()
    generator = torch.Generator().manual_seed(0)
    obs = 5 + 3 * torch.randn(64, 3, generator=generator)
    agent.update_normalisers(obs)
    batch = Batch(obs=obs, next_obs=obs + 1, action=4 * torch.rand(64, 1, generator=generator) - 2)
    raw = agent.raw(agent.prepare(batch))
    for name in ("obs", "next_obs", "action"):
        torch.testing.assert_close(getattr(raw, name), getattr(batch, name))


def test_a_bounded_policy_draws_inside_the_box_for_its_critics():
    agent = PolicyCritic([8]).build(Spaces(VECTOR, BOX))
    agent.begin_step(Generated(0))
    drawn = agent.draw(100 * torch.randn(500, 3))
    assert drawn.min() == -1 and drawn.max() == 1 and ((drawn > -1) & (drawn < 1)).any()
    assert agent.q(torch.randn(500, 3), drawn).shape == (500, 2)


def test_values_of_taken_actions_are_those_of_the_table():
    agent = PolicyCritic([8], critics=3).build(Spaces(VECTOR, TWO))
    obs = torch.randn(6, 3)
    both = torch.stack([agent.q(obs, torch.full((6,), action)) for action in (0, 1)])
    tables = torch.stack([net(obs) for net in agent.nets["critic"].nets], -1)
    assert both.shape == (2, 6, 3) and torch.equal(both, tables.transpose(0, 1))
