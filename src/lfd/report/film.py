"""Films of episodes, as animated GIFs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lfd.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

_FONT_SIZE, _LINE_HEIGHT, _MARGIN = 15, 19, 6  # pixels
_MAX_FPS = 50  # frames per second; browsers show a frame of less than 2/100 s for 10/100 s


def save_film(
    frames: Sequence[NDArray[np.uint8]], path: Path, fps: float, captions: Sequence[Sequence[str]] = ()
) -> None:
    """Writes frames [H, W, 3] uint8 to the GIF `path`, at `fps` frames per second.

    `captions` are lines of text below each frame, long ones wrapped.

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
        picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        for picture in _captioned([Image.fromarray(frame) for frame in kept], captions[::stride])
    ]
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _captioned(pictures: list[Image], captions: Sequence[Sequence[str]]) -> list[Image]:
    """The pictures, each above its lines on a white strip of equal height."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    texts = [
        _wrap(lines, font, picture.width - 2 * _MARGIN) for picture, lines in zip(pictures, captions, strict=False)
    ]
    if not texts:
        return pictures
    height = 2 * _MARGIN + _LINE_HEIGHT * max(map(len, texts))
    result = []
    for picture, lines in zip(pictures, texts, strict=True):
        canvas = Image.new("RGB", (picture.width, picture.height + height), "white")
        canvas.paste(picture)
        for number, line in enumerate(lines):
            position = (_MARGIN, picture.height + _MARGIN + number * _LINE_HEIGHT)
            ImageDraw.Draw(canvas).text(position, line, "black", font)
        result.append(canvas)
    return result


def _wrap(lines: Sequence[str], font: FreeTypeFont | ImageFont, width: int) -> list[str]:
    """The lines, broken between words where they are wider than `width` pixels."""
    wrapped: list[str] = []
    for line in lines:
        words = line.split(" ")
        row = words[0]
        for word in words[1:]:
            if font.getlength(f"{row} {word}") > width:
                wrapped.append(row)
                row = word
            else:
                row = f"{row} {word}"
        wrapped.append(row)
    return wrapped
