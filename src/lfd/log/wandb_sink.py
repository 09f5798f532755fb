"""Weights & Biases: one run a job, resumed under its id, nothing sent twice."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from lfd.files import load_object, to_json
from lfd.log.progress import tell
from lfd.log.sinks import RunInfo, Sink, axis, metrics

if TYPE_CHECKING:
    import wandb

_EXIT_CODES = {"done": 0, "interrupted": 75}


@final
class WandbSink(Sink):
    """Opens its W&B run with the first record that W&B has not seen: a run answered from what is stored stays silent.

    wandb.json in the run folder holds the id, the status last told, and per stage how far records were sent. Records
    are compared by (gradient steps, env steps): after a resume those up to the last one sent are skipped, also where
    the run went back to a checkpoint before it, because the steps done again give the same numbers.
    """

    name = "wandb"

    def __init__(
        self, info: RunInfo, mode: Literal["online", "offline"], project: str, entity: str | None, tags: Sequence[str]
    ) -> None:
        self._info, self._mode, self._project, self._entity, self._tags = info, mode, project, entity, tags
        self._file = info.folder / "wandb.json"
        known = load_object(self._file) if self._file.exists() else {}
        self._id: str = known.get("id", secrets.token_hex(8))
        self._status: str | None = known.get("status")
        self._rows: int = known.get("rows", 0)
        self._sent: dict[str, list[int]] = known.get("sent", {})
        self._films: list[str] = known.get("films", [])
        self._url: str | None = known.get("url")
        self._before = dict(self._sent)
        self._axes: set[str] = set()
        self._run: wandb.Run | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Send the record unless an earlier session did."""
        stage, place = record["stage"], [record.get("step", 0), record.get("env_steps", 0)]
        if place <= self._before.get(stage, [-1, -1]):
            return
        over = axis(record)
        if over and stage not in self._axes:
            self._axes.add(stage)
            self._opened().define_metric(f"{stage}/*", step_metric=f"{stage}/{over}")
        self._send(metrics(record))
        self._sent[stage] = place
        self._remember("running")

    def film(self, stage: str, path: Path) -> None:
        """Send the film once."""
        if stage in self._films:
            return
        import wandb

        self._send({f"{stage}/film": wandb.Video(str(path), format="gif")})
        self._films.append(stage)
        self._remember("running")

    def finish(self, status: str, result: Mapping[str, Any]) -> None:
        """Send scores and passports, and mark the run finished, preempted or failed."""
        if self._run is None and self._status == status:
            return
        run = self._opened()
        for policy, score in result.get("scores", {}).items():
            run.summary.update({f"scores/{policy}/{key}": value for key, value in score.items()})
        passports = {name: stage["passport"] for name, stage in result.get("stages", {}).items() if "passport" in stage}
        if passports:
            run.config.update({"passports": passports}, allow_val_change=True)  # type: ignore[no-untyped-call]
        if status == "interrupted":
            run.mark_preempting()
        run.finish(exit_code=_EXIT_CODES.get(status, 1))
        self._remember(status)

    def _send(self, values: Mapping[str, Any]) -> None:
        # The row's number is given, so that the offline files of several sessions of one run never overlap.
        self._opened().log(dict(values), step=self._rows)
        self._rows += 1

    def _opened(self) -> wandb.Run:
        if self._run is None:
            self._run = self._open()
            if self._mode == "online":
                self._url = self._run.url
                tell(f"wandb: {self._url}")
        return self._run

    def _open(self) -> wandb.Run:
        # Read when wandb is imported: its crash reports go out in every mode.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        offline = self._mode == "offline"
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,  # it would send the command line as it was typed; the configuration says the same
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

    def _remember(self, status: str) -> None:
        self._status = status
        state = {
            "id": self._id,
            "url": self._url,
            "status": status,
            "rows": self._rows,
            "sent": self._sent,
            "films": self._films,
        }
        fresh = self._file.with_name(f"{self._file.name}.{os.getpid()}.tmp")
        fresh.write_text(to_json(state))
        fresh.replace(self._file)
