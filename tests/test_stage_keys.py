"""Keys of stages as literals: a moved file or a renamed class must not make a store stale.

A key that changes here makes every user train anew what is stored under it. If that is meant (a part computes something
else, a field or a value of conf/ changed), raise `revision` or change the value, and put the new key here.
"""

from pathlib import Path

import pytest

from lfd.config.composer import Composer
from lfd.runs.run import pipeline_of
from lfd.store.artifacts import Store

KEYS: dict[str, dict[str, str]] = {
    "": {
        "expert": "fit-b128249d5d1e034f",
        "demos": "collect-1654560a3dc837ed",
        "learn": "fit-c64e19de8c30f9e7",
        "score": "evaluate-c379fc02f71ffd4c",
    },
    "algo=dqn": {
        "learn": "fit-a6b44f16ca9ba2dd",
        "score": "evaluate-dbd890c3aaac98e3",
    },
    "algo=dagger": {
        "expert": "fit-b128249d5d1e034f",
        "learn": "fit-57b9878b48bf5823",
        "score": "evaluate-d76c6b32492c71a6",
    },
    "algo=gail": {
        "expert": "fit-b128249d5d1e034f",
        "demos": "collect-cc619035c0da5090",
        "learn": "fit-4cbbb580d54794ae",
        "score": "evaluate-301623b16721d0bd",
    },
    "algo=trex": {
        "expert": "fit-487ca2d945232e48",
        "demos": "collect-eb6c5465b184553e",
        "reward": "fit-ba2380b28fd8f553",
        "learn": "fit-46cfca8cf60c7ae4",
        "score": "evaluate-e433dc1b0fb1a2e7",
        "outcome": "collect-cefd16bf3da5b70d",
        "reward_eval": "reward_eval-daeccec907788983",
    },
    "algo=bc env=pendulum ope=fqe targets=[score,fqe]": {
        "expert": "fit-10d7e1b743b1f271",
        "demos": "collect-59e2397f6b9e95c3",
        "learn": "fit-950044d5ae951901",
        "score": "evaluate-9120ef3d0e6fec14",
        "fqe": "ope-e8c1f771bc4da3da",
    },
    "env=babyai_gotolocal dataset.transitions=10_000 dataset.episodes=null dataset.num_envs=8 targets=[demos]": {
        "expert": "script-7b75afd5967b30fa",
        "demos": "collect-199ed72a161ce25a",
    },
    "algo=pwil env=pendulum": {
        "expert": "fit-10d7e1b743b1f271",
        "demos": "collect-2a535bbe19ae6257",
        "reward": "fit_pwil-940b51e74a4d1199",
        "learn": "fit-8cbd2301b850bd45",
        "score": "evaluate-6cad9a3f8b28b817",
        "outcome": "collect-0e52781bfe13775e",
        "reward_eval": "reward_eval-30d1f42a89c8af5e",
    },
}


def keys_of(line: str, folder: Path) -> dict[str, str]:
    with Store(folder) as store:
        return dict(pipeline_of(Composer().experiment(line.split()), store).keys)


@pytest.mark.parametrize("line", KEYS, ids=lambda line: line or "default")
def test_stage_keys_of_an_unchanged_experiment_stay(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another version of a simulator is another environment.
    monkeypatch.setattr("lfd.envs.env.package_versions", lambda *packages: dict.fromkeys(packages, "1.0"))
    assert keys_of(line, tmp_path) == KEYS[line]
