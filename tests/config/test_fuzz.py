"""Random command lines: whatever the key and the value, the run is planned or refused in one line."""

import random
import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from lfd.cli import main as cli
from lfd.config.composer import Composer
from lfd.config.experiment import refuse_unread, unread
from lfd.config.loader import Loader, child_node, interpolation, is_empty
from lfd.config.overrides import parsed
from lfd.runs.run import pipeline_of
from lfd.store.artifacts import Store

HEADS = (
    (), ("algo=bc",), ("algo=dqn",), ("algo=ppo",), ("algo=dagger",), ("algo=gail",), ("algo=trex", "env=pendulum"),
    ("algo=bc", "dataset=noisy_expert"), ("algo=pwil", "env=pendulum"), ("ope=fqe", "targets=[score,fqe]"),
    ("algo=sqil",), ("algo=cql", "dataset=mixture"), ("algo=bc", "env=acrobot", "dataset=ranked"),
)  # fmt: skip
COMMON_VALUES = ("1", "2", "100", "0.5", "true", "null", "random", "[]", "${seed}")
VALUES = (
    "0", "1", "-1", "2", "0.5", "-0.5", "1.5", "1e-3", "1e23", "-1e23", "1e308", "-1e308", "1e400", "inf", "-inf",
    "nan", "99999999999999999999999", "-99999999999999999999999", "1000000000", "1_000_000_000_000",
    "9007199254740993", "true", "false", "null", "???", "''", "' '", "abc", "learn", "expert", "demos", "random",
    "expert@0", "expert@-1", "learn@99", "reward", "[]", "[[]]", "[1]", "[0]", "[-1]", "[1,2,3]", "[null]", "[abc]",
    "[learn,learn]", "[nan]", "{}", "{a:1}", "{a:{b:c}}", "{start:1,end:0,over:10}", "{start:1,end:0,over:0}",
    "{start:1,end:0,over:1.5}", "{start:1}", "{start:nan,end:0,over:1}", "{start:a,end:b,over:c}",
    "{start:1,end:0,over:2,shape:round}", "[1,[2,{a:3}]]", "{start:1,end:0,over:inf,shape:exponential}",
    "${seed}", "${learn.steps}", "${algo}", "${algo.lr}", "${nothing}", "${.x}", "${..seed}", "${learn.stop}",
    "${oc.env:HOME}", "${oc.env:NOT_THERE}", "${oc.env:HOME,1}", "${nosuch:1}", "${", "}", "'", '"', "\\", "'\\'",
    "a=b", "a:b", "a,b", "a b", "@", "#", "~", "+", "\u00e4\u00f6\u00fc", "\ud83d\ude00", "x" * 300, "../..", "/",
    "/dev/null", "/proc/x", "a/b", "os:environ", "os:getcwd", "range(3)", "glob(*)", "choice(1,2)", "int(1)",
    "str(1)", "sort(1)", "interval(0,1)", "adam", "sgd", "relu", "discrete", "cpu", "gpu", "0x10", "1e", "--1",
    "1,", "[1",
)  # fmt: skip


def keys(node: Any, parent: str = "") -> Iterator[str]:
    """All keys of a configuration without those of Hydra."""
    for name in node if isinstance(node, DictConfig) and not is_empty(node) else ():
        key = f"{parent}.{name}".lstrip(".")
        if key == "hydra":
            continue
        yield key
        child = child_node(node, name)
        if isinstance(child, DictConfig) and not interpolation(child):
            yield from keys(child, key)


def lines(seed: int, count: int) -> Iterator[list[str]]:
    """Command lines with one or two random overrides."""
    loader, rng = Composer().loader, random.Random(seed)
    known = {head: sorted(keys(loader.compose(head))) for head in HEADS}
    for _ in range(count):
        head, line = rng.choice(HEADS), []
        values = rng.choice((COMMON_VALUES, VALUES, VALUES))
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
    """Composes each choice of groups once and applies values as Hydra does; plans without estimates."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    hydra_compose = Loader.compose

    def compose(self: Loader, overrides: Any) -> DictConfig:
        line = parsed(overrides, sweep=False)
        groups = tuple(override.input_line or "" for override in line if self.options(override.key_or_group))
        if groups not in composed:
            composed[groups] = hydra_compose(self, groups)
        cfg = deepcopy(composed[groups])
        OmegaConf.set_struct(cfg, True)
        ConfigLoaderImpl._apply_overrides_to_config(
            [override for override in line if override.input_line not in groups], cfg
        )
        return cfg

    def plan(experiment: Any) -> str:
        with Store(experiment.outputs.artifacts) as store:
            refuse_unread(unread(experiment, pipeline_of(experiment, store).order))
        return "planned"

    monkeypatch.setattr(Loader, "compose", compose)
    monkeypatch.setattr("lfd.runs.dry_run.plan", plan)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


def test_random_override_is_planned_or_refused_in_one_line(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = 0
    for line in lines(0, 200):
        monkeypatch.setattr(sys, "argv", ["run.py", *line])
        code = cli.run()
        output = capsys.readouterr()
        planned += code == 0
        ignored = all(": no effect, as " in message for message in output.err.splitlines())
        assert (code == 0 and ignored) or (code == 2 and output.err.count("\n") == 1), (line, code, output.err)
        assert "Traceback" not in output.err
    # Most lines are refused, and some are valid.
    assert 10 < planned < 100
