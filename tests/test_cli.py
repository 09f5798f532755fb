"""The command line: what it prints, what it refuses and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lfd import cli
from lfd.errors import Interrupted, LabelsNeeded
from lfd.help import GROUPS, WIDTH, options

RUN = Path(__file__).parents[1] / "run.py"


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def lfd(monkeypatch, capsys):
    """Runs a command line in this process: exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        code = cli.run()
        return code, *capsys.readouterr()

    return call


# Help and other questions


def test_help_needs_neither_torch_nor_hydra():
    script = "import sys; from lfd import cli; cli.run(); print(*{'torch', 'hydra', 'numpy'} & set(sys.modules))"
    asked = [sys.executable, "-c", script, "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("continues\n\n"), done.stdout[-200:]


def test_help_shows_every_option_in_lines_of_fair_width(lfd):
    code, page, _ = lfd("-h")
    assert code == 0
    lines = page.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for group in GROUPS:
        start = next(i for i, line in enumerate(lines) if line.startswith(f"  {group}: "))
        block = lines[start + 1 : lines.index("", start)]
        shown = {line[4:].split()[0] for line in block if not line.startswith(" " * 8)}
        assert shown == set(options(cli.config_folder(), group))
    assert "  * cql " in page and "  * cartpole " in page


def test_version_and_hydras_questions(lfd):
    code, out, _ = lfd("--version")
    assert (code, out) == (0, "lfd 0.1.0\n")
    code, out, _ = lfd("--cfg", "job", "algo=bc")
    assert code == 0 and "label_smoothing: 0.0" in out
    # in a process of its own: Hydra turns the logging up for it, for good
    done = subprocess.run([sys.executable, RUN, "--info", "defaults"], capture_output=True, text=True, check=True)
    assert "algo.losses.td" in done.stdout


# Refusals

REFUSED = {
    "algo=cqll": "algo=cqll: algo has no option 'cqll'; did you mean 'cql'?",
    "algo=null": "algo=null: algo has no option 'null'; known: airl, awac, ",
    "lern.steps=5": "lern.steps: there is no 'lern'; did you mean 'learn'?",
    "learn.step=5": "learn.step: learn has no 'step'; did you mean 'steps'?",
    "algo.losses.gap.wieght=1": "algo.losses.gap has no 'wieght'; did you mean 'weight'?",
    "algo.losses.gapp.weight=1": "algo.losses has no 'gapp'; did you mean 'gap'?",
    "algo.optim.q.lr=1": "algo.optim has no 'q' yet; add it with +optim@algo.optim.q=row",
    "+learn.stop.scroe=475": "learn.stop.scroe: learn.stop has no 'scroe'; did you mean 'score'?",
    "+algo.losses.gap.foo=3": "algo.losses.gap.foo: algo.losses.gap has no 'foo'",
    "+optim@algo.optim.nosuch=row": "learn: optim.nosuch names no module of QAgent",
    "seed=-1": "seed is -1; 0 or more is expected",
    "algo.lr=inf": "inf is outside",
    "algo.losses.gap.temperature=0": "a temperature above 0 is expected",
    "algoo=cql": "algoo: there is no 'algoo'; did you mean 'algo'?",
    "algo@expert=ppo": "nothing is chosen at algo@expert; did you mean 'algo@expert_algo'?",
    "+algo=bc": "+algo=bc: algo is chosen already; leave out the plus",
    "learn.algo=bc": "learn.algo=bc: learn.algo is another name of algo; choose one there, as in algo=",
    "learn.algo=null": "learn.algo=null: learn.algo is another name of algo; choose one there, as in algo=",
    "expert.algo=dqn": "expert.algo is another name of expert_algo; choose one there, as in algo@expert_algo=dqn",
    "env=null": "env=null: env has no option 'null'; known: acrobot, ",
    "env=none": "dataset.path is missing; add dataset.path=...",
    "~env": "~env: other choices depend on env; choose another instead of none",
    "hydra.run.dir=x": "hydra.run.dir=x: a run's folder is named by what it computes; choose where all are kept: ",
    "+hydra.run.dir=x": "+hydra.run.dir=x: a run's folder is named by what it computes; ",
    "-m hydra.sweep.dir=x seed=0,1": "hydra.sweep.dir=x: a run's folder is named by what it computes; ",
    "hydra.launcher.n_jobs=2": "hydra.launcher.n_jobs=2: Hydra's own settings are for sweeps; add -m",
    "+lern.steps=5": "lern is {'steps': 5}, which nothing reads; did you mean 'learn'?",
    "learn=3": "learn is 3, which nothing reads; a stage is expected there",
    "targets=3": "targets is 3; a list of stages is expected, as in targets=[score]",
    "learn.steps=abc": "learn.steps: a whole number is expected, not 'abc'",
    "learn.steps=1e6": "learn.steps: a whole number is expected, not '1000000.0'; write 1_000_000 for 1e6",
    "algo.gamma=high": "algo.gamma: a number is expected, not 'high'",
    "dry_run=maybe": "dry_run: true or false is expected, not 'maybe'",
    "hardware.device=tpu": "hardware.device: there is no 'tpu'; did you mean 'gpu'?",
    "learn.stop=3": "learn.stop: a single value cannot stand here; set one of the keys below it",
    "learn.seed=${sed}": "learn.seed: Interpolation key 'sed' not found",
    "dataset=file": "dataset.path is missing; add dataset.path=...",
    "env=gym": "env.id is missing; add env.id=...",
    "algo.batch=-1": "algo.batch is -1; 1 or more rows are expected",
    "algo.losses.gap.every=0": "algo.losses.gap.every of ConservativeDiscrete is 0; 1 or more",
    "learn.steps": "learn.steps: cannot be read; key=value is expected",
    "=3": "=3: there is no key; key=value is expected",
    "a=[": "a=[: cannot be read; key=value is expected",
    "seed=0,1": "seed=0,1: several values; add -m to run one job each, or write seed=[...] for a list",
    "algo=bc algo=cql": "algo=bc algo=cql: algo is given twice; leave one out",
    "learn.algo.lr=1": "learn.algo.lr: learn.algo is another name of algo; set algo.lr",
    "expert.algo.lrr=1": "expert.algo.lrr: expert.algo is another name of expert_algo; set expert_algo.lrr",
    "algo=dqn env=pendulum": "learn: QNet acts in discrete action spaces, the environment's is continuous",
    "algo=ppo algo.losses.ppo.reads=demos": "needs the columns advantage, log_prob, value_target, which 'demos'",
    "algo.losses.gap.reads=demo": "no stage is called 'demo'; did you mean 'demos'?",
    "algo.agent.hidden=[0]": "layers of [4, 0, 2] units; 1 or more in each are expected, as in hidden=[64,64]",
    "algo=crr algo.losses.gap.weight=2": "algo.losses has no 'gap' yet; add it with +loss@algo.losses.gap=<which>",
    "algo=iql env=pendulum algo.agent.critics=0": "critics is 0; 1 or more are expected",
    "algo=awac algo.agent.critics=0": "critics is 0; 1 or more are expected",
    "score.policies=[learn@2]": "score: learn@2: checkpoints=0 keeps that many earlier states, counted from 0; set",
    "targets=[fqe] fqe.frozen.policy=expert@0": "fqe: frozen.policy=expert@0: checkpoints=0 keeps that many earlier",
    "dataset.policy=expert@1 expert.checkpoints=1": "demos: expert@1: checkpoints=1 keeps that many earlier states",
    "targets=[fqe] fqe_algo.sources.demos.n_step=3": "losses.fqe judges single steps and demos gives 3 at once; set",
    "+algo.optim.qq.lr=1e-3": "algo.optim has no 'qq' yet; add it with +optim@algo.optim.qq=row",
    "algo=dqn algo.sources.replay.priority=2": "priority of a replay is 2.0; a number in [0, 1] is expected",
    "algo=ppo algo.batch=5000": "algo.batch=5000 is more than",
    "score.policies=[]": "score.policies is empty; name whom to score",
    "learn.steps=-1": "learn.steps is -1; 1 or more is expected",
    "targets=[scores]": "targets: no stage is called 'scores'; did you mean 'score'?",
    "env=gym env.id=CartPol-v1": "did you mean 'CartPole-v1'?",
    "dataset=file dataset.path=nope.npz": "dataset.path=nope.npz: there is no such file",
    "outputs=/dev/null/here": "outputs=/dev/null/here: /dev/null is no folder that can be written to",
    "-m hydra/launcher=jobli": "hydra/launcher has no option 'jobli'; did you mean 'joblib'?",
    "--bogus": "unrecognized arguments: --bogus; `python run.py --help` lists the flags",
    "--config-dir nowhere": "--config-dir nowhere: there is no such folder",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_in_one_line_before_anything_is_made(line, lfd, tmp_path):
    code, out, err = lfd(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("lfd: ") and err.count("\n") == 1
    assert REFUSED[line] in err
    assert not list(tmp_path.iterdir())


BROKEN = {
    "losses: {bc: [": "algo/mine.yaml, line 1: this is not YAML",
    "defaults: [schema, /loss@losses.bc: clonning]": "mine.yaml: loss has no option 'clonning'; did you mean 'cloning",
    "defaults: [schema, _self_]\nlossses: {}": "mine.yaml: algo.lossses: algo has no 'lossses'; did you mean 'losses'?",
    "defaults: [schema, _self_]\nbatch: many": "algo/mine.yaml: algo.batch: a whole number is expected, not 'many'",
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_of_the_user_is_named(content, lfd, tmp_path):
    mine = tmp_path / "mine" / "algo" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(content)
    code, _, err = lfd("--config-dir", "mine", "algo=mine")
    assert code == 2 and err.count("\n") == 1
    assert BROKEN[content] in err


def test_the_traceback_is_shown_when_asked_for(lfd, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, _, err = lfd("learn.step=5")
    assert code == 2 and "Traceback" in err and "ConfigCompositionException" in err


def test_the_process_ends_with_the_code():
    done = subprocess.run([sys.executable, RUN, "--bogus"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("lfd: ") and done.stderr.count("\n") == 1


# Other ends


@pytest.mark.parametrize("line", ["--help", "--version"])
def test_a_reader_that_has_gone_is_no_fault(line):
    asked = subprocess.Popen([sys.executable, RUN, line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    asked.stdout.close()
    assert (asked.stderr.read(), asked.wait()) == (b"", 75)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Interrupted("learn stopped at gradient step 5"), 75, "gradient step 5; the same command continues"),
        (KeyboardInterrupt(), 75, "stopped; the same command continues"),
        (LabelsNeeded("12 labels are asked for in labels.json"), 3, "12 labels"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "fault of ours: ZeroDivisionError: division by zero (test_cli.py:",
        ),
    ],
)
def test_ends(error, code, text, lfd, monkeypatch):
    def run():
        raise error

    monkeypatch.setattr(cli, "_run", run)
    ended, _, err = lfd()
    assert ended == code and text in err and err.count("\n") == 1


def test_sigterm_before_the_pipeline_ends_as_interrupted(lfd, monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert lfd()[0] == 75


def test_the_last_line_is_the_path_of_the_result(lfd):
    small = "algo=bc dataset=random dataset.transitions=200 learn.steps=20 learn.check.every=0 score.episodes=2"
    code, out, _ = lfd(*small.split())
    *table, last = out.splitlines()
    assert code == 0
    assert json.loads(Path(last).read_text())["scores"]["learn"]["episodes"] == 2
    assert any(line.startswith("learn ") for line in table)


def test_a_pipeline_of_the_user_can_be_chosen(lfd, tmp_path):
    (tmp_path / "mine" / "pipeline").mkdir(parents=True)
    (tmp_path / "mine" / "pipeline" / "chain.yaml").write_text(
        "# @package _global_\n"
        "defaults: [standard, /stage@second: fit, _self_]\n"
        'second: {algo: "${algo}", steps: 20, init_from: learn}\n'
        "score: {policies: [second]}\n"
    )
    code, out, err = lfd("--config-dir", "mine", "pipeline=chain", "algo=bc", "dry_run=true")
    assert code == 0, err
    stages = [line.split()[0] for line in out.splitlines() if line]
    assert [name for name in stages if name in ("expert", "demos", "learn", "second", "score")] == [
        "expert", "demos", "learn", "second", "score",
    ]  # fmt: skip


def test_a_row_is_added_to_a_table(lfd):
    code, _, err = lfd("+optim@algo.optim.q=row", "algo.optim.q.clip=1.0", "dry_run=true")
    assert code == 0, err
