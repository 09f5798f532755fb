"""AIRL's shaped reward and its discriminator against their equations in numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from lfd.agents import REWARD
from lfd.agents.reward_model import Inputs
from lfd.algos.airl import AIRL
from lfd.algos.bc import BC
from lfd.algos.dqn import DQN
from lfd.errors import UserError
from lfd.learner.learner import Algo
from lfd.learner.optim import Target
from lfd.nets import Activation
from lfd.sources.replay import Replay
from lfd.stages.collect import Collect
from lfd.stages.fit.stage import Fit
from tests import composed
from tests.algos.cases import BOX, TWO, VECTOR, answer, batch, boxed, built, by_hand, float64, spaces

SLOTS = {"learner": "learner", "expert": "expert"}
ROWS = {"learner": batch(VECTOR, TWO, 1), "expert": batch(VECTOR, TWO, 2)}


def new_agent(action=TWO, **settings):
    """An agent whose reward has an opinion, and its loss."""
    loss = AIRL(SLOTS, hidden=[8, 8], activation=Activation.relu, **settings)
    agent = built(composed.policy([8]), spaces(VECTOR, action), loss)
    for layer in agent.nets[REWARD].modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.5)
    return agent, loss


def shaped(net, rows, *more):
    """f of each row: the potential is 0 behind a termination, where the discount is."""
    reward = by_hand(net.base, float64(rows.obs), *more)[:, 0]
    here, there = (by_hand(net.potential, float64(obs))[:, 0] for obs in (rows.obs, rows.next_obs))
    assert (rows.discount == 0).any()
    return reward + float64(rows.discount) * there - here


@pytest.mark.parametrize("action", [TWO, BOX], ids=["discrete", "continuous"])
def test_airl_logit_is_the_shaped_reward_minus_log_pi(action):
    agent, loss = new_agent(action)
    rows = ROWS if action is TWO else {slot: boxed(side) for slot, side in ROWS.items()}
    out = answer(loss, agent, rows)
    logits = {}
    for slot, side in rows.items():
        log_pi = float64(agent.policy(side.obs).log_prob(side.action))
        logits[slot] = shaped(agent.nets[REWARD], side) - log_pi
    learner, expert = (1 / (1 + np.exp(-logits[slot])) for slot in ("learner", "expert"))
    expected = -np.log(expert).mean() - np.log(1 - learner).mean()
    assert out.by_group[REWARD].item() == pytest.approx(expected, rel=1e-5)
    assert out.metrics.accuracy_learner == pytest.approx((logits["learner"] < 0).mean())


def test_published_airl_reward_has_no_potential():
    agent, _ = new_agent(inputs=Inputs.obs_action)
    net, rows = agent.nets[REWARD], ROWS["learner"]
    taken = np.eye(2)[rows.action]
    np.testing.assert_allclose(float64(net(rows)), shaped(net, rows, taken), rtol=1e-4, atol=1e-6)
    alone = by_hand(net.base, float64(rows.obs), taken)[:, 0]
    np.testing.assert_allclose(float64(net.eval()(rows)), shaped(net, rows, taken), rtol=1e-4, atol=1e-6)
    agent.publish()
    np.testing.assert_allclose(float64(net(rows)), alone, rtol=1e-4, atol=1e-6)


def test_airl_does_not_train_the_policy():
    agent, loss = new_agent()
    term = answer(loss, agent, ROWS).by_group[REWARD]
    found = torch.autograd.grad(term, list(agent.nets["policy"].parameters()), allow_unused=True)
    assert all(gradient is None for gradient in found)


def test_airl_without_a_policy_is_refused(counting, run_stages):
    losses = {"airl": AIRL({"learner": "replay", "expert": "demos"}), "td": DQN("replay")}
    algo = Algo(composed.q_net([8]), losses, {"replay": Replay()}, targets={"critic": Target()})
    with pytest.raises(
        UserError,
        match=r'losses.airl \(AIRL\) needs a policy with densities .*; add "/net@agent.nets.policy: policy" to the '
        r"algorithm; its agent has critic, reward$",
    ):
        run_stages({"demos": Collect("random", transitions=50), "learn": Fit(algo, 5)}, counting)


def test_airl_reward_of_a_product_is_published(counting, run_stages):
    losses = {"airl": AIRL({"learner": "demos", "expert": "demos"}), "bc": BC("demos")}
    algo = Algo(composed.policy([8]), losses, batch_size=16)
    stages = {"demos": Collect("random", transitions=50), "reward": Fit(algo, 5)}
    assert not run_stages(stages, counting).product("reward").agents()[0].nets[REWARD].shaped
