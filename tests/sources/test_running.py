"""A reward that remembers its episode is paid in the order of the steps, wherever they come from."""

import numpy as np
import pytest
import torch

from lfd.agents import REWARD
from lfd.agents.judge import JudgeSpec, RecurrentReward
from lfd.agents.q import QNet
from lfd.algos.dqn import DQN
from lfd.algos.pwil import PWIL
from lfd.batch import Batch
from lfd.data import Episode
from lfd.errors import Refused
from lfd.learner import Algo, Target
from lfd.sources import TRANSITION
from lfd.sources.dataset import Demonstrations
from lfd.sources.replay import Replay
from lfd.sources.rollout import ReturnScale, Rollout
from lfd.sources.table import LEARNT, rewards_of
from lfd.stages.collect import Collect
from lfd.stages.fit import Fit
from lfd.stages.inspect import Inspect
from lfd.stages.recipe import Checks
from lfd.stages.relabel import Relabel

SOURCES = [Replay(300, 3, 50), Rollout(3, 40), Demonstrations()]
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)


class Elapsed(RecurrentReward):
    """100 and the steps of this episode that it has been asked about; in the counting environment 100 + t."""

    def initial_state(self, number):
        return torch.zeros(number, 1)

    def forward(self, batch, state):
        return 101 + state[:, 0], state + 1


def learner(env, reward=None):
    """A Q network that is rewarded by another agent."""
    torch.manual_seed(0)
    agent, judge = QNet([8]).build(env.spaces()), JudgeSpec().build(env.spaces())
    judge.add({REWARD: reward or Elapsed()})
    agent.frozen[REWARD] = judge
    return agent


@pytest.fixture
def data(run_stages, counting):
    return run_stages({"demos": Collect("random", transitions=200)}, counting).product("demos")


def opened(source, agent, env, open_source, data, **world):
    return open_source(source, agent, env, datasets={"source": data}, columns=TRANSITION, batch=60, **world)


@each_source
def test_every_step_is_paid_by_what_its_own_episode_did_before(source, counting, open_source, data):
    stream = opened(source, learner(counting), counting, open_source, data)
    lengths = set()
    for boundary in range(1, 8):
        for _ in range(17):
            batch = stream.next()
            assert torch.equal(batch.reward, 100 + batch.next_obs[:, 1])
            assert torch.equal(batch.true_reward, batch.next_obs[:, 1])
            lengths |= set(batch.next_obs[:, 1].tolist())
        # Episodes are cut wherever they are, and begin anew.
        stream.boundary(boundary)
    assert lengths == {1.0, 2.0, 3.0, 4.0, 5.0}


@pytest.mark.parametrize("source", SOURCES[:2], ids=["replay", "rollout"])
def test_rows_that_only_reset_an_environment_are_not_paid(source, counting_next_step, open_source, data):
    stream = opened(source, learner(counting_next_step), counting_next_step, open_source, data)
    for _ in range(30):
        batch = stream.next()
        assert torch.equal(batch.reward, 100 + batch.next_obs[:, 1])


@pytest.mark.parametrize("source", [Replay(300, 3, 50, n_step=2), Demonstrations(n_step=2)], ids=["replay", "dataset"])
def test_returns_of_several_steps_are_sums_of_what_was_paid(source, counting, open_source, data):
    batch = opened(source, learner(counting), counting, open_source, data, gamma=0.5).next()
    first = batch.obs[:, 1] + 1
    second = 0.5 * torch.where(batch.next_obs[:, 1] > first, 101 + first, 0.0)
    torch.testing.assert_close(batch.reward, 100 + first + second)
    assert (second > 0).any() and (second == 0).any()


def test_what_is_paid_in_a_rollout_is_scaled_as_the_rewards_of_an_environment_are(counting_next_step, open_source):
    stream = open_source(
        Rollout(2, 50, epochs=1, scale_reward=True), learner(counting_next_step), counting_next_step,
        columns=TRANSITION, batch=100,
    )  # fmt: skip
    stream.next()
    scale, taken = ReturnScale(2, 0.9), stream._taken
    for step in range(50):
        c = {name: taken[name][step].numpy() for name in ("next_obs", "terminated", "truncated", "valid", "reward")}
        paid = np.where(c["valid"], 100 + c["next_obs"][:, 1], 0)
        np.testing.assert_allclose(c["reward"], scale(paid, c["terminated"] | c["truncated"], c["valid"]), rtol=1e-6)
    assert not taken["valid"].all()


def test_members_are_paid_for_their_own_steps(counting, open_source):
    agents = [learner(counting), learner(counting)]
    for source in (Replay(300, 3, 50), Rollout(3, 40)):
        batch = open_source(source, agents, counting, columns=TRANSITION, batch=32).next()
        assert torch.equal(batch.reward, 100 + batch.next_obs[..., 1])
        assert not torch.equal(batch.obs[0], batch.obs[1])


def coupling(env):
    """A reward whose atoms are random, in an agent that only judges."""
    loss = PWIL("demos", atoms=6, horizon=4)
    agent = JudgeSpec().build(env.spaces())
    agent.add(loss.modules(agent))
    net = agent.nets[REWARD]
    net.atoms.uniform_(generator=torch.Generator().manual_seed(0)).mul_(5)
    net.std[0] = 1_000
    return loss, agent


def test_a_replay_pays_what_its_episodes_are_relabelled_with(counting, open_source, write_data):
    """Trap: a reward that knows a transition only as the object that it was collected as."""
    agent = learner(counting, coupling(counting)[1].nets[REWARD])
    stream = open_source(Replay(300, 3, 200), agent, counting, columns=TRANSITION)
    stream.next()
    episodes, paid = [], []
    for lane in range(3):
        row = stream._ring.position(np.array([lane] * stream._ring.count[lane]), np.arange(stream._ring.count[lane]))
        ages = stream._ring.column("age", lane, row)
        for part in np.split(row, np.flatnonzero(ages == 0)[1:]):
            column = {
                name: stream._ring.column(name, lane, part)
                for name in ("action", "reward", "terminated", "truncated", "paid")
            }
            seen = stream._ring.observations(np.array([lane] * (len(part) + 1)), np.append(part, part[-1] + 1))
            ends = [bool(column[name][-1]) for name in ("terminated", "truncated")]
            episodes.append(Episode(seen, column["action"], column["reward"], *ends))
            paid.append(column["paid"])
    found = rewards_of(write_data(episodes, counting.spaces()), agent, 0.9, torch.device("cpu"))
    np.testing.assert_allclose(found, np.concatenate(paid), rtol=1e-5)
    # Episodes of five steps outlive the horizon.
    assert (found == 0).any() and len(np.unique(found)) > 50


def stages():
    reward = Fit(Algo(JudgeSpec(), {"pwil": PWIL("demos", atoms=16, horizon=3)}, batch=16), 1, check=Checks(0))
    return {"demos": Collect("random", transitions=100), "reward": reward}


def test_atoms_are_different_rows_and_the_horizon_is_the_longest_episode(run_stages, counting):
    algo = Algo(JudgeSpec(), {"pwil": PWIL("demos", atoms=100)}, batch=100)
    given = {"demos": Collect("random", transitions=100), "reward": Fit(algo, 1, check=Checks(0))}
    pipeline = run_stages(given, counting)
    data, net = pipeline.product("demos"), pipeline.product("reward").agents()[0].nets[REWARD]
    shown = np.sort(net.atoms[:, : data.columns["observations"].shape[1]].numpy(), axis=0)
    np.testing.assert_array_equal(shown, np.sort(data.columns["observations"], axis=0))
    assert net.horizon == (data.ends - data.starts).max()
    with pytest.raises(Refused, match="reads 100 different rows at once, 'demos' has 99"):
        run_stages(given | {"demos": Collect("random", transitions=99)}, counting)


def test_data_is_relabelled_and_looked_at_in_the_order_of_its_episodes(run_stages, counting):
    more = {"relabelled": Relabel("demos", "reward"), "inspect": Inspect(["reward"], ["demos", "relabelled"])}
    pipeline = run_stages(stages() | more, counting)
    data, judge = pipeline.product("relabelled"), pipeline.product("reward").agents()[0]
    net, learnt = judge.nets[REWARD], np.asarray(data.columns[LEARNT])
    for start, end in zip(data.starts, data.ends, strict=True):
        state = net.initial_state(1)
        for row in range(start, end):
            seen = {"obs": data.columns["observations"], "action": data.columns["actions"]}
            columns = {name: torch.from_numpy(np.array(column[row : row + 1])) for name, column in seen.items()}
            reward, state = net(judge.prepare(Batch(**columns)), state)
            assert learnt[row] == pytest.approx(reward.item(), rel=1e-5)
    found = pipeline.product("inspect")["reward"]["demos"]["returns"]["predicted"]
    assert found == pytest.approx(np.add.reduceat(learnt.astype(np.float64), data.starts).tolist())


def test_who_acts_cannot_learn_such_a_reward_on_the_way(run_stages, counting):
    losses = {"td": DQN("replay"), "pwil": PWIL("demos", atoms=16)}
    algo = Algo(QNet([8]), losses, {"replay": Replay()}, targets={"q": Target()}, batch=16)
    with pytest.raises(Refused, match="learn: this reward pays each step once, .*; train it in a stage of its own"):
        run_stages({"demos": Collect("random", transitions=50), "learn": Fit(algo, 5)}, counting)
