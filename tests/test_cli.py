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
    "algo=cql tuned@algo=cql_pendulm": "tuned@algo=cql_pendulm: tuned has no option 'cql_pendulm'; did you mean",
    "env=none dataset.path=/": "data: / is a folder with ",
    "lern.steps=5": "lern.steps: there is no 'lern'; did you mean 'learn'?",
    "learn.step=5": "learn.step: learn has no 'step'; did you mean 'steps'?",
    "algo.losses.gap.wieght=1": "algo.losses.gap has no 'wieght'; did you mean 'weight'?",
    "algo.losses.gapp.weight=1": "algo.losses has no 'gapp'; did you mean 'gap'?",
    "algo.optim.q.lr=1": "algo.optim has no 'q' yet; add it with +optim@algo.optim.q=row",
    "+learn.stop.scroe=475": "learn.stop.scroe: learn.stop has no 'scroe'; did you mean 'score'?",
    "+algo.losses.gap.foo=3": "algo.losses.gap.foo: algo.losses.gap has no 'foo'",
    "+optim@algo.optim.nosuch=row": "learn: optim.nosuch names no module of QAgent",
    "seed=-1": "seed is -1; a number from 0 to 9,223,372,036,854,775,807 is expected",
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
    "learn.seed=${sed}": "learn.seed=${sed}: Interpolation key 'sed' not found",
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
    "algo=bc learner=ppo": "learner=ppo: learner is chosen by name; write algo@learner=ppo",
    "algo=bc algo@learner=dqn": "algo@learner=dqn: no stage of this run reads learner; set what is below algo",
    "algo=[bc,cql]": "algo=[bc,cql]: one option is expected; -m algo=bc,cql makes a job of each",
    "algo.losses={}": "algo.losses={}: a table is merged into what is there, so this removes nothing; ~algo.losses.",
    "outputs=null": "outputs is null; a value is expected there",
    "outputs=": "outputs is empty; a folder is expected, as in outputs=elsewhere",
    "outputs=/proc/x": "outputs=/proc/x: /proc is no folder that can be written to",
    f"outputs={'x' * 300}": "is no folder that can be written to (File name too long)",
    "dry_run=null": "dry_run is null; a value is expected there",
    "~outputs": "~outputs: outputs has to be there; choose another value instead",
    "~film": "~film: film has to be there",
    "~learner": "~learner: learner has to be there",
    "~hardware=[]": "~hardware=[]: ~ takes a key away and needs no value",
    "~algo.lr": "algo.lr: it cannot be taken away; set it to another value",
    "expert.check=${learn.steps}": "expert.check=${learn.steps}: Checks is expected there, and that is something else",
    "algo.losses=${oc.env:PATH}": "algo.losses=${oc.env:PATH}: a table is expected there",
    "algo.lr=${oc.env:PATH}": "algo.lr: '${oc.env:PATH}' is neither a number",
    "seed=${.x}": "seed=${.x}: Interpolation key 'x' not found",
    "+options.algo=bc": "options only tells what a run was made of",
    "algo.lr={start:1e-3,end:1e-4,steps:inf}": "algo.lr: start, end, steps and warmup are finite numbers",
    "algo.lr={start:1e-3,end:1e-4,steps:1.5}": "algo.lr: steps is a whole number of gradient steps",
    "algo.lr=1e23": "algo.lr is 1e+23; a number from 0 to 1,000 is expected",
    "dataset.seed=-1": "dataset.seed is -1; a number from 0 to",
    "learn.stop.success_rate=5": "learn.stop.success_rate is 5.0; a number from 0 to 1 is expected",
    "learn.stop.score=inf": "learn.stop.score is inf; a finite number below 1e15 is expected",
    f"dataset.num_envs=1{'0' * 23}": "a number from 1 to 10,000 is expected",
    "hardware.threads=1000000000": "hardware.threads is 1000000000; a number from 0 to 1,024 is expected",
    "score.policies=[learn,learn]": "score.policies is ['learn', 'learn']; name whom to score, as in [learn], and each",
    "algo=bc algo.sources.demos.validation=2": "algo.sources.demos.n_step is 1 and validation 2; 1 or more, and",
    "algo.agent.hidden=[1000000,1000000]": "4,000,032,000,008 bytes of weights: 16,000,128,100,032 bytes of memory are",
    "algo=dqn algo.sources.replay.capacity=100_000_000_000": "sources.replay.capacity=100000000000: 2,400,000,024,000",
    "algo.batch=1000000000": "learn: algo.batch=1000000000: 560,000,000,000 bytes of memory are needed",
    "learn.members=1000000": "learn.members is 1000000; a number from 1 to 1,000 is expected",
    "learn.init_from=expert": "learn: init_from=expert: its ActorCritic has no module in common with the QAgent",
    "algo=ppo learn.init_from=expert algo.agent.hidden=[7]": "init_from=expert: its 'policy' is another network than",
    "dataset=mixed expert.checkpoints=5 expert.steps=200 expert.check.every=100": "check.every=100 makes 2 checks",
    "algo=dagger score.policies=[learn@10,learn]": "score: learn@10: there are 10 rounds, counted from 0",
    "algo=pwil env=pendulum dataset.episodes=null dataset.transitions=20": "reads 500 different rows at once, 'demos'",
    "algo=sqil env=pendulum expert=babyai_bot": "is no level of BabyAI",
    "expert=script expert.script=os:environ": "expert.script=os:environ: environ is no function but a _Environ",
    "-p dry_run=true": "--package dry_run=true: it is for --cfg, which prints that part; leave it out",
    "--resolve": "--resolve: it is for --cfg",
    "--info nope": "--info nope: expected one of all, config, defaults",
    "--shell-completion": "--shell-completion: expected install=bash",
    "--cfg job -p nope": "--package nope: there is nothing at that key",
    "-m --cfg job": "--cfg -m: only one of them is expected; leave the other out",
    "-m seed=range(0,0)": "seed=range(0,0): no value is in it",
    "-m seed=range(0,1000000000) algo=bc,cql": "these values make 2,000,000,000 jobs; 10,000 or fewer are expected",
    "-m algo=glob(zzz*)": "algo=glob(zzz*): no option of algo is called so; known: ",
    "-m seed=glob(*)": "seed=glob(*): glob() chooses among options of a group",
    "-m hydra/launcher=joblib hydra.launcher.n_jobs=0 seed=0,1": "hydra.launcher.n_jobs is 0; how many at once is",
    "-m hydra.sweeper.params={seed:2} seed=0,1": "hydra.sweeper.params={seed:2}: expected values on the line itself",
    "-m hydra.sweeper.max_batch_size=2 seed=0,1": "hydra.sweeper.max_batch_size is 2: expected nothing; list",
    "--bogus": "unrecognized arguments: --bogus; `python run.py --help` lists the flags",
    "--config-dir nowhere": "--config-dir nowhere: there is no such folder",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_in_one_line_before_anything_is_made(line, lfd, tmp_path):
    code, out, err = lfd(*line.split())
    assert (code, out) == (2, ""), err
    assert err.startswith("lfd: ") and err.count("\n") == 1
    assert REFUSED[line] in err
    assert not list(tmp_path.iterdir())


BROKEN = {
    "losses: {bc: [": "algo/mine.yaml, line 1: this is not YAML",
    "defaults: [schema, /loss@losses.bc: clonning]": "mine.yaml: loss has no option 'clonning'; did you mean 'cloning",
    "defaults: [schema, _self_]\nlossses: {}": "mine.yaml: algo.lossses: algo has no 'lossses'; did you mean 'losses'?",
    "defaults: {a: b}": "mine/algo/mine.yaml: defaults is expected to list options",
    "defaults: null": "mine/algo/mine.yaml: defaults is expected to list options",
    "defaults: [1]": "mine/algo/mine.yaml: defaults is expected to list options",
    "defaults: [mine]": "mine/algo/mine.yaml: its defaults list leads back to itself",
    "- a": "mine/algo/mine.yaml: keys and values are expected",
    "x: \x00": "mine/algo/mine.yaml",
    "\n".join(
        ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    ): "its aliases stand for",
    "a: &a [*a]": "its aliases stand for more than 100,000 values",
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


def test_a_file_that_is_no_text_is_named(lfd, tmp_path):
    mine = tmp_path / "mine" / "algo" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"\xff\xfe\x00\x01")
    code, _, err = lfd("--config-dir", "mine", "algo=mine")
    assert code == 2 and err.count("\n") == 1 and "mine.yaml: expected a YAML file, got bytes that are no text" in err


SETTINGS = {
    "hydra: {mode: MULTIRUN}": "hydra.mode is MULTIRUN: a sweep is asked for on the line; add -m",
    "hydra: {sweeper: {params: {seed: '0,1'}}}": "hydra.sweeper.params is {'seed': '0,1'}: expected nothing; list the",
    "hydra: {run: {dir: x}}": "hydra.run.dir is set: a run's folder is named by what it computes",
}


@pytest.mark.parametrize("content", SETTINGS)
def test_hydras_settings_in_a_file_are_not_ignored(content, lfd, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    for more in [[], ["-m", "algo=bc"]] if "MULTIRUN" not in content else [[]]:
        code, _, err = lfd("--config-dir", "mine", *more, "+experiment=mine", "dry_run=true")
        assert code == 2 and SETTINGS[content] in err and err.count("\n") == 1, err


NAMES = [
    "epoch=3-step=100",
    "left,right",
    "my demos (final)",
    "run#2",
    "half[50%]",
    "tom@lab",
    "größe {1}",
    "it's",
    "a\\b",
]


@pytest.mark.parametrize("name", [*NAMES, "back\\", "${seed}", "a\nb"])
def test_a_path_needs_no_quotes_within_quotes(name, lfd, tmp_path):
    (tmp_path / f"{name}.npz").touch()
    for path in (f"{name}.npz", str(tmp_path / f"{name}.npz")):
        _, _, err = lfd("algo=bc", "env=none", f"dataset.path={path}", "dry_run=true")
        # It is found, and is empty.
        assert "there is no such file" not in err and f"{name}.npz" in err.replace(" b.npz", "\nb.npz"), err


def test_a_sweep_over_paths_parts_them_at_commas(lfd, tmp_path):
    for line in ("dataset.path=a=1.npz,b.npz", "dataset.path='a=1.npz','b.npz'"):
        code, _, err = lfd("-m", "algo=bc", "env=none", line, "dry_run=true")
        assert code == 2 and "dataset.path=a=1.npz: there is no such file" in err and "=b.npz: there" in err, err


def test_glob_stands_for_the_options_of_a_group(lfd, monkeypatch):
    monkeypatch.setattr("lfd.trials.SECONDS", 0.0)
    code, out, err = lfd("-m", "algo=glob(bc*)", "dry_run=true")
    assert code == 0 and [line for line in out.splitlines() if line.startswith("algo=")] == [
        "algo=bc dry_run=true", "algo=bcq dry_run=true",
    ], err  # fmt: skip


def test_a_secret_is_in_no_refusal(lfd, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "abcdef123456")
    for value in ("abcdef123456", "${oc.env:MY_API_KEY}"):
        code, _, err = lfd(f"algo.lr={value}")
        assert code == 2 and "algo.lr" in err and "abcdef123456" not in err
