"""Learning curves: axes, panels and stages without data."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from lfd.report import draw_curves

DETAILS = {"learn/row/q_mean": 7.0, "learn/validation/row/0_loss": 7.0}


def records(stage: str, env_steps: int = 0, spread: bool = True, losses: int = 1) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(3):
        at = {"stage": stage, "step": 100 * step, "env_steps": env_steps * step, "seconds": 1.0}
        rows.append(at | {f"{stage}/row/{i}_loss": 1.0 / (1 + step) for i in range(losses)} | DETAILS)
        rows.append(at | {"score": 10.0 * step} | ({"score_std": 2.0} if spread else {}))
    return rows


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[float], list[float]]]:
    """What was handed to `plot`, in order."""
    lines: list[tuple[list[float], list[float]]] = []
    plot = Axes.plot

    def spy(self: Axes, *arguments: Any, **options: Any) -> Any:
        lines.append((list(arguments[0]), list(arguments[1])))
        return plot(self, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", spy)
    return lines


def test_draw_curves_score_axis_is_env_steps_only_for_interacting_stages(tmp_path: Path, drawn: list[Any]) -> None:
    stages = {"expert": records("expert", env_steps=400), "learn": records("learn", spread=False)}
    draw_curves(stages, tmp_path / "curves.png", {"expert": 500.0, "random": 20.0})
    loss = ([0, 100, 200], [1.0, 0.5, pytest.approx(1 / 3)])
    assert drawn == [([0, 400, 800], [0, 10, 20]), loss, ([0, 100, 200], [0, 10, 20]), loss]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] == 1430 and len(set(picture.convert("L").tobytes())) > 50


@pytest.mark.parametrize(("given", "panels"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_draw_curves_has_panels_of_the_first_four_losses_only(
    tmp_path: Path, drawn: list[Any], given: int, panels: int
) -> None:
    draw_curves({"learn": records("learn", losses=given)}, tmp_path / "curves.png")
    assert len(drawn) == 1 + panels


def test_draw_curves_of_a_stage_without_scores_draws_losses(tmp_path: Path, drawn: list[Any]) -> None:
    rows = [{key: value for key, value in row.items() if key != "score"} for row in records("learn", losses=3)]
    draw_curves({"learn": rows}, tmp_path / "curves.png")
    assert len(drawn) == 3


def test_draw_curves_without_records_draws_a_text(tmp_path: Path, drawn: list[Any]) -> None:
    draw_curves({"demos": []}, tmp_path / "curves.png")
    assert drawn == []
    with Image.open(tmp_path / "curves.png") as picture:
        assert len(set(picture.convert("L").tobytes())) > 10, "it must say so"
