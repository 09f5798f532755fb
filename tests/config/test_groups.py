"""Every option of every group composes to objects that fit together, or is refused with the expected message."""

from functools import cache
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from hydra.core.config_store import ConfigStore

from lfd.cli.help import EXAMPLES, GROUPS, KEYS, options
from lfd.config import experiment as experiments
from lfd.config.composer import Composer
from lfd.config.experiment import Experiment, refuse_unread, unread
from lfd.config.folder import config_folder
from lfd.data.survey import Survey
from lfd.envs import Env, Spaces
from lfd.errors import UserError
from lfd.pipeline import TrainingPipeline
from lfd.runs.run import pipeline_of
from lfd.stages.fit.config import FitConfig
from lfd.store.artifacts import Store

CONF = config_folder()
PAIRED = ("algo", "env", "dataset")
ALGOS, ENVS, DATASETS = (list(options(CONF, group)) for group in PAIRED)
# Algorithms for both kinds of actions, which fit any environment.
WIDE = ("bc", "cql", "ppo", "ppo_bc")
# Overrides that an option needs.
NEEDED = {
    "env=atari": ["env.id=ALE/Seaquest-v5"],
    "env=minigrid": ["env.id=BabyAI-GoToObj-v0"],
    "env=gym": ["env.id=FrozenLake-v1"],
    "dataset=file": ["dataset.path=data.npz"],
    "expert=script": ["expert.script=tests.experts:balance"],
    "expert=pretrained": ["expert.path=run"],
    "expert=babyai_bot": ["env=babyai_goto"],
    "expert=queue": ["algo=dagger"],
    "pipeline=bc_then_ppo": ["algo=ppo"],
    "pipeline=dagger_then_ppo": ["algo=ppo"],
    "pipeline=iql_then_ppo": ["algo=ppo"],
    "pipeline=ppo_with_demos": ["algo=ppo"],
}
TWO = Survey(Spaces(gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)), 1, True, [], [], {})


@pytest.fixture(scope="module", autouse=True)
def spaces():
    """Caches the spaces of environments, as making a simulator takes longer than a composition.

    Hydra copies its store of classes for every composition; here it is shared.
    """
    cached = {}
    read_spaces = Env.spaces

    def cached_spaces(env):
        key = repr(env)
        if key not in cached:
            cached[key] = read_spaces(env)
        return cached[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Env, "spaces", cached_spaces)
        patch.setattr(ConfigStore, "__deepcopy__", lambda store, _: store, raising=False)
        yield


@pytest.fixture
def chosen_options(monkeypatch):
    """The options of all groups of the last experiment, of files that users do not choose too."""
    choices = {}

    def build(cfg, options, overrides):
        choices.update(options)
        return experiments.build(cfg, options, overrides)

    monkeypatch.setattr("lfd.config.composer.build", build)
    return choices


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.npz").write_bytes(b"not read here")
    monkeypatch.setattr("lfd.stages.load.survey", lambda *_: (TWO, None))
    monkeypatch.setattr("lfd.stages.experts.Pretrained.check", lambda *_: None)
    monkeypatch.setattr("lfd.stages.experts.Pretrained.folder", Path())
    Path("agent.json").write_text("{}")
    return tmp_path


@cache
def composer() -> Composer:
    return Composer()


def composed(line: list[str]) -> Experiment:
    more = [override for word in line for override in NEEDED.get(word, []) if override not in line]
    return composer().experiment([*line, *more])


def wired(experiment: Experiment, folder: Path) -> TrainingPipeline:
    with Store(folder / "artifacts") as store:
        return pipeline_of(experiment, store)


def kinds() -> list[str]:
    """One environment of each kind; the environments of a kind have equal defaults lists, and so equal files."""
    first_of_kind = {}
    for env in ENVS:
        lines = (CONF / "env" / f"{env}.yaml").read_text().splitlines()
        first_of_kind.setdefault(next(line for line in lines if line.startswith("defaults")), env)
    return list(first_of_kind.values())


def has_bot(env: str) -> bool:
    """True if the expert of an environment is no trained one, so that it has no snapshots."""
    return "override /expert@_global_" in (CONF / "env" / f"{env}.yaml").read_text()


def rows() -> list[list[str]]:
    """All pairs of algorithm, kind of environment and dataset; each other environment, and each file of tuned/."""
    pairs = [(algo, env) for algo in ALGOS for env in kinds()]
    tuned = [(algo, env) for algo in ALGOS for env in ENVS if (CONF / "tuned" / env / f"{algo}.yaml").exists()]
    pairs += [pair for pair in tuned if pair not in pairs]
    pairs += [(WIDE[i % len(WIDE)], env) for i, env in enumerate(ENVS) if env not in {env for _, env in pairs}]
    datasets = [(ALGOS.index(algo) + ENVS.index(env)) % len(DATASETS) for algo, env in pairs]
    for index, pair in enumerate(pairs[: len(ALGOS) * len(kinds())]):
        datasets[index] = (ALGOS.index(pair[0]) + kinds().index(pair[1])) % len(DATASETS)
    found = [[f"algo={a}", f"env={e}", f"dataset={DATASETS[d]}"] for (a, e), d in zip(pairs, datasets, strict=True)]
    found += [["algo=bc_gru", f"env={env}", "dataset=expert"] for env in ENVS if has_bot(env)]
    found.append(["algo=bc", "env=none", "dataset=file"])  # the only dataset without an environment
    tuned_data = [path for path in (CONF / "tuned").glob("*/*.yaml") if path.stem in DATASETS]
    found += [["algo=trex", f"env={path.parent.name}", f"dataset={path.stem}"] for path in tuned_data]
    paired_data = {(row[0], row[2]) for row in found}  # there are more datasets than kinds of environments
    missing = [(f"algo={a}", f"dataset={d}") for a in ALGOS for d in DATASETS]
    found += [[algo, "env=cartpole", data] for algo, data in missing if (algo, data) not in paired_data]
    on_rewards = [(path.parent.name, *path.stem.split("_")) for path in (CONF / "tuned" / "rl_algo").glob("*/*.yaml")]
    found += [[f"algo={algo}", f"rl_algo={rl_algo}", f"env={env}"] for env, algo, rl_algo in on_rewards]
    others = [[f"{group}={name}"] for group in GROUPS for name in options(CONF, group) if group not in PAIRED]
    return [*found, *others]


def test_rows_contain_all_pairs_of_algorithm_kind_of_environment_and_dataset():
    pairs = {(one, other) for row in rows() for one in row for other in row}
    names = [f"algo={n}" for n in ALGOS], [f"env={n}" for n in kinds()], [f"dataset={n}" for n in DATASETS]
    assert pairs >= {(a, b) for one in names for other in names if one is not other for a in one for b in other}
    assert {one for one, _ in pairs} >= {f"env={n}" for n in ENVS}


# Algorithms of one kind of actions, and a part of the message that says so.
DISCRETE_ONLY = {
    "dqn": "expected nets that can choose continuous actions", "qrdqn": "QuantileQSpec, which supports discrete ones",
    "cql_qrdqn": "QuantileQSpec, which supports discrete ones", "crr": "needs a policy of discrete actions",
    "crr_cql": "needs a policy of discrete actions", "dqfd": "expected nets that can choose continuous actions",
}  # fmt: skip
CONTINUOUS_ONLY = {
    "sac": "needs a policy with a mean", "sac_n": "needs a policy with a mean", "edac": "needs a policy with a mean",
    "cql_bc": "BC", "td3": "needs a critic of continuous", "td3_bc": "needs a critic of continuous",
    "rebrac": "needs a critic of continuous", "sac_demos": "needs a policy with a mean",
    "cal_ql": "needs a policy with a mean", "td3_demos": "needs a critic of continuous",
}  # fmt: skip
# of the rows with env=none dataset=file, those whose algorithm steps an environment
INTERACTIVE = ("gail", "ppo_bc", "dqfd", "sac_demos")
SNAPSHOTS = [name for name in DATASETS if "snapshots" in (CONF / "dataset" / f"{name}.yaml").read_text()]
REFUSED_PAIRS = {("pwil", "atari"): "distances", ("gail_bc", "pendulum"): "phases.policy names the loss 'ppo'"}
# The only other rows that are refused.
REFUSED_ROWS = {
    "pipeline=airl": "learn: needs a reward",
    "pipeline=drex": "learn: needs a reward",
    "pipeline=pwil": "reward.agent.nets.reward: expected the net pwil",
    "pipeline=reward_then_policy": "learn: needs a reward",
}


def expected_refusal(row: list[str]) -> str:
    """A part of the message with which a row has to be refused; "" if it has to fit."""
    line, chosen = " ".join(row), dict(word.split("=", 1) for word in row)
    if line == "hardware=gpu" and not torch.cuda.is_available():
        return "hardware=gpu: expected a CUDA device"
    algo, env = chosen.get("algo", ""), chosen.get("env", "cartpole")
    if env == "none" and (chosen["dataset"] != "file" or algo in INTERACTIVE):
        return "environment"
    if has_bot(env) and chosen.get("dataset") in SNAPSHOTS:
        return "expert.snapshots: expert has no 'snapshots'"
    if (algo, env) in REFUSED_PAIRS:
        return REFUSED_PAIRS[algo, env]
    is_continuous = "/actions@_global_.actions: continuous" in (CONF / "env" / f"{env}.yaml").read_text()
    return REFUSED_ROWS.get(line) or (DISCRETE_ONLY if is_continuous else CONTINUOUS_ONLY).get(algo, "")


def test_every_row_fits_or_is_refused_as_expected_and_every_file_is_composed(folder, chosen_options):
    """A row that should fit and is refused fails the test; so does one that should be refused and fits."""
    fits, reached = set(), set()
    for row in rows():
        expected = expected_refusal(row)
        try:
            chosen_options.clear()
            experiment = composed(row)
            pipeline = wired(experiment, folder)
        except UserError as refusal:
            message = str(refusal)
            assert expected and expected in message and len(message) > 20 and "\n" not in message, (row, message)
            continue
        assert not expected, (row, expected)
        assert pipeline.order[-1] == ("fqe" if "env=none" in row else experiment.targets[-1])
        for algo in (stage.algo for stage in pipeline.stages.values() if isinstance(stage, FitConfig)):
            rewarded = {
                name for loss in algo.losses.values() for name, needs in loss.slots.values() if "reward" in needs
            }
            # a row that stands nowhere could not be overridden, as in algo.sources.demos.n_step=3
            assert rewarded <= set(algo.sources), row
        reached.update(f"{group.partition('@')[0]}/{option}" for group, option in chosen_options.items())
        fits |= set(row)
    files = {str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*/*.yaml")}
    assert files - reached <= {"hardware/gpu", "local/default"}
    assert fits >= {f"{group}={name}" for group in PAIRED for name in options(CONF, group)}


NETS = {"ppo": ["policy", "value"], "dqn": ["critic"], "sac": ["policy", "critic"]}


@pytest.mark.parametrize("rl_algo", NETS)
def test_rl_algo_of_gail_chooses_the_nets(rl_algo, folder):
    env = "pendulum" if rl_algo == "sac" else "cartpole"
    experiment = composed(["algo=gail", f"rl_algo={rl_algo}", f"env={env}"])
    assert list(experiment.stages["learn"].algo.agent.nets) == NETS[rl_algo]
    assert list(wired(experiment, folder).stages["learn"].algo.phases) == ["reward", "policy"]


def test_rl_algo_that_an_algorithm_does_not_have_is_refused(folder):
    with pytest.raises(UserError, match="algo/gail.yaml: by_rl_algo/gail has no option 'cql'; known: dqn, ppo, sac"):
        composed(["algo=gail", "rl_algo=cql"])


def test_rl_algo_that_no_stage_reads_is_refused(folder):
    for line in (["algo=gail", "rl_algo.lr=1e-4"], ["algo=bc", "rl_algo.steps=5"]):
        with pytest.raises(
            UserError, match=f"{line[1].partition('=')[0]}: there is no 'rl_algo'; no stage of this run"
        ):
            composed(line)
    experiment = composed(["algo=bc", "rl_algo=dqn"])
    with pytest.raises(UserError, match="rl_algo=dqn: no stage of this run reads rl_algo; set keys of algo"):
        refuse_unread(unread(experiment, wired(experiment, folder).order))
    for line in (
        ["algo=gail", "rl_algo=dqn"],
        ["algo=trex", "rl_algo.lr=1e-4", "expert_algo.lr=1e-3", "ope=fqe", "targets=[score,fqe]", "fqe.steps=5"],
    ):
        experiment = composed(line)
        assert not unread(experiment, wired(experiment, folder).order)


@pytest.mark.parametrize("line", [*EXAMPLES, *KEYS])
def test_example_of_the_help_composes(line, folder):
    words = [word.partition(",")[0] if line.startswith("-m") else word for word in line.split() if word != "-m"]
    experiment = composed(words)
    assert wired(experiment, folder).order[-1] == experiment.targets[-1]


def test_every_file_begins_with_a_comment():
    for path in CONF.rglob("*/*.yaml"):
        comments = [line for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
        assert comments, path


def test_seed_does_not_change_the_keys_of_expert_and_demonstrations(folder):
    keys = [wired(composed([f"seed={seed}"]), folder).keys for seed in (0, 1)]
    assert keys[0]["expert"] == keys[1]["expert"] and keys[0]["demos"] == keys[1]["demos"]
    assert keys[0]["learn"] != keys[1]["learn"]


@pytest.mark.parametrize("dataset", ["mixture", "ranked"])
def test_dataset_of_snapshots_sets_the_snapshots_of_the_expert(dataset, folder):
    """The defaults of the expert come before those of the dataset, which would otherwise be replaced."""
    stages = composed([f"dataset={dataset}"]).stages
    states = {name for name in stages["demos"].fractions if name.startswith("expert@")}
    assert states == {f"expert@{index}" for index in range(stages["expert"].snapshots)} and states


@pytest.mark.parametrize(("env", "rl_algo", "most"), [("pendulum", "sac", -500), ("cartpole", "ppo", 250)])
def test_trex_composes_demonstrations_reward_and_policy(env, rl_algo, most, folder):
    experiment = composed(["algo=trex", f"env={env}"])
    pipeline = wired(experiment, folder)
    assert pipeline.reads("learn") == ["reward"] and pipeline.reads("reward") == ["demos"]
    assert experiment.stages["demos"].max_return == most
    assert list(experiment.stages["learn"].algo.agent.nets) == NETS[rl_algo]


def test_pwil_has_hyperparameters_of_its_own(folder):
    """They differ from those of T-REX; the reward is a stage of its own without gradient steps."""
    pwil, trex = (composed([f"algo={algo}", "env=pendulum"]).stages["learn"].algo for algo in ("pwil", "trex"))
    assert pwil.sources["replay"].n_step == 5 and trex.sources["replay"].n_step == 1
    experiment = composed(["algo=pwil", "env=pendulum", "algo.agent.nets.reward.atoms=70"])
    assert experiment.stages["reward"].agent.nets["reward"].atoms == 70
    assert wired(experiment, folder).reads("learn") == ["reward"]


def test_drex_ranks_rollouts_of_a_clone_by_their_noise(folder):
    experiment = composed(["algo=drex", "env=pendulum"])
    pipeline = wired(experiment, folder)
    assert [pipeline.reads(name) for name in ("clone", "noisy", "reward")] == [["demos"], ["clone"], ["noisy"]]
    noisy, demos = experiment.stages["noisy"], experiment.stages["demos"]
    assert noisy.epsilons == pytest.approx([k / 20 for k in range(21)]) and noisy.episodes == 210
    assert experiment.stages["clone"].algo.losses.keys() == {"bc"}
    assert (demos.policy, demos.episodes, demos.max_return) == ("expert", 10, -350)
    assert composed(["algo=drex", "env=acrobot"]).stages["demos"].policy == "expert@1"
