import itertools
import json
import os
import shutil

import numpy as np
import pytest
import torch

from lfd.agents.actor_critic import Policy
from lfd.agents.q import QNet
from lfd.algos.bc import Cloning
from lfd.algos.dqn import DQN
from lfd.data import Dataset
from lfd.envs.sync import Sync
from lfd.errors import Interrupted, LabelsNeeded, Refused
from lfd.experts import Expert, Queue, Scripted
from lfd.labels import DATA, all_labels
from lfd.learner import Algo, Phase, Target
from lfd.sources.interactive import Interactive
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.experts import Later, Script
from lfd.stages.fit import Fit
from lfd.stages.recipe import Checks, Stop

COLUMNS = frozenset({"obs", "action"})
ONES = {"expert": Scripted("tests.experts:ones")}


@pytest.fixture
def opened(open_source, counting, tmp_path):
    """An interactive source whose expert always takes action 1, on the environment that counts."""

    def open_it(source=None, env=counting, experts=ONES, agent=None, **world):
        agent = agent or zeros(env)
        more = {"columns": COLUMNS, "experts": experts, "kept": tmp_path / "demos"} | world
        return open_source(source or Interactive(num_envs=2, transitions=20), agent, env, **more)

    return open_it


def zeros(env):
    """A learner that always takes action 0."""
    agent = Policy([4]).build(env.spaces())
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.zero_()
        agent.nets["policy"].net.head[-1].bias.copy_(torch.tensor([9.0, -9.0]))
    return agent


def rounds(folder):
    return [Dataset.open(path / DATA) for path in sorted(folder.glob("round-*"))]


def test_whoever_drives_what_is_stored_is_the_experts(opened, tmp_path, monkeypatch):
    done = []
    step = Sync.step

    def watched(self, action):
        done.append(action[[single.running for single in self.singles()]])
        return step(self, action)

    monkeypatch.setattr(Sync, "step", watched)
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


def test_a_round_has_at_least_so_many_episodes_and_states(opened, tmp_path):
    opened(Interactive(num_envs=2, episodes=7, transitions=1)).begin_round()
    opened(Interactive(num_envs=2, episodes=1, transitions=50), kept=tmp_path / "other").begin_round()
    opened(Interactive(num_envs=2, episodes=9, transitions=50, most=11), kept=tmp_path / "third").begin_round()
    found = [rounds(tmp_path / name)[0] for name in ("demos", "other", "third")]
    assert len(found[0].starts) == 8 and len(found[1]) >= 50 and len(found[2]) == 11


def test_all_rounds_and_what_was_given_are_drawn_from(opened, tmp_path, counting, run_stages):
    given = run_stages({"given": Collect("random", transitions=30)}, counting).product("given")
    source = Interactive(num_envs=2, given="given", beta={"start": 1.0, "end": 0.0, "steps": 2}, transitions=30)
    stream = opened(source, datasets={"given": given}, batch=4000)
    stream.begin_round()
    stream.begin_round()
    assert sorted(path.name for path in (tmp_path / "demos").glob("round-*")) == ["round-001", "round-002"]
    assert [data.passport["made_by"]["beta"] for data in rounds(tmp_path / "demos")] == [0.5, 0.0]
    everything = [given, *rounds(tmp_path / "demos")]
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
def test_it_goes_on_where_it_was(small, opened, tmp_path, monkeypatch):
    if not small:
        monkeypatch.setattr("lfd.sources.table.RESIDENT", 0)
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


def test_a_dict_is_seen_and_kept(opened, counting_dict, tmp_path):
    stream = opened(env=counting_dict)
    stream.begin_round()
    assert set(stream.next().obs) == {"name", "t"}


def test_statistics_come_with_each_round(opened, counting):
    agent = zeros(counting)
    agent.normalise_observations()
    stream = opened(agent=agent)
    stream.begin_round()
    assert float(agent.normalisers["obs"].count) == len(stream._tables) > 0


def test_members_have_rounds_of_their_own(opened, counting, tmp_path):
    stream = opened(agent=[zeros(counting), zeros(counting)])
    stream.begin_round()
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


def test_a_queue_stops_with_one_line_and_goes_on_with_the_labels(opened, tmp_path):
    folder = tmp_path / "demos" / "round-000"
    source = Interactive(num_envs=4, transitions=10, most=12)
    with pytest.raises(LabelsNeeded, match=f"round 0 waits for 1. of 1. labels; `python scripts/label.py {folder}`"):
        opened(source, experts=QUEUE).begin_round()
    visited = Dataset.open(folder / "visited" / "data.hdf5")
    assert not np.asarray(visited.columns["actions"]).any()
    answers(folder)
    stream = opened(source, experts=QUEUE)
    stream.begin_round()
    (data,) = rounds(tmp_path / "demos")
    assert (np.asarray(data.columns["actions"]) == 1).all()
    assert np.array_equal(data.columns["observations"], visited.columns["observations"])
    assert (stream.next().action == 1).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"round": 3}, "is of round 3, round 0 is asked for"),
        ({"request": "x"}, "answers another request"),
        ({"labels": {"9999": 1}}, "state '9999' was not asked for"),
        ({"labels": {"-1": 1}}, "state '-1' was not asked for"),
        ({"labels": {"0": [1, 0]}}, r"label of state 0 is \[1, 0\]; an integer from 0 to 1 is expected"),
        ({"labels": {"0": 2}}, "label of state 0 is 2"),
        ({"labels": {"0": 0.5}}, "label of state 0 is 0.5"),
        ({"labels": [1, 1]}, "labels is no object"),
    ],
)
def test_labels_that_nobody_asked_for_are_refused(changes, said, opened, tmp_path):
    source, folder = Interactive(num_envs=2, transitions=10), tmp_path / "demos" / "round-000"
    with pytest.raises(LabelsNeeded):
        opened(source, experts=QUEUE).begin_round()
    answers(folder, **changes)
    with pytest.raises(Refused, match=said):
        opened(source, experts=QUEUE).begin_round()
    answers(folder)
    opened(source, experts=QUEUE).begin_round()


def test_some_labels_are_not_enough(opened, tmp_path):
    source, folder = Interactive(num_envs=2, transitions=10), tmp_path / "demos" / "round-000"
    with pytest.raises(LabelsNeeded):
        opened(source, experts=QUEUE).begin_round()
    answers(folder, labels={"0": 1, "1": 0})
    with pytest.raises(LabelsNeeded, match="waits for"):
        opened(source, experts=QUEUE).begin_round()
    (folder / "labels.json").write_text("{")
    with pytest.raises(Refused, match="not whole JSON"):
        all_labels(folder)


def test_who_is_not_there_does_not_drive(opened, tmp_path):
    with pytest.raises(LabelsNeeded):
        opened(Interactive(beta=1.0), experts=QUEUE).begin_round()
    visited = Dataset.open(tmp_path / "demos" / "round-000" / "visited" / "data.hdf5")
    assert visited.passport["made_by"]["beta"] == 0.0 and not np.asarray(visited.columns["actions"]).any()


def test_members_do_not_ask_one_person(opened, counting):
    with pytest.raises(Refused, match="a person is asked by one learner, there are 2; set members=1"):
        opened(agent=[zeros(counting), zeros(counting)], experts=QUEUE)


def test_a_continuous_label_is_within_the_bounds(opened, counting_continuous, tmp_path):
    source, folder = Interactive(num_envs=2, transitions=10), tmp_path / "demos" / "round-000"
    agent = Policy([4]).build(counting_continuous.spaces())
    with pytest.raises(LabelsNeeded):
        opened(source, counting_continuous, QUEUE, agent).begin_round()
    answers(folder, labels={"0": [2.5]})
    with pytest.raises(Refused, match=r"label of state 0 is \[2.5\]; 1 numbers from \[-2.\] to \[2.\] is expected"):
        opened(source, counting_continuous, QUEUE, agent).begin_round()


# A person at the keyboard


class Person(Expert):
    """Answers 1, 0, 1, 0, … and has enough of it after so many answers."""

    is_person = True

    def __init__(self, patience):
        self.patience, self.asked = patience, 0

    def policy(self, env, device, snapshot=None, noise=None):
        def policy(obs):
            if self.asked == self.patience:
                raise Interrupted("stopped at the keyboard")
            self.asked += 1
            return np.array([self.asked % 2])

        return policy


def test_what_a_person_answered_is_not_asked_again(opened, tmp_path):
    source = Interactive(transitions=6, episodes=1, most=6)
    one = Person(100)
    opened(source, experts={"expert": one}, kept=tmp_path / "straight").begin_round()
    expected = rounds(tmp_path / "straight")[0]
    with pytest.raises(Interrupted):
        opened(source, experts={"expert": Person(4)}).begin_round()
    other = Person(100)
    other.asked = 4  # so that it goes on as the first one did
    opened(source, experts={"expert": other}).begin_round()
    assert other.asked == one.asked
    found = rounds(tmp_path / "demos")[0]
    assert np.array_equal(found.columns["actions"], expected.columns["actions"])


def test_a_round_stops_when_it_is_asked_to(opened):
    with pytest.raises(Interrupted, match="while a round was played"):
        opened(stopping=lambda: True).begin_round()


# In a pipeline


def algo(**source):
    return Algo(
        Policy([8]), {"bc": Cloning("rounds")}, {"rounds": Interactive(num_envs=2, transitions=20, **source)},
        {"clone": Phase(["bc"], steps=5)}, batch=16,
    )  # fmt: skip


def test_it_ends_after_so_many_rounds(counting, run_stages):
    fit = Fit(algo(), 1000, check=Checks(0), stop=Stop(rounds=3))
    pipeline = run_stages({"expert": Script("tests.experts:ones"), "learn": fit}, counting)
    assert pipeline.reports["learn"].summary["stopped_by"] == "rounds"
    assert pipeline.reports["learn"].summary["gradient_steps"] == 15
    folder = pipeline.product("learn").folder / "rounds"
    assert sorted(path.name for path in folder.glob("round-*")) == ["round-000", "round-001", "round-002"]
    assert os.readlink(folder / "latest") == "round-002"


def test_who_drove_in_a_round_can_be_asked_for(counting, run_stages):
    fit = Fit(algo(), 1000, check=Checks(0), stop=Stop(rounds=3))
    score = Evaluate(["learn", "learn@0", "learn@2"], episodes=2)
    pipeline = run_stages({"expert": Script("tests.experts:ones"), "learn": fit, "score": score}, counting)
    first, third = (pipeline.product("learn").agents(index)[0] for index in (0, 2))
    new = first.state_dict(), third.state_dict(), pipeline.product("learn").agents()[0].state_dict()
    assert not any(
        torch.equal(a["nets.policy.net.head.0.weight"], b["nets.policy.net.head.0.weight"])
        for a, b in itertools.combinations(new, 2)
    )


def test_a_queue_in_a_pipeline_goes_on_by_the_same_command(counting, run_stages, tmp_path):
    stages = {"expert": Later(), "learn": Fit(algo(), 1000, check=Checks(0), stop=Stop(rounds=2), boundary=1)}
    for _ in range(2):
        with pytest.raises(LabelsNeeded):
            run_stages(stages, counting)
        (folder,) = (path for path in tmp_path.rglob("round-*") if not (path / DATA).exists())
        answers(folder)
    pipeline = run_stages(stages, counting)
    assert pipeline.reports["learn"].summary["gradient_steps"] == 10


def test_what_does_not_fit_together_is_refused(counting, run_stages):
    queue, script = Later(), Script("tests.experts:ones")
    with pytest.raises(Refused, match="demos: needs an actor, which 'expert' .later. does not give"):
        run_stages({"expert": queue, "demos": Collect("expert", transitions=5)}, counting)
    with pytest.raises(Refused, match="beta of an interactive source: 1.5 is outside"):
        Interactive(beta=1.5)
    with pytest.raises(Refused, match="episodes of an interactive source is 0"):
        Interactive(episodes=0)
    td = Algo(QNet([8]), {"td": DQN("rounds")}, {"rounds": Interactive()}, targets={"q": Target()})
    with pytest.raises(Refused, match="needs the columns discount, next_obs, reward, which 'rounds'"):
        run_stages({"expert": script, "learn": Fit(td, 5)}, counting)
    flat = Algo(Policy([8]), {"bc": Cloning("rounds")}, {"rounds": Interactive()})
    with pytest.raises(Refused, match="collects when a round begins; add phases"):
        run_stages({"expert": script, "learn": Fit(flat, 5)}, counting)


@pytest.mark.parametrize("most", [3, 7])
def test_a_round_plays_no_further_than_it_keeps(opened, tmp_path, most):
    stream = opened(Interactive(num_envs=3, most=most))
    stream.begin_round()
    assert len(rounds(tmp_path / "demos")[0]) == most and stream.env_steps <= 3 * most
