"""Command lines at random: whatever value stands at whatever key, it works or is refused in one line."""

import random
import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from lfd import cli
from lfd.artifacts import Store
from lfd.composing import Composer
from lfd.experiment import refuse_unread, register, unread
from lfd.refusals import parsed
from lfd.run import pipeline_of

HEADS = (
    (), ("algo=bc",), ("algo=dqn",), ("algo=ppo",), ("algo=dagger",), ("algo=gail",), ("algo=trex", "env=pendulum"),
    ("algo=bc", "dataset=noisy_expert"), ("algo=pwil", "env=pendulum"), ("targets=[score,fqe]",), ("algo=sqil",),
    ("algo=cql", "dataset=mixed"), ("algo=bc", "env=acrobot", "dataset=ranked"),
)  # fmt: skip
SANE = ("1", "2", "100", "0.5", "true", "null", "random", "[]", "${seed}")
VALUES = (
    "0", "1", "-1", "2", "0.5", "-0.5", "1.5", "1e-3", "1e23", "-1e23", "1e308", "-1e308", "1e400", "inf", "-inf",
    "nan", "99999999999999999999999", "-99999999999999999999999", "1000000000", "1_000_000_000_000",
    "9007199254740993", "true", "false", "null", "???", "''", "' '", "abc", "learn", "expert", "demos", "random",
    "expert@0", "expert@-1", "learn@99", "reward", "[]", "[[]]", "[1]", "[0]", "[-1]", "[1,2,3]", "[null]", "[abc]",
    "[learn,learn]", "[nan]", "{}", "{a:1}", "{a:{b:c}}", "{start:1,end:0,steps:10}", "{start:1,end:0,steps:0}",
    "{start:1,end:0,steps:1.5}", "{start:1}", "{start:nan,end:0,steps:1}", "{start:a,end:b,steps:c}",
    "{start:1,end:0,steps:2,shape:round}", "[1,[2,{a:3}]]", "{start:1,end:0,steps:inf,shape:exponential}",
    "${seed}", "${learn.steps}", "${algo}", "${algo.lr}", "${nothing}", "${.x}", "${..seed}", "${learn.stop}",
    "${oc.env:HOME}", "${oc.env:NOT_THERE}", "${oc.env:HOME,1}", "${nosuch:1}", "${", "}", "'", '"', "\\", "'\\'",
    "a=b", "a:b", "a,b", "a b", "@", "#", "~", "+", "\u00e4\u00f6\u00fc", "\ud83d\ude00", "x" * 300, "../..", "/",
    "/dev/null", "/proc/x", "a/b", "os:environ", "os:getcwd", "range(3)", "glob(*)", "choice(1,2)", "int(1)",
    "str(1)", "sort(1)", "interval(0,1)", "adam", "sgd", "relu", "discrete", "cpu", "gpu", "0x10", "1e", "--1",
    "1,", "[1",
)  # fmt: skip


def keys(node: Any, here: str = "") -> Iterator[str]:
    """All keys of a configuration, of parts and of values; not Hydra's own."""
    for name in node if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing() else ():
        key = f"{here}.{name}".lstrip(".")
        if name == "hydra" and not here:
            continue
        yield key
        inner = node._get_node(name)
        if isinstance(inner, DictConfig) and not inner._is_interpolation():
            yield from keys(inner, key)


def lines(seed: int, count: int) -> Iterator[list[str]]:
    """Command lines of one or two wild overrides."""
    register()
    composer, rng = Composer(cli.config_folder()), random.Random(seed)
    known = {head: sorted(keys(composer.compose(head))) for head in HEADS}
    for _ in range(count):
        head, line = rng.choice(HEADS), []
        values = rng.choice((SANE, VALUES, VALUES))
        for key in rng.sample(known[head], rng.choice((1, 1, 2))):
            match rng.randrange(20):
                case 0:
                    line.append(f"~{key}")
                case 1:
                    line.append(f"+{key}.{rng.choice(('x', 'lr', '0'))}={rng.choice(values)}")
                case 2:
                    line.append(f"{rng.choice(('+', '++'))}{key}={rng.choice(values)}")
                case _:
                    line.append(f"{key}={rng.choice(values)}")
        yield [*head, *line, "dry_run=true"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Composes each choice of groups once, and applies values as Hydra does; plans without estimates."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    whole = Composer.compose

    def compose(self: Composer, overrides: Any) -> DictConfig:
        line = parsed(overrides, sweep=False)
        groups = tuple(one.input_line or "" for one in line if self.options(one.key_or_group))
        if groups not in composed:
            composed[groups] = whole(self, groups)
        cfg = deepcopy(composed[groups])
        OmegaConf.set_struct(cfg, True)
        ConfigLoaderImpl._apply_overrides_to_config([one for one in line if one.input_line not in groups], cfg)
        return cfg

    def plan(experiment: Any) -> str:
        with Store(experiment.outputs / "artifacts") as store:
            refuse_unread(unread(experiment, pipeline_of(experiment, store).order))
        return "planned"

    monkeypatch.setattr(Composer, "compose", compose)
    monkeypatch.setattr("lfd.plan.plan", plan)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


def test_no_value_ends_as_a_fault(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = 0
    for line in lines(0, 200):
        monkeypatch.setattr(sys, "argv", ["run.py", *line])
        code = cli.run()
        told = capsys.readouterr()
        planned += code == 0
        ignored = all(": changes nothing, as " in one for one in told.err.splitlines())
        assert (code == 0 and ignored) or (code == 2 and told.err.count("\n") == 1), (line, code, told.err)
        assert "Traceback" not in told.err
    # Most are refused, and some are what somebody may want.
    assert 10 < planned < 100
