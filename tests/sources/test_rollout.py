"""Rollouts: advantages, epochs, scaled rewards, observation statistics, and exact resumption."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lfd.agents.nets import NetSpec
from lfd.batch import Batch
from lfd.sources.rewards import ReturnScale
from lfd.sources.rollout import Rollout
from lfd.sources.rollout_buffer import ON_POLICY
from tests import composed

SIZES = [8]
ALL = frozenset({"obs", "action", "reward", "next_obs", "discount", "terminated", "truncated"}) | ON_POLICY


def agent_for(env):
    torch.manual_seed(0)
    return composed.policy_value(SIZES).build(env.spaces())


def collected(stream):
    """One collection in the order of its steps, [T, N], and the batch that was made of it."""
    stream.next()
    return {name: column.numpy() for name, column in stream._buffer.columns.items()}, stream._batch


def advantages(c, agent, gamma, lam):
    """Of every step in float64, by walking on from it to the end of its episode or of the collection."""
    with torch.no_grad():
        value, following = (agent.value(torch.from_numpy(c[name])).double().numpy() for name in ("obs", "next_obs"))
    found = np.zeros_like(value)
    for t, n in np.ndindex(value.shape):
        factor = 1.0
        for k in range(t, len(value)):
            bootstrap = 0.0 if c["terminated"][k, n] else gamma * following[k, n]
            found[t, n] += factor * (float(c["reward"][k, n]) + bootstrap - value[k, n])
            if c["terminated"][k, n] or c["truncated"][k, n]:
                break
            factor *= gamma * lam
    return found, value


@pytest.mark.parametrize("kind", ["counting", "counting_next_step", "counting_continuous"])
def test_advantages_equal_an_independent_computation(kind, request, open_source):
    env = request.getfixturevalue(kind)
    agent = agent_for(env)
    stream = open_source(Rollout(3, 40, gae_lambda=0.8), agent, env, columns=ALL, batch=8)
    c, held = collected(stream)
    assert c["terminated"].any() and (c["truncated"] & ~c["terminated"]).any()
    expected, value = advantages(c, agent, 0.9, 0.8)
    valid = c["valid"]
    assert valid.all() == (kind != "counting_next_step")
    np.testing.assert_allclose(held.advantage.numpy(), expected[valid], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(held.value_target.numpy(), (expected + value)[valid], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["counting", "counting_next_step"])
def test_rollout_transitions_never_cross_a_reset(kind, request, open_source):
    env = request.getfixturevalue(kind)
    stream = open_source(Rollout(3, 40), agent_for(env), env, columns=ALL, batch=8)
    _, held = collected(stream)
    assert torch.equal(held.next_obs[:, 0], held.obs[:, 0])
    assert torch.equal(held.next_obs[:, 1], held.obs[:, 1] + 1)
    assert torch.equal(held.true_reward, held.next_obs[:, 1])
    assert stream.env_steps == len(held.action)


def test_log_prob_is_that_of_the_acting_policy(counting_continuous, open_source):
    agent = agent_for(counting_continuous)
    stream = open_source(Rollout(3, 10), agent, counting_continuous, columns=ALL, batch=8)
    _, held = collected(stream)
    prepared = agent.preprocess(held)
    with torch.no_grad():
        expected = agent.policy(prepared.obs).log_prob(prepared.action)
    torch.testing.assert_close(held.log_prob, expected)


def test_epoch_has_every_row_once_and_only_full_batches(counting, open_source):
    stream = open_source(Rollout(2, 8, epochs=3), agent_for(counting), counting, columns=ALL, batch=4)
    first = stream.next()
    rows = stream._batch.advantage
    batches = [first] + [stream.next() for _ in range(11)]
    assert stream.idle and stream.epoch_steps() == 4
    for epoch in range(3):
        dealt = torch.cat([batch.advantage for batch in batches[4 * epoch : 4 * epoch + 4]])
        assert torch.equal(dealt.sort().values, rows.sort().values)
    before = stream.env_steps
    stream.next()
    assert stream.env_steps == before + 16


def test_batch_size_that_does_not_divide_the_collection_drops_the_remainder(counting, open_source):
    stream = open_source(Rollout(2, 8, epochs=1), agent_for(counting), counting, columns=ALL, batch=6)
    assert [len(stream.next().action) for _ in range(2)] == [6, 6] and stream.idle


def test_target_kl_drops_the_rest_of_a_collection(counting, open_source):
    stream = open_source(Rollout(2, 8, target_kl=0.02), agent_for(counting), counting, columns=ALL, batch=4)
    stream.next()
    stream.feedback({"kl": torch.tensor(0.01)})
    assert not stream.idle
    stream.feedback({"kl": torch.tensor(0.03)})
    assert stream.idle


def test_normalize_reward_leaves_true_reward_unchanged(counting, open_source):
    stream = open_source(Rollout(2, 50, normalize_reward=True), agent_for(counting), counting, columns=ALL, batch=4)
    c, held = collected(stream)
    assert torch.equal(held.true_reward, held.next_obs[:, 1])
    returns, seen, running = [], [], np.zeros(2)
    for t in range(50):
        running = 0.9 * running + c["true_reward"][t]
        seen += list(running)
        returns.append((c["true_reward"][t] / np.sqrt(np.var(seen) + 1e-8)).clip(-10, 10))
        running[c["terminated"][t] | c["truncated"][t]] = 0
    np.testing.assert_allclose(c["reward"], np.array(returns), rtol=1e-5)


def test_return_scale_ignores_reset_rows():
    scale, other = ReturnScale(2, 0.9), ReturnScale(1, 0.9)
    no, both = np.zeros(2, np.bool_), np.array([True, False])
    for reward in (1.0, 5.0, 2.0):
        found = scale(np.array([reward, 0.0]), no, both)
        assert found[0] == pytest.approx(other(np.array([reward]), no[:1], both[:1])[0])


def test_scaled_reward_is_rounded_once():
    """Divided in float64: stored weights were trained on these bits."""
    scale, no, yes = ReturnScale(1, 0.9), np.zeros(1, np.bool_), np.ones(1, np.bool_)
    for reward in np.random.default_rng(0).normal(size=(100, 1)).astype(np.float32):
        found = scale(reward, no, yes)
        assert found.dtype == np.float32
        assert found == (reward.astype(np.float64) / float(scale.deviation)).clip(-10, 10).astype(np.float32)


def test_first_scaled_reward_is_clipped():
    """Of rewards that are all alike the deviation is nothing at first."""
    scale, no = ReturnScale(8, 0.99), np.zeros(8, np.bool_)
    assert scale(np.ones(8, np.float32), no, ~no).tolist() == [10.0] * 8
    assert scale(-np.ones(8, np.float32), no, ~no).min() >= -10


def test_normalizer_changes_between_collections_only(counting, open_source):
    agent = agent_for(counting)
    agent.normalize_observations()
    stream = open_source(Rollout(2, 8, epochs=2), agent, counting, columns=ALL, batch=8)
    stream.next()
    first = stream._batch.obs
    for _ in range(3):
        stream.next()
    assert agent.normalizers["obs"].count == 0
    stream.next()
    normalizer = agent.normalizers["obs"]
    assert normalizer.count == 16
    torch.testing.assert_close(normalizer.mean, first.mean(0))
    torch.testing.assert_close(normalizer.variance, first.var(0, unbiased=False), rtol=1e-3, atol=1e-3)


def test_restored_stream_continues_with_the_same_batches(counting, open_source):
    agent = agent_for(counting)
    agent.normalize_observations()
    source = Rollout(2, 8, epochs=2, normalize_reward=True)
    first = open_source(source, agent, counting, columns=ALL, batch=8)
    for _ in range(8):
        first.next()
    tensors, state = first.save()
    tensors = {name: value.clone() for name, value in tensors.items()}
    weights = {name: value.clone() for name, value in agent.state_dict().items()}

    def go_on(stream) -> list[Batch]:
        stream.reset_envs(1)
        return [stream.next() for _ in range(9)]

    expected = go_on(first)
    agent.load_state_dict(weights)
    second = source.open(first.context)
    second.restore(tensors, state)
    for one, other in zip(expected, go_on(second), strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dict__)


def test_rollout_of_an_agent_without_values_has_no_estimates(counting, open_source):
    agent = composed.policy(SIZES).build(counting.spaces())
    stream = open_source(Rollout(2, 8), agent, counting, columns=frozenset({"obs", "action"}), batch=4)
    assert "advantage" not in stream.next().__dict__


class ByAction(nn.Module):
    def forward(self, batch):
        return 100.0 * batch.action + 7


@dataclass
class ByActionSpec(NetSpec):
    on_trunk: ClassVar = False

    def build(self, inputs):
        return ByAction()


def test_learned_rewards_are_scaled_by_the_deviation_of_their_returns(counting, open_source):
    agent = composed.policy_value(SIZES).with_nets({"reward": ByActionSpec()}).build(counting.spaces())
    source = Rollout(2, 50, epochs=1, normalize_reward=True)
    stream = open_source(source, agent, counting, columns=ALL, batch=100)
    seen, running = [], np.zeros(2)
    for _ in range(2):
        c, held = collected(stream)
        learned = 100.0 * c["action"] + 7
        for t in range(50):
            running = 0.9 * running + learned[t]
            seen += list(running)
            running[c["terminated"][t] | c["truncated"][t]] = 0
        np.testing.assert_allclose(held.reward.numpy(), learned.flatten() / np.std(seen), rtol=1e-4)
        assert torch.equal(held.true_reward, held.next_obs[:, 1])
        # another phase computes rewards of the same collection again, which counts once
        stream.begin_phase(on_policy_only=False)
        np.testing.assert_allclose(stream._batch.reward.numpy(), held.reward.numpy())
    tensors, state = stream.save()
    second = source.open(stream.context)
    second.restore(tensors, state)
    for one in (stream, second):
        one.reset_envs(1)
    assert torch.equal(stream.next().reward, second.next().reward)
