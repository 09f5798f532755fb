"""The interactive source: who acts, what is stored, labels of people and of queues, and exact resumption."""

import itertools
import json
import os
import shutil

import numpy as np
import pytest
import torch

from lfd.algos.bc import BC
from lfd.algos.dqn import DQN
from lfd.data import Dataset
from lfd.envs.sync_vec_env import SyncVecEnv
from lfd.errors import Interrupted, LabelsNeeded, UserError
from lfd.experts.experts import Expert, Queue, Scripted
from lfd.experts.labels import ROUND_DATA, read_all_labels
from lfd.learner.learner import Algo, Phase
from lfd.learner.optim import Target
from lfd.sources.interactive import Interactive
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.experts import QueueExpert, Script
from lfd.stages.fit.config import EvalConfig, Stop
from lfd.stages.fit.stage import Fit
from tests import composed

COLUMNS = frozenset({"obs", "action"})
ONES = {"expert": Scripted("tests.experts:ones")}


@pytest.fixture
def opened(open_source, counting, tmp_path):
    """An interactive source whose expert always takes action 1, on the environment that counts."""

    def open_it(source=None, env=counting, products=ONES, agent=None, **context):
        agent = agent or zeros(env)
        more = {"columns": COLUMNS, "products": products, "product_folder": tmp_path / "demos"} | context
        return open_source(source or Interactive(num_envs=2, transitions=20), agent, env, **more)

    return open_it


def zeros(env):
    """A learner that always takes action 0."""
    agent = composed.policy([4]).build(env.spaces())
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.zero_()
        agent.nets["policy"].net.head[-1].bias.copy_(torch.tensor([9.0, -9.0]))
    return agent


def rounds(folder):
    return [Dataset.open(path / ROUND_DATA) for path in sorted(folder.glob("round-*"))]


def test_stored_actions_are_the_experts_for_every_beta(opened, tmp_path, monkeypatch):
    done = []
    step = SyncVecEnv.step

    def watched(self, action):
        done.append(action[[handle.running for handle in self.handles()]])
        return step(self, action)

    monkeypatch.setattr(SyncVecEnv, "step", watched)
    for beta, shares in [(0.0, (0, 0)), (1.0, (1, 1)), (0.5, (0.4, 0.6))]:
        done.clear()
        shutil.rmtree(tmp_path / "demos", ignore_errors=True)
        stream = opened(Interactive(num_envs=8, beta=beta, transitions=1000))
        stream.begin_round()
        (data,) = rounds(tmp_path / "demos")
        assert (np.asarray(data.columns["actions"]) == 1).all()
        driven = np.concatenate(done)
        assert shares[0] <= driven.mean() <= shares[1]
    # Each environment is drawn for on its own: in half of the steps some are driven by the expert and some are not.
    assert 0.9 < np.mean([0 < row.mean() < 1 for row in done if len(row) > 5])


def test_round_has_the_minimum_episodes_and_states_up_to_the_maximum(opened, tmp_path):
    opened(Interactive(num_envs=2, episodes=7, transitions=1)).begin_round()
    opened(Interactive(num_envs=2, episodes=1, transitions=50), product_folder=tmp_path / "other").begin_round()
    opened(
        Interactive(num_envs=2, episodes=9, transitions=50, max_transitions=11), product_folder=tmp_path / "third"
    ).begin_round()
    found = [rounds(tmp_path / name)[0] for name in ("demos", "other", "third")]
    assert len(found[0].starts) == 8 and len(found[1]) >= 50 and len(found[2]) == 11


def test_batches_are_drawn_from_the_initial_dataset_and_all_rounds(opened, tmp_path, counting, run_stages):
    initial = run_stages({"initial": Collect("random", transitions=30)}, counting).product("initial")
    source = Interactive(
        num_envs=2, initial_dataset="initial", beta={"start": 1.0, "end": 0.0, "over": 2}, transitions=30
    )
    stream = opened(source, products=ONES | {"initial": initial}, batch=4000)
    stream.begin_round()
    stream.begin_round()
    assert sorted(path.name for path in (tmp_path / "demos").glob("round-*")) == ["round-001", "round-002"]
    assert [data.metadata["made_by"]["beta"] for data in rounds(tmp_path / "demos")] == [0.5, 0.0]
    everything = [initial, *rounds(tmp_path / "demos")]
    batch = stream.next()
    drawn = {(*obs, action) for obs, action in zip(batch.obs.tolist(), batch.action.tolist(), strict=True)}
    held = {
        (*obs, action)
        for data in everything
        for obs, action in zip(data.columns["observations"].tolist(), data.columns["actions"].tolist(), strict=True)
    }
    assert drawn == held
    assert stream.env_steps == sum(len(data) for data in everything[1:])
    assert stream.epoch_steps() == 1


@pytest.mark.parametrize("small", [True, False], ids=["on the device", "mapped"])
def test_restored_interactive_source_continues_with_the_same_batches(small, opened, tmp_path, monkeypatch):
    if not small:
        monkeypatch.setattr("lfd.sources.columns.MAX_DEVICE_BYTES", 0)
    stream = opened()
    stream.begin_round()
    for _ in range(3):
        stream.next()
    saved = stream.save()
    expected = [stream.next() for _ in range(2)]
    stream.begin_round()
    expected.append(stream.next())
    again = opened()
    again.restore(*saved)
    assert again.env_steps == saved[1]["env_steps"] > 0
    found = [again.next() for _ in range(2)]
    again.begin_round()
    found.append(again.next())
    assert again.env_steps == stream.env_steps
    assert again.save()[1]["round"] == 2
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.obs, other.obs) and torch.equal(one.action, other.action)


def test_interactive_source_stores_dict_observations(opened, counting_dict, tmp_path):
    stream = opened(env=counting_dict)
    stream.begin_round()
    assert set(stream.next().obs) == {"name", "t"}


def test_begin_round_updates_the_normalizer(opened, counting):
    agent = zeros(counting)
    agent.normalize_observations()
    stream = opened(agent=agent)
    stream.begin_round()
    assert float(agent.normalizers["obs"].count) == len(stream._columns) > 0


def test_members_store_separate_rounds(opened, counting, tmp_path):
    stream = opened(agent=[zeros(counting), zeros(counting)])
    for collector in stream.collectors:
        collector.begin_round()
    assert stream.next().obs.shape == (2, 64, 2)
    assert sorted(str(path.relative_to(tmp_path / "demos")) for path in (tmp_path / "demos").glob("*/round-*")) == [
        "0/round-000", "1/round-000",
    ]  # fmt: skip


# A queue


QUEUE = {"expert": Queue()}


def answers(folder, **changes):
    """Labels of all states of a request: the action 1."""
    asked = json.loads((folder / "request.json").read_text())
    content = {
        "round": asked["round"],
        "request": asked["request"],
        "labels": {str(number): 1 for number in range(asked["states"])},
    }
    (folder / "labels.json").write_text(json.dumps(content | changes))


def test_queue_stops_for_labels_and_continues_with_them(opened, tmp_path):
    folder = tmp_path / "demos" / "round-000"
    source = Interactive(num_envs=4, transitions=10, max_transitions=12)
    with pytest.raises(LabelsNeeded, match=f"round 0 waits for 1. of 1. labels; label them with `.* {folder}`"):
        opened(source, products=QUEUE).begin_round()
    visited = Dataset.open(folder / "visited" / "data.hdf5")
    assert not np.asarray(visited.columns["actions"]).any()
    answers(folder)
    stream = opened(source, products=QUEUE)
    stream.begin_round()
    (data,) = rounds(tmp_path / "demos")
    assert (np.asarray(data.columns["actions"]) == 1).all()
    assert np.array_equal(data.columns["observations"], visited.columns["observations"])
    assert (stream.next().action == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"round": 3}, "round: expected 0, got 3"),
        ({"request": "x"}, "request: expected .*, got 'x'"),
        ({"labels": {"9999": 1}}, "expected states from 0 to .*, got '9999'"),
        ({"labels": {"-1": 1}}, "expected states from 0 to .*, got '-1'"),
        ({"labels": {"0": [1, 0]}}, r"label of state 0: expected an integer from 0 to 1, got \[1, 0\]"),
        ({"labels": {"0": 2}}, "label of state 0: expected .*, got 2"),
        ({"labels": {"0": 0.5}}, "label of state 0: expected .*, got 0.5"),
        ({"labels": [1, 1]}, "labels: expected {number of a state: action}, got"),
    ],
)
def test_labels_that_do_not_fit_the_request_are_refused(changes, message, opened, tmp_path):
    source, folder = Interactive(num_envs=2, transitions=10), tmp_path / "demos" / "round-000"
    with pytest.raises(LabelsNeeded, match="round 0 waits for"):
        opened(source, products=QUEUE).begin_round()
    answers(folder, **changes)
    with pytest.raises(UserError, match=message):
        opened(source, products=QUEUE).begin_round()
    answers(folder)
    opened(source, products=QUEUE).begin_round()


def test_queue_with_some_labels_still_waits(opened, tmp_path):
    source, folder = Interactive(num_envs=2, transitions=10), tmp_path / "demos" / "round-000"
    with pytest.raises(LabelsNeeded, match="round 0 waits for"):
        opened(source, products=QUEUE).begin_round()
    answers(folder, labels={"0": 1, "1": 0})
    with pytest.raises(LabelsNeeded, match="waits for"):
        opened(source, products=QUEUE).begin_round()
    (folder / "labels.json").write_text("{")
    with pytest.raises(UserError, match="expected JSON, got a damaged file"):
        read_all_labels(folder)


def test_queue_never_acts_whatever_beta_is(opened, tmp_path):
    with pytest.raises(LabelsNeeded, match="round 0 waits for"):
        opened(Interactive(beta=1.0), products=QUEUE).begin_round()
    visited = Dataset.open(tmp_path / "demos" / "round-000" / "visited" / "data.hdf5")
    assert visited.metadata["made_by"]["beta"] == 0.0 and not np.asarray(visited.columns["actions"]).any()


def test_several_members_with_a_person_are_refused(opened, counting):
    with pytest.raises(UserError, match="expected one member, as its expert is a person, got 2; set members=1"):
        opened(agent=[zeros(counting), zeros(counting)], products=QUEUE)


def test_continuous_label_outside_the_bounds_is_refused(opened, counting_continuous, tmp_path):
    source, folder = Interactive(num_envs=2, transitions=10), tmp_path / "demos" / "round-000"
    agent = composed.policy([4]).build(counting_continuous.spaces())
    with pytest.raises(LabelsNeeded, match="round 0 waits for"):
        opened(source, counting_continuous, QUEUE, agent).begin_round()
    answers(folder, labels={"0": [2.5]})
    with pytest.raises(UserError, match=r"label of state 0: expected 1 numbers from \[-2.\] to \[2.\], got \[2.5\]"):
        opened(source, counting_continuous, QUEUE, agent).begin_round()


# A person at the keyboard


class Person(Expert):
    """Answers 1, 0, 1, 0, … and interrupts the run after `patience` answers."""

    is_person = True

    def __init__(self, patience):
        self.patience, self.asked = patience, 0

    def policy(self, env, device, snapshot=None, rng=None):
        def policy(obs):
            if self.asked == self.patience:
                raise Interrupted("stopped at the keyboard")
            self.asked += 1
            return np.array([self.asked % 2])

        return policy


def test_resumed_round_does_not_ask_for_saved_answers(opened, tmp_path):
    source = Interactive(transitions=6, episodes=1, max_transitions=6)
    one = Person(100)
    opened(source, products={"expert": one}, product_folder=tmp_path / "straight").begin_round()
    expected = rounds(tmp_path / "straight")[0]
    with pytest.raises(Interrupted, match="stopped at the keyboard"):
        opened(source, products={"expert": Person(4)}).begin_round()
    other = Person(100)
    other.asked = 4  # so that it goes on as the first one did
    opened(source, products={"expert": other}).begin_round()
    assert other.asked == one.asked
    found = rounds(tmp_path / "demos")[0]
    assert np.array_equal(found.columns["actions"], expected.columns["actions"])


def test_round_stops_between_steps_on_request(opened):
    with pytest.raises(Interrupted, match="while episodes were played"):
        opened(stopping=lambda: True).begin_round()


# In a pipeline


def algo(**source):
    return Algo(
        composed.policy([8]), {"bc": BC("rounds")}, {"rounds": Interactive(num_envs=2, transitions=20, **source)},
        {"clone": Phase(["bc"], steps=5)}, batch_size=16,
    )  # fmt: skip


def test_fit_ends_after_the_configured_rounds(counting, run_stages):
    fit = Fit(algo(), 1000, eval=EvalConfig(0), stop=Stop(rounds=3))
    pipeline = run_stages({"expert": Script("tests.experts:ones"), "learn": fit}, counting)
    assert pipeline.reports["learn"].summary["stopped_by"] == "rounds"
    assert pipeline.reports["learn"].summary["gradient_steps"] == 15
    folder = pipeline.product("learn").folder / "rounds"
    assert sorted(path.name for path in folder.glob("round-*")) == ["round-000", "round-001", "round-002"]
    assert os.readlink(folder / "latest") == "round-002"


def test_snapshot_of_a_round_is_the_agent_that_acted_in_it(counting, run_stages):
    fit = Fit(algo(), 1000, eval=EvalConfig(0), stop=Stop(rounds=3))
    score = Evaluate(["learn", "learn@0", "learn@2"], episodes=2)
    pipeline = run_stages({"expert": Script("tests.experts:ones"), "learn": fit, "score": score}, counting)
    first, third = (pipeline.product("learn").agents(index)[0] for index in (0, 2))
    new = first.state_dict(), third.state_dict(), pipeline.product("learn").agents()[0].state_dict()
    assert not any(
        torch.equal(a["nets.policy.net.head.0.weight"], b["nets.policy.net.head.0.weight"])
        for a, b in itertools.combinations(new, 2)
    )


def test_pipeline_with_a_queue_continues_when_repeated(counting, run_stages, tmp_path):
    stages = {
        "expert": QueueExpert(),
        "learn": Fit(algo(), 1000, eval=EvalConfig(0), stop=Stop(rounds=2), reset_every=1),
    }
    for _ in range(2):
        with pytest.raises(LabelsNeeded, match="waits for"):
            run_stages(stages, counting)
        (folder,) = (path for path in tmp_path.rglob("round-*") if not (path / ROUND_DATA).exists())
        answers(folder)
    pipeline = run_stages(stages, counting)
    assert pipeline.reports["learn"].summary["gradient_steps"] == 10


def test_interactive_source_that_does_not_fit_is_refused(counting, run_stages):
    queue, script = QueueExpert(), Script("tests.experts:ones")
    with pytest.raises(UserError, match="demos: needs an actor, which 'expert' .queue. does not provide"):
        run_stages({"expert": queue, "demos": Collect("expert", transitions=5)}, counting)
    with pytest.raises(UserError, match="^beta: expected a value in .*, got 1.5"):
        Interactive(beta=1.5)
    with pytest.raises(UserError, match="^episodes: expected 1 or more, got 0$"):
        Interactive(episodes=0)
    td = Algo(composed.q_net([8]), {"td": DQN("rounds")}, {"rounds": Interactive()}, targets={"critic": Target()})
    with pytest.raises(UserError, match="needs the columns discount, next_obs, reward, which 'rounds'"):
        run_stages({"expert": script, "learn": Fit(td, 5)}, counting)
    flat = Algo(composed.policy([8]), {"bc": BC("rounds")}, {"rounds": Interactive()})
    with pytest.raises(
        UserError, match="algo.phases: expected phases for the interactive source 'rounds', .*; add a phase"
    ):
        run_stages({"expert": script, "learn": Fit(flat, 5)}, counting)


@pytest.mark.parametrize("limit", [3, 7])
def test_round_takes_no_steps_beyond_max_transitions(opened, tmp_path, limit):
    stream = opened(Interactive(num_envs=3, max_transitions=limit))
    stream.begin_round()
    assert len(rounds(tmp_path / "demos")[0]) == limit and stream.env_steps <= 3 * limit
