"""A learnt reward takes the place of the environment's in every source, and `true_reward` stays."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import gymnasium as gym
import pytest
import torch
from torch import nn

from lfd.agents import REWARD, Agent, AgentSpec
from lfd.agents.actor_critic import Policy, PolicyValue, SoftPolicyCritic
from lfd.agents.q import QNet
from lfd.algos import Loss, Out
from lfd.algos.airl import AIRL
from lfd.algos.bc import Cloning
from lfd.algos.cql import ConservativeContinuous
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.algos.sac import SAC
from lfd.batch import Batch
from lfd.envs import Spaces
from lfd.errors import Refused
from lfd.learner import Algo, Learner, Phase, Target
from lfd.optim import Optim
from lfd.registry import parts
from lfd.sources import rollout
from lfd.sources.dataset import Demonstrations
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.fit import Fit
from lfd.stages.recipe import Checks, Stop

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
class Doubling(Loss):
    """The scale goes up by the learning rate at every step of SGD or Adam."""

    needs: ClassVar = ("obs", "action")
    agents: ClassVar = Agent
    trains: ClassVar = (REWARD,)

    def modules(self, agent):
        return {REWARD: Linear()}

    def __call__(self, agent, batch):
        return Out({REWARD: -agent.nets[REWARD].scale})


class Judge(Agent):
    def act(self, obs, state, noise):
        raise AssertionError("a judge does not act")


@dataclass
class JudgeSpec(AgentSpec):
    acts: ClassVar[bool] = False
    actions: ClassVar = ("discrete",)
    sizes: list[int] = field(default_factory=list)

    def build(self, spaces):
        return Judge(spaces, {})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(parts("agent"), "judge", JudgeSpec)
    monkeypatch.setitem(parts("loss"), "doubling", Doubling)


def judged(agent):
    agent.frozen[REWARD] = Judge(agent.spaces, {REWARD: Linear()})
    return agent


def expected(batch):
    return 10.0 * batch.action + batch.obs[..., -1]


@pytest.mark.parametrize(
    "source", [Replay(100, 4, 30), Rollout(4, 20), Demonstrations()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("own", [True, False], ids=["own", "frozen"])
def test_every_source_gives_the_learnt_reward(source, own, counting, open_source, run_stages):
    agent = QNet(SIZES).build(counting.spaces())
    if own:
        agent.add({REWARD: Linear()})
    else:
        judged(agent)
    data = run_stages({"demos": Collect("random", transitions=100)}, counting).product("demos")
    batch = open_source(source, agent, counting, datasets={"source": data}, columns=COLUMNS, batch=32).next()
    torch.testing.assert_close(batch.reward, expected(batch))
    assert torch.equal(batch.true_reward, batch.next_obs[:, 1])


@pytest.mark.parametrize("kind", ["dataset", "replay"])
def test_returns_of_several_steps_are_of_learnt_rewards(kind, counting, open_source, run_stages):
    agent = judged(QNet(SIZES).build(counting.spaces()))
    data = run_stages({"demos": Collect("random", transitions=200)}, counting).product("demos")
    source = Demonstrations(n_step=2) if kind == "dataset" else Replay(200, 4, 100, n_step=2)
    batch = open_source(source, agent, counting, datasets={"source": data}, columns=COLUMNS, batch=64, gamma=0.5).next()
    steps = batch.next_obs[:, 1] - batch.obs[:, 1]
    first = expected(batch)
    second = batch.reward - first
    assert set(steps.tolist()) == {1.0, 2.0} and (second[steps == 1] == 0).all()
    # Half of what the next row is worth, whose action was 0 or 1.
    following = 2 * second[steps == 2] - batch.obs[steps == 2, 1] - 1
    assert set(following.tolist()) == {0.0, 10.0}


def test_members_are_rewarded_by_their_own_networks(counting, open_source, run_stages):
    agents = [QNet(SIZES).build(counting.spaces()) for _ in range(2)]
    for index, agent in enumerate(agents):
        agent.add({REWARD: Linear()})
        agent.nets[REWARD].scale.data.fill_(float(index))
    data = run_stages({"demos": Collect("random", transitions=100)}, counting).product("demos")
    for source in (Demonstrations(), Replay(100, 4, 30), Rollout(4, 20)):
        batch = open_source(source, agents, counting, datasets={"source": data}, columns=COLUMNS, batch=32).next()
        assert batch.reward.shape == (2, 32) and (batch.reward[0] == 0).all()
        torch.testing.assert_close(batch.reward[1], expected(batch.at(1)))


def gail(**settings):
    """A round of the shape of GAIL's: the reward first, then the policy on the same collection."""
    losses = {"judge": Doubling("rollout"), "ppo": PPO("rollout")}
    rounds = {"reward": Phase(["judge"], steps=3), "policy": Phase(["ppo"], epochs=2)}
    sources = {"rollout": Rollout(2, 16, **settings)}
    optim = {REWARD: Optim(lr=1.0)}
    return Algo(PolicyValue(SIZES), losses, sources, rounds, batch=16, lr=1e-2, optim=optim)


def test_a_round_collects_once_and_every_phase_estimates_rewards_afresh(counting, run_stages, monkeypatch):
    seen = []
    step = Learner.step

    def watched(self, batches, names, following=None):
        batch = batches["rollout"]
        seen.append((names[0], round(float((batch.reward / expected(batch)).nanmedian()))))
        return step(self, batches, names, following)

    collected = []
    collect = rollout.RolloutStream._collect
    monkeypatch.setattr(rollout.RolloutStream, "_collect", lambda self: collected.append(1) or collect(self))
    monkeypatch.setattr(Learner, "step", watched)
    run_stages({"learn": Fit(gail(), 14, check=Checks(0))}, counting)
    assert len(collected) == 2
    # Adam moves the scale by 1 a step: phases are rewarded by what stood at their beginnings.
    assert seen == [("judge", 1)] * 3 + [("ppo", 4)] * 4 + [("judge", 4)] * 3 + [("ppo", 7)] * 4


def test_a_kl_stop_ends_a_phase_of_epochs(counting, run_stages, monkeypatch):
    seen = []
    step = Learner.step
    monkeypatch.setattr(Learner, "step", lambda self, b, names, *f: seen.append(names[0]) or step(self, b, names, *f))
    run_stages({"learn": Fit(gail(kl_stop=1e-9), 16, check=Checks(0))}, counting)
    # The first step on a collection moves nothing yet, the second has moved.
    assert seen == (["judge"] * 3 + ["ppo"] * 2) * 3 + ["judge"]


def test_a_reward_is_a_product_that_another_stage_learns_from(counting, run_stages):
    trained = Fit(Algo(JudgeSpec(), {"judge": Doubling("demos")}, lr=0.5, batch=16), 4, check=Checks(0))
    dqn = Algo(QNet(SIZES), {"td": DQN("demos")}, targets={"q": Target()}, batch=16)
    demos = Collect("random", transitions=200)
    stages = {"demos": demos, "reward": trained, "learn": Fit(dqn, 5, check=Checks(0), frozen={"reward": "reward"})}
    pipeline = run_stages(stages, counting)
    assert pipeline.product("reward").agents()[0].nets[REWARD].scale == pytest.approx(3.0)
    assert "reward" in pipeline.reads("learn")


def test_what_does_not_go_with_a_learnt_reward_is_refused(counting, run_stages):
    judge = Algo(JudgeSpec(), {"judge": Doubling("demos")}, batch=16)
    demos = Collect("random", transitions=50)
    dqn = Algo(QNet(SIZES), {"td": DQN("demos")}, targets={"q": Target()}, batch=16)
    with pytest.raises(Refused, match="score: needs an actor, which 'learn' .fit. does not give"):
        run_stages({"demos": demos, "learn": Fit(judge, 5), "score": Evaluate(["learn"])}, counting)
    with pytest.raises(Refused, match="learn: needs a reward, which 'other' .fit. does not give"):
        run_stages({"demos": demos, "other": Fit(dqn, 5), "learn": Fit(dqn, 5, frozen={"reward": "other"})}, counting)
    with pytest.raises(Refused, match="JudgeSpec does not act: stop rules on scores"):
        run_stages({"demos": demos, "learn": Fit(judge, 5, stop=Stop(score=1.0))}, counting)
    with pytest.raises(Refused, match="demos takes a learnt reward and has a constant one; set its reward to null"):
        constant = replace(dqn, sources={"demos": Demonstrations(reward=1.0)})
        run_stages(
            {"demos": demos, "other": Fit(judge, 5), "learn": Fit(constant, 5, frozen={"reward": "other"})}, counting
        )
    with pytest.raises(Refused, match="demos takes a learnt reward, which is not scaled; set its return_range to null"):
        scaled = replace(dqn, sources={"demos": Demonstrations(return_range=1.0)})
        run_stages(
            {"demos": demos, "other": Fit(judge, 5), "learn": Fit(scaled, 5, frozen={"reward": "other"})}, counting
        )
    with pytest.raises(Refused, match="frozen.reward=other and no loss of the algorithm reads a reward; choose one"):
        clone = Fit(Algo(Policy(SIZES), {"bc": Cloning("demos")}, batch=16), 5, frozen={"reward": "other"})
        run_stages({"demos": demos, "other": Fit(judge, 5), "learn": clone}, counting)
    with pytest.raises(Refused, match="return_to_go is of the data's own rewards and another reward takes their place"):
        gap = ConservativeContinuous("demos", calibrated=True)
        both = Algo(SoftPolicyCritic(SIZES), {"sac": SAC("demos"), "gap": gap}, targets={"critic": Target()}, batch=16)
        Fit(both, 5, frozen={"reward": "other"}).check_wiring("learn", BOX, ["demos"])
    with pytest.raises(Refused, match="learn: frozen.reward=reward has 2 members; a single agent is expected"):
        two = Fit(judge, 5, members=2)
        run_stages({"demos": demos, "reward": two, "learn": Fit(dqn, 5, frozen={"reward": "reward"})}, counting)
    with pytest.raises(Refused, match="a loss trains a reward and frozen.reward gives another"):
        both = Fit(gail(), 5, frozen={"reward": "reward"})
        run_stages({"demos": demos, "reward": Fit(judge, 5), "learn": both}, counting)
    with pytest.raises(Refused, match="losses.airl judges single steps and demos gives 3 at once; set its n_step to 1"):
        airl = AIRL({"learner": "rollout", "expert": "demos"}, hidden=SIZES)
        losses, sources = {"ppo": PPO("rollout"), "airl": airl}, {"rollout": Rollout(2, 16)}
        steps = Algo(PolicyValue(SIZES), losses, sources | {"demos": Demonstrations(n_step=3)}, batch=16)
        run_stages({"demos": demos, "learn": Fit(steps, 5)}, counting)
