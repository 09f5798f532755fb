"""Files of experiment/ and local/: they set what they may, and are refused in one line otherwise."""

import sys
from pathlib import Path

import pytest
import yaml

from lfd.cli import main as cli
from lfd.config.composer import Composer
from lfd.config.folder import config_folder
from lfd.errors import UserError
from lfd.log import progress
from lfd.runs.dry_run import plan

CONF = config_folder()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes a file into the user's folder `mine`; returns the folder."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: str) -> Path:
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return tmp_path / "mine"

    return write


def test_experiment_file_sets_groups_and_keys_that_overrides_replace(mine):
    own = mine(
        "experiment/small.yaml",
        "# @package _global_\n"
        "defaults: [override /algo: td3_bc, override /env: pendulum, override /dataset: expert_10]\n"
        "seed: 3\nlearn: {steps: 7}\nalgo: {batch_size: 9}\n",
    )
    experiment = Composer(own).experiment(["experiment=small", "learn.steps=8"])
    learn = experiment.stages["learn"]
    assert experiment.names["algo"] == "td3_bc" and experiment.env.id == "Pendulum-v1" and experiment.seed == 3
    assert (learn.steps, learn.algo.batch_size, experiment.stages["demos"].episodes) == (8, 9, 10)
    assert learn.algo.agent.hidden == [128, 128]  # of tuned/pendulum/td3_bc.yaml
    assert Composer(own).experiment(["experiment=small", "algo=bc"]).names["algo"] == "bc"


@pytest.mark.parametrize(
    ("line", "episodes"), [("algo=bc", 5_000), ("algo=gail", 10), ("experiment=babyai_bc_then_ppo", 300)]
)
def test_babyai_demonstrations_are_whole_episodes_in_the_number_that_suits_the_algorithm(line, episodes):
    demos = Composer().experiment([line, "env=babyai_gotolocal"]).stages["demos"]
    assert (demos.episodes, demos.transitions) == (episodes, None)


EXPERIMENTS = {
    "defaults: [override /algo: cqll]": "experiment=bad: algo has no option 'cqll'; did you mean 'cql'?",
    "defaults: [override /alg: cql]": "mine/experiment/bad.yaml: override /alg: expected a choice made before, got",
    "defaults: [override /algo@lern: cql]": "algo@lern: expected a choice made before, got none; did you mean algo",
    "defaults: [override /algo: bc, /stage@x: collect]": "bad.yaml: override /algo: bc: expected at the end of the",
    "defaults: [/algo: bc]": "algo: expected one choice, got two; write override /algo: bc",
    "foo: 1": "mine/experiment/bad.yaml: foo: expected a stage, got 1; leave it out",
    "defaults: [override /dataset: few]": "dataset=few is called dataset=expert_10",
    "learn: {stepz: 5}": "learn.stepz: learn has no 'stepz'; did you mean 'steps'?",
    "lern: {steps: 5}": "mine/experiment/bad.yaml: lern: expected a stage, got {'steps': 5}; did you mean 'learn'?",
    "targets: [scores]": "targets: no stage is called 'scores'; did you mean 'score'?",
    "learn: {steps: many}": "learn.steps: expected a whole number, got 'many'",
}


@pytest.mark.parametrize("content", EXPERIMENTS)
def test_experiment_file_with_an_unknown_name_is_refused_in_one_line(content, mine, monkeypatch, capsys):
    mine("experiment/bad.yaml", f"# @package _global_\n{content}\n")
    monkeypatch.setattr(sys, "argv", ["run.py", "--config-dir", "mine", "experiment=bad", "dry_run=true"])
    code, err = cli.run(), capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and EXPERIMENTS[content] in err, err


def test_experiment_file_without_its_package_is_refused(mine):
    own = mine("experiment/bad.yaml", "learn: {steps: 5}\n")
    with pytest.raises(UserError, match="begin the file with # @package _global_"):
        Composer(own).experiment(["experiment=bad"])
    own = mine("experiment/bad.yaml", "defaults: [override /algo: bc]\n")
    with pytest.raises(UserError, match="bad.yaml: expected `# @package _global_` as the first line of an experiment"):
        Composer(own).experiment(["experiment=bad"])


def test_local_file_sets_outputs_logger_and_hardware(mine, tmp_path):
    own = mine(
        "local/default.yaml",
        "defaults: [override /logger: tensorboard, _self_]\noutputs: elsewhere\nhardware: {threads: 2}\n",
    )
    experiment = Composer(own).experiment(["algo=bc"])
    assert (experiment.outputs.root, experiment.hardware.threads) == (Path("elsewhere"), 2)
    assert type(experiment.logger).__name__ == "Tensorboard"
    assert Composer(own).experiment(["outputs=there"]).outputs.root == Path("there")
    assert type(Composer(own).experiment(["logger=none"]).logger).__name__ == "NoLogger"


@pytest.mark.parametrize("content", ["logger: wandb", "outputs: x\nlogger: wandb\ndefaults: [override /hardware: cpu]"])
def test_local_file_chooses_a_logger_by_its_name(content, mine):
    own = mine("local/default.yaml", f"{content}\n")
    assert type(Composer(own).experiment(["algo=bc"]).logger).__name__ == "Wandb"


LOCALS = {
    "seed: 3": "seed",
    "outputs: x\nlearn: {steps: 5}": "learn",
    "defaults: [override /algo: bc]": "algo",
    "defaults: [/tuned@algo: pendulum/bc]": "tuned@algo",
    "defaults: [/hardware@learn: gpu]": "hardware@learn",
    "# @package learn\noutputs: x": "@package learn",
}


@pytest.mark.parametrize("content", LOCALS)
def test_local_file_that_sets_other_keys_is_refused_in_one_line(content, mine, monkeypatch, capsys):
    mine("local/default.yaml", f"{content}\n")
    monkeypatch.setattr(sys, "argv", ["run.py", "--config-dir", "mine", "algo=bc", "dry_run=true"])
    code, err = cli.run(), capsys.readouterr().err
    message = f"/default.yaml: expected only the keys outputs, logger, hardware, got {LOCALS[content]}; set it"
    assert code == 2 and err.count("\n") == 1 and message in err, err


def test_git_ignores_the_local_file():
    ignored = (CONF.parent / ".gitignore").read_text().splitlines()
    assert "/conf/local/" in ignored and not (CONF / "local").exists()


@pytest.mark.parametrize(
    "entry", ["/loss@losses.bc: bc", "/source@sources.more: dataset", "override /algo@_global_: bc"]
)
def test_tuned_file_that_chooses_a_part_is_refused_in_one_line(entry, mine):
    own = mine("tuned/cartpole/bc.yaml", f"defaults: [{entry}, _self_]\nlr: 1e-3\n")
    message = f"mine/tuned/cartpole/bc.yaml: expected values, or files of tuned/ in its defaults list, got {entry[:7]}"
    with pytest.raises(UserError, match=message):
        Composer(own).experiment(["algo=bc"])


def test_tuned_file_that_adds_a_row_by_values_is_refused_in_one_line(mine):
    own = mine("tuned/cartpole/bc.yaml", "losses: {more: {reads: demos}}\n")
    with pytest.raises(UserError, match="^algo.losses.more: expected values of a row that there is, got a new row"):
        Composer(own).experiment(["algo=bc"])


def test_tuned_file_continues_another(mine):
    own = mine("tuned/cartpole/bc.yaml", "defaults: [/tuned/pendulum/bc@_here_, _self_]\nbatch_size: 7\n")
    algo = Composer(own).experiment(["algo=bc"]).stages["learn"].algo
    assert (algo.batch_size, algo.steps) == (7, 20_000)


def test_algorithm_without_values_for_the_environment_prints_those_of_its_base(mine, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_printed", set())
    own = mine("algo/mine.yaml", "defaults: [cql_bc, _self_]\nlosses: {bc: {weight: 2}}\n")
    tuned = mine("algo/further.yaml", "defaults: [mine, _self_]\n") / "tuned" / "acrobot" / "mine.yaml"
    tuned.parent.mkdir(parents=True)
    tuned.write_text("lr: 0.5\n")

    def message(*line: str) -> str:
        Composer(own).experiment(line)
        return capsys.readouterr().err

    has_none = "algo=further has no values for env=pendulum (tuned/pendulum/further.yaml); those of its base"
    assert message("algo=further", "env=pendulum") == f"{has_none}: tuned@algo=pendulum/cql_bc\n"
    assert message("algo=further", "env=acrobot").endswith("; those of its base: tuned@algo=acrobot/mine\n")
    silent = (
        ["algo=mine", "env=acrobot"], ["algo=mine", "env=cartpole"], ["algo=cql", "env=pendulum"],
        ["algo=mine", "env=pendulum", "tuned@algo=pendulum/cql_bc"],
    )  # fmt: skip
    assert not any(message(*line) for line in silent)
    values = [Composer(own).experiment([f"algo={algo}", *silent[3][1:]]).stages["learn"] for algo in ("mine", "cql_bc")]
    assert values[0].steps == values[1].steps and values[0].algo.lr == values[1].algo.lr


def test_fqe_scores_beside_the_environment_if_it_is_chosen():
    assert Composer().experiment(["algo=bc", "ope=fqe"]).targets == ["score", "fqe"]
    assert Composer().experiment(["algo=bc", "ope=fqe", "targets=[score]"]).targets == ["score"]
    assert Composer().experiment(["algo=bc"]).targets == ["score"]


def test_tuned_files_set_values_and_add_no_part():
    """Their defaults lists contain only tuned files, so that algo=cql is CQL in every environment."""
    for path in CONF.glob("tuned/**/*.yaml"):
        for entry in (yaml.safe_load(path.read_text()) or {}).get("defaults", []):
            assert entry == "_self_" or (isinstance(entry, str) and entry.startswith("/tuned/")), path


@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
def test_cql_has_no_cloning_loss_and_cql_bc_has_one(env):
    plain = Composer().experiment(["algo=cql", f"env={env}"]).stages["learn"].algo.losses
    mixed = Composer().experiment(["algo=cql_bc", f"env={env}"]).stages["learn"].algo.losses
    assert "bc" not in plain and list(mixed) == [*plain, "bc"]


@pytest.mark.parametrize("line", [["algo=bc"], ["algo=gail"], ["algo=dagger"], ["algo=trex", "env=pendulum"]])
def test_composed_configuration_has_no_key_that_no_planned_stage_reads(line):
    """The pipeline gail also has the evaluation of the reward, for targets=[score,reward_eval]."""
    experiment = Composer().experiment(line)
    read, pending = set(), [*experiment.targets, "env", "seed", "hardware", "logger", "targets"]
    while pending:
        if (name := pending.pop()) not in read:
            read.add(name)
            pending += {key.partition(".")[0] for key in experiment.references.get(name, ())}
            pending += experiment.stages[name].inputs() if name in experiment.stages else ()
    not_stages = {"outputs", "dry_run", "film", "options"}
    spare = {"outcome", "reward_eval"} if line == ["algo=gail"] else set()
    keys = set(yaml.safe_load(experiment.config)) - not_stages - read
    assert keys <= spare | ({"demos", "dataset"} if line == ["algo=dagger"] else set())


def test_bc_composes_to_few_lines(capsys, monkeypatch):
    """188 lines: each net prints its own layers, and each agent its memory, trunk and acting rule."""
    monkeypatch.setattr(sys, "argv", ["run.py", "--cfg", "job", "algo=bc"])
    assert cli.run() == 0 and len(capsys.readouterr().out.splitlines()) < 190


def test_key_of_an_algorithm_that_a_pipeline_reads_in_part_is_refused_outside_that_part(monkeypatch, tmp_path):
    """PWIL's pipeline reads algo.agent alone."""
    monkeypatch.chdir(tmp_path)
    line = ["algo=pwil", "env=pendulum", "dry_run=true"]
    with pytest.raises(UserError, match="algo.lr=0.5: no stage of this run reads algo.lr; set keys of algo"):
        plan(Composer().experiment([*line, "algo.lr=0.5"]))
    assert "fit_pwil" in plan(Composer().experiment([*line, "algo.agent.nets.reward.atoms=50"]))
