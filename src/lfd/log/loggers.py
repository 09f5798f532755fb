"""The configuration group `logger`: the sinks of a run."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec

from lfd.errors import UserError
from lfd.log.sinks import RunInfo, Sink
from lfd.log.tensorboard_sink import TensorboardSink
from lfd.log.wandb_sink import WandbSink


@dataclass
class Logger(ABC):
    """Sinks of a run's records besides metrics.jsonl."""

    @abstractmethod
    def open(self, info: RunInfo) -> list[Sink]:
        """Makes the sinks of a run. A sink connects and writes only when it gets its first record."""


@dataclass
class NoLogger(Logger):
    """Writes metrics.jsonl only."""

    def open(self, info: RunInfo) -> list[Sink]:
        """Makes no sink."""
        return []


class WandbMode(Enum):
    """online sends records at once, offline stores them for `wandb sync`, disabled makes no sink."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class Wandb(Logger):
    """Mirrors records, scores and films to Weights & Biases, one W&B run per run."""

    mode: WandbMode = WandbMode.online  # online | offline (no network) | disabled
    project: str = "lfd"  # project of the W&B run
    entity: str | None = None  # user or team; null = the account's default
    tags: list[str] = field(default_factory=list)  # tags of the W&B run

    def open(self, info: RunInfo) -> list[Sink]:
        """Makes one W&B run. Raises UserError if `mode` is online and there is no API key."""
        match self.mode:
            case WandbMode.disabled:
                return []
            case WandbMode.online:
                _require_api_key()
                return [WandbSink(info, "online", self.project, self.entity, self.tags)]
            case WandbMode.offline:
                return [WandbSink(info, "offline", self.project, self.entity, self.tags)]


def _require_api_key() -> None:
    # without a key wandb would ask for one at the terminal, in the middle of a run
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise UserError(
            "logger=wandb: expected an API key, found none; run `wandb login` once, or set logger.mode=offline and run "
            "`wandb sync` later"
        )


@dataclass
class Tensorboard(Logger):
    """Mirrors records and films to TensorBoard event files in the run folder."""

    def open(self, info: RunInfo) -> list[Sink]:
        """Makes one folder of event files. Raises UserError if TensorBoard is not installed."""
        if find_spec("tensorboard") is None:
            raise UserError('logger=tensorboard: TensorBoard is not installed; pip install -e ".[tensorboard]"')
        return [TensorboardSink(info)]
