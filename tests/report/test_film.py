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


def test_save_film_captions_are_below_the_frames_in_one_size(tmp_path: Path) -> None:
    """A long caption takes several lines, for which the frames of short ones leave room."""
    path = tmp_path / "film.gif"
    black = np.zeros((40, 120, 3), np.uint8)
    captions = [["go to the ball"], ["pick up the purple box behind you, then open the door"]]
    save_film([black, black], path, 10, captions)
    with Image.open(path) as film:
        pictures = []
        for index in range(2):
            film.seek(index)
            pictures.append(np.asarray(film.convert("L")))
    short, long = pictures
    assert short.shape == long.shape and short.shape[1] == 120 and short.shape[0] > 40 + 3 * 15
    for picture in pictures:
        assert not picture[:40].any() and picture[40:].max() > 250 and picture[40:].min() < 100
    rows = [np.flatnonzero((picture[40:] < 128).any(1)).max() for picture in pictures]
    assert rows[0] < 25 < 50 < rows[1]
    assert (long[40:, -6:] > 250).all(), "no line is cut at the edge"
