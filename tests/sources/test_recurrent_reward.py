"""A recurrent reward model's rewards are computed once a step, in episode order, in every source."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from lfd.agents import REWARD
from lfd.agents.config import AgentConfig
from lfd.agents.nets import NetSpec
from lfd.agents.pwil import PWIL
from lfd.agents.reward_model import RecurrentReward
from lfd.algos import Loss
from lfd.algos.dqn import DQN
from lfd.batch import Batch
from lfd.data import Episode
from lfd.errors import UserError
from lfd.learner.learner import Algo
from lfd.learner.optim import Target
from lfd.sources import TRANSITION
from lfd.sources.columns import LEARNED
from lfd.sources.dataset import DatasetSource
from lfd.sources.replay import Replay
from lfd.sources.rewards import ReturnScale, rewards_of
from lfd.sources.rollout import Rollout
from lfd.stages.collect import Collect
from lfd.stages.fit.stage import Fit
from lfd.stages.fit_pwil import FitPWIL
from lfd.stages.relabel import Relabel
from lfd.stages.reward_eval import RewardEvaluation
from tests import composed

SOURCES = [Replay(300, 3, 50), Rollout(3, 40), DatasetSource()]
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)


class Elapsed(RecurrentReward):
    """100 and the steps of this episode that it has been asked about; in the counting environment 100 + t."""

    def initial_state(self, number):
        return torch.zeros(number, 1)

    def forward(self, batch, state):
        return 101 + state[:, 0], state + 1


@dataclass
class ElapsedSpec(NetSpec):
    on_trunk: ClassVar = False

    def build(self, inputs):
        return Elapsed()


def learner(env, model=None):
    """A Q network that is rewarded by another agent."""
    torch.manual_seed(0)
    agent = composed.q_net([8]).build(env.spaces())
    agent.frozen[REWARD] = model or AgentConfig({REWARD: ElapsedSpec()}).build(env.spaces())
    return agent


@pytest.fixture
def data(run_stages, counting):
    return run_stages({"demos": Collect("random", transitions=200)}, counting).product("demos")


def opened(source, agent, env, open_source, data, **context):
    return open_source(source, agent, env, products={"source": data}, columns=TRANSITION, batch=60, **context)


@each_source
def test_reward_depends_on_the_steps_of_its_own_episode(source, counting, open_source, data):
    stream = opened(source, learner(counting), counting, open_source, data)
    lengths = set()
    for index in range(1, 8):
        for _ in range(17):
            batch = stream.next()
            assert torch.equal(batch.reward, 100 + batch.next_obs[:, 1])
            assert torch.equal(batch.true_reward, batch.next_obs[:, 1])
            lengths |= set(batch.next_obs[:, 1].tolist())
        # running episodes are cut
        for collector in stream.collectors:
            collector.reset_envs(index)
    assert lengths == {1.0, 2.0, 3.0, 4.0, 5.0}


@pytest.mark.parametrize("source", SOURCES[:2], ids=["replay", "rollout"])
def test_reset_rows_get_no_reward(source, counting_next_step, open_source, data):
    stream = opened(source, learner(counting_next_step), counting_next_step, open_source, data)
    for _ in range(30):
        batch = stream.next()
        assert torch.equal(batch.reward, 100 + batch.next_obs[:, 1])


@pytest.mark.parametrize("source", [Replay(300, 3, 50, n_step=2), DatasetSource(n_step=2)], ids=["replay", "dataset"])
def test_n_step_returns_are_sums_of_learned_rewards(source, counting, open_source, data):
    batch = opened(source, learner(counting), counting, open_source, data, gamma=0.5).next()
    first = batch.obs[:, 1] + 1
    second = 0.5 * torch.where(batch.next_obs[:, 1] > first, 101 + first, 0.0)
    torch.testing.assert_close(batch.reward, 100 + first + second)
    assert (second > 0).any() and (second == 0).any()


def test_recurrent_rewards_in_a_rollout_are_scaled_like_the_environments(counting_next_step, open_source):
    stream = open_source(
        Rollout(2, 50, epochs=1, normalize_reward=True), learner(counting_next_step), counting_next_step,
        columns=TRANSITION, batch=100,
    )  # fmt: skip
    stream.next()
    scale, taken = ReturnScale(2, 0.9), stream._buffer.columns
    for step in range(50):
        c = {name: taken[name][step].numpy() for name in ("next_obs", "terminated", "truncated", "valid", "reward")}
        learned = np.where(c["valid"], 100 + c["next_obs"][:, 1], 0)
        np.testing.assert_allclose(c["reward"], scale(learned, c["terminated"] | c["truncated"], c["valid"]), rtol=1e-6)
    assert not taken["valid"].all()


def test_members_are_rewarded_for_their_own_steps(counting, open_source):
    agents = [learner(counting), learner(counting)]
    for source in (Replay(300, 3, 50), Rollout(3, 40)):
        batch = open_source(source, agents, counting, columns=TRANSITION, batch=32).next()
        assert torch.equal(batch.reward, 100 + batch.next_obs[..., 1])
        assert not torch.equal(batch.obs[0], batch.obs[1])


def coupling(env):
    """A reward whose atoms are random, in a reward model."""
    agent = composed.pwil(atoms=6, horizon=4).build(env.spaces())
    net = agent.nets[REWARD]
    net.atoms.uniform_(generator=torch.Generator().manual_seed(0)).mul_(5)
    net.std[0] = 1_000
    return agent


def test_replay_rewards_equal_those_of_relabeled_episodes(counting, open_source, write_data):
    """Detects a reward that depends on the object in which a transition was collected."""
    agent = learner(counting, coupling(counting))
    stream = open_source(Replay(300, 3, 200), agent, counting, columns=TRANSITION)
    stream.next()
    episodes, learned = [], []
    for env in range(3):
        row = stream._buffer._ring.position(
            np.array([env] * stream._buffer._ring.count[env]), np.arange(stream._buffer._ring.count[env])
        )
        ages = stream._buffer._ring.column("age", env, row)
        for part in np.split(row, np.flatnonzero(ages == 0)[1:]):
            column = {
                name: stream._buffer._ring.column(name, env, part)
                for name in ("action", "reward", "terminated", "truncated", "learned_reward")
            }
            seen = stream._buffer._ring.observations(np.array([env] * (len(part) + 1)), np.append(part, part[-1] + 1))
            ends = [bool(column[name][-1]) for name in ("terminated", "truncated")]
            episodes.append(Episode(seen, column["action"], column["reward"], *ends))
            learned.append(column["learned_reward"])
    found = rewards_of(write_data(episodes, counting.spaces()), agent, 0.9, torch.device("cpu"))
    np.testing.assert_allclose(found, np.concatenate(learned), rtol=1e-5)
    # Episodes of five steps outlive the horizon.
    assert (found == 0).any() and len(np.unique(found)) > 50


def stages():
    reward = FitPWIL(composed.pwil(atoms=16, horizon=3), "demos")
    return {"demos": Collect("random", transitions=100), "reward": reward}


def test_fit_pwil_draws_different_atoms_and_the_longest_horizon(run_stages, counting):
    given = {"demos": Collect("random", transitions=100), "reward": FitPWIL(composed.pwil(atoms=100), "demos")}
    pipeline = run_stages(given, counting)
    data, net = pipeline.product("demos"), pipeline.product("reward").agents()[0].nets[REWARD]
    shown = np.sort(net.atoms[:, : data.columns["observations"].shape[1]].numpy(), axis=0)
    np.testing.assert_array_equal(shown, np.sort(data.columns["observations"], axis=0))
    assert net.horizon == (data.ends - data.starts).max()
    with pytest.raises(
        UserError, match="reward.agent.nets.reward.atoms: expected at most the 99 transitions of 'demos', got 100"
    ):
        run_stages(given | {"demos": Collect("random", transitions=99)}, counting)


def test_relabel_and_reward_eval_follow_the_order_of_episodes(run_stages, counting):
    more = {
        "relabeled": Relabel("demos", "reward"),
        "reward_eval": RewardEvaluation(["reward"], ["demos", "relabeled"]),
    }
    pipeline = run_stages(stages() | more, counting)
    data, model = pipeline.product("relabeled"), pipeline.product("reward").agents()[0]
    net, learned = model.nets[REWARD], np.asarray(data.columns[LEARNED])
    for start, end in zip(data.starts, data.ends, strict=True):
        state = net.initial_state(1)
        for row in range(start, end):
            seen = {"obs": data.columns["observations"], "action": data.columns["actions"]}
            columns = {name: torch.from_numpy(np.array(column[row : row + 1])) for name, column in seen.items()}
            reward, state = net(model.preprocess(Batch(**columns)), state)
            assert learned[row] == pytest.approx(reward.item(), rel=1e-5)
    found = pipeline.product("reward_eval")["reward"]["demos"]["returns"]["predicted"]
    assert found == pytest.approx(np.add.reduceat(learned.astype(np.float64), data.starts).tolist())


@dataclass
class Brings(Loss):
    """Adds a reward with memory to an agent."""

    needs: ClassVar = ("obs",)
    trains: ClassVar = (REWARD,)

    def brings(self, spaces):
        return {REWARD: PWIL(atoms=4)}

    def __call__(self, agent, batch):
        raise AssertionError("it is refused before it is called")


def test_acting_agent_that_trains_a_recurrent_reward_is_refused(run_stages, counting):
    losses = {"td": DQN("replay"), "elapsed": Brings("demos")}
    algo = Algo(composed.q_net([8]), losses, {"replay": Replay()}, targets={"critic": Target()}, batch_size=16)
    with pytest.raises(
        UserError,
        match="learn: a recurrent reward model has to be trained before the policy; train it in a stage of its own",
    ):
        run_stages({"demos": Collect("random", transitions=50), "learn": Fit(algo, 5)}, counting)
