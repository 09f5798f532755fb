"""A replay that keeps what a rollout collected: transitions, order of reading, phases, members, exact resumption."""

from pathlib import Path

import pytest
import torch

from lfd.agents import REWARD
from lfd.agents.config import AgentConfig
from lfd.algos.bc import BC
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.errors import UserError
from lfd.learner.learner import Algo, Phase
from lfd.learner.optim import Target
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages.collect import Collect
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.loop import TrainLoop
from lfd.stages.fit.stage import Fit
from tests import composed
from tests.memory import remembering
from tests.sources.test_recurrent_reward import ElapsedSpec
from tests.sources.test_replay import check_transitions

SIZES = [8]


@pytest.fixture
def open_pair(open_source, tmp_path):
    """A rollout and a replay of it, after their first reset."""

    def open_it(agent, env, rollout=None, replay=None, **context):
        rollout, replay = rollout or Rollout(3, 8, epochs=2), replay or Replay(400, source="rollout")
        sources = {"rollout": rollout, "replay": replay}
        first = open_source(
            rollout, agent, env, sources=sources, folder=tmp_path / "first", name="rollout",
            **{"columns": frozenset({"obs", "action"}), "batch": 6, **context},
        )  # fmt: skip
        second = open_source(
            replay, agent, env, sources=sources, stream={"rollout": first}.__getitem__, folder=tmp_path / "second",
            **{"batch": 16, **context},
        )  # fmt: skip
        for collector in first.collectors:
            collector.reset_envs(0)  # again, now that the replay is told
        return first, second

    return open_it


def q_agent(env, seed=0):
    torch.manual_seed(seed)
    return composed.q_net(SIZES).build(env.spaces())


@pytest.mark.parametrize("kind", ["counting", "counting_next_step"])
@pytest.mark.parametrize("steps", [1, 3])
def test_rollout_replay_has_the_transitions_of_the_rollout(kind, steps, request, open_pair):
    env = request.getfixturevalue(kind)
    rollout, replay = open_pair(q_agent(env), env, replay=Replay(400, source="rollout", n_step=steps))
    seen = 0
    for index in range(1, 8):
        for _ in range(12):
            rollout.next()
            batch = replay.next()
            _, over = check_transitions(batch, steps=steps)
            seen += int((batch.truncated & ~over).sum())
        rollout.reset_envs(index)
        replay.reset_envs(index)
    assert seen > 0, "episodes that a reset of the environments cut are truncated"
    assert replay.env_steps == 0 and rollout.env_steps == len(replay._buffer) > 0


def test_rollout_replay_is_filled_before_its_first_draw_in_either_order(counting, open_pair):
    for first_is_replay in (True, False):
        rollout, replay = open_pair(q_agent(counting), counting)
        for stream in (replay, rollout) if first_is_replay else (rollout, replay):
            stream.next()
        assert rollout.env_steps == len(replay._buffer) == 24


def test_rollout_replay_collects_nothing_in_advance(counting, open_pair):
    """The rollout is idle after its last minibatch, where environments are reset and checkpoints made."""
    rollout, replay = open_pair(q_agent(counting), counting)
    for _ in range(8):
        rollout.next()
        replay.next()
    assert rollout.idle and replay.idle and rollout.env_steps == 24


def test_rollout_replay_keeps_actions_within_the_bounds(counting_continuous, open_pair):
    agent = composed.policy_value(SIZES).build(counting_continuous.spaces())
    with torch.no_grad():
        agent.nets["policy"].log_std.fill_(2.0)
    rollout, replay = open_pair(agent, counting_continuous)
    assert rollout.next().action.abs().max() > 2
    assert 1.99 < replay.next().action.abs().max() <= 2


def test_rollout_replay_draws_this_round_only_in_an_on_policy_phase(counting, open_pair):
    rollout, replay = open_pair(q_agent(counting), counting, replay=Replay(400, source="rollout", per_alpha=0.5))
    for number in range(3):
        # as in a stage whose losses read the replay first
        for stream in (replay, rollout):
            stream.begin_round()
            stream.begin_phase(True)
        assert replay.epoch_steps() == 24 // 16
        before = {tuple(row) for row in replay._buffer._ring._columns["obs."].reshape(-1, 2).tolist()}
        kept = rollout._buffer.columns["obs"].reshape(-1, 2).tolist()
        drawn = {tuple(row) for _ in range(20) for row in replay.next().obs.tolist()}
        assert drawn == {tuple(row) for row in kept} <= before
        replay.begin_phase(False)
        assert replay.epoch_steps() == 24 * (number + 1) // 16


def test_member_of_a_rollout_replay_reads_its_own_rollout(counting, open_pair):
    agents = [q_agent(counting, seed) for seed in (0, 1)]
    rollout, replay = open_pair(agents, counting)
    rollout.next()
    batch = replay.next()
    for member in range(2):
        kept = rollout.parts[str(member)]._buffer.columns["obs"].reshape(-1, 2).tolist()
        assert {tuple(row) for row in batch.obs[member].tolist()} <= {tuple(row) for row in kept}
    assert rollout.parts["0"]._buffer.columns["obs"].tolist() != rollout.parts["1"]._buffer.columns["obs"].tolist()


def test_restored_rollout_replay_continues_with_the_same_batches(counting, open_pair):
    source = Replay(60, source="rollout", n_step=2, per_alpha=0.6)
    pair = open_pair(q_agent(counting), counting, Rollout(3, 8, epochs=2, epsilon=0.5), source)

    def go_on(rollout, replay, steps):
        batches = []
        for _ in range(steps):
            rollout.next()
            batches.append(replay.next())
            replay.feedback({"priority": batches[-1].reward.abs()})
        return batches

    go_on(*pair, 24)
    saved = [stream.save() for stream in pair]
    saved = [({name: value.clone() for name, value in tensors.items()}, state) for tensors, state in saved]
    pair[0].reset_envs(1)
    expected = go_on(*pair, 40)
    again = pair[0].source.open(pair[0].context)
    replay = source.open(pair[1].context)
    replay._rollout._recorders.clear()  # the new replay follows the new rollout
    again.record_to(replay._buffer)
    for stream, (tensors, state) in zip((again, replay), saved, strict=True):
        stream.restore(tensors, state)
    again.reset_envs(1)
    for one, other in zip(expected, go_on(again, replay, 40), strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dict__)


def test_sequences_of_a_rollout_replay_are_consecutive(open_pair):
    from tests.test_memory import COLUMNS, ENV

    rollout, replay = open_pair(
        remembering().build(ENV.spaces()), ENV, Rollout(3, 16), sequence=4, batch=16, columns=COLUMNS
    )
    batch = replay.next()
    inner = ~batch.first[:, 1:]
    assert batch.obs.shape == (4, 4, 2) and torch.equal(batch.obs[:, 1:][inner], batch.next_obs[:, :-1][inner])
    rollout.close()


def test_rollout_epsilon_is_the_fraction_of_random_actions(counting, open_pair):
    agent = q_agent(counting)
    with torch.no_grad():
        agent.nets["critic"].nets[0].head[-1].bias.copy_(torch.tensor([0.0, 1e6]))  # always action 1, unless exploring
    rollout, replay = open_pair(agent, counting, Rollout(8, 500, epochs=1, epsilon=0.25), batch=4000)
    rollout.next()
    assert 1 - replay.next().action.float().mean() == pytest.approx(0.125, abs=0.02)


def test_rollout_action_noise_stays_inside_the_bounds(counting_continuous, open_pair):
    torch.manual_seed(0)
    agent = composed.deterministic_policy_critic(SIZES).build(counting_continuous.spaces())
    plain, _ = open_pair(agent, counting_continuous, Rollout(4, 50))
    assert plain.next().action.std() < 0.5
    noisy, replay = open_pair(agent, counting_continuous, Rollout(4, 50, action_noise=0.5))
    noisy.next()
    action = replay.next().action
    assert action.abs().max() <= 2 and action.std() > 0.6


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_envs", 2), ("learning_starts", 2), ("env_steps_per_update", 2.0), ("epsilon", 0.5), ("action_noise", 0.5)],
)
def test_rollout_replay_with_a_field_of_acting_is_refused(name, value):
    message = f"^{name}: expected none beside source=rollout, which collects, got {value}; set it in rollout"
    with pytest.raises(UserError, match=message):
        Replay(source="rollout", **{name: value})
    assert Replay(500, source="rollout").buffer_size == 500, "learning_starts is unused"


def test_rollout_replay_keeps_the_rewards_of_a_recurrent_model(counting, open_pair):
    agent = q_agent(counting)
    agent.frozen[REWARD] = AgentConfig({REWARD: ElapsedSpec()}).build(counting.spaces())
    rollout, replay = open_pair(agent, counting)
    for _ in range(12):
        rollout.next()
        batch = replay.next()
        assert torch.equal(batch.reward, 100 + batch.next_obs[:, 1])


def test_target_kl_that_ends_epochs_early_leaves_the_replay_room_for_its_collections(counting, open_pair):
    """Each round collects 32 rows and ends after one of its 40 passes of 4 steps, up to a reset after 100 steps."""
    rollout, replay = open_pair(
        q_agent(counting), counting, Rollout(4, 8, target_kl=0.01), Replay(64, source="rollout"), batch=8,
        reset_every=100, round_epochs=40,
    )  # fmt: skip
    for _ in range(26):
        rollout.begin_round()
        rollout.begin_phase(False)
        for _ in range(4):
            rollout.next()
        rollout.feedback({"kl": torch.tensor(1.0)})
        assert rollout.spent
    assert rollout.env_steps == 26 * 32 and len(replay._buffer) == 64


# In a stage


def dqn(**settings):
    sources = {"rollout": Rollout(4, 16, epochs=1, epsilon=0.3), "replay": Replay(300, source="rollout", batch_size=8)}
    return Algo(
        composed.q_net(SIZES), {"td": DQN("replay")}, sources, batch_size=16, targets={"critic": Target()}, **settings
    )


def mixed(replay_first=False, phases=None):
    losses = (
        {"bc": BC("replay"), "ppo": PPO("rollout")} if replay_first else {"ppo": PPO("rollout"), "bc": BC("replay")}
    )
    sources = {"rollout": Rollout(4, 16, epochs=2), "replay": Replay(300, source="rollout", batch_size=8)}
    return Algo(composed.policy_value(SIZES), losses, sources, phases or {}, batch_size=16)


@pytest.mark.parametrize(
    ("algo", "env_steps"),
    [
        (dqn(), 3 * 64),  # 4 minibatches of a rollout that no loss reads
        (mixed(), 2 * 64), (mixed(replay_first=True), 2 * 64),
        (mixed(phases={"a": Phase(["bc"], steps=2, on_policy_only=True), "b": Phase(["ppo"], epochs=1)}), 2 * 64),
    ],
    ids=["unread rollout", "rollout first", "replay first", "phases"],
)  # fmt: skip
@pytest.mark.parametrize("members", [1, 2])
def test_env_steps_of_a_rollout_with_a_replay_count_once(algo, env_steps, members, counting, run_stages):
    fit = Fit(algo, 12, eval=EvalConfig(0), members=members)
    assert fit.interacts()
    summary = run_stages({"learn": fit}, counting).reports["learn"].summary
    assert summary["env_steps"] == env_steps * members


def test_stage_without_estimates_needs_no_state_value(counting, run_stages):
    """A policy alone acts in a rollout; its log_prob, value and advantage are computed for no loss."""
    sources = {"rollout": Rollout(4, 16), "replay": Replay(300, source="rollout")}
    algo = Algo(composed.policy(SIZES), {"bc": BC("replay")}, sources, batch_size=16)
    assert run_stages({"learn": Fit(algo, 5, eval=EvalConfig(0))}, counting).reports["learn"].summary["env_steps"] == 64


def test_part_of_a_mix_may_be_a_replay_of_a_rollout(counting, run_stages):
    sources = {
        "rollout": Rollout(4, 16), "replay": Replay(300, source="rollout"), "both": Mix({"demos": 0.5, "replay": 0.5}),
    }  # fmt: skip
    algo = Algo(composed.policy_value(SIZES), {"bc": BC("both"), "ppo": PPO("rollout")}, sources, batch_size=16)
    stages = {"demos": Collect("random", transitions=100), "learn": Fit(algo, 5, eval=EvalConfig(0))}
    assert run_stages(stages, counting).reports["learn"].summary["env_steps"] == 64


def refused(check_setup, counting, message, sources, losses=None):
    algo = Algo(composed.policy(SIZES), losses or {"bc": BC("replay")}, sources, batch_size=16)
    with pytest.raises(UserError, match=f"^learn: algo.sources.replay.source: expected a {message}"):
        check_setup(Fit(algo, 5), "learn", counting.spaces(), ["demos"])


def test_rollout_replay_without_a_rollout_is_refused(counting, check_setup):
    message = "rollout source of the algorithm, got "
    refused(check_setup, counting, f"{message}'rolout'; there are none", {"replay": Replay(source="rolout")})
    refused(
        check_setup, counting, f"{message}'rolout'; did you mean 'rollout'",
        {"replay": Replay(source="rolout"), "rollout": Rollout()},
    )  # fmt: skip
    refused(
        check_setup, counting, f"{message}'replay', a Replay; there are none", {"replay": Replay(source="replay")}
    )  # fmt: skip


def test_rollout_replay_of_a_part_of_a_mix_is_refused(counting, check_setup):
    sources = {"rollout": Rollout(), "replay": Replay(source="rollout"), "both": Mix({"rollout": 0.5, "demos": 0.5})}
    losses = {"bc": BC("replay"), "more": BC("both")}
    refused(check_setup, counting, "source that losses read directly, got 'rollout', a part of both", sources, losses)


def test_rollout_exploration_beside_a_loss_that_reads_log_prob_is_refused(counting, check_setup):
    algo = Algo(composed.policy_value(SIZES), {"ppo": PPO("rollout")}, {"rollout": Rollout(epsilon=0.1)})
    with pytest.raises(
        UserError, match="learn: algo.sources.rollout.epsilon: expected 0, as a loss reads the log_prob"
    ):
        check_setup(Fit(algo, 5), "learn", counting.spaces(), [])


def test_rollout_replay_resumes_to_the_same_bits_after_a_kill(counting, run_stages, tmp_path, monkeypatch):
    def weights(store, algo):
        pipeline = run_stages({"learn": Fit(algo, 40, eval=EvalConfig(0), reset_every=10)}, counting, store)
        return {path.name: path.read_bytes() for path in Path(pipeline.product("learn").folder).glob("*.safetensors")}

    for number, algo in enumerate((dqn(), mixed())):
        expected = weights(f"straight{number}", algo)
        step, count = TrainLoop.step, iter(range(29))

        def killed(self, step=step, count=count):
            if next(count, None) is None:
                raise KeyboardInterrupt
            step(self)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="^$"):
            patch.setattr(TrainLoop, "step", killed)
            weights(f"killed{number}", algo)
        assert weights(f"killed{number}", algo) == expected
