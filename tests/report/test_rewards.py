"""Pictures and tables of learned rewards contain every reward, dataset and episode."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from lfd.report import draw_rewards, result_table
from lfd.stages.reward_eval import agreement, spread


def found(seed: int = 0, episodes: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 10, episodes)
    return agreement(true + rng.normal(0, 5, episodes), true) | spread(rng.normal(0, 1, 300))


def test_draw_rewards_contains_every_reward_and_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[tuple[list[float], list[float]]] = []
    plot = Axes.plot

    def spy(self: Axes, *arguments: Any, **options: Any) -> Any:
        points.append((list(arguments[0]), list(arguments[1])))
        return plot(self, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", spy)
    one = {"demos": found(0), "outcome": found(1, 30)}
    draw_rewards({"reward": one}, tmp_path / "one.png")
    for numbers in one.values():
        assert (numbers["returns"]["true"], numbers["returns"]["predicted"]) in points
    draw_rewards({"reward": one, "other": {"demos": found(2)}}, tmp_path / "two.png")
    heights = [Image.open(tmp_path / name).size[1] for name in ("one.png", "two.png")]
    assert heights[1] == 2 * heights[0]


def test_draw_rewards_of_a_constant_reward_draws_it(tmp_path: Path) -> None:
    constant = agreement(np.zeros(3), np.zeros(3)) | spread(np.zeros(9))
    draw_rewards({"reward": {"demos": constant}}, tmp_path / "rewards.png")
    assert "–" in result_table({"scores": {}, "rewards": {"reward": {"demos": constant}}})


def test_result_table_has_a_row_per_reward_and_dataset() -> None:
    result = {
        "scores": {"learn": {"return_mean": 1.0}},
        "rewards": {"reward": {"demos": found(0), "outcome": found(1)}},
    }
    lines = result_table(result).splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["reward", "demos"], ["reward", "outcome"]]
    assert "Spearman" in lines[-4] and lines[0].startswith("policy")
