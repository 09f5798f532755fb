"""The TensorBoard sink: event files in the run folder."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lfd.log.sinks import RunInfo, Sink, stage_metrics, x_axis


@final
class TensorboardSink(Sink):
    """Writes scalars over env steps if the stage interacts, otherwise over gradient steps; films as animated images.

    Every process replaces the event files, as the records of earlier processes come again and no point may stand
    twice. TensorBoard's own writer is not used, as its thread prints a traceback when the disk is full.
    """

    name = "tensorboard"

    def __init__(self, info: RunInfo) -> None:
        self._folder = info.folder / "tensorboard"
        self._writer: Any = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds every metric of the record."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        values = [Summary.Value(tag=key, simple_value=value) for key, value in stage_metrics(record).items()]
        self._add(summary=Summary(value=values), step=record.get(x_axis(record) or "step", 0))

    def film(self, stage: str, path: Path) -> None:
        """Adds the bytes of the GIF, which TensorBoard animates; `add_video` would need another package."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as image:
            width, height = image.size
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        self._add(summary=Summary(value=[Summary.Value(tag=f"{stage}/film", image=picture)]))

    def finish(self, status: str, result: Mapping[str, Any]) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

        if self._writer is None:
            from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
            self._writer = RecordWriter((self._folder / name).open("wb"))
            self._add(file_version="brain.Event:2")
        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._writer.flush()
