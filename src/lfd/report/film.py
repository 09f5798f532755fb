"""Films of episodes, as animated GIFs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lfd.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_FPS = 50  # frames per second; browsers show a frame of less than 2/100 s for 10/100 s


def save_film(frames: Sequence[NDArray[np.uint8]], path: Path, fps: float) -> None:
    """Writes frames [H, W, 3] uint8 to the GIF `path`, at `fps` frames per second.

    It is a GIF because Pillow, which matplotlib installs, writes it (MP4 would need ffmpeg), and because browsers,
    README pages, W&B and TensorBoard play it. A GIF's frames last whole 1/100 s: durations are rounded so that the sum
    is right, and above 50 frames per second frames are left out. Raises UserError if there is no frame.
    """
    from PIL import Image

    if not frames:
        raise UserError(f"{path}: expected at least one frame, got none; play at least one episode")
    stride = max(1, -int(-fps // _MAX_FPS))
    kept = frames[::stride]
    ticks = [round(100 * stride * index / fps) for index in range(len(kept) + 1)]
    durations = [10 * (after - before) for before, after in zip(ticks, ticks[1:], strict=False)]
    pictures = [
        Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for frame in kept
    ]
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
