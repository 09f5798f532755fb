"""The Weights & Biases sink: one W&B run per run, resumed under its id, without sending a record twice."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from lfd.errors import Interrupted
from lfd.files import load_json_object, to_strict_json
from lfd.log.progress import print_message
from lfd.log.sinks import RunInfo, Sink, stage_metrics, x_axis

if TYPE_CHECKING:
    import wandb

_EXIT_CODES = {"done": 0, "interrupted": Interrupted.exit_code}


@final
class WandbSink(Sink):
    """Starts its W&B run with the first record that W&B does not have; a run of stored results sends nothing.

    wandb.json in the run folder holds the id, the last status, and the last record sent of each stage. Records are
    compared by (gradient steps, env steps): after a resume all records up to the last one sent are skipped. This also
    holds if the run continued from an earlier checkpoint, as repeated steps give the same numbers.
    """

    name = "wandb"

    def __init__(
        self, info: RunInfo, mode: Literal["online", "offline"], project: str, entity: str | None, tags: Sequence[str]
    ) -> None:
        self._info, self._mode, self._project, self._entity, self._tags = info, mode, project, entity, tags
        self._file = info.folder / "wandb.json"
        state = load_json_object(self._file) if self._file.exists() else {}
        self._id: str = state.get("id", secrets.token_hex(8))
        self._status: str | None = state.get("status")
        self._rows: int = state.get("rows", 0)
        self._sent: dict[str, list[int]] = state.get("sent", {})
        self._films: list[str] = state.get("films", [])
        self._url: str | None = state.get("url")
        self._sent_before = dict(self._sent)
        self._axes: set[str] = set()
        self._run: wandb.Run | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Sends the record unless an earlier process did."""
        stage, position = record["stage"], [record.get("step", 0), record.get("env_steps", 0)]
        if position <= self._sent_before.get(stage, [-1, -1]):
            return
        axis = x_axis(record)
        if axis and stage not in self._axes:
            self._axes.add(stage)
            self._get_run().define_metric(f"{stage}/*", step_metric=f"{stage}/{axis}")
        self._send(stage_metrics(record))
        self._sent[stage] = position
        self._save_state("running")

    def film(self, stage: str, path: Path) -> None:
        """Sends the film once."""
        if stage in self._films:
            return
        import wandb

        self._send({f"{stage}/film": wandb.Video(str(path), format="gif")})
        self._films.append(stage)
        self._save_state("running")

    def finish(self, status: str, result: Mapping[str, Any]) -> None:
        """Sends scores and metadata, and marks the run as finished, preempted or failed."""
        if self._run is None and self._status == status:
            return
        run = self._get_run()
        for policy, score in result.get("scores", {}).items():
            run.summary.update({f"scores/{policy}/{key}": value for key, value in score.items()})
        metadata = {name: stage["metadata"] for name, stage in result.get("stages", {}).items() if "metadata" in stage}
        if metadata:
            run.config.update({"metadata": metadata}, allow_val_change=True)  # type: ignore[no-untyped-call]
        if status == "interrupted":
            run.mark_preempting()
        run.finish(exit_code=_EXIT_CODES.get(status, 1))
        self._save_state(status)

    def _send(self, values: Mapping[str, Any]) -> None:
        # explicit row numbers, so that the offline files of several processes of one run do not overlap
        self._get_run().log(dict(values), step=self._rows)
        self._rows += 1

    def _get_run(self) -> wandb.Run:
        if self._run is None:
            self._run = self._init_run()
            if self._mode == "online":
                self._url = self._run.url
                print_message(f"wandb: {self._url}")
        return self._run

    def _init_run(self) -> wandb.Run:
        # wandb reads it when imported; it would send crash reports in every mode
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        offline = self._mode == "offline"
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,  # it would send the command line; the configuration contains the same settings
            x_disable_machine_info=offline,
            x_disable_stats=offline,
            init_timeout=30,
            finish_timeout=300,
        )
        return wandb.init(
            mode=self._mode,
            project=self._project,
            entity=self._entity,
            dir=self._info.folder,
            id=self._id,
            resume=None if offline else "allow",
            name=self._info.folder.name,
            group=self._info.group,
            tags=list(self._tags),
            config=dict(self._info.config),
            reinit="create_new",
            settings=settings,
        )

    def _save_state(self, status: str) -> None:
        self._status = status
        state = {
            "id": self._id,
            "url": self._url,
            "status": status,
            "rows": self._rows,
            "sent": self._sent,
            "films": self._films,
        }
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}.tmp")
        temporary.write_text(to_strict_json(state))
        temporary.replace(self._file)
