"""Output of a running run: metrics.jsonl, the sinks that mirror it, and progress."""

from lfd.log.loggers import Logger, NoLogger, Tensorboard, Wandb
from lfd.log.metrics import MetricsLog, Record, RunLog, read_records
from lfd.log.progress import Progress
from lfd.log.sinks import RunInfo, Sink

__all__ = [
    "Logger",
    "MetricsLog",
    "NoLogger",
    "Progress",
    "Record",
    "RunInfo",
    "RunLog",
    "Sink",
    "Tensorboard",
    "Wandb",
    "read_records",
]
