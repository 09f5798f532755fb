"""A film of episodes, as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lfd.errors import Refused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FASTEST = 50  # frames a second; browsers slow down a frame of less than 2/100 s to 10/100 s


def save_film(frames: Sequence[NDArray[np.uint8]], path: Path, fps: float) -> None:
    """Write frames of [H, W, 3] uint8 to `path`.

    GIF because Pillow writes it, which matplotlib brings into every install (MP4 would need ffmpeg), and because
    every browser, README, W&B and TensorBoard plays it as it is. Its clock ticks in 1/100 s: frames last whole ticks
    that sum to the right time, and above 50 frames a second frames are left out.

    Raises:
        Refused: there is no frame.
    """
    from PIL import Image

    if not frames:
        raise Refused(f"{path}: a film needs at least one frame; let at least one episode run")
    stride = max(1, -int(-fps // _FASTEST))
    kept = frames[::stride]
    ticks = [round(100 * stride * index / fps) for index in range(len(kept) + 1)]
    durations = [10 * (after - before) for before, after in zip(ticks, ticks[1:], strict=False)]
    pictures = [
        Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for frame in kept
    ]
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
