"""A rollout that asks an expert: labels of every state, teacher forcing, restarts of experts, exact resumption."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.algos.bc import BC, Labels
from lfd.algos.ppo import PPO
from lfd.envs.vec_env import SingleEnvView
from lfd.episodes import AgentPolicy
from lfd.errors import UserError
from lfd.experts.experts import Expert, Keyboard, Queue, Scripted
from lfd.learner.learner import Algo
from lfd.sources.rollout import Rollout
from lfd.stages.experts import Script
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from tests import composed
from tests.memory import UNITS, remembering
from tests.test_memory import ENV as RECALL

COLUMNS = frozenset({"obs", "action", "expert_action"})


def time_and_last(env: gym.Env):
    """An expert that reads its environment: the parity of its time, plus an error if its last action is another's."""
    begun = env.unwrapped.t
    assert begun == 0, "it was made at the start of an episode"

    def act(obs, before):
        assert (before is None) == (obs[1] == 0) == (env.unwrapped.t == 0)
        return int(env.unwrapped.t % 2)

    return act


def by_time(env: gym.Env):
    """A continuous label beyond the bounds of [-2, 2] from the second step on."""
    return lambda obs, before: np.array([1.5 * obs[1]])


@pytest.fixture
def opened(open_source, counting):
    def open_it(source, env=counting, script="tests.sources.test_teacher:time_and_last", agent=None, **context):
        torch.manual_seed(0)
        agent = agent or composed.policy_value([8]).build(env.spaces())
        given = {"products": {"expert": Scripted(script)}, "columns": COLUMNS, "batch": 8} | context
        return open_source(source, agent, env, **given)

    return open_it


def rollout(**settings):
    return Rollout(4, 30, expert="expert", **settings)


def test_expert_action_is_the_experts_label_of_every_state(opened):
    stream = opened(rollout(epochs=1), batch=120)
    for _ in range(3):
        batch = stream.next()
        assert torch.equal(batch.expert_action, batch.obs[:, 1].long() % 2)
        assert batch.expert_action.dtype == batch.action.dtype == torch.int64
    assert (batch.action != batch.expert_action).any(), "the learner acted"


@pytest.mark.parametrize(("prob", "low", "high"), [(1.0, 1.0, 1.0), (0.5, 0.65, 0.85)])
def test_expert_action_is_taken_with_its_probability(prob, low, high, opened):
    stream = opened(rollout(expert_prob=prob, epochs=1), batch=120)
    alike = torch.cat([(batch := stream.next()).action == batch.expert_action for _ in range(5)]).float()
    assert low <= alike.mean() <= high
    by_step = (stream._buffer.columns["action"] == stream._buffer.columns["expert_action"]).float().mean(1)
    assert prob == 1 or len(by_step.unique()) > 2, "each environment is drawn for on its own"


def test_expert_prob_follows_its_schedule_over_gradient_steps(opened):
    stream = opened(rollout(expert_prob={"start": 1.0, "end": 0.0, "over": 15}, epochs=1))
    shares = []
    for _ in range(2):
        for _ in range(15):  # minibatches of a collection
            stream.next()
        columns = stream._buffer.columns
        shares.append((columns["action"] == columns["expert_action"]).float().mean())
    assert shares[0] == 1 and shares[1] < 0.8


def test_continuous_labels_are_within_the_bounds(counting_continuous, opened):
    stream = opened(rollout(expert_prob=0.5, epochs=1), counting_continuous, "tests.sources.test_teacher:by_time")
    batch = stream.next()
    assert torch.equal(batch.expert_action, (1.5 * batch.obs[:, 1:]).clamp(-2, 2))
    assert batch.expert_action.dtype == batch.action.dtype == torch.float32
    taken = (batch.action == batch.expert_action).all(1)
    assert 0 < taken.sum() < len(taken)


def test_random_numbers_of_a_rollout_without_an_expert_are_the_same(opened, open_source, counting):
    torch.manual_seed(0)
    agent = composed.policy_value([8]).build(counting.spaces())
    plain = open_source(Rollout(4, 30), agent, counting, columns=frozenset({"obs", "action"}), batch=8)
    plain.next()
    stream = opened(rollout(), agent=agent)
    stream.next()
    # the first actions are drawn before any number for the expert
    assert torch.equal(plain._buffer.columns["action"][0], stream._buffer.columns["action"][0])
    assert "expert_action" not in plain._buffer.columns


def test_members_ask_the_expert_each_in_its_own_environments(opened, counting):
    agents = [composed.policy_value([8]).build(counting.spaces()) for _ in range(2)]
    batch = opened(rollout(), agent=agents).next()
    assert batch.expert_action.shape == (2, 8) and torch.equal(batch.expert_action, batch.obs[..., 1].long() % 2)


def test_restored_rollout_with_an_expert_continues_with_the_same_batches(opened):
    source = rollout(expert_prob={"start": 1.0, "end": 0.0, "over": 40}, epochs=1)
    first = opened(source)
    for _ in range(15):
        first.next()
    tensors, state = first.save()
    tensors = {name: value.clone() for name, value in tensors.items()}

    def go_on(stream):
        stream.reset_envs(1)
        return [stream.next() for _ in range(30)]

    expected = go_on(first)
    second = source.open(first.context)
    second.restore(tensors, state)
    for one, other in zip(expected, go_on(second), strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dict__)


class Remembers(Expert):
    """A policy with a recurrent state: counts the steps since the episode began."""

    def policy(self, env, device, snapshot=None, rng=None):
        count = -1

        def policy(obs):
            nonlocal count
            count += 1
            return np.full(env.num_envs, count % 2)

        assert env.num_envs == 1 and isinstance(env, SingleEnvView)
        return policy


def test_state_of_an_expert_restarts_with_each_episode(opened):
    stream = opened(rollout(epochs=1), products={"expert": Remembers()}, batch=120)
    batch = stream.next()
    assert torch.equal(batch.expert_action, batch.obs[:, 1].long() % 2)


def test_running_policy_of_an_agent_restarts_its_state():
    agent = remembering().build(RECALL.spaces())
    policy = AgentPolicy(agent, 3, torch.device("cpu"))
    policy(np.ones((3, 2), np.float32))
    before = policy._state.clone()
    policy.restart(np.array([False, True, False]))
    assert torch.equal(policy._state[[0, 2]], before[[0, 2]]) and torch.equal(policy._state[1], torch.zeros(UNITS))
    assert before[1].abs().sum() > 0


def test_expert_prob_without_an_expert_is_refused():
    with pytest.raises(UserError, match="^expert_prob: expected 0 without an expert, got 0.5; set expert to the stage"):
        Rollout(expert_prob=0.5)
    with pytest.raises(UserError, match=r"^expert_prob: expected a value in \[0, 1\], got 1.5"):
        Rollout(expert="expert", expert_prob=1.5)


@pytest.mark.parametrize("person", [Queue(), Keyboard([])], ids=["queue", "keyboard"])
def test_person_as_the_expert_of_a_rollout_is_refused(person, opened):
    message = "sources.source.expert: expected an expert that labels 4 environments at every step, got the person 'exp"
    with pytest.raises(UserError, match=message):
        opened(rollout(), products={"expert": person})


def test_script_as_the_expert_of_environments_that_step_outside_python_is_refused(opened, counting_next_step):
    with pytest.raises(UserError, match="^expert: expected a trained expert, as a script reads single environments"):
        opened(rollout(), counting_next_step)


# In a stage


def test_labels_of_an_expert_are_cloned_on_the_learners_states(counting, run_stages):
    losses = {"ppo": PPO("rollout", weight=0.0), "clone": BC("rollout", labels=Labels.expert_action)}
    sources = {"rollout": rollout(epochs=1, expert_prob={"start": 1.0, "end": 0.0, "over": 50})}
    algo = Algo(composed.policy_value([8]), losses, sources, batch_size=60, lr=1e-2, normalize_obs=True)
    fit = Fit(algo, 80, eval=EvalConfig(0), members=2)
    pipeline = run_stages({"expert": Script("tests.experts:ones"), "learn": fit}, counting)
    for agent in pipeline.product("learn").agents():
        obs = agent.normalize_obs(torch.tensor([[500.0, t] for t in range(4)]))
        assert (agent.policy(obs).log_prob(torch.ones(4, dtype=torch.int64)) > -0.1).all()


def test_label_column_of_a_rollout_without_an_expert_is_refused(counting, check_setup):
    algo = Algo(composed.policy([8]), {"clone": BC("rollout", labels=Labels.expert_action)}, {"rollout": Rollout()})
    message = "needs the columns expert_action, which 'rollout' .* does not have; read a rollout source and set its exp"
    with pytest.raises(UserError, match=message):
        check_setup(Fit(algo, 5), "learn", counting.spaces(), [])
