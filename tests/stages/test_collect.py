"""Collected datasets: amount, noise, returns, resuming."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.algos.bc import BC, BCObjective
from lfd.algos.ppo import PPO
from lfd.data import Writer
from lfd.envs import Gym
from lfd.episodes import play
from lfd.errors import UserError
from lfd.learner.learner import Algo
from lfd.sources.rollout import Rollout
from lfd.stages.collect import Collect
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from lfd.stages.policies import split_name
from tests import composed

SIZES = [8]


def expert(**settings):
    algo = Algo(
        composed.policy_value(SIZES), {"ppo": PPO("rollout")}, {"rollout": Rollout(2, 16)}, batch_size=16, lr=0.1
    )
    return Fit(algo, 20, eval=EvalConfig(5, 1), **settings)


def check_rows(data):
    """All rows against the rules of the counting environment."""
    rows = np.arange(len(data))
    seen, after = data.observations(rows), data.next_observations(rows)
    assert np.array_equal(after[:, 0], seen[:, 0]) and np.array_equal(after[:, 1], seen[:, 1] + 1)
    assert np.array_equal(data.columns["rewards"], after[:, 1])
    over = after[:, 1] == 1 + seen[:, 0] % 5
    assert np.array_equal(data.columns["terminals"], over & (seen[:, 0] % 2 == 0))
    assert np.array_equal(data.columns["timeouts"], over & (seen[:, 0] % 2 == 1))
    return over


def test_collect_transitions_are_exact_in_number_and_content(run_stages, counting):
    data = run_stages({"demos": Collect("random", transitions=101)}, counting).product("demos")
    over = check_rows(data)
    assert len(data) == 101
    assert over[data.ends - 1].sum() >= len(data.ends) - 1  # the last episode may be cut
    assert data.metadata["ends"]["cut"] == len(data.ends) - over.sum()


def test_collect_episodes_are_exact_in_number_and_complete(run_stages, counting):
    data = run_stages({"demos": Collect("random", episodes=13)}, counting).product("demos")
    assert len(data.starts) == 13 and check_rows(data)[data.ends - 1].all()


def test_collect_episodes_have_different_start_states(run_stages, counting):
    data = run_stages({"demos": Collect("random", episodes=40)}, counting).product("demos")
    assert len(set(data.columns["observations"][data.starts, 0])) > 30


def test_collect_does_not_prefer_short_episodes(run_stages, counting):
    data = run_stages({"demos": Collect("random", episodes=400, num_envs=50)}, counting).product("demos")
    assert (data.ends - data.starts).mean() == pytest.approx(3.0, abs=0.25)


def test_collect_by_default_takes_greedy_actions(run_stages, counting):
    stages = {"expert": expert(), "demos": Collect("expert", transitions=100)}
    pipeline = run_stages(stages, counting)
    data, agent = pipeline.product("demos"), pipeline.product("expert").agents()[0]
    rows = np.arange(100)
    greedy = agent.act(torch.from_numpy(data.observations(rows)), (), None)[0].numpy()
    assert np.array_equal(data.columns["actions"], greedy)


def test_collect_epsilon_is_the_share_of_random_actions(run_stages, counting):
    stages = {"expert": expert(), "demos": Collect("expert", transitions=4_000, num_envs=50, epsilon=0.3)}
    pipeline = run_stages(stages, counting)
    data, agent = pipeline.product("demos"), pipeline.product("expert").agents()[0]
    greedy = agent.act(torch.from_numpy(data.observations(np.arange(4_000))), (), None)[0].numpy()
    assert (data.columns["actions"] != greedy).mean() == pytest.approx(0.15, abs=0.02)


def test_collect_action_noise_is_in_half_ranges_and_stored_actions_are_within_bounds(run_stages, counting_continuous):
    stages = {
        "random": Collect("random", transitions=50),
        "expert": Fit(
            Algo(composed.policy(SIZES), {"bc": BC("random")}, lr=0.0, normalize_obs=True), 1, eval=EvalConfig(0)
        ),
        "demos": Collect("expert", transitions=4_000, num_envs=50, action_noise=0.25),
    }
    pipeline = run_stages(stages, counting_continuous)
    data, agent = pipeline.product("demos"), pipeline.product("expert").agents()[0]
    greedy = agent.act(torch.from_numpy(data.observations(np.arange(4_000))), (), None)[0].numpy()
    inside = np.abs(data.columns["actions"]) < 2
    noise = (data.columns["actions"] - greedy)[inside & (np.abs(greedy) < 0.5)]
    assert np.abs(data.columns["actions"]).max() <= 2 and not inside.all()
    assert len(noise) > 100 and noise.std() == pytest.approx(0.5, rel=0.15)


def test_random_policy_covers_the_action_space(run_stages, counting_continuous, counting):
    def actions(env, store):
        stages = {"demos": Collect("random", transitions=2_000, num_envs=50)}
        return run_stages(stages, env, store).product("demos").columns["actions"]

    continuous = actions(counting_continuous, "one")
    assert continuous.min() < -1.9 and continuous.max() > 1.9 and abs(continuous.mean()) < 0.1
    assert actions(counting, "other").mean() == pytest.approx(0.5, abs=0.05)


def test_collect_policies_have_their_fractions_also_snapshots(run_stages, counting):
    shares = {"random": 0.25, "learner@0": 0.25, "learner": 0.5}
    stages = {"learner": expert(snapshots=2), "demos": Collect(policies=shares, transitions=200)}
    pipeline = run_stages(stages, counting)
    data, trained = pipeline.product("demos"), pipeline.product("learner")
    check = data.observations(np.arange(200))
    for agent, rows in ((trained.agents(0)[0], slice(50, 100)), (trained.agents()[0], slice(100, 200))):
        greedy = agent.act(torch.from_numpy(check[rows]), (), None)[0].numpy()
        assert np.array_equal(data.columns["actions"][rows], greedy)
    assert {50, 100, 200} <= set(data.ends.tolist())


def test_collect_leaves_out_episodes_below_min_return(run_stages, counting):
    pipeline = run_stages({"demos": Collect("random", episodes=20, min_return=10.0)}, counting)
    returns = pipeline.product("demos").returns()
    assert len(returns) == 20 and set(returns) == {10.0, 15.0}
    assert pipeline.reports["demos"].summary["env_steps"] > returns.sum() / 10


def test_collect_unreachable_min_return_is_refused(run_stages, counting):
    with pytest.raises(UserError, match="the best returned 15.0"):
        run_stages({"demos": Collect("random", episodes=20, min_return=16.0)}, counting)


def test_collect_killed_between_commits_resumes_to_the_same_bytes(run_stages, counting, monkeypatch):
    stages = {"demos": Collect("random", transitions=300, epsilon=0.5)}
    expected = (run_stages(stages, counting, "straight").product("demos").path).read_bytes()
    commit, left = Writer.commit, iter([1, 2, 3])

    def dies(self, cursor):
        if next(left, None) is None:
            raise KeyboardInterrupt
        commit(self, cursor)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            run_stages(stages, counting, "killed")
    assert run_stages(stages, counting, "killed").product("demos").path.read_bytes() == expected


@pytest.mark.parametrize("transitions", [1, 40])
def test_collect_stores_dict_observations_by_key_for_training(run_stages, counting_dict, transitions):
    algo = Algo(composed.policy(SIZES), {"bc": BC("demos")}, batch_size=64, normalize_obs=True)
    stages = {"demos": Collect("random", transitions=transitions), "learn": Fit(algo, 3, eval=EvalConfig(3, 1))}
    data = run_stages(stages, counting_dict).product("demos")
    rows = np.arange(transitions)
    seen, after = data.observations(rows), data.next_observations(rows)
    assert set(seen) == {"name", "t"} and np.array_equal(seen["name"], after["name"])
    assert np.array_equal(after["t"][:, 0], seen["t"][:, 0] + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "a", "policies": {"b": 1.0}, "transitions": 1}, "policy: expected either policy or policies"),
        ({"policy": "a"}, "transitions: expected either transitions or episodes"),
        ({"policy": "a", "transitions": 1, "episodes": 1}, "transitions: expected either transitions or episodes"),
        ({"policy": "a", "transitions": 0}, "transitions: expected 1 or more, got 0"),
        ({"policy": "a", "transitions": 1, "epsilon": 1.5}, r"epsilon: expected probabilities in .0, 1., got .1.5."),
        ({"policy": "a", "transitions": 1, "action_noise": -1.0}, "action_noise: expected 0 or more, got -1.0"),
        ({"policies": {"a": 0.5, "b": 0.4}, "transitions": 1}, "policies: expected positive fractions that sum to 1"),
    ],
)
def test_collect_values_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Collect(**settings)


def test_split_name_separates_stage_and_snapshot():
    assert split_name("expert@2") == ("expert", 2) and split_name("expert") == ("expert", None)
    with pytest.raises(UserError, match="expected a number after @, as in expert@0, got 'last'"):
        split_name("expert@last")


def test_collect_leaves_out_episodes_above_max_return(run_stages, counting):
    stage = Collect("random", episodes=20, min_return=3.0, max_return=6.0)
    assert set(run_stages({"demos": stage}, counting).product("demos").returns()) == {3.0, 6.0}


def test_collect_unreachable_max_return_is_refused(run_stages, counting):
    with pytest.raises(
        UserError, match="max_return=0: all of 200 episodes of 'random' exceeded it, the worst returned 1.0"
    ):
        run_stages({"demos": Collect("random", episodes=20, max_return=0.0)}, counting)


def test_collect_unreachable_range_of_returns_is_refused(run_stages, counting):
    with pytest.raises(UserError, match="min_return=4 max_return=5: none of 200 episodes of 'random' lay between"):
        run_stages({"demos": Collect("random", episodes=20, min_return=4.0, max_return=5.0)}, counting)
    with pytest.raises(UserError, match="min_return: expected at most max_return=4, got 5"):
        Collect("random", episodes=20, min_return=5.0, max_return=4.0)


def test_collect_epsilons_are_equal_parts_and_stored_with_every_transition(run_stages, counting):
    stage = Collect("expert", episodes=400, num_envs=50, epsilons=[0.0, 0.5, 1.0])
    pipeline = run_stages({"expert": expert(), "demos": stage}, counting)
    data, agent = pipeline.product("demos"), pipeline.product("expert").agents()[0]
    noise = data.columns["infos/noise"]
    greedy = agent.act(torch.from_numpy(data.observations(np.arange(len(data)))), (), None)[0].numpy()
    for level, share in [(0.0, 0.0), (0.5, 0.25), (1.0, 0.5)]:
        rows = noise == level
        assert np.isin(data.episode_of(np.flatnonzero(rows)), np.flatnonzero(noise[data.starts] == level)).all()
        assert (noise[data.starts] == level).sum() == pytest.approx(400 / 3, abs=1)
        assert (data.columns["actions"][rows] != greedy[rows]).mean() == pytest.approx(share, abs=0.06)
    assert data.metadata["made_by"]["epsilon"] == [0.0, 0.5, 1.0]
    with pytest.raises(UserError, match="either epsilon or epsilons"):
        Collect("random", episodes=1, epsilon=0.1, epsilons=[0.2])
    with pytest.raises(UserError, match="epsilons: expected probabilities in .0, 1., got .0.5, 1.5."):
        Collect("random", episodes=1, epsilons=[0.5, 1.5])


class Long(gym.Env):
    """Episodes of 400 steps, or of 3 where the seed is odd; the observation counts them."""

    observation_space, action_space = gym.spaces.Box(0, 400, (1,), np.float32), gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.end = 0, 3 if seed % 2 else 400
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.array([self.t], np.float32), 1.0, self.t == self.end, False, {}


gym.register("Long-v0", Long)


@pytest.mark.parametrize("amount", [{"transitions": 100}, {"transitions": 410}, {"episodes": 2}])
def test_collect_stops_early_with_the_same_data(run_stages, monkeypatch, amount):
    made = run_stages({"demos": Collect("random", num_envs=4, **amount)}, Gym("Long-v0"), "early")
    monkeypatch.setattr("lfd.stages.player.play", lambda *args, enough, **others: play(*args, **others))
    whole = run_stages({"demos": Collect("random", num_envs=4, **amount)}, Gym("Long-v0"), "whole")
    early, late = (one.reports["demos"].summary["env_steps"] for one in (made, whole))
    assert made.product("demos").path.read_bytes() == whole.product("demos").path.read_bytes()
    assert early <= late and early <= 4 * 410


def test_collect_few_transitions_of_long_episodes_take_few_steps(run_stages):
    ran = run_stages({"demos": Collect("random", transitions=20, num_envs=4)}, Gym("Long-v0"))
    assert len(ran.product("demos")) == 20 and ran.reports["demos"].summary["env_steps"] <= 4 * 20


def test_collect_with_min_return_plays_complete_episodes(run_stages):
    ran = run_stages({"demos": Collect("random", transitions=20, num_envs=8, min_return=100.0)}, Gym("Long-v0"))
    assert ran.reports["demos"].summary["env_steps"] >= 400


@pytest.mark.parametrize("error", [BCObjective.mse, BCObjective.l1])
def test_collect_stochastic_from_an_untrained_spread_is_refused(run_stages, counting_continuous, counting, error):
    def stages(error, **settings):
        clone = Fit(Algo(composed.policy(SIZES), {"bc": BC("demos", error=error)}, batch_size=8), 2, eval=EvalConfig(0))
        drawn = Collect("clone", transitions=5, **settings)
        return {"demos": Collect("random", transitions=20), "clone": clone, "drawn": drawn}

    with pytest.raises(
        UserError, match=r"drawn.stochastic=true of clone samples actions from a spread that losses.bc does not"
    ):
        run_stages(stages(error, stochastic=True), counting_continuous, "refused")
    run_stages(stages(error), counting_continuous, "mode")
    run_stages(stages(BCObjective.beta_nll, stochastic=True), counting_continuous, "trained")
    run_stages(stages(error, stochastic=True), counting, "discrete")


class Mended(gym.Env):
    """Gives NaN after 100 steps until somebody mends it, and rewards of another kind from then on."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)
    is_mended = False
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        Mended.steps, self.t = Mended.steps + 1, self.t + 1
        reward = 5.0 if Mended.is_mended else float("nan") if Mended.steps > 100 else 1.0
        return np.zeros(1, np.float32), reward, self.t == 5, False, {}


gym.register("Mended-v0", Mended)


def test_collect_after_an_error_of_the_environment_starts_again(run_stages, tmp_path):
    stages = {"demos": Collect("random", transitions=300, num_envs=1)}
    with pytest.raises(UserError, match="reward: expected a finite float32, got nan"):
        run_stages(stages, Gym("Mended-v0"), "store")
    assert not [*tmp_path.glob("store/**/.building/*")]
    Mended.is_mended = True
    assert set(run_stages(stages, Gym("Mended-v0"), "store").product("demos").columns["rewards"]) == {5.0}
