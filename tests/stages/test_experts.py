"""Experts that the run does not train: earlier policies, scripts, people, the bot of BabyAI."""

import numpy as np
import pytest
import torch

from lfd.algos.bc import BC
from lfd.envs import Gym, MiniGrid
from lfd.episodes import play
from lfd.errors import UserError
from lfd.experts import experts
from lfd.experts.experts import Scripted, parse_action
from lfd.learner.learner import Algo
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.experts import KeyboardExpert, Pretrained, QueueExpert, Script
from lfd.stages.fit.config import EvalConfig
from lfd.stages.fit.stage import Fit
from lfd.stages.fit_pwil import FitPWIL
from tests import composed

CPU = torch.device("cpu")
SCRIPTS = [
    ("breaks", "failed with KeyError: 'x'"),
    ("nothing", "failed with TypeError: .*not callable"),
    ("leaves", "failed with SystemExit: 5"),
]


def fit(steps=5):
    return Fit(Algo(composed.policy([8]), {"bc": BC("demos")}, batch_size=16), steps, eval=EvalConfig(0))


def trained(run_stages, env, steps=5, store="first"):
    """The artifact of a small fit."""
    stages = {"demos": Collect("random", transitions=50), "learn": fit(steps)}
    return run_stages(stages, env, store).product("learn").folder


def test_pretrained_acts_as_the_policy_of_its_run(counting, run_stages):
    folder = trained(run_stages, counting)
    stages = {"expert": Pretrained(str(folder)), "demos": Collect("expert", transitions=40)}
    pipeline = run_stages(stages, counting)
    ours, theirs = pipeline.product("expert").agents()[0], fit().open(folder).agents()[0]
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert len(pipeline.product("demos")) == 40


def test_pretrained_key_depends_on_weights_and_not_on_the_path(counting, run_stages, tmp_path):
    folder = trained(run_stages, counting)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in folder.glob("agent*"):
        (elsewhere / path.name).write_bytes(path.read_bytes())
    (elsewhere / "artifact.json").write_bytes((folder / "artifact.json").read_bytes())
    paths = [folder, elsewhere, trained(run_stages, counting, 6)]
    keys = [run_stages({"expert": Pretrained(str(path))}, counting).keys["expert"] for path in paths]
    assert keys[0] == keys[1] != keys[2]


def test_pretrained_of_other_spaces_is_refused(counting, counting_continuous, run_stages):
    folder = trained(run_stages, counting)
    with pytest.raises(UserError, match=r"expert.path: expected the action space Box.*, got Discrete\(2\) of "):
        run_stages({"expert": Pretrained(str(folder))}, counting_continuous)
    with pytest.raises(UserError, match="expected the observation space Box"):
        run_stages({"expert": Pretrained(str(folder))}, Gym("CartPole-v1"))


def test_pretrained_that_reads_other_missions_is_refused(run_stages, monkeypatch):
    level = "BabyAI-GoToLocal-v0"
    path = str(trained(run_stages, MiniGrid(level, mission_length=5)))
    with pytest.raises(UserError, match=r"expected the observation space Dict[^W]*, got Dict.*'mission': Words"):
        run_stages({"expert": Pretrained(path)}, MiniGrid(level, mission=False))
    monkeypatch.setattr("lfd.envs.minigrid.VOCABULARY", ("go", "to"))
    with pytest.raises(UserError, match="path: mission: .* 2 words, got those of 53 words .*; choose an expert"):
        run_stages({"expert": Pretrained(path)}, MiniGrid(level, mission_length=5))


def test_pretrained_reward_model_is_refused(counting, run_stages):
    judge = FitPWIL(composed.pwil(atoms=16), "demos")
    folder = run_stages({"demos": Collect("random", transitions=50), "learn": judge}, counting, "first")
    with pytest.raises(UserError, match="expert.path: expected a policy, got the reward model"):
        run_stages({"expert": Pretrained(str(folder.product("learn").folder))}, counting)


def test_experts_with_bad_input_are_refused(counting, run_stages, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("def act(:")
    monkeypatch.syspath_prepend(tmp_path)
    cases = [
        (Pretrained(), "expert.path: expected a value, got none"),
        (Pretrained(str(tmp_path)), "no result.json"),
        (Script(), "expert.script: expected a value, got none"),
        (Script("tests.experts"), "expected package.module:function"),
        (Script("tests.expert:ones"), "No module named 'tests.expert'"),
        (Script("tests.experts:one"), "has no attribute 'one'"),
        (Script("tests.experts:__doc__"), "expected a function, got __doc__"),
        (Script("broken:act"), "SyntaxError"),
        (Script("builtins:staticmethod"), "expected a function in a file"),
    ]
    for stage, message in cases:
        with pytest.raises(UserError, match=message):
            run_stages({"expert": stage}, counting)
    with pytest.raises(UserError, match="expected an action of Discrete.*, got 'left'"):
        run_stages({"expert": Script("tests.experts:nonsense"), "demos": Collect("expert", transitions=5)}, counting)
    for name, message in SCRIPTS:
        with pytest.raises(UserError, match=f"the script tests.experts:{name} {message}"):
            run_stages({"expert": Script(f"tests.experts:{name}"), "demos": Collect("expert", transitions=5)}, counting)
    with pytest.raises(UserError, match="expert@0: expected a trained expert, got the script .*; leave @0 out"):
        run_stages({"expert": Script("tests.experts:ones"), "demos": Collect("expert@0", transitions=5)}, counting)


def test_script_is_collected_from_and_scored(run_stages):
    env = Gym("CartPole-v1", max_episode_steps=50)
    stages = {
        "expert": Script("tests.experts:balance"), "demos": Collect("expert", transitions=100), "learn": fit(),
        "score": Evaluate(["learn"], episodes=4),
    }  # fmt: skip
    pipeline = run_stages(stages, env)
    data, scores = pipeline.product("demos"), pipeline.product("score")
    seen = np.asarray(data.columns["observations"])
    assert np.array_equal(data.columns["actions"], seen[:, 2] + 0.5 * seen[:, 3] > 0)
    assert scores["expert"]["return_mean"] == 50 and scores["expert"]["normalized"] == 1


def test_script_gets_its_previous_action(run_stages):
    data = run_stages(
        {"expert": Script("tests.experts:swing"), "demos": Collect("expert", episodes=2, num_envs=2)},
        Gym("Pendulum-v1", max_episode_steps=4),
    ).product("demos")
    expected = [0.0, 0.1, 0.3, 0.7]
    assert np.allclose(np.asarray(data.columns["actions"])[:, 0], expected * 2)


def test_script_with_another_content_has_another_key(counting, run_stages, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for text in (
        "def act(env):\n    return lambda obs, before: 1\n",
        "def act(env):\n    return lambda obs, before: 0\n",
    ):
        (tmp_path / "somebody.py").write_text(text)
        keys.append(run_stages({"expert": Script("somebody:act")}, counting).keys["expert"])
    assert keys[0] != keys[1]


def test_registered_script_keeps_its_key_when_its_file_moves(counting, run_stages, monkeypatch):
    def key(name, place, revision):
        monkeypatch.setitem(experts.SCRIPTS, name, (place, revision))
        return run_stages({"expert": Script(name)}, counting).keys["expert"]

    first = key("one", "tests.experts:ones", 1)
    assert first == key("one", "tests.experts:guess", 1)
    assert len({first, key("one", "tests.experts:ones", 2), key("other", "tests.experts:ones", 1)}) == 3


def test_annotator_with_another_name_has_another_key(counting, run_stages):
    keys = {
        run_stages({"expert": one}, counting).keys["expert"]
        for one in (QueueExpert(), QueueExpert("ann"), KeyboardExpert(), KeyboardExpert("ann"))
    }
    assert len(keys) == 4


def test_babyai_bot_solves_its_level():
    env = MiniGrid("BabyAI-GoToLocal-v0").make(4, training=False)
    bot = Scripted("babyai_bot")
    played = play(env, lambda: bot.policy(env, CPU), range(8))
    assert all(one.success for one in played)


def test_babyai_bot_labels_states_of_other_policies():
    """A box may be opened, a door closed, a ball dropped: there is an answer to every state."""
    env, bot = MiniGrid("BabyAI-GoToLocal-v0").make(8, training=False), Scripted("babyai_bot")
    rng = np.random.default_rng(0)

    def erratic():
        advise = bot.policy(env, CPU)
        return lambda obs: (advise(obs), rng.integers(0, 7, 8))[1]

    assert len(play(env, erratic, range(16))) == 16


def test_babyai_bot_shares_the_view_of_the_observation(monkeypatch):
    """It acts as if the level computed its view anew, in less time."""
    level, calls = type(MiniGrid("BabyAI-PickupLoc-v0").make_single().unwrapped), []
    compute = level.gen_obs_grid
    monkeypatch.setattr(level, "gen_obs_grid", lambda self, size=None: (calls.append(0), compute(self, size))[1])

    def played():
        calls.clear()
        env, bot = MiniGrid("BabyAI-PickupLoc-v0").make(4, training=False), Scripted("babyai_bot")
        episodes = [played.episode for played in play(env, lambda: bot.policy(env, CPU), range(12), keep=True)]
        return episodes, len(calls) / sum(map(len, episodes))

    kept, few = played()
    monkeypatch.setattr("lfd.envs.minigrid._keep_view", lambda level: None)
    anew, many = played()
    assert few < 1.7 < 1.9 < many, "one call a step, and two each episode"
    for one, other in zip(kept, anew, strict=True):
        assert np.array_equal(one.actions, other.actions)
        assert np.array_equal(one.observations["image"], other.observations["image"])


def test_babyai_bot_of_another_level_is_refused():
    env = MiniGrid("MiniGrid-Empty-5x5-v0").make(1, training=False)
    env.reset([0])
    with pytest.raises(UserError, match="expert.script: expected a level of BabyAI"):
        Scripted("babyai_bot").policy(env, CPU)


@pytest.mark.parametrize("given", [1, np.int64(0), 2, -1, True, 0.5, "1", None])
def test_scripted_accepts_integers_as_discrete_actions(given, counting):
    found = parse_action(given, counting.spaces().action)
    assert found == given if given in (1, np.int64(0)) and given is not True else found is None


@pytest.mark.parametrize(
    ("given", "is_one"), [([0.5], True), ([9], True), (0.5, False), ([1, 2], False), ([np.nan], False), (["x"], False)]
)
def test_scripted_accepts_finite_vectors_as_continuous_actions(given, is_one, counting_continuous):
    assert (parse_action(given, counting_continuous.spaces().action) is not None) == is_one


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "os:environ",
            "expert.script=os:environ: expected a function, got environ of type _Environ$",
        ),  # and not what is in it
        (
            "tests.experts:no_such",
            "expert.script=tests.experts:no_such failed with AttributeError: .*; HYDRA_FULL_ERROR",
        ),
    ],
)
def test_script_path_of_no_function_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        Scripted(name).policy(Gym("CartPole-v1").make(1, training=False), CPU)
