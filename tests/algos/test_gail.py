"""The discriminator against its equations in numpy, and a policy that learns from its reward only."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from lfd.agents import REWARD
from lfd.agents.reward_model import Inputs
from lfd.algos.gail import GAIL, RewardFn
from lfd.algos.ppo import PPO
from lfd.data import Episode
from lfd.envs import Gym
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner
from lfd.nets import Activation
from lfd.rng import ReplayedRng
from lfd.sources.dataset import DatasetSource
from lfd.sources.rollout import Rollout
from tests import composed
from tests.algos.cases import BOX, DICT, TWO, VECTOR, answer, batch, built, by_hand, float64, spaces

SLOTS = {"learner": "learner", "expert": "expert"}
ROWS = {"learner": batch(VECTOR, TWO, 1), "expert": batch(VECTOR, TWO, 2)}


def new_agent(action=TWO, **settings):
    """An agent with random weights in its discriminator, and its loss."""
    loss = GAIL(SLOTS, hidden=[8, 8], activation=Activation.relu, **settings)
    agent = built(composed.reward_model(), spaces(VECTOR, action), loss)
    for layer in agent.nets[REWARD].net.head:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.5)
    return agent, loss


def features(rows):
    return np.concatenate([float64(rows.obs), np.eye(2)[rows.action]], -1)


def logits(agent, rows):
    return by_hand(agent.nets[REWARD].net, features(rows))[:, 0]


def test_gail_loss_and_accuracies_equal_their_equations():
    agent, loss = new_agent()
    out = answer(loss, agent, ROWS)
    learner, expert = (1 / (1 + np.exp(-logits(agent, ROWS[slot]))) for slot in ("learner", "expert"))
    expected = -np.log(expert).mean() - np.log(1 - learner).mean()
    assert out.by_group[REWARD].item() == out.metrics.discriminator_loss.item() == pytest.approx(expected, rel=1e-5)
    assert out.metrics.accuracy_expert == pytest.approx((expert > 0.5).mean())
    assert out.metrics.accuracy_learner == pytest.approx((learner < 0.5).mean())


def test_gail_entropy_is_a_bonus():
    agent, loss = new_agent(ent_coef=0.3)
    shares = [1 / (1 + np.exp(-logits(agent, ROWS[slot]))) for slot in ("learner", "expert")]
    entropy = np.mean([-(d * np.log(d) + (1 - d) * np.log(1 - d)).mean() for d in shares])
    out = answer(loss, agent, ROWS)
    assert (out.metrics.discriminator_loss - out.by_group[REWARD]).item() == pytest.approx(0.3 * entropy, rel=1e-4)


def test_gradient_penalty_is_at_random_points_between_both_sides():
    agent, loss = new_agent(gradient_penalty=10.0)
    share = torch.rand(8, 1, generator=torch.Generator().manual_seed(0))
    learner, expert = (features(ROWS[slot]) for slot in ("learner", "expert"))
    between = learner + float64(share) * (expert - learner)
    net, h = agent.nets[REWARD].net, 1e-6
    steps = [(by_hand(net, between + h * axis) - by_hand(net, between - h * axis)) / (2 * h) for axis in np.eye(6)]
    expected = 10 * ((np.linalg.norm(np.concatenate(steps, -1), axis=-1) - 1) ** 2).mean()
    out = answer(loss, agent, ROWS, ReplayedRng([share]))
    assert (out.by_group[REWARD] - out.metrics.discriminator_loss).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("reward_fn", "reward"),
    [
        (RewardFn.gail, lambda d: -np.log(1 - d)),
        (RewardFn.log_d, np.log),
        (RewardFn.airl, lambda d: np.log(d) - np.log(1 - d)),
    ],
)
def test_reward_functions_of_the_discriminator(reward_fn, reward):
    agent, _ = new_agent(reward_fn=reward_fn)
    expected = reward(1 / (1 + np.exp(-logits(agent, ROWS["learner"]))))
    np.testing.assert_allclose(float64(agent.nets[REWARD](ROWS["learner"])), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reward_fn", list(RewardFn))
@pytest.mark.parametrize("inputs", list(Inputs))
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_gail_rewards_the_experts_transitions_more(reward_fn, inputs, spectral_norm):
    loss = GAIL(SLOTS, inputs=inputs, reward_fn=reward_fn, spectral_norm=spectral_norm)
    algo = Algo(composed.reward_model(), {"gail": loss}, lr=1e-2)
    agent = built(algo.agent, spaces(DICT, BOX), loss)
    learner = Learner([agent], algo, 0, torch.device("cpu"))
    rows = [batch(DICT, BOX, seed, 64) for seed in (1, 2)]
    rows[1].obs["pose"], rows[1].action = rows[1].obs["pose"] + 3, -rows[0].action
    for _ in range(100):
        learner.step(dict(zip(SLOTS, rows, strict=True)), ["gail"])
    low, high = (agent.nets[REWARD](agent.preprocess(side)).mean() for side in rows)
    assert low < high
    assert {"gail": low > 0, "log_d": high < 0, "airl": low < 0 < high}[reward_fn.value]


def test_untrained_gail_reward_is_0():
    agent = built(composed.reward_model(), spaces(VECTOR, TWO), GAIL(SLOTS))
    assert (agent.nets[REWARD](ROWS["learner"]) == 0).all()


def test_discrete_actions_are_one_hot():
    agent, _ = new_agent()
    shown = agent.nets[REWARD].net.features(ROWS["learner"])
    assert torch.equal(shown[:, 4:], torch.eye(2)[ROWS["learner"].action])


def test_actions_beyond_the_bounds_are_clipped():
    agent, _ = new_agent(BOX)
    rows = batch(VECTOR, BOX, 1)
    far, edge = (agent.nets[REWARD](rows.having(action=size * rows.action.sign())) for size in (3.0, 1.0))
    assert torch.equal(far, edge)


def test_logit_with_spectral_norm_changes_no_faster_than_its_inputs():
    agent, _ = new_agent(spectral_norm=True)
    net = agent.nets[REWARD]
    one, other = torch.randn(2, 500, 6, generator=torch.Generator().manual_seed(0)).unbind()
    other = one + 0.1 * other
    slope = (net.logit(one) - net.logit(other)).abs() / (one - other).norm(dim=-1)
    assert 0.05 < slope.max() <= 1 + 1e-5


@pytest.mark.parametrize("name", ["gradient_penalty", "ent_coef"])
def test_gail_with_a_negative_weight_is_refused(name):
    with pytest.raises(UserError, match=f"^{name}: expected 0 or more, got -0.1$"):
        GAIL(SLOTS, **{name: -0.1})


class Contrary(gym.Env):
    """The reward is the action; observations are 0."""

    def __init__(self, render_mode=None):
        self.observation_space, self.action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), float(action), False, self.t == 8, {}


gym.register("Contrary-v0", Contrary)


@pytest.mark.parametrize("with_reward", [True, False])
def test_gail_learner_follows_demonstrations_and_not_the_environments_reward(with_reward, open_source, write_data):
    """The demonstrations, fewer than a batch, have only the action without reward."""
    env = Gym("Contrary-v0")
    zeros = np.zeros(8, np.int64)
    data = write_data(
        [Episode(np.zeros((9, 1), np.float32), zeros, zeros.astype(np.float32), False, True)], env.spaces()
    )
    losses = {"gail": GAIL({"learner": "rollout", "expert": "demos"}), "ppo": PPO("rollout")}
    torch.manual_seed(0)
    agent = built(composed.policy_value([16]), env.spaces(), *([losses["gail"]] if with_reward else []))
    learner = Learner([agent], Algo(composed.policy_value([16]), losses, lr=1e-2), 0, torch.device("cpu"))
    columns = frozenset({"obs", "action", "log_prob", "advantage", "value_target"})
    rollout = open_source(Rollout(4, 16), agent, env, columns=columns, batch=32)
    demos = open_source(DatasetSource(), agent, name="demos", products={"demos": data}, columns=columns, batch=32)
    for _ in range(30):
        rollout.begin_round()
        for phase, steps in {"gail": 4, "ppo": 4}.items():
            rollout.begin_phase(on_policy_only=True)
            for _ in range(steps if with_reward or phase == "ppo" else 0):
                learner.step({"rollout": rollout.next(), "demos": demos.next()}, [phase])
    chosen = agent.policy(torch.zeros(1, 1)).log_prob(torch.zeros(1, dtype=torch.long)).exp()
    assert chosen > 0.9 if with_reward else chosen < 0.1
