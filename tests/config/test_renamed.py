"""Names of an earlier version are refused with the new ones: on the command line, in a sweep and in a user's files."""

import re
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lfd.cli import main as cli
from lfd.config import renamed
from lfd.config.composer import Composer
from lfd.config.errors import unknown_key_message
from lfd.config.renamed import FILES, RENAMED
from lfd.errors import UserError
from lfd.registry import PARTS

TABLES = {"losses", "targets", "optim", "tuned"}
GROUPS = {owner for owner, *_ in RENAMED if owner and owner[0].islower()} - TABLES - {"agent"}
CLASSES = [entry for entry in RENAMED if entry[0] and entry[0][0].isupper()]
ROWS = [entry for entry in RENAMED if entry[0] == "losses"]


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """Runs a command line in this process, with the user's folder `mine`: exit code and the line on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*line):
        monkeypatch.setattr(sys, "argv", ["run.py", *line])
        code = cli.run()
        return code, capsys.readouterr().err

    return run


def classes() -> dict[str, type]:
    """Every dataclass of the package, by its name."""
    modules = [module for name, module in sys.modules.items() if name.startswith("lfd.")]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    return {kind.__name__: kind for kind in kinds if is_dataclass(kind)}


@pytest.mark.parametrize("entry", [entry for entry in RENAMED if entry[0] in GROUPS and entry[1] != "q"], ids=" ".join)
def test_option_of_an_earlier_version_is_refused_with_its_new_name(entry):
    group, old, new = entry[:3]
    composer = Composer()
    assert new in composer.loader.options(group) and old not in composer.loader.options(group)
    line = f"{group}={old}" if group in ("dataset", "pipeline") else f"+{group}@x={old}"
    with pytest.raises(UserError, match=f"^{group}={old} is called {group}={new}$"):
        composer.experiment([line])


@pytest.mark.parametrize("entry", [entry for entry in RENAMED if entry[0] == "agent"], ids=" ".join)
def test_agent_of_an_earlier_version_is_refused_with_its_nets(entry, call, tmp_path):
    _, old, new, *remark = entry
    message = "; ".join([f"agent={old} is called {new}", *remark])
    assert call(f"+agent@algo.agent={old}") == (2, f"lfd: {message}\n")
    path = tmp_path / "mine" / "algo" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"defaults: [schema, /agent@agent: {old}, /loss@losses.bc: bc, _self_]\n")
    assert call("--config-dir", "mine", "algo=mine") == (2, f"lfd: mine/algo/mine.yaml: {message}\n")


@pytest.mark.parametrize("table", ["targets", "optim"])
def test_row_of_the_net_q_is_refused_with_its_new_name(table, call):
    message = f"lfd: algo.{table}.q is called algo.{table}.critic\n"
    for sweep in ([], ["-m", "seed=0,1"]):
        assert call(*sweep, "algo=dqn", f"algo.{table}.q={{lr: 1.0}}") == (2, message)


@pytest.mark.parametrize("entry", CLASSES, ids=" ".join)
def test_field_of_an_earlier_version_is_refused_with_its_new_name(entry):
    owner, old, new = entry[:3]
    cfg = OmegaConf.structured(classes()[owner])
    assert re.split("[=.]", new)[0] in list(cfg) and ("=" in old or old not in cfg)
    assert unknown_key_message(cfg, "here", old, f"here.{old}").startswith(f"here.{old} is called here.{new}")


def test_steps_of_a_schedule_are_refused_with_their_new_name(call):
    assert call("algo=dqn", "algo.sources.replay.epsilon.steps=5") == (
        2,
        "lfd: algo.sources.replay.epsilon.steps is called algo.sources.replay.epsilon.over\n",
    )
    code, err = call("algo=bc", "algo.lr={start:1.0,end:0.0,steps:5}")
    assert (code, err) == (2, "lfd: algo.lr: steps is called over\n")


@pytest.mark.parametrize("entry", ROWS, ids=" ".join)
def test_row_of_an_earlier_version_is_refused_with_its_new_name(entry, call):
    _, old, new, *remark = entry
    renamed = new if new.startswith("algo.") else f"algo.losses.{new}"
    message = "; ".join([f"algo.losses.{old} is called {renamed}", *remark])
    assert call(f"algo.losses.{old}.weight=2") == (2, f"lfd: {message}\n")


@pytest.mark.parametrize("line", ["learn.limit=5", "+learn.limit=5", "++learn.limit=5", "expert.limit=5"])
def test_renamed_field_of_a_part_is_refused_with_its_new_name(line, call, monkeypatch):
    monkeypatch.setattr(renamed, "RENAMED", [*RENAMED, ("FitConfig", "limit", "reset_every", "in gradient steps")])
    stage = line.lstrip("+").partition(".")[0]
    assert call(line) == (2, f"lfd: {stage}.limit is called {stage}.reset_every; in gradient steps\n")


def test_renamed_field_and_value_in_a_users_file_are_refused_with_their_new_names(call, monkeypatch, tmp_path):
    added = [
        ("OptimConfig", "clipping", "max_grad_norm"),
        ("OptimConfig", "optimizer=lion", "optimizer=adam"),
        ("BC", "loss", "error"),
    ]
    monkeypatch.setattr(renamed, "RENAMED", [*RENAMED, *added])
    path = tmp_path / "mine" / "algo" / "mine.yaml"
    path.parent.mkdir(parents=True)
    messages = {
        "optim: {policy: {clipping: 1.0}}": "algo.optim.policy.clipping is called algo.optim.policy.max_grad_norm",
        "optim: {policy: {optimizer: lion}}": "optimizer=lion is called algo.optim.policy.optimizer=adam",
        "losses: {bc: {loss: mse}}": "algo.losses.bc.loss is called algo.losses.bc.error",
    }
    for content, message in messages.items():
        path.write_text(f"defaults: [bc, /optim@optim.policy: optim, _self_]\n{content}\n")
        code, err = call("--config-dir", "mine", "algo=mine")
        assert code == 2 and message in err and "mine.yaml" in err and err.count("\n") == 1, err


ROOTS = {
    "algo=gail algo@learner=dqn": "algo@learner is called rl_algo",
    "algo=trex learner.lr=1": "learner is called rl_algo",
    "algo=trex +learner.lr=1": "learner is called rl_algo",
    "fqe_algo.lr=1": "fqe_algo is called fqe.algo; ope=fqe brings it",
    "ope@fqe_algo=fqe": "ope@fqe_algo is called ope",
    "algo=trex inspect.data=[demos]": "inspect is called reward_eval",
    "algo=trex targets=[score,inspect]": "targets: no stage is called 'inspect'; inspect is called reward_eval",
    "+impl@algo=cql_discrete": "impl is called by_action",
    "+impl/learner@algo=gail_ppo": "impl/learner is called by_rl_algo",
    "+tuned/learner@rl_algo=ppo_cartpole": "tuned/learner is called tuned/rl_algo",
    "+tuned/learner_from@rl_algo=ppo_cartpole": "tuned/learner_from is called tuned/rl_algo",
    "tuned/dataset@_global_=x": "tuned/dataset is called tuned; in tuned/<env>/<dataset>.yaml",
    "tuned@algo=cql_pendulum": "tuned=cql_pendulum is called tuned=pendulum/cql",
    "tuned@algo=cql_qrdqn_lunarlander_continuous": "tuned=cql_qrdqn_lunarlander_continuous is called "
    "tuned=lunarlander_continuous/cql_qrdqn",
    "+tuned@expert=trained_pendulum": "tuned=trained_pendulum is called tuned=pendulum/expert",
    "targets=[appraise]": "targets: no stage is called 'appraise'; appraise is called fqe; ope=fqe brings it",
    "~fqe_algo": "fqe_algo is called fqe.algo; ope=fqe brings it",
    "~learn.boundary": "learn.boundary is called learn.reset_every",
    "~algo.losses.gap": "algo.losses.gap is called algo.losses.cql",
    "~algo@learner": "algo@learner is called rl_algo",
    "+agent@algo.agent=mine": (
        "agent is called net; an agent has nets by name, as in +net@algo.agent.nets.critic=q_ensemble"
    ),
}


@pytest.mark.parametrize("line", ROOTS)
def test_key_of_an_earlier_version_is_refused_with_its_new_name(line, call):
    assert call(*line.split()) == (2, f"lfd: {ROOTS[line]}\n")


def test_every_root_key_of_the_table_is_tried():
    words = {word for line in ROOTS for word in re.split(r"[ .=\[\],+~]", line)}
    tried = words | {part for word in words for part in (word.partition("@")[0], word.partition("/")[0])}
    assert {old for owner, old, *_ in RENAMED if not owner} <= tried


IN_FILES = {
    "algo/mine.yaml": (
        "defaults: [bc, override /dataset@_global_.dataset: few]",
        "dataset=few is called dataset=expert_10",
    ),
    "pipeline/mine.yaml": (
        "# @package _global_\ndefaults: [reward, _self_]",
        "pipeline=reward is called pipeline=reward_then_policy",
    ),
    "experiment/mine.yaml": ("# @package _global_\nfqe_algo: {lr: 1.0}", "fqe_algo is called fqe.algo"),
    "env/mine.yaml": (
        "defaults: [gym_schema, override /algo@_global_.learner: sac]\nid: CartPole-v1",
        "env/mine.yaml: algo@learner is called rl_algo",
    ),
    "expert/mine.yaml": ("defaults: [/stage@_here_: live]", "stage=live is called stage=keyboard"),
    "env/group.yaml": (
        "defaults: [gym_schema, override /impl: cql_discrete]\nid: CartPole-v1",
        "env/group.yaml: impl is called by_action",
    ),
    "experiment/key.yaml": ("# @package _global_\nlearner: {lr: 1.0}", "key.yaml: learner is called rl_algo"),
    "experiment/stage.yaml": ("# @package _global_\ntargets: [appraise]", "stage.yaml: targets: no stage is called"),
    "experiment/tuned.yaml": (
        "# @package _global_\ndefaults: [override /tuned@algo: cql_pendulum]",
        "tuned@algo=cql_pendulum is called tuned@algo=pendulum/cql",
    ),
    "experiment/row.yaml": (
        "# @package _global_\nalgo: {losses: {gap: {weight: 2}}}",
        "algo.losses.gap is called algo.losses.cql",
    ),
    "experiment/value.yaml": (
        "# @package _global_\ndefaults: [override /algo: gail]\nalgo: {losses: {gail: {reward_fn: expert}}}",
        "algo.losses.gail.reward_fn=expert is called algo.losses.gail.reward_fn=gail",
    ),
    "experiment/target.yaml": ("# @package _global_\ntargets: [inspect]", "inspect is called reward_eval"),
}


@pytest.mark.parametrize("file", IN_FILES)
def test_name_of_an_earlier_version_in_a_users_file_is_refused_with_its_new_name(file, call, tmp_path):
    path = tmp_path / "mine" / file
    path.parent.mkdir(parents=True)
    path.write_text(IN_FILES[file][0] + "\n")
    code, err = call("--config-dir", "mine", f"{path.parent.name}={path.stem}")
    assert code == 2 and IN_FILES[file][1] in err and err.count("\n") == 1, err


SWEEPS = {
    "algo=iql algo.agent.critics=2,4": "algo.agent.critics is called algo.agent.nets.critic.critics",
    "learn.boundary=1,2": "learn.boundary is called learn.reset_every",
    "algo.batch=1,2": "algo.batch is called algo.batch_size",
    "algo.losses.discriminator.weight=1,2": "algo.losses.discriminator is called algo.losses.gail; airl for algo=airl",
    "dataset=few seed=0,1": "dataset=few is called dataset=expert_10",
    "algo=gail algo@learner=dqn,ppo": "algo@learner is called rl_algo",
    "algo=gail algo.losses.gail.reward_fn=log seed=0,1": (
        "algo.losses.gail.reward_fn=log is called algo.losses.gail.reward_fn=log_d"
    ),
}


@pytest.mark.parametrize("line", SWEEPS)
def test_name_of_an_earlier_version_in_a_sweep_is_refused_in_one_line(line, call):
    assert call("-m", *line.split()) == (2, f"lfd: {SWEEPS[line]}\n")


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in FILES])
def test_file_in_a_place_of_an_earlier_version_is_refused(pattern, call, tmp_path):
    path = tmp_path / "mine" / pattern.replace("*", "bc_pendulum")
    path.parent.mkdir(parents=True)
    path.write_text("steps: 5\n")
    code, err = call("--config-dir", "mine", "algo=bc")
    place = dict(FILES)[pattern]
    assert (code, err) == (
        2,
        f"lfd: {path.relative_to(tmp_path)}: expected this file in another place; move it to {place}\n",
    )


def test_stage_options_of_the_table_are_registered():
    assert {new for owner, _, new, *_ in RENAMED if owner == "stage"} <= set(PARTS["stage"])


def test_a_users_own_part_may_have_an_earlier_name(call, tmp_path):
    path: Path = tmp_path / "mine" / "dataset" / "few.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("defaults: [/stage@_here_: collect, _self_]\npolicy: random\ntransitions: 100\n")
    code, err = call("--config-dir", "mine", "algo=bc", "dataset=few", "--cfg", "job")
    assert (code, err) == (0, "")
