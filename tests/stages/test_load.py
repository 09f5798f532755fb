import numpy as np
import pytest

from lfd.envs import Gym
from lfd.errors import Refused
from lfd.stages.load import Load

CARTPOLE = Gym("CartPole-v1")


@pytest.fixture
def file(tmp_path):
    """Two episodes in the form of stable-baselines 2: the first stopped by the limit of 500 steps, the second fell."""
    lengths = [500, 20]
    starts = np.zeros(520, bool)
    starts[[0, 500]] = True
    path = tmp_path / "expert.npz"
    np.savez(
        path, obs=np.random.default_rng(0).normal(size=(520, 4)), actions=np.zeros((520, 1), int), rewards=np.ones(520),
        episode_returns=np.array(lengths, float), episode_starts=starts,
    )  # fmt: skip
    return path


def test_a_time_limit_of_the_environment_is_told_from_a_termination(file, run_stages):
    data = run_stages({"demos": Load(str(file))}, CARTPOLE).product("demos")
    assert data.columns["timeouts"][data.ends - 1].tolist()[0] and not data.columns["terminals"][data.ends - 1][0]
    assert data.columns["terminals"][data.ends - 1][1]


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_data_without_rewards_is_told_of(file, run_stages, capsys, reward):
    with np.load(file) as arrays:
        np.savez(file, **{**arrays, "rewards": np.full(520, reward)})
    run_stages({"demos": Load(str(file))}, CARTPOLE)
    assert ("demos: all rewards of expert.npz are 0" in capsys.readouterr().err) == (reward == 0)


def test_exactly_so_many_transitions(file, run_stages):
    assert len(run_stages({"demos": Load(str(file), transitions=30)}, CARTPOLE).product("demos")) == 30


def test_so_many_episodes_of_a_return(file, run_stages):
    data = run_stages({"demos": Load(str(file), episodes=1, min_return=100.0)}, CARTPOLE).product("demos")
    assert data.returns().tolist() == [500.0]


def test_more_than_there_is_is_refused(file, run_stages):
    with pytest.raises(Refused, match="has only"):
        run_stages({"demos": Load(str(file), episodes=2, min_return=100.0)}, CARTPOLE)


def test_a_return_that_no_episode_has_is_named(file, run_stages):
    with pytest.raises(Refused, match=r"dataset.min_return=501: no episode of .*expert.npz returns so much"):
        run_stages({"demos": Load(str(file), min_return=501.0)}, CARTPOLE)


@pytest.mark.parametrize(("column", "name"), [("obs", "observations"), ("rewards", "rewards")])
def test_what_is_no_number_is_told_with_its_place(file, run_stages, column, name):
    with np.load(file) as arrays:
        values = arrays[column].astype(float)
        values[507] = np.nan
        np.savez(file, **{**arrays, column: values})
    with pytest.raises(Refused, match=rf"expert.npz, episode 1: {name} of step 7 are not finite numbers"):
        run_stages({"demos": Load(str(file))}, CARTPOLE)


def test_the_key_is_of_the_content_and_not_of_the_place(file, run_stages, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "copy.npz"
    other.write_bytes(file.read_bytes())
    run_stages({"demos": Load(str(file))}, CARTPOLE)
    assert run_stages({"demos": Load(str(other))}, CARTPOLE).reports["demos"].cached
    monkeypatch.chdir(tmp_path)
    assert run_stages({"demos": Load("elsewhere/copy.npz")}, CARTPOLE).reports["demos"].cached
    np.savez(
        other, obs=np.zeros((3, 4)), actions=np.zeros(3, int), rewards=np.ones(3),
        episode_starts=np.array([1, 0, 0]), episode_returns=np.ones(1),
    )  # fmt: skip
    assert not run_stages({"demos": Load(str(other))}, CARTPOLE).reports["demos"].cached


@pytest.mark.parametrize(("path", "message"), [("nowhere.npz", "no such file"), ("???", "is missing")])
def test_a_file_that_is_not_there_is_refused(path, message, run_stages):
    with pytest.raises(Refused, match=message):
        run_stages({"demos": Load(path)}, CARTPOLE)


def test_objects_pickled_in_a_file_are_not_brought_to_life(tmp_path, run_stages):
    path = tmp_path / "evil.npz"
    np.savez(path, obs=np.array([object()]), actions=np.zeros(1), rewards=np.ones(1), episode_starts=np.ones(1))
    with pytest.raises(Refused):
        run_stages({"demos": Load(str(path))}, CARTPOLE)


def test_a_file_that_cannot_be_read_is_refused_before_anything_is_made(counting, tmp_path):
    (tmp_path / "notes.npz").write_text("no data")
    with pytest.raises(Refused, match="in no form that is known"):
        Load(str(tmp_path / "notes.npz")).check_wiring("demos", counting.spaces(), [])
