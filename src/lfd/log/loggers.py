"""The configuration group `logger`: which sinks a run has."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec

from lfd.errors import Refused
from lfd.log.sinks import RunInfo, Sink
from lfd.log.tensorboard_sink import TensorboardSink
from lfd.log.wandb_sink import WandbSink


@dataclass
class Logger(ABC):
    """Where a run's records go besides metrics.jsonl."""

    @abstractmethod
    def open(self, info: RunInfo) -> list[Sink]:
        """The sinks of this run; nothing is contacted or written before their first record."""


@dataclass
class NoLogger(Logger):
    """metrics.jsonl only."""

    def open(self, info: RunInfo) -> list[Sink]:
        """No sink."""
        return []


class WandbMode(Enum):
    """online sends as it goes, offline keeps for `wandb sync`, disabled does nothing."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class Wandb(Logger):
    """Weights & Biases."""

    mode: WandbMode = WandbMode.online  # online | offline (never dials out) | disabled
    project: str = "lfd"
    entity: str | None = None  # user or team; null is the account's default
    tags: list[str] = field(default_factory=list)

    def open(self, info: RunInfo) -> list[Sink]:
        """One W&B run.

        Raises:
            Refused: `mode` is online and no API key is known.
        """
        match self.mode:
            case WandbMode.disabled:
                return []
            case WandbMode.online:
                _need_key()
                return [WandbSink(info, "online", self.project, self.entity, self.tags)]
            case WandbMode.offline:
                return [WandbSink(info, "offline", self.project, self.entity, self.tags)]


def _need_key() -> None:
    # Without a key, wandb would stop and ask at a terminal, in the middle of a run.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise Refused(
            "logger=wandb has no API key: run `wandb login` once, or set logger.mode=offline and `wandb sync` later"
        )


@dataclass
class Tensorboard(Logger):
    """TensorBoard event files in the run folder."""

    def open(self, info: RunInfo) -> list[Sink]:
        """One folder of event files.

        Raises:
            Refused: TensorBoard is not installed.
        """
        if find_spec("tensorboard") is None:
            raise Refused('logger=tensorboard needs TensorBoard: pip install -e ".[tensorboard]"')
        return [TensorboardSink(info)]
