"""How long a stage will take, by artifacts whose times are made up."""

import json
from pathlib import Path

import pytest

from lfd.pipeline import TrainingPipeline, stage_kind
from lfd.stages import Stage
from lfd.stages.collect import Collect
from lfd.stages.evaluate import Evaluate
from lfd.store.artifacts import MARKER
from lfd.store.durations import expected_seconds
from tests.programs import ALGOS, EvalConfig, Fit, environment


def stages(steps: int = 20, seed: int = 0, algo: str = "bc") -> dict[str, Stage]:
    return {
        "demos": Collect("random", transitions=60, seed=seed),
        "learn": Fit(ALGOS[algo](), steps, seed, eval=EvalConfig(0)),
        "score": Evaluate(["learn"], episodes=2),
    }


@pytest.fixture
def asked(tmp_path: Path, run_stages):  # type: ignore[no-untyped-def]
    """What is expected of stages where others like them have run, which are said to have taken 8 s each."""
    ran = run_stages(stages(), environment("bc"))
    for path in ran.store.root.glob(f"*/{MARKER}"):
        record = json.loads(path.read_text())
        record["summary"]["seconds"] = 8.0
        path.write_text(json.dumps(record))

    def ask(device: str = "cpu", **change: object) -> dict[str, float | None]:
        made = stages(**change)  # type: ignore[arg-type]
        pipeline = TrainingPipeline(made, ["score"], environment("bc"), ran.hardware, ran.store)
        return {
            name: expected_seconds(
                ran.store.root,
                stage_kind(stage),
                stage.extendable_fields,
                pipeline.material(name, pipeline.keys),
                device,
            )
            for name, stage in made.items()
            if name in pipeline.order
        }

    return ask


def test_expected_seconds_uses_artifacts_differing_in_seed_inputs_and_length(asked) -> None:  # type: ignore[no-untyped-def]
    assert asked(seed=3, steps=40) == {"demos": 8.0, "learn": 16.0, "score": 8.0}
    assert asked(algo="ppo")["learn"] is None
    assert asked(steps=1_000)["learn"] is None, "a far shorter one tells nothing"
    assert set(asked("gpu").values()) == {None}
