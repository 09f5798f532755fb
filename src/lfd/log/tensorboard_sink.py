"""TensorBoard event files in the run folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from lfd.log.sinks import RunInfo, Sink, axis, metrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@final
class TensorboardSink(Sink):
    """Scalars over env steps where a stage interacts, else over gradient steps; films as animated images.

    The event files are written anew in every process, since the records of earlier sessions come again: no point
    stands twice.
    """

    name = "tensorboard"

    def __init__(self, info: RunInfo) -> None:
        self._folder = info.folder / "tensorboard"
        self._writer: SummaryWriter | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Add every number of the record."""
        step = record.get(axis(record) or "step", 0)
        for key, value in metrics(record).items():
            self._opened().add_scalar(key, value, global_step=step)

    def film(self, stage: str, path: Path) -> None:
        """Add the GIF's bytes as they are: TensorBoard animates them, and `add_video` would need one more package."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        with Image.open(path) as image:
            width, height = image.size
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        summary = Summary(value=[Summary.Value(tag=f"{stage}/film", image=picture)])
        self._opened().file_writer.add_summary(summary)  # type: ignore[attr-defined]

    def finish(self, status: str, result: Mapping[str, Any]) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            shutil.rmtree(self._folder, ignore_errors=True)
            self._writer = SummaryWriter(str(self._folder))
        return self._writer
