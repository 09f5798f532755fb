"""A learned reward replaces the environment's in every source, and `true_reward` stays unchanged."""

from dataclasses import dataclass, replace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from lfd.agents import REWARD
from lfd.agents.config import AgentConfig
from lfd.agents.nets import NetSpec
from lfd.algos import Loss, LossOutput, Metrics
from lfd.algos.airl import AIRL
from lfd.algos.bc import BC
from lfd.algos.cql import CQLContinuous
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.algos.sac import SAC
from lfd.batch import Batch
from lfd.envs import Spaces
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner, Phase
from lfd.learner.optim import OptimConfig, Target
from lfd.registry import parts
from lfd.sources import rollout
from lfd.sources.dataset import DatasetSource
from lfd.sources.replay import Replay
from lfd.sources.rewards import RewardSelector
from lfd.sources.rollout import Rollout
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit.config import EvalConfig, Stop
from lfd.stages.fit.stage import Fit
from tests import composed

SIZES = [8]
BOX = Spaces(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (2,)))
COLUMNS = frozenset({"obs", "action", "reward", "true_reward", "next_obs", "discount", "terminated", "truncated"})


class Linear(nn.Module):
    """scale * (10 * action + the observation's last number)"""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.scale * (10 * batch.action + batch.obs[..., -1])


@dataclass
class LinearSpec(NetSpec):
    on_trunk: ClassVar = False

    def build(self, inputs):
        return Linear()


@dataclass
class Doubling(Loss):
    """The scale goes up by the learning rate at every step of SGD or Adam."""

    needs: ClassVar = ("obs", "action")
    trains: ClassVar = (REWARD,)

    def brings(self, spaces):
        return {REWARD: LinearSpec()}

    def __call__(self, agent, batch):
        return LossOutput({REWARD: -agent.nets[REWARD].scale}, Metrics())


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(parts("net"), "linear", LinearSpec)
    monkeypatch.setitem(parts("loss"), "doubling", Doubling)


def q_agent(env, nets):
    return composed.q_net(SIZES).with_nets(nets).build(env.spaces())


def with_reward_model(agent):
    agent.frozen[REWARD] = AgentConfig({REWARD: LinearSpec()}).build(agent.spaces)
    return agent


def expected(batch):
    return 10.0 * batch.action + batch.obs[..., -1]


@pytest.mark.parametrize(
    "source", [Replay(100, 4, 30), Rollout(4, 20), DatasetSource()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("own", [True, False], ids=["own", "frozen"])
def test_sources_return_learned_rewards(source, own, counting, open_source, run_stages):
    agent = q_agent(counting, {REWARD: LinearSpec()} if own else {})
    if not own:
        with_reward_model(agent)
    data = run_stages({"demos": Collect("random", transitions=100)}, counting).product("demos")
    batch = open_source(source, agent, counting, products={"source": data}, columns=COLUMNS, batch=32).next()
    torch.testing.assert_close(batch.reward, expected(batch))
    assert torch.equal(batch.true_reward, batch.next_obs[:, 1])


@pytest.mark.parametrize("kind", ["dataset", "replay"])
def test_n_step_returns_have_learned_rewards(kind, counting, open_source, run_stages):
    agent = with_reward_model(composed.q_net(SIZES).build(counting.spaces()))
    data = run_stages({"demos": Collect("random", transitions=200)}, counting).product("demos")
    source = DatasetSource(n_step=2) if kind == "dataset" else Replay(200, 4, 100, n_step=2)
    batch = open_source(source, agent, counting, products={"source": data}, columns=COLUMNS, batch=64, gamma=0.5).next()
    steps = batch.next_obs[:, 1] - batch.obs[:, 1]
    first = expected(batch)
    second = batch.reward - first
    assert set(steps.tolist()) == {1.0, 2.0} and (second[steps == 1] == 0).all()
    # Half of what the next row is worth, whose action was 0 or 1.
    following = 2 * second[steps == 2] - batch.obs[steps == 2, 1] - 1
    assert set(following.tolist()) == {0.0, 10.0}


def test_sources_members_have_rewards_of_their_own_models(counting, open_source, run_stages):
    agents = [q_agent(counting, {REWARD: LinearSpec()}) for _ in range(2)]
    for index, agent in enumerate(agents):
        agent.nets[REWARD].scale.data.fill_(float(index))
    data = run_stages({"demos": Collect("random", transitions=100)}, counting).product("demos")
    for source in (DatasetSource(), Replay(100, 4, 30), Rollout(4, 20)):
        batch = open_source(source, agents, counting, products={"source": data}, columns=COLUMNS, batch=32).next()
        assert batch.reward.shape == (2, 32) and (batch.reward[0] == 0).all()
        torch.testing.assert_close(batch.reward[1], expected(batch.at(1)))


def gail(**settings):
    """A round of the shape of GAIL's: the reward first, then the policy on the same collection."""
    losses = {"reward": Doubling("rollout"), "ppo": PPO("rollout")}
    rounds = {"reward": Phase(["reward"], steps=3), "policy": Phase(["ppo"], epochs=2)}
    sources = {"rollout": Rollout(2, 16, **settings)}
    optim = {REWARD: OptimConfig(lr=1.0)}
    return Algo(composed.policy_value(SIZES), losses, sources, rounds, batch_size=16, lr=1e-2, optim=optim)


def test_round_collects_once_and_each_phase_recomputes_rewards(counting, run_stages, monkeypatch):
    seen = []
    step = Learner.step

    def watched(self, batches, names, targets=None):
        batch = batches["rollout"]
        seen.append((names[0], round(float((batch.reward / expected(batch)).nanmedian()))))
        return step(self, batches, names, targets)

    collected = []
    collect = rollout.RolloutStream._collect
    monkeypatch.setattr(rollout.RolloutStream, "_collect", lambda self: collected.append(1) or collect(self))
    monkeypatch.setattr(Learner, "step", watched)
    run_stages({"learn": Fit(gail(), 14, eval=EvalConfig(0))}, counting)
    assert len(collected) == 2
    # Adam moves the scale by 1 a step: phases are rewarded by what stood at their beginnings.
    assert seen == [("reward", 1)] * 3 + [("ppo", 4)] * 4 + [("reward", 4)] * 3 + [("ppo", 7)] * 4


def test_target_kl_ends_a_phase_of_epochs(counting, run_stages, monkeypatch):
    seen = []
    step = Learner.step
    monkeypatch.setattr(Learner, "step", lambda self, b, names, *f: seen.append(names[0]) or step(self, b, names, *f))
    run_stages({"learn": Fit(gail(target_kl=1e-9), 16, eval=EvalConfig(0))}, counting)
    # The first step on a collection moves nothing yet, the second has moved.
    assert seen == (["reward"] * 3 + ["ppo"] * 2) * 3 + ["reward"]


def test_reward_product_trains_another_stage(counting, run_stages):
    trained = Fit(
        Algo(composed.reward_model(), {"reward": Doubling("demos")}, lr=0.5, batch_size=16), 4, eval=EvalConfig(0)
    )
    dqn = Algo(composed.q_net(SIZES), {"td": DQN("demos")}, targets={"critic": Target()}, batch_size=16)
    demos = Collect("random", transitions=200)
    stages = {"demos": demos, "reward": trained, "learn": Fit(dqn, 5, eval=EvalConfig(0), frozen={"reward": "reward"})}
    pipeline = run_stages(stages, counting)
    assert pipeline.product("reward").agents()[0].nets[REWARD].scale == pytest.approx(3.0)
    assert "reward" in pipeline.reads("learn")


def test_configuration_that_does_not_fit_a_learned_reward_is_refused(counting, run_stages, check_setup):
    reward_model = Algo(composed.reward_model(), {"reward": Doubling("demos")}, batch_size=16)
    demos = Collect("random", transitions=50)
    dqn = Algo(composed.q_net(SIZES), {"td": DQN("demos")}, targets={"critic": Target()}, batch_size=16)
    with pytest.raises(UserError, match="score: needs an actor, which 'learn' .fit. does not provide"):
        run_stages({"demos": demos, "learn": Fit(reward_model, 5), "score": Evaluate(["learn"])}, counting)
    with pytest.raises(UserError, match="learn: needs a reward, which 'other' .fit. does not provide"):
        run_stages({"demos": demos, "other": Fit(dqn, 5), "learn": Fit(dqn, 5, frozen={"reward": "other"})}, counting)
    with pytest.raises(UserError, match="stop rules on scores and snapshots need an agent that acts, got nets none"):
        run_stages({"demos": demos, "learn": Fit(reward_model, 5, stop=Stop(score=1.0))}, counting)
    with pytest.raises(UserError, match="learn: algo.sources.demos.constant_reward: expected null, .*, got 1; set"):
        constant = replace(dqn, sources={"demos": DatasetSource(constant_reward=1.0)})
        run_stages(
            {"demos": demos, "other": Fit(reward_model, 5), "learn": Fit(constant, 5, frozen={"reward": "other"})},
            counting,
        )
    with pytest.raises(UserError, match="learn: algo.sources.demos.return_range: expected null, .*, got 1; set"):
        scaled = replace(dqn, sources={"demos": DatasetSource(return_range=1.0)})
        run_stages(
            {"demos": demos, "other": Fit(reward_model, 5), "learn": Fit(scaled, 5, frozen={"reward": "other"})},
            counting,
        )
    with pytest.raises(UserError, match="frozen.reward=other needs a loss that reads rewards, got none"):
        clone = Fit(Algo(composed.policy(SIZES), {"bc": BC("demos")}, batch_size=16), 5, frozen={"reward": "other"})
        run_stages({"demos": demos, "other": Fit(reward_model, 5), "learn": clone}, counting)
    with pytest.raises(UserError, match="a loss reads return_to_go, which is computed from the dataset's rewards"):
        gap = CQLContinuous("demos", calibrated=True)
        both = Algo(
            composed.soft_policy_critic(SIZES),
            {"sac": SAC("demos"), "gap": gap},
            targets={"critic": Target()},
            batch_size=16,
        )
        check_setup(Fit(both, 5, frozen={"reward": "other"}), "learn", BOX, ["demos"])
    with pytest.raises(UserError, match="learn: frozen.reward=reward: expected a single agent, got 2 members"):
        two = Fit(reward_model, 5, members=2)
        run_stages({"demos": demos, "reward": two, "learn": Fit(dqn, 5, frozen={"reward": "reward"})}, counting)
    with pytest.raises(UserError, match="a loss trains a reward model and frozen.reward names another"):
        both = Fit(gail(), 5, frozen={"reward": "reward"})
        run_stages({"demos": demos, "reward": Fit(reward_model, 5), "learn": both}, counting)
    with pytest.raises(UserError, match="losses.airl needs transitions of one step, demos has 3; set its n_step to 1"):
        airl = AIRL({"learner": "rollout", "expert": "demos"}, hidden=SIZES)
        losses, sources = {"ppo": PPO("rollout"), "airl": airl}, {"rollout": Rollout(2, 16)}
        steps = Algo(composed.policy_value(SIZES), losses, sources | {"demos": DatasetSource(n_step=3)}, batch_size=16)
        run_stages({"demos": demos, "learn": Fit(steps, 5)}, counting)


@pytest.mark.parametrize(
    ("constant", "sign", "relabeled", "expected"),
    [
        (None, False, None, [-3.0, 0.0, 2.0]),
        (None, True, None, [-1.0, 0.0, 1.0]),
        (None, True, [4.0, 5.0, 6.0], [4.0, 5.0, 6.0]),
        (-0.5, True, [4.0, 5.0, 6.0], [-0.5, -0.5, -0.5]),
    ],
)
def test_data_rewards_are_constant_else_relabeled_else_the_environments(
    constant, sign, relabeled, expected, counting, open_source, monkeypatch
):
    monkeypatch.setattr(type(counting), "sign_reward", sign)
    rewards = RewardSelector(
        open_source(Replay(10, 1, 1), composed.q_net(SIZES).build(counting.spaces()), counting).context, constant
    )
    given = rewards.data_rewards(np.array([-3, 0, 2], np.float32), relabeled and np.array(relabeled, np.float32))
    assert given.dtype == np.float32 and given.tolist() == expected
