import numpy as np
import pytest
import torch

from lfd.agents.actor_critic import Policy
from lfd.agents.judge import JudgeSpec
from lfd.algos.bc import Cloning
from lfd.algos.pwil import PWIL
from lfd.envs import Gym, MiniGrid
from lfd.episodes import play
from lfd.errors import Refused
from lfd.experts import Scripted, as_action
from lfd.learner import Algo
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.stages.experts import Later, Live, Pretrained, Script
from lfd.stages.fit import Fit
from lfd.stages.recipe import Checks

CPU = torch.device("cpu")
SCRIPTS = [
    ("breaks", "failed with KeyError: 'x'"),
    ("nothing", "failed with TypeError: .*not callable"),
    ("leaves", "failed with SystemExit: 5"),
]


def fit(steps=5):
    return Fit(Algo(Policy([8]), {"bc": Cloning("demos")}, batch=16), steps, check=Checks(0))


def trained(run_stages, env, steps=5, store="first"):
    """The artifact of a small fit."""
    stages = {"demos": Collect("random", transitions=50), "learn": fit(steps)}
    return run_stages(stages, env, store).product("learn").folder


def test_a_pretrained_expert_acts_as_it_did(counting, run_stages):
    folder = trained(run_stages, counting)
    stages = {"expert": Pretrained(str(folder)), "demos": Collect("expert", transitions=40)}
    pipeline = run_stages(stages, counting)
    ours, theirs = pipeline.product("expert").agents()[0], fit().open(folder).agents()[0]
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert len(pipeline.product("demos")) == 40


def test_its_key_is_its_weights_and_not_its_place(counting, run_stages, tmp_path):
    folder = trained(run_stages, counting)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in folder.glob("agent*"):
        (elsewhere / path.name).write_bytes(path.read_bytes())
    (elsewhere / "artifact.json").write_bytes((folder / "artifact.json").read_bytes())
    paths = [folder, elsewhere, trained(run_stages, counting, 6)]
    keys = [run_stages({"expert": Pretrained(str(path))}, counting).keys["expert"] for path in paths]
    assert keys[0] == keys[1] != keys[2]


def test_an_expert_of_other_spaces_is_refused(counting, counting_continuous, run_stages):
    folder = trained(run_stages, counting)
    with pytest.raises(Refused, match=r"expert: .* knows the action space Discrete\(2\), here it is Box"):
        run_stages({"expert": Pretrained(str(folder))}, counting_continuous)
    with pytest.raises(Refused, match="knows the observation space Box"):
        run_stages({"expert": Pretrained(str(folder))}, Gym("CartPole-v1"))


def test_who_only_judges_is_no_expert(counting, run_stages):
    judge = Fit(Algo(JudgeSpec(), {"pwil": PWIL("demos", atoms=16)}, batch=16), 2, check=Checks(0))
    folder = run_stages({"demos": Collect("random", transitions=50), "learn": judge}, counting, "first")
    with pytest.raises(Refused, match="judges and does not act; choose a policy"):
        run_stages({"expert": Pretrained(str(folder.product("learn").folder))}, counting)


def test_what_is_no_expert_is_refused(counting, run_stages, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("def act(:")
    monkeypatch.syspath_prepend(tmp_path)
    cases = [
        (Pretrained(), "expert.path is missing"),
        (Pretrained(str(tmp_path)), "no result.json"),
        (Script(), "expert.script is missing"),
        (Script("tests.experts"), "the form is package.module:function"),
        (Script("tests.expert:ones"), "No module named 'tests.expert'"),
        (Script("tests.experts:one"), "has no attribute 'one'"),
        (Script("tests.experts:__doc__"), "is no function"),
        (Script("broken:act"), "SyntaxError"),
        (Script("builtins:staticmethod"), "it is in no file"),
    ]
    for stage, said in cases:
        with pytest.raises(Refused, match=said):
            run_stages({"expert": stage}, counting)
    with pytest.raises(Refused, match="answers 'left'; an action of Discrete"):
        run_stages({"expert": Script("tests.experts:nonsense"), "demos": Collect("expert", transitions=5)}, counting)
    for name, said in SCRIPTS:
        with pytest.raises(Refused, match=f"the script tests.experts:{name} {said}"):
            run_stages({"expert": Script(f"tests.experts:{name}"), "demos": Collect("expert", transitions=5)}, counting)
    with pytest.raises(Refused, match="has no earlier states: leave @0 out"):
        run_stages({"expert": Script("tests.experts:ones"), "demos": Collect("expert@0", transitions=5)}, counting)


def test_a_script_is_collected_from_and_scored(run_stages):
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


def test_a_script_is_told_what_was_done_before(run_stages):
    data = run_stages(
        {"expert": Script("tests.experts:swing"), "demos": Collect("expert", episodes=2, num_envs=2)},
        Gym("Pendulum-v1", max_episode_steps=4),
    ).product("demos")
    expected = [0.0, 0.1, 0.3, 0.7]
    assert np.allclose(np.asarray(data.columns["actions"])[:, 0], expected * 2)


def test_another_content_of_a_script_is_another_expert(counting, run_stages, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for text in (
        "def act(env):\n    return lambda obs, before: 1\n",
        "def act(env):\n    return lambda obs, before: 0\n",
    ):
        (tmp_path / "somebody.py").write_text(text)
        keys.append(run_stages({"expert": Script("somebody:act")}, counting).keys["expert"])
    assert keys[0] != keys[1]


def test_people_by_other_names_are_asked_anew(counting, run_stages):
    keys = {
        run_stages({"expert": one}, counting).keys["expert"] for one in (Later(), Later("ann"), Live(), Live("ann"))
    }
    assert len(keys) == 4


def test_the_bot_of_babyai_solves_its_level():
    env = MiniGrid("BabyAI-GoToLocal-v0").make(4, training=False)
    bot = Scripted("lfd.envs.minigrid:babyai_bot")
    played = play(env, lambda: bot.policy(env, CPU), range(8))
    assert all(one.success for one in played)


def test_the_bot_advises_whoever_does_anything():
    """A box may be opened, a door closed, a ball dropped: there is an answer to every state."""
    env, bot = MiniGrid("BabyAI-GoToLocal-v0").make(8, training=False), Scripted("lfd.envs.minigrid:babyai_bot")
    rng = np.random.default_rng(0)

    def erratic():
        advise = bot.policy(env, CPU)
        return lambda obs: (advise(obs), rng.integers(0, 7, 8))[1]

    assert len(play(env, erratic, range(16))) == 16


def test_the_bot_knows_no_other_levels():
    env = MiniGrid("MiniGrid-Empty-5x5-v0").make(1, training=False)
    env.reset([0])
    with pytest.raises(Refused, match="is no level of BabyAI"):
        Scripted("lfd.envs.minigrid:babyai_bot").policy(env, CPU)


@pytest.mark.parametrize("given", [1, np.int64(0), 2, -1, True, 0.5, "1", None])
def test_what_is_a_discrete_action(given, counting):
    found = as_action(given, counting.spaces().action)
    assert found == given if given in (1, np.int64(0)) and given is not True else found is None


@pytest.mark.parametrize(
    ("given", "is_one"), [([0.5], True), ([9], True), (0.5, False), ([1, 2], False), ([np.nan], False), (["x"], False)]
)
def test_what_is_a_continuous_action(given, is_one, counting_continuous):
    assert (as_action(given, counting_continuous.spaces().action) is not None) == is_one


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "os:environ",
            "expert.script=os:environ: environ is no function but a _Environ$",
        ),  # and not what is in it
        (
            "tests.experts:no_such",
            "expert.script=tests.experts:no_such failed with AttributeError: .*; HYDRA_FULL_ERROR",
        ),
    ],
)
def test_what_is_no_script_is_refused_by_its_type_alone(name, words):
    with pytest.raises(Refused, match=words):
        Scripted(name).policy(Gym("CartPole-v1").make(1, training=False), CPU)
