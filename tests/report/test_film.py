"""Films: duration, order of frames and empty films."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lfd.errors import UserError
from lfd.report import save_film


def frames(count: int) -> list[np.ndarray]:
    return [np.full((20, 30, 3), 2 * index, np.uint8) for index in range(count)]


@pytest.mark.parametrize("fps", [30, 50, 60])
def test_save_film_lasts_as_long_as_its_episode(tmp_path: Path, fps: int) -> None:
    path = tmp_path / "film.gif"
    save_film(frames(120), path, fps)
    with Image.open(path) as film:
        durations = []
        for index in range(film.n_frames):
            film.seek(index)
            durations.append(film.info["duration"])
        assert film.size == (30, 20)
    assert sum(durations) == pytest.approx(120_000 / fps, abs=20)
    assert min(durations) >= 20, "browsers slow down shorter frames"


def test_save_film_keeps_the_order_of_frames_and_loops(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    save_film([np.full((8, 8, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))], path, 10)
    seen = []
    with Image.open(path) as film:
        assert film.info["loop"] == 0
        for index in range(film.n_frames):
            film.seek(index)
            seen.append(film.convert("RGB").getpixel((4, 4)))
    assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_save_film_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected at least one frame, got none"):
        save_film([], tmp_path / "film.gif", 30)
