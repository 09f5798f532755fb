"""Every option of every group: it composes to objects that fit together, or is refused with a sentence."""

from pathlib import Path

import gymnasium as gym
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from lfd.artifacts import Store
from lfd.cli import config_folder
from lfd.data.survey import Survey
from lfd.envs import Env, Spaces
from lfd.errors import Refused
from lfd.experiment import Experiment, build, refuse_unread, register, unread
from lfd.help import EXAMPLES, GROUPS, KEYS, options
from lfd.pipeline import TrainingPipeline
from lfd.run import pipeline_of
from lfd.stages.recipe import Recipe

CONF = config_folder()
DEALT = ("algo", "env", "dataset")
ALGOS, ENVS, DATASETS = (list(options(CONF, group)) for group in DEALT)
# They act in spaces of either kind, so that any environment fits them.
WIDE = ("bc", "cql", "ppo", "ppo_bc")
# What has no default of its own.
GIVEN = {
    "env=atari": ["env.id=ALE/Seaquest-v5"],
    "env=minigrid": ["env.id=BabyAI-GoToObj-v0"],
    "env=gym": ["env.id=FrozenLake-v1"],
    "dataset=file": ["dataset.path=data.npz"],
    "expert=script": ["expert.script=tests.experts:balance"],
    "expert=pretrained": ["expert.path=run"],
    "expert=babyai_bot": ["env=babyai_goto"],
    "expert=queue": ["algo=dagger"],
}
TWO = Survey(Spaces(gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)), 1, True, [], [], {})


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture(scope="module", autouse=True)
def spaces():
    """An environment's spaces, found once a module: making a simulator takes longer than composing."""
    known = {}
    found = Env.spaces

    def remembered(env):
        key = repr(env)
        if key not in known:
            known[key] = found(env)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Env, "spaces", remembered)
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.npz").write_bytes(b"whether it can be read is another test's question")
    monkeypatch.setattr("lfd.stages.load.survey", lambda *_: (TWO, None))
    monkeypatch.setattr("lfd.stages.experts.Pretrained.check_wiring", lambda *_: None)
    monkeypatch.setattr("lfd.stages.experts.Pretrained.folder", Path())
    Path("agent.json").write_text("{}")
    return tmp_path


def composed(line: list[str]) -> tuple[Experiment, dict[str, str]]:
    more = [word for one in line for word in GIVEN.get(one, []) if word not in line]
    overrides = [*line, *more]
    cfg = compose("config", overrides, return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return build(cfg, choices, overrides), choices


def wired(experiment: Experiment, folder: Path) -> TrainingPipeline:
    with Store(folder / "artifacts") as store:
        return pipeline_of(experiment, store)


def kinds() -> list[str]:
    """One environment of each kind: the others of a kind have the same defaults list, and so the same files."""
    heads = {}
    for env in ENVS:
        lines = (CONF / "env" / f"{env}.yaml").read_text().splitlines()
        heads.setdefault(next(line for line in lines if line.startswith("defaults")), env)
    return list(heads.values())


def rows() -> list[list[str]]:
    """All pairs of algorithm, kind of environment and dataset; each other environment, and each file of tuned/."""
    pairs = [(algo, env) for algo in ALGOS for env in kinds()]
    tuned = [(algo, env) for algo in ALGOS for env in ENVS if (CONF / "tuned" / f"{algo}_{env}.yaml").exists()]
    pairs += [pair for pair in tuned if pair not in pairs]
    pairs += [(WIDE[i % len(WIDE)], env) for i, env in enumerate(ENVS) if env not in {env for _, env in pairs}]
    dealt = [(ALGOS.index(algo) + ENVS.index(env)) % len(DATASETS) for algo, env in pairs]
    for index, pair in enumerate(pairs[: len(ALGOS) * len(kinds())]):
        dealt[index] = (ALGOS.index(pair[0]) + kinds().index(pair[1])) % len(DATASETS)
    found = [[f"algo={a}", f"env={e}", f"dataset={DATASETS[d]}"] for (a, e), d in zip(pairs, dealt, strict=True)]
    found.append(["algo=bc", "env=none", "dataset=file"])  # the only data that it takes
    tuned_data = [path.stem.split("_", 1) for path in (CONF / "tuned" / "dataset").iterdir()]
    found += [["algo=trex", f"env={env}", f"dataset={data}"] for data, env in tuned_data]
    dealt_data = {(row[0], row[2]) for row in found}  # there are more datasets than kinds of environments
    missing = [(f"algo={a}", f"dataset={d}") for a in ALGOS for d in DATASETS]
    found += [[algo, "env=cartpole", data] for algo, data in missing if (algo, data) not in dealt_data]
    learners = [path.stem.split("_") for path in (CONF / "tuned" / "learner").glob("*_*_*.yaml")]
    found += [[f"algo={algo}", f"algo@learner={learner}", f"env={env}"] for algo, learner, env in learners]
    others = [[f"{group}={name}"] for group in GROUPS for name in options(CONF, group) if group not in DEALT]
    return [*found, *others]


def test_rows_are_pairwise():
    pairs = {(one, other) for row in rows() for one in row for other in row}
    names = [f"algo={n}" for n in ALGOS], [f"env={n}" for n in kinds()], [f"dataset={n}" for n in DATASETS]
    assert pairs >= {(a, b) for one in names for other in names if one is not other for a in one for b in other}
    assert {one for one, _ in pairs} >= {f"env={n}" for n in ENVS}


def test_every_option_fits_or_is_refused_and_every_file_is_reached(folder):
    reached, fits, refused = set(), set(), {}
    for row in rows():
        try:
            experiment, choices = composed(row)
            pipeline = wired(experiment, folder)
        except Refused as refusal:
            refused[" ".join(row)] = str(refusal)
            continue
        assert pipeline.order[-1] == ("fqe" if "env=none" in row else experiment.targets[-1])
        for algo in (stage.algo for stage in pipeline.stages.values() if isinstance(stage, Recipe)):
            learnt_from = {
                name for loss in algo.losses.values() for name, needs in loss.slots.values() if "reward" in needs
            }
            # a row that stands nowhere could not be overridden, as in algo.sources.demos.n_step=3
            assert learnt_from <= set(algo.sources), row
        reached |= {f"{group.partition('@')[0]}/{option}" for group, option in choices.items()}
        fits |= set(row)
    files = {str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*/*.yaml")}
    # whether a CUDA device is there is the machine's affair
    assert files - reached <= {"hardware/gpu"}, refused
    assert fits >= {f"{group}={name}" for group in DEALT for name in options(CONF, group)}
    assert all(len(text) > 20 and "\n" not in text for text in refused.values())


def test_only_what_does_not_act_in_a_space_is_refused(folder):
    """Refused are value-based learners of continuous actions, and no others."""
    for algo, env, is_fine in [("dqn", "pendulum", False), ("dqn", "cartpole", True), ("cql", "pendulum", True)]:
        experiment, _ = composed([f"algo={algo}", f"env={env}"])
        if is_fine:
            wired(experiment, folder)
            continue
        with pytest.raises(Refused, match="acts in discrete action spaces, the environment's is continuous"):
            wired(experiment, folder)


@pytest.mark.parametrize(("learner", "agent"), [("ppo", "PolicyValue"), ("dqn", "QNet"), ("sac", "SoftPolicyCritic")])
def test_who_learns_adversarially_is_an_override(learner, agent, folder):
    env = "pendulum" if learner == "sac" else "cartpole"
    experiment, _ = composed(["algo=gail", f"algo@learner={learner}", f"env={env}"])
    assert type(experiment.stages["learn"].algo.agent).__name__ == agent
    assert list(wired(experiment, folder).stages["learn"].algo.phases) == ["reward", "policy"]


def test_a_learner_that_an_algorithm_does_not_have_is_refused(folder):
    with pytest.raises(Refused, match="algo@learner=cql: algo=gail has no impl/learner/gail_cql.yaml; choose"):
        composed(["algo=gail", "algo@learner=cql"])


def test_values_of_an_algorithm_that_no_stage_learns_by_are_refused(folder):
    for line in (["algo=gail", "learner.lr=1e-4"], ["algo=bc", "learner.steps=5"]):
        experiment, _ = composed(line)
        with pytest.raises(Refused, match=f"{line[1]}: no stage of this run reads learner; set what is below algo"):
            refuse_unread(unread(experiment, wired(experiment, folder).order))
    experiment, _ = composed(
        ["algo=trex", "learner.lr=1e-4", "expert_algo.lr=1e-3", "targets=[score,fqe]", "fqe.steps=5"]
    )
    assert not unread(experiment, wired(experiment, folder).order)


@pytest.mark.parametrize("line", [*EXAMPLES, *KEYS])
def test_what_the_help_shows_works(line, folder):
    words = [word.partition(",")[0] if line.startswith("-m") else word for word in line.split() if word != "-m"]
    experiment, _ = composed(words)
    assert wired(experiment, folder).order[-1] == experiment.targets[-1]


def test_every_file_says_what_it_is():
    for path in CONF.rglob("*/*.yaml"):
        comments = [line for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
        assert comments, path


def test_an_experts_seed_and_data_are_shared_by_all_seeds(folder):
    keys = [wired(composed([f"seed={seed}"])[0], folder).keys for seed in (0, 1)]
    assert keys[0]["expert"] == keys[1]["expert"] and keys[0]["demos"] == keys[1]["demos"]
    assert keys[0]["learn"] != keys[1]["learn"]


@pytest.mark.parametrize("dataset", ["mixed", "ranked"])
def test_an_expert_keeps_the_states_that_a_dataset_wants(dataset, folder):
    """Its own defaults come first, else they would set what the dataset says of it to nothing."""
    stages = composed([f"dataset={dataset}"])[0].stages
    states = {name for name in stages["demos"].shares if name.startswith("expert@")}
    assert states == {f"expert@{index}" for index in range(stages["expert"].checkpoints)} and states


@pytest.mark.parametrize(
    ("env", "learner", "most"), [("pendulum", "SoftPolicyCritic", -500), ("cartpole", "PolicyValue", 250)]
)
def test_a_reward_from_bad_demonstrations_takes_one_line(env, learner, most, folder):
    experiment, _ = composed(["algo=trex", f"env={env}"])
    pipeline = wired(experiment, folder)
    assert pipeline.reads("learn") == ["reward"] and pipeline.reads("reward") == ["demos"]
    assert experiment.stages["demos"].max_return == most
    assert type(experiment.stages["learn"].algo.agent).__name__ == learner


def test_a_reward_with_memory_has_a_learner_of_its_own(folder):
    """Whose values are not those of who learns from ranks; a batch is as large as the atoms, however many."""
    pwil, trex = (composed([f"algo={algo}", "env=pendulum"])[0].stages["learn"].algo for algo in ("pwil", "trex"))
    assert pwil.sources["replay"].n_step == 5 and trex.sources["replay"].n_step == 1
    experiment, _ = composed(["algo=pwil", "env=pendulum", "algo.losses.pwil.atoms=70"])
    assert experiment.stages["reward"].algo.batch == 70
    assert wired(experiment, folder).reads("learn") == ["reward"]


def test_a_reward_from_noise_ranks_what_a_clone_does(folder):
    experiment, _ = composed(["algo=drex", "env=pendulum"])
    pipeline = wired(experiment, folder)
    assert [pipeline.reads(name) for name in ("clone", "noisy", "reward")] == [["demos"], ["clone"], ["noisy"]]
    noisy, demos = experiment.stages["noisy"], experiment.stages["demos"]
    assert noisy.epsilons == pytest.approx([k / 20 for k in range(21)]) and noisy.episodes == 210
    assert experiment.stages["clone"].algo.losses.keys() == {"bc"}
    assert (demos.policy, demos.episodes, demos.max_return) == ("expert", 10, -350)
    assert composed(["algo=drex", "env=acrobot"])[0].stages["demos"].policy == "expert@1"
