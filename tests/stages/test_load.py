"""Datasets from files: amount, time limits, keys, refusals."""

import h5py
import numpy as np
import pytest

from lfd.data import read
from lfd.envs import Gym
from lfd.errors import UserError
from lfd.hardware import Hardware
from lfd.log import RunLog
from lfd.pipeline import TrainingPipeline
from lfd.stages.load import Load
from lfd.store.artifacts import Store

CARTPOLE, PENDULUM = Gym("CartPole-v1"), Gym("Pendulum-v1")


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


def test_load_distinguishes_time_limits_from_terminations(file, run_stages):
    data = run_stages({"demos": Load(str(file))}, CARTPOLE).product("demos")
    assert data.columns["timeouts"][data.ends - 1].tolist()[0] and not data.columns["terminals"][data.ends - 1][0]
    assert data.columns["terminals"][data.ends - 1][1]


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_load_without_rewards_prints_a_line(file, run_stages, capsys, reward):
    with np.load(file) as arrays:
        np.savez(file, **{**arrays, "rewards": np.full(520, reward)})
    run_stages({"demos": Load(str(file))}, CARTPOLE)
    assert ("demos: all rewards of expert.npz are 0" in capsys.readouterr().err) == (reward == 0)


def test_load_transitions_are_exact_in_number(file, run_stages):
    assert len(run_stages({"demos": Load(str(file), transitions=30)}, CARTPOLE).product("demos")) == 30


def test_load_episodes_of_min_return_are_exact_in_number(file, run_stages):
    data = run_stages({"demos": Load(str(file), episodes=1, min_return=100.0)}, CARTPOLE).product("demos")
    assert data.returns().tolist() == [500.0]


def test_load_more_than_the_file_has_is_refused(file, run_stages):
    with pytest.raises(UserError, match="has only"):
        run_stages({"demos": Load(str(file), episodes=2, min_return=100.0)}, CARTPOLE)


def test_load_unreachable_min_return_is_refused(file, run_stages):
    with pytest.raises(UserError, match=r"dataset.min_return=501: no episode of .*expert.npz returns so much"):
        run_stages({"demos": Load(str(file), min_return=501.0)}, CARTPOLE)


@pytest.mark.parametrize(("column", "name"), [("obs", "observations"), ("rewards", "rewards")])
def test_load_nan_is_refused_with_its_place(file, run_stages, column, name):
    with np.load(file) as arrays:
        values = arrays[column].astype(float)
        values[507] = np.nan
        np.savez(file, **{**arrays, column: values})
    with pytest.raises(UserError, match=rf"expert.npz, episode 1: {name} of step 7: expected finite numbers"):
        run_stages({"demos": Load(str(file))}, CARTPOLE)


def test_load_key_depends_on_content_and_not_on_the_path(file, run_stages, tmp_path, monkeypatch):
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


@pytest.mark.parametrize(
    ("path", "message"), [("nowhere.npz", "there is no such file"), ("???", "expected a value, got none")]
)
def test_load_missing_file_is_refused(path, message, run_stages):
    with pytest.raises(UserError, match=message):
        run_stages({"demos": Load(path)}, CARTPOLE)


def test_load_does_not_unpickle_objects(tmp_path, run_stages):
    path = tmp_path / "evil.npz"
    np.savez(path, obs=np.array([object()]), actions=np.zeros(1), rewards=np.ones(1), episode_starts=np.ones(1))
    with pytest.raises(UserError, match="allow_pickle=False"):
        run_stages({"demos": Load(str(path))}, CARTPOLE)


def test_load_unreadable_file_is_refused_before_anything_is_made(counting, tmp_path):
    (tmp_path / "notes.npz").write_text("no data")
    with pytest.raises(UserError, match="expected a known format"):
        Load(str(tmp_path / "notes.npz")).inspect_inputs(counting, tmp_path)


# Before anything is made


def d4rl(path, observations=None, actions=None, **columns):
    draw = np.random.default_rng(0)
    given = {
        "observations": draw.normal(size=(60, 3)).astype(np.float32) if observations is None else observations,
        "actions": draw.uniform(-2, 2, (60, 1)) if actions is None else actions, "rewards": np.ones(60),
        "terminals": np.zeros(60, bool), "timeouts": np.arange(60) % 20 == 19,
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        for name, column in (given | columns).items():
            if column is not None:
                file[name] = column
    return path


def test_load_without_timeouts_uses_the_time_limit_of_the_environment(tmp_path, run_stages):
    path = tmp_path / "v0.hdf5"
    draw = np.random.default_rng(0)
    d4rl(
        path, draw.normal(size=(530, 4)), np.zeros(530, int), rewards=np.ones(530), timeouts=None,
        terminals=np.arange(530) == 529,
    )  # fmt: skip
    data = run_stages({"demos": Load(str(path))}, CARTPOLE).product("demos")
    # Of the episode of 500 steps the last has no successor.
    assert (data.ends - data.starts).tolist() == [499, 30]
    assert data.columns["timeouts"][498] and data.columns["terminals"][-1]


@pytest.mark.parametrize("clip_actions", [False, True])
def test_load_actions_beyond_the_bounds_are_refused_or_clipped(tmp_path, run_stages, capsys, clip_actions):
    actions = np.random.default_rng(1).uniform(-2, 2, (60, 1))
    actions[[3, 33]], actions[5] = 7.5, 2 + 1e-7
    load = Load(str(d4rl(tmp_path / "a.hdf5", actions=actions)), clip_actions=clip_actions)
    if not clip_actions:
        with pytest.raises(UserError, match="2 of 60 actions lie beyond the bounds .*dataset.clip_actions=true"):
            run_stages({"demos": load}, PENDULUM)
        assert not (tmp_path / "store").exists()
        return
    data = run_stages({"demos": load}, PENDULUM).product("demos")
    assert data.columns["actions"].max() == 2.0 and data.metadata["audit"]["actions_out_of_bounds"] == 0
    assert "demos: a.hdf5: 2 of 60 actions lie beyond the bounds and are clipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lengths", "limit", "told"),
    [
        ([200] * 20, None, "20 of 20 episodes end after exactly 200 steps, CartPole-v1 cuts them off after 500"),
        ([200] * 20, 200, ""),
        ([12, 30, 31, 80], None, ""),
        ([600, 600], 600, ""),
    ],
)
def test_load_of_equally_long_episodes_prints_a_line_about_the_time_limit(
    tmp_path, run_stages, capsys, lengths, limit, told
):
    count, starts = sum(lengths), np.zeros(sum(lengths), bool)
    starts[np.cumsum([0, *lengths[:-1]])] = True
    obs = np.random.default_rng(0).normal(size=(count, 4))
    np.savez(
        tmp_path / "a.npz", obs=obs, actions=np.zeros((count, 1), int), rewards=np.ones(count), episode_starts=starts
    )
    run_stages({"demos": Load(str(tmp_path / "a.npz"), max_episode_steps=limit)}, CARTPOLE)
    err = capsys.readouterr().err
    assert (told in err) if told else ("time limit" not in err and "cuts them off" not in err and "cut off" not in err)


def test_load_of_another_time_limit_prints_a_line(tmp_path, run_stages, capsys):
    run_stages({"demos": Load(str(d4rl(tmp_path / "a.hdf5")))}, PENDULUM)
    assert (
        "its episodes were cut off after 20 steps, those of Pendulum-v1 after 200; returns differ"
        in capsys.readouterr().err
    )


def reads(monkeypatch):
    """The paths that the readers were given."""
    found = []

    def counted(path, *more):
        found.append(path)
        return read(path, *more)

    monkeypatch.setattr("lfd.data.survey.read", counted)
    monkeypatch.setattr("lfd.stages.load.read", counted)
    return found


def test_load_reads_a_file_once_and_caches_its_survey(tmp_path, run_stages, monkeypatch):
    found, path = reads(monkeypatch), d4rl(tmp_path / "a.hdf5")
    for expected in (1, 1):
        run_stages({"demos": Load(str(path))}, None)
        assert len(found) == expected
    # Other settings look anew; a large file is looked through and then copied.
    monkeypatch.setattr("lfd.data.survey._MAX_HELD_BYTES", 100)
    assert len(run_stages({"demos": Load(str(path), episodes=2)}, None).product("demos")) == 38 and len(found) == 3


def test_load_keeps_infos_of_all_episodes(tmp_path, run_stages):
    path = d4rl(tmp_path / "a.hdf5", **{"infos/height": np.arange(60.0), "infos/short": np.zeros(3)})
    data = run_stages({"demos": Load(str(path))}, None).product("demos")
    assert [name for name in data.columns if name.startswith("infos")] == ["infos/height"]


@pytest.mark.parametrize("form", ["folder", "file", "copied away"])
def test_load_of_lfd_data_keeps_its_metadata(tmp_path, run_stages, form):
    over = {"terminals": np.arange(60) % 20 == 19, "timeouts": np.zeros(60, bool)}
    made = run_stages({"demos": Load(str(d4rl(tmp_path / "first.hdf5", **over)))}, None)
    folder = made.store.find(made.keys["demos"])
    path = {"folder": folder, "file": folder / "data.hdf5", "copied away": tmp_path / "gift.hdf5"}[form]
    if form == "copied away":
        path.write_bytes((folder / "data.hdf5").read_bytes())
    again = run_stages({"demos": Load(str(path))}, None, store="other").product("demos")
    first = made.product("demos")
    assert again.metadata["sha256"] == first.metadata["sha256"]
    assert again.metadata["made_by"] == {"file": "gift.hdf5" if form == "copied away" else "first.hdf5"}


def test_load_without_next_observations_is_refused(tmp_path, run_stages):
    path = d4rl(tmp_path / "a.hdf5", timeouts=np.ones(60, bool))
    with pytest.raises(UserError, match="has no transition with a next observation"):
        run_stages({"demos": Load(str(path))}, None)


def test_load_of_a_file_that_changed_after_the_check_is_refused(tmp_path):
    path, store = d4rl(tmp_path / "a.hdf5"), Store(tmp_path / "store")
    pipeline = TrainingPipeline({"demos": Load(str(path))}, ["demos"], None, Hardware(), store)
    d4rl(path, rewards=np.zeros(60))
    with pytest.raises(UserError, match="has changed since it was checked"):
        pipeline.run(RunLog(tmp_path / "metrics.jsonl"))
