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
        "expert": "fit-3bf5dd0e47784dfd",
        "demos": "collect-d07cbd56b03de6ef",
        "learn": "fit-077696b8dd3278fd",
        "score": "evaluate-bf5b48484b692608",
    },
    "algo=dqn": {
        "learn": "fit-c84a80bc9905f3f5",
        "score": "evaluate-9217f255d7fad812",
    },
    "algo=dagger": {
        "expert": "fit-3bf5dd0e47784dfd",
        "learn": "fit-72c50c6d6fe144bf",
        "score": "evaluate-a52b30e716927f5c",
    },
    "algo=gail": {
        "expert": "fit-3bf5dd0e47784dfd",
        "demos": "collect-14c1c171bbb3bb04",
        "learn": "fit-d97a9d60ec880a42",
        "score": "evaluate-effba2ce8eddd934",
    },
    "algo=trex": {
        "expert": "fit-3559c928ca57875b",
        "demos": "collect-8871ca4a2a314ae4",
        "reward": "fit-97bbb0a52f72612e",
        "learn": "fit-dd4c6957676ce488",
        "score": "evaluate-9dc61ae1c1a75310",
        "outcome": "collect-265b0c620eeeb663",
        "reward_eval": "reward_eval-4b6399603c1a39f1",
    },
    "algo=bc env=pendulum ope=fqe targets=[score,fqe]": {
        "expert": "fit-5fabcf4e7c261eca",
        "demos": "collect-784f800d3600d8a2",
        "learn": "fit-af763952ba109288",
        "score": "evaluate-861c2c78c7415091",
        "fqe": "ope-6b912a795d32ec76",
    },
    "algo=pwil env=pendulum": {
        "expert": "fit-5fabcf4e7c261eca",
        "demos": "collect-77d3188cde7e8cd8",
        "reward": "fit_pwil-96ecfb91f6004114",
        "learn": "fit-3af0bbff565a1142",
        "score": "evaluate-be41068b6d831f31",
        "outcome": "collect-6bd5c28ac514af21",
        "reward_eval": "reward_eval-3acb462676db3b83",
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
