"""TensorBoard event files in the run folder."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lfd.log.sinks import RunInfo, Sink, axis, metrics


@final
class TensorboardSink(Sink):
    """Scalars over env steps where a stage interacts, else over gradient steps; films as animated images.

    The event files are written anew in every process, since the records of earlier sessions come again: no point
    stands twice. They are written here and not by TensorBoard's own writer, whose thread prints a traceback where a
    disk is full.
    """

    name = "tensorboard"

    def __init__(self, info: RunInfo) -> None:
        self._folder = info.folder / "tensorboard"
        self._writer: Any = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Add every number of the record."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        values = [Summary.Value(tag=key, simple_value=value) for key, value in metrics(record).items()]
        self._add(summary=Summary(value=values), step=record.get(axis(record) or "step", 0))

    def film(self, stage: str, path: Path) -> None:
        """Add the GIF's bytes as they are: TensorBoard animates them, and `add_video` would need one more package."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as image:
            width, height = image.size
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        self._add(summary=Summary(value=[Summary.Value(tag=f"{stage}/film", image=picture)]))

    def finish(self, status: str, result: Mapping[str, Any]) -> None:
        """Close the file."""
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
