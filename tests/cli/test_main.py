"""The command line: help, one-line errors, exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import hydra
import pytest

from lfd.cli import main as cli
from lfd.cli.help import GROUPS, WIDTH, options
from lfd.config.folder import config_folder
from lfd.errors import Interrupted, LabelsNeeded

RUN = Path(__file__).parents[2] / "run.py"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
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


# Help and Hydra's flags


def test_help_needs_neither_torch_nor_hydra():
    script = "import sys; from lfd.cli import main; main.run(); print({'torch', 'hydra', 'numpy'} & set(sys.modules))"
    command = [sys.executable, "-c", script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_help_lists_every_option_in_lines_of_limited_width(lfd):
    code, page, _ = lfd("-h")
    assert code == 0
    lines = page.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for group in GROUPS:
        start = next(i for i, line in enumerate(lines) if line.startswith(f"  {group}: "))
        block = lines[start + 1 : lines.index("", start)]
        shown = {line[4:].split()[0] for line in block if not line.startswith(" " * 8)}
        assert shown == set(options(config_folder(), group))
    assert "  * cql " in page and "  * cartpole " in page


def test_version_cfg_and_info_print_their_answers(lfd):
    code, out, _ = lfd("--version")
    assert (code, out) == (0, "lfd 0.1.0\n")
    code, out, _ = lfd("--cfg", "job", "algo=bc")
    assert code == 0 and "label_smoothing: 0.0" in out
    assert lfd("algo=bc", "--cfg", "job", "learn.steps=3")[:2] == lfd("--cfg", "job", "algo=bc", "learn.steps=3")[:2]
    # in another process, as Hydra changes the logging of the process for it
    done = subprocess.run([sys.executable, RUN, "--info", "defaults"], capture_output=True, text=True, check=True)
    assert "algo.losses.dqn" in done.stdout


# Errors

REFUSED = {
    "algo=cqll": "algo=cqll: algo has no option 'cqll'; did you mean 'cql'?",
    "algo=null": "algo=null: algo has no option 'null'; known: airl, awac, ",
    "algo=cql tuned@algo=pendulum/cqll": "tuned@algo=pendulum/cqll: tuned has no option 'pendulum/cqll'; did you mean",
    "env=none dataset.path=/": "data: /: expected data, got a folder with ",
    "lern.steps=5": "lern.steps: there is no 'lern'; did you mean 'learn'?",
    "learn.step=5": "learn.step: learn has no 'step'; did you mean 'steps'?",
    "algo.losses.cql.wieght=1": "algo.losses.cql has no 'wieght'; did you mean 'weight'?",
    "algo.losses.cqll.weight=1": "algo.losses has no 'cqll'; did you mean 'cql'?",
    "algo.optim.critic.lr=1": "algo.optim has no 'critic' yet; add it with +optim@algo.optim.critic=optim",
    "+learn.stop.scroe=475": "learn.stop.scroe: learn.stop has no 'scroe'; did you mean 'score'?",
    "+algo.losses.cql.foo=3": "algo.losses.cql.foo: algo.losses.cql has no 'foo'",
    "+optim@algo.optim.nosuch=optim": "learn: optim.nosuch names no net",
    "seed=-1": "seed: expected a number from 0 to 9,223,372,036,854,775,807, got -1",
    "algo.lr=inf": "algo.lr: expected a value in [0.0, inf], got inf",
    "algo.losses.cql.temperature=0": "algo.losses.cql.temperature: expected a number above 0, got 0.0",
    "algoo=cql": "algoo: there is no 'algoo'; did you mean 'algo'?",
    "algo@expert=ppo": "nothing is chosen at algo@expert; did you mean 'algo@expert_algo'?",
    "+algo=bc": "+algo=bc: algo is chosen already; leave out the plus",
    "learn.algo=bc": "learn.algo=bc: learn.algo is another name of algo; choose an option, as in algo=",
    "learn.algo=null": "learn.algo=null: learn.algo is another name of algo; choose an option, as in algo=",
    "expert.algo=dqn": "expert.algo is another name of expert_algo; choose an option, as in algo@expert_algo=dqn",
    "env=null": "env=null: env has no option 'null'; known: acrobot, ",
    "env=none": "dataset.path: expected a value, got none; add dataset.path=...",
    "~env": "~env: other choices depend on env; choose another option instead",
    "hydra.run.dir=x": "hydra.run.dir=x: expected no folder of one run; set the folder of all runs by outputs=",
    "+hydra.run.dir=x": "+hydra.run.dir=x: expected no folder of one run; ",
    "-m hydra.sweep.dir=x seed=0,1": "hydra.sweep.dir=x: expected no folder of one run; ",
    "hydra.launcher.n_jobs=2": "hydra.launcher.n_jobs=2: settings of Hydra are for sweeps; add -m",
    "+lern.steps=5": "lern: expected a stage, got {'steps': 5}; did you mean 'learn'?",
    "learn=3": "learn: expected a stage, got 3",
    "targets=3": "targets: expected a list of different stages, as in targets=[score], got 3",
    "learn.steps=abc": "learn.steps: expected a whole number, got 'abc'",
    "learn.steps=1e6": "learn.steps: expected a whole number, got '1000000.0'; write 1_000_000 for 1e6",
    "algo.gamma=high": "algo.gamma: expected a number, got 'high'",
    "dry_run=maybe": "dry_run: expected true or false, got 'maybe'",
    "hardware.device=tpu": "hardware.device: expected another value, got 'tpu'; did you mean 'gpu'?",
    "learn.stop=3": "learn.stop: expected a mapping; set one of its keys",
    "learn.seed=${sed}": "learn.seed=${sed}: Interpolation key 'sed' not found",
    "dataset=file": "dataset.path: expected a value, got none; add dataset.path=...",
    "env=gym": "env.id: expected a value, got none; add env.id=...",
    "algo.batch_size=-1": "algo.batch_size: expected 1 or more, got -1",
    "algo.losses.cql.every=0": "algo.losses.cql.every: expected 1 gradient step or more, got 0",
    "learn.steps": "learn.steps: expected key=value, as in learn.steps=500",
    "=3": "=3: expected key=value, as in learn.steps=500, got no key",
    "a=[": "a=[: expected key=value, as in learn.steps=500",
    "seed=0,1": "seed=0,1: expected one value, got several; add -m to run a job of each, or write seed=[...]",
    "algo=bc algo=cql": "algo=bc algo=cql: expected algo once, got it twice; leave one out",
    "learn.algo.lr=1": "learn.algo.lr: learn.algo is another name of algo; set algo.lr",
    "expert.algo.lrr=1": "expert.algo.lrr: expert.algo is another name of expert_algo; set expert_algo.lrr",
    "algo=dqn env=pendulum": "learn: acts_by: expected nets that can choose continuous actions, got critic",
    "algo=ppo algo.losses.ppo.reads=demos": "needs the columns advantage, log_prob, value_target, which 'demos'",
    "algo.losses.cql.reads=demo": "no stage is called 'demo'; did you mean 'demos'?",
    "algo.agent.hidden=[0]": "hidden: expected 1 or more units per layer, as in hidden=[64,64], got [0]",
    "algo=crr algo.losses.cql.weight=2": "algo.losses has no 'cql' yet; add it with +loss@algo.losses.cql=<option>",
    "algo=iql env=pendulum algo.agent.nets.critic.critics=0": "nets.critic.critics: expected 1 or more, got 0",
    "algo=awac algo.agent.nets.critic.critics=0": "algo.agent.nets.critic.critics: expected 1 or more, got 0",
    "score.policies=[learn@2]": "score: learn@2: expected a snapshot below snapshots=0 of its training stage; set",
    "ope=fqe targets=[fqe] fqe.frozen.policy=expert@0": "fqe: frozen.policy=expert@0: expected a snapshot below",
    "dataset.policy=expert@1 expert.snapshots=1": "demos: expert@1: expected a snapshot below snapshots=1",
    "ope=fqe targets=[fqe] fqe.algo.sources.demos.n_step=3": "losses.fqe needs transitions of one step, demos has 3",
    "+algo.optim.qq.lr=1e-3": "algo.optim has no 'qq' yet; add it with +optim@algo.optim.qq=optim",
    "algo=dqn algo.sources.replay.per_alpha=2": "algo.sources.replay.per_alpha: expected a number in [0, 1], got 2.0",
    "algo=ppo algo.batch_size=5000": "learn: algo.batch_size: expected at most num_envs * num_steps = 256 rows",
    "score.policies=[]": "score.policies: expected different policies, as in [learn], got []",
    "learn.steps=-1": "learn.steps: expected 1 or more, got -1",
    "targets=[scores]": "targets: no stage is called 'scores'; did you mean 'score'?",
    "env=gym env.id=CartPol-v1": "did you mean 'CartPole-v1'?",
    "dataset=file dataset.path=nope.npz": "dataset.path=nope.npz: there is no such file",
    "outputs=/dev/null/here": "outputs=/dev/null/here: expected a folder that can be written to, got /dev/null",
    "-m hydra/launcher=jobli": "hydra/launcher has no option 'jobli'; did you mean 'joblib'?",
    "algo=bc expert_algo=ppo": "expert_algo=ppo: expert_algo is chosen by name; write algo@expert_algo=ppo",
    "algo=bc rl_algo=dqn": "rl_algo=dqn: no stage of this run reads rl_algo; set keys of algo",
    "algo=gail rl_algo.lr=1": "rl_algo.lr: there is no 'rl_algo'; no stage of this run reads it; set keys of algo",
    "targets=[fqe]": "targets: no stage is called 'fqe'; add ope=fqe",
    "targets=[reward_eval]": "targets: no stage is called 'reward_eval'; add pipeline=gail",
    "fqe.steps=5": "fqe.steps: there is no 'fqe'; add ope=fqe",
    "experiment=nosuch": "experiment has no option 'nosuch'; known: babyai_bc_then_ppo, noisy_pendulum",
    "algo=[bc,cql]": "algo=[bc,cql]: expected one option; -m algo=bc,cql runs a job of each",
    "algo=dqn algo.agent.acts_by=greedy": "group acts_by; choose one, as in +acts_by@algo.agent.acts_by=bcq",
    "algo=bc algo.agent.memory=gru": "memory, got 'gru'; choose one, as in +memory@algo.agent.memory=gru",
    "algo.losses={}": "algo.losses={}: {} is merged into algo.losses and has no effect; ~algo.losses.<key>",
    "outputs=null": "outputs: expected a value, got null",
    "outputs=": "outputs: expected a folder, got ''; set it as in outputs=elsewhere",
    "outputs=/proc/x": "outputs=/proc/x: expected a folder that can be written to, got /proc",
    f"outputs={'x' * 300}": "(File name too long)",
    "dry_run=null": "dry_run: expected a value, got null",
    "~outputs": "~outputs: outputs is required; set it to another value",
    "~film": "~film: film is required",
    "~algo": "~algo: other choices depend on algo; choose another option instead",
    "~hardware=[]": "~hardware=[]: expected no value, as ~ removes a key",
    "~algo.lr": "algo.lr: it cannot be removed; set it to another value",
    "expert.eval=${learn.steps}": "expert.eval: expected EvalConfig, got ${learn.steps} of another type",
    "algo.losses=${oc.env:PATH}": "algo.losses: expected a mapping, got ${oc.env:PATH} of another type",
    "algo.lr=${oc.env:PATH}": "algo.lr: expected a number or {start: …, end: …, over: …}, got '${oc.env:PATH}'",
    "seed=${.x}": "seed=${.x}: Interpolation key 'x' not found",
    "+options.algo=bc": "options only records the choices of a run",
    "algo.lr={start:1e-3,end:1e-4,over:inf}": "algo.lr: expected finite numbers for start, end, over and warmup",
    "algo.lr={start:1e-3,end:1e-4,over:1.5}": "algo.lr: expected whole numbers, over of 1 or more",
    "algo.lr=1e23": "algo.lr: expected a number from 0 to 1,000, got 1e+23",
    "dataset.seed=-1": "dataset.seed: expected a number from 0 to",
    "learn.stop.success_rate=5": "learn.stop.success_rate: expected a number from 0 to 1, got 5.0",
    "learn.stop.score=inf": "learn.stop.score: expected a finite number below 1e15, got inf",
    f"dataset.num_envs=1{'0' * 23}": "dataset.num_envs: expected a number from 1 to 10,000, got 1000",
    "hardware.threads=1000000000": "hardware.threads: expected a number from 0 to 1,024, got 1000000000",
    "score.policies=[learn,learn]": "score.policies: expected different policies, as in [learn], got",
    "algo=bc algo.sources.demos.validation=2": "algo.sources.demos.validation: expected a fraction in [0, 1), got 2",
    "algo.agent.hidden=[1000000,1000000]": "4,000,032,000,008 bytes of weights: 16,000,128,100,032 bytes of memory are",
    "algo=dqn algo.sources.replay.buffer_size=100_000_000_000": "replay.buffer_size=100000000000: 2,400,000,024,000",
    "algo.batch_size=1000000000": "learn: algo.batch_size=1000000000: 560,000,000,000 bytes of memory are needed",
    "learn.members=1000000": "learn.members: expected a number from 1 to 1,000, got 1000000",
    "learn.init_from=expert": "learn: init_from=expert: expected a net in common with those of this stage",
    "algo=ppo learn.init_from=expert algo.agent.hidden=[7]": "its module 'policy' has other layers than",
    "dataset=mixture expert.snapshots=5 expert.steps=200 expert.eval.every=100": "a snapshot below the 2 evaluations",
    "algo=dagger score.policies=[learn@10,learn]": "score: learn@10: expected a round below stop.rounds=10",
    "algo=pwil env=pendulum dataset.episodes=null dataset.transitions=20": "expected at most the 20 transitions of",
    "algo=sqil env=pendulum expert=babyai_bot": "expert.script: expected a level of BabyAI for its bot, got ",
    "expert=script expert.script=os:environ": "expert.script=os:environ: expected a function, got environ",
    "-p dry_run=true": "--package dry_run=true: expected together with --cfg; leave it out",
    "--resolve": "--resolve: expected together with --cfg",
    "--info nope": "--info nope: expected one of all, config, defaults",
    "--shell-completion": "--shell-completion: expected install=, uninstall= or query=",
    "--cfg job -p nope": "--package nope: expected a key of the configuration",
    "-m --cfg job": "--cfg -m: expected only one of them; leave the other out",
    "-m seed=range(0,0)": "seed=range(0,0): expected one value or more, got none",
    "-m seed=range(0,1000000000) algo=bc,cql": "-m: expected at most 10,000 jobs, got 2,000,000,000",
    "-m algo=glob(zzz*)": "algo=glob(zzz*): expected a pattern that matches an option; known: ",
    "-m seed=glob(*)": "seed=glob(*): expected a group, whose options glob() lists",
    "-m hydra/launcher=joblib hydra.launcher.n_jobs=0 seed=0,1": "n_jobs: expected a number of jobs, or",
    "-m hydra.sweeper.params={seed:2} seed=0,1": "hydra.sweeper.params={seed:2}: expected values on the command line",
    "-m hydra.sweeper.max_batch_size=2 seed=0,1": "hydra.sweeper.max_batch_size: expected nothing, got 2; list",
    "--bogus": "unrecognized arguments: --bogus; `python run.py --help` lists the flags",
    "--config-dir nowhere": "--config-dir nowhere: expected a folder, got nothing",
}


@pytest.mark.parametrize("line", REFUSED)
def test_wrong_override_is_refused_in_one_line_and_writes_nothing(line, lfd, tmp_path):
    code, out, err = lfd(*line.split())
    assert (code, out) == (2, ""), err
    assert err.startswith("lfd: ") and err.count("\n") == 1
    assert REFUSED[line] in err
    assert not list(tmp_path.iterdir())


BROKEN = {
    "losses: {bc: ]}": "algo/mine.yaml, line 1: expected YAML, got a syntax error",
    "defaults: [schema, /loss@losses.bc: bcc]": "mine.yaml: loss has no option 'bcc'; did you mean 'bc'",
    "defaults: [schema, _self_]\nlossses: {}": "mine.yaml: algo.lossses: algo has no 'lossses'; did you mean 'losses'?",
    "defaults: {a: b}": "mine/algo/mine.yaml: defaults: expected a list of options",
    "defaults: null": "mine/algo/mine.yaml: defaults: expected a list of options",
    "defaults: [1]": "mine/algo/mine.yaml: defaults: expected a list of options",
    "defaults: [mine]": "mine/algo/mine.yaml: its defaults list leads back to this file",
    "- a": "mine/algo/mine.yaml: expected keys and values",
    "x: \x00": "mine/algo/mine.yaml",
    "\n".join(
        ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    ): "expected at most 100,000 values, got more through aliases",
    "a: &a [*a]": "expected at most 100,000 values, got more through aliases",
    "defaults: [schema, _self_]\nbatch_size: many": "mine.yaml: algo.batch_size: expected a whole number, got 'many'",
}


@pytest.mark.parametrize("content", BROKEN)
def test_broken_file_of_a_user_is_named_in_the_error(content, lfd, tmp_path):
    mine = tmp_path / "mine" / "algo" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(content)
    code, _, err = lfd("--config-dir", "mine", "algo=mine")
    assert code == 2 and err.count("\n") == 1
    assert BROKEN[content] in err


def test_hydra_full_error_prints_the_traceback(lfd, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, _, err = lfd("learn.step=5")
    assert code == 2 and "Traceback" in err and "ConfigCompositionException" in err


def test_process_exits_with_the_code_of_the_error():
    done = subprocess.run([sys.executable, RUN, "--bogus"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("lfd: ") and done.stderr.count("\n") == 1


# Exit codes


@pytest.mark.parametrize("line", ["--help", "--version"])
def test_closed_stdout_exits_with_75_and_without_a_message(line):
    process = subprocess.Popen([sys.executable, RUN, line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 75)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Interrupted("learn stopped at gradient step 5"), 75, "gradient step 5; the same command continues"),
        (KeyboardInterrupt(), 75, "stopped; the same command continues"),
        (LabelsNeeded("12 labels are asked for in labels.json"), 3, "12 labels"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "internal error: ZeroDivisionError: division by zero (test_main.py:",
        ),
    ],
)
def test_error_of_each_kind_has_its_exit_code_and_line(error, code, text, lfd, monkeypatch):
    def run():
        raise error

    monkeypatch.setattr(cli, "_run", run)
    ended, _, err = lfd()
    assert ended == code and text in err and err.count("\n") == 1


def test_sigterm_before_the_pipeline_ends_as_interrupted(lfd, monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert lfd()[0] == 75


def test_last_printed_line_is_the_path_of_the_result(lfd):
    small = "algo=bc dataset=random dataset.transitions=200 learn.steps=20 learn.eval.every=0 score.episodes=2"
    code, out, _ = lfd(*small.split())
    *table, last = out.splitlines()
    assert code == 0
    assert json.loads(Path(last).read_text())["scores"]["learn"]["episodes"] == 2
    assert any(line.startswith("learn ") for line in table)


def test_pipeline_of_a_user_is_composed(lfd, tmp_path):
    (tmp_path / "mine" / "pipeline").mkdir(parents=True)
    (tmp_path / "mine" / "pipeline" / "chain.yaml").write_text(
        "# @package _global_\n"
        "defaults: [train, /stage@second: fit, _self_]\n"
        'second: {algo: "${algo}", steps: 20, init_from: learn}\n'
        "score: {policies: [second]}\n"
    )
    code, out, err = lfd("--config-dir", "mine", "pipeline=chain", "algo=bc", "dry_run=true")
    assert code == 0, err
    stages = [line.split()[0] for line in out.splitlines() if line]
    assert [name for name in stages if name in ("expert", "demos", "learn", "second", "score")] == [
        "expert", "demos", "learn", "second", "score",
    ]  # fmt: skip


def test_row_of_a_table_can_be_added(lfd):
    code, _, err = lfd("+optim@algo.optim.critic=optim", "algo.optim.critic.max_grad_norm=1.0", "dry_run=true")
    assert code == 0, err


def test_file_that_is_no_text_is_named_in_the_error(lfd, tmp_path):
    mine = tmp_path / "mine" / "algo" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"\xff\xfe\x00\x01")
    code, _, err = lfd("--config-dir", "mine", "algo=mine")
    assert code == 2 and err.count("\n") == 1 and "mine.yaml: expected a YAML file, got bytes that are no text" in err


IS_1_3 = hydra.__version__.startswith("1.3.")
SETTINGS = {
    "hydra: {mode: MULTIRUN}": "hydra.mode: expected RUN, got MULTIRUN in a file; add -m to the command line",
    "hydra: {sweeper: {params: {seed: '0,1'}}}": "hydra.sweeper.params: expected nothing, got {'seed': '0,1'}; list",
    "hydra: {run: {dir: x}}": "hydra.run.dir: expected ., got x; set the folder of all runs by outputs=",
}


@pytest.mark.parametrize("content", SETTINGS)
def test_setting_of_hydra_in_a_file_is_refused(content, lfd, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    for more in [[], ["-m", "algo=bc"]] if "MULTIRUN" not in content else [[]]:
        code, _, err = lfd("--config-dir", "mine", *more, "experiment=mine", "dry_run=true")
        # In a sweep Hydra 1.4 refuses it first.
        message = (
            SETTINGS[content]
            if IS_1_3 or not more or "sweeper" not in content
            else "'hydra.sweeper' must be configured"
        )
        assert code == 2 and message in err and err.count("\n") == 1, err


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
def test_path_needs_no_quotes(name, lfd, tmp_path):
    (tmp_path / f"{name}.npz").touch()
    for path in (f"{name}.npz", str(tmp_path / f"{name}.npz")):
        _, _, err = lfd("algo=bc", "env=none", f"dataset.path={path}", "dry_run=true")
        # The file is found; it is empty.
        assert "there is no such file" not in err and f"{name}.npz" in err.replace(" b.npz", "\nb.npz"), err


def test_sweep_over_paths_separates_them_at_commas(lfd, tmp_path):
    for line in ("dataset.path=a=1.npz,b.npz", "dataset.path='a=1.npz','b.npz'"):
        code, _, err = lfd("-m", "algo=bc", "env=none", line, "dry_run=true")
        assert code == 2 and "dataset.path=a=1.npz: there is no such file" in err and "=b.npz: there" in err, err


def test_glob_lists_the_options_of_a_group(lfd, monkeypatch):
    monkeypatch.setattr("lfd.stages.timing.SECONDS", 0.0)
    code, out, err = lfd("-m", "algo=glob(bc*)", "dry_run=true")
    assert code == 0 and [line for line in out.splitlines() if line.startswith("algo=")] == [
        "algo=bc dry_run=true", "algo=bc_gru dry_run=true", "algo=bcq dry_run=true",
    ], err  # fmt: skip


def test_secret_is_in_no_error(lfd, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "abcdef123456")
    for value in ("abcdef123456", "${oc.env:MY_API_KEY}"):
        code, _, err = lfd(f"algo.lr={value}")
        assert code == 2 and "algo.lr" in err and "abcdef123456" not in err
