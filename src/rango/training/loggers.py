"""Loggers: a run's losses, rates and metrics in TensorBoard, Weights & Biases, MLflow or trackio while it trains.

log.jsonl of the run stays the record that everything else reads; a logger is a copy for a person to look at. So none of
them may cost the run: one that raises is left out from then on, with one note. Their packages are loaded when a run
that asks for them begins.
"""

from __future__ import annotations

import importlib.util
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rango.decisions import Estimate
from rango.errors import InputError, unknown_name
from rango.files import read_json, write_json
from rango.training.run_writer import RunWriter

IDS = "loggers.json"
"""The file of a run folder that keeps the id of the run in W&B and MLflow, by which a resumed run continues there."""


class Logger(Protocol):
    """What follows one run. Each method may raise: the run then goes on without this logger."""

    def start(self, config: Mapping[str, Any], name: str) -> None:
        """The run begins, or goes on; `config` has dotted keys such as `lora.rank`, `name` is that of its folder."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values after an optimizer step; a resumed run logs again, with equal values, the steps that it repeats."""

    def finish(self, summary: Mapping[str, float]) -> None:
        """The run ends, with the metrics on test; none where it failed or was interrupted."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the run; `tensorboard --logdir STUDY` shows all runs of a study."""

    def __init__(self, folder: Path, group: str | None, resumed: bool) -> None:  # noqa: ARG002
        self.folder, self.resumed = folder / "tensorboard", resumed
        self.writer: Any = None

    def start(self, config: Mapping[str, Any], name: str) -> None:  # noqa: ARG002
        """Keep the configuration; the file is opened at the first step, which says what is no longer true."""
        self.config, self.last = config, 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve; what an interrupted run had logged from here on is not shown any more."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            writer: Any = SummaryWriter
            self.writer = writer(str(self.folder), purge_step=step if self.resumed else None)
            rows = "\n".join(f"| {key} | {value} |" for key, value in self.config.items())
            self.writer.add_text("config", f"| key | value |\n|---|---|\n{rows}", step)
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)
        self.last = step

    def finish(self, summary: Mapping[str, float]) -> None:
        """Add the final metrics at the last step, and close the file."""
        # A run resumed after its last step opens its file only now: all that it had logged stays.
        self.resumed = self.resumed and self.writer is not None
        if summary:
            self.log(self.last, summary)
        if self.writer is not None:
            self.writer.close()


class WandB:
    """A run in Weights & Biases, in project `rango` unless WANDB_PROJECT says else; WANDB_MODE=offline stays local."""

    def __init__(self, folder: Path, group: str | None, resumed: bool) -> None:
        self.folder, self.group, self.resumed = folder, group, resumed

    def start(self, config: Mapping[str, Any], name: str) -> None:
        """Open the run, by the id that the run folder keeps."""
        import wandb

        # Without a key W&B would ask the terminal for one, and the run would wait for the answer.
        if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.api.api_key:
            raise InputError("there is no key; run `wandb login`, or set WANDB_MODE=offline")
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rango"),
            group=self.group,
            name=name,
            config=dict(config),
            dir=str(self.folder),
            id=_id(self.folder, "wandb", uuid.uuid4().hex[:16], kept=self.resumed),
            resume="allow",
            settings=wandb.Settings(silent=True, init_timeout=30),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log at a step; W&B drops a step that it has already."""
        self.run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, float]) -> None:
        """Write the summary and close the run."""
        self.run.summary.update(dict(summary))
        self.run.finish()


class MLflow:
    """A run in MLflow, where MLFLOW_TRACKING_URI points, else in the folder `mlruns`; its experiment is the study."""

    def __init__(self, folder: Path, group: str | None, resumed: bool) -> None:
        self.folder, self.group, self.resumed = folder, group, resumed
        self.points: list[Any] = []

    def start(self, config: Mapping[str, Any], name: str) -> None:
        """Find the experiment or make it, and find the run by the id that the run folder keeps or make it."""
        # MLflow's own seven tries with growing pauses would hold a run for minutes where no server answers.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        import mlflow
        from mlflow.entities import Param, RunTag

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            # Newer versions take plain files only on request; a database would need the whole of MLflow.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = Path("mlruns").resolve().as_uri()
        self.client: Any = mlflow.MlflowClient(tracking_uri=uri)
        kept = _kept_ids(self.folder).get("mlflow") if self.resumed else None
        if kept is None:
            title = self.group or os.environ.get("MLFLOW_EXPERIMENT_NAME", "rango")
            experiment = self.client.get_experiment_by_name(title)
            number = self.client.create_experiment(title) if experiment is None else experiment.experiment_id
            self.id = self.client.create_run(number, run_name=name).info.run_id
            params = [Param(key, str(value)) for key, value in config.items()]
            self.client.log_batch(self.id, params=params, tags=[RunTag("rango.folder", str(self.folder))])
        self.id = _id(self.folder, "mlflow", kept or self.id, kept=False)
        self.client.update_run(self.id, status="RUNNING")
        self.sent = time.monotonic()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep values, and send them every few seconds: a request for each step would hold up short ones."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.points += [Metric(key, value, now, step) for key, value in values.items()]
        if len(self.points) > 500 or time.monotonic() - self.sent > 5:
            self._send()

    def finish(self, summary: Mapping[str, float]) -> None:
        """Send what is left, with the summary, and close the run."""
        self.log(0, summary)
        self._send()
        self.client.set_terminated(self.id, "FINISHED" if summary else "KILLED")

    def _send(self) -> None:
        # A request holds at most 1,000 values.
        for start in range(0, len(self.points), 1000):
            self.client.log_batch(self.id, metrics=self.points[start : start + 1000])
        self.points, self.sent = [], time.monotonic()


class Trackio:
    """A run in trackio, whose project is the study; local unless TRACKIO_SPACE_ID names a Space of the Hub."""

    def __init__(self, folder: Path, group: str | None, resumed: bool) -> None:  # noqa: ARG002
        self.group, self.resumed = group, resumed

    def start(self, config: Mapping[str, Any], name: str) -> None:
        """Open the run; trackio knows a resumed one by its name."""
        import trackio

        self.run: Any = trackio.init(
            project=self.group or os.environ.get("TRACKIO_PROJECT", "rango"),
            name=name,
            config=dict(config),
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            resume="allow" if self.resumed else "never",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log at a step."""
        self.run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, float]) -> None:
        """Log the final metrics and close the run."""
        if summary:
            self.run.log(dict(summary))
        self.run.finish()


LOGGERS: Mapping[str, Callable[[Path, str | None, bool], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}
"""Name, which is also that of the package and of the extra -> what is built of run folder, group and "goes on"."""


def _kept_ids(folder: Path) -> dict[str, str]:
    ids = read_json(folder / IDS) if (folder / IDS).is_file() else {}
    if not isinstance(ids, dict) or not all(isinstance(one, str) for one in ids.values()):
        raise InputError(f"{folder / IDS} holds no ids by logger; delete it, and the loggers begin runs of their own")
    return ids


def _id(folder: Path, logger: str, new: str, *, kept: bool) -> str:
    """The id of the run in a logger: the one that its folder keeps, else `new`, which is then kept."""
    ids = _kept_ids(folder)
    if not kept or logger not in ids:
        write_json(folder / IDS, ids := {**ids, logger: new})
    return ids[logger]


def parse_loggers(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names in `"tensorboard,wandb"`, checked before anything heavy is loaded.

    Raises:
        InputError: a name that is no logger, or whose package is not installed.
    """
    parts = (text or "").split(",") if isinstance(text, str | None) else text
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    for name in names:
        if name not in LOGGERS:
            raise unknown_name("logger", name, list(LOGGERS))
        if importlib.util.find_spec(name) is None:
            raise InputError(f"log_to {name} needs the package {name}: pip install 'rango-lm[{name}]'")
    return names


@dataclass
class LoggedWriter(RunWriter):
    """Writes a run directory, and hands what it logs to loggers."""

    loggers: Sequence[Logger | str] = ()
    """Names of `LOGGERS`, or objects."""
    group: str | None = None
    """The study that the run belongs to."""
    resumed: bool = False
    """Whether the run goes on from a saved state."""
    say: Callable[[str], None] = print
    """Shows the note about a logger that failed."""

    def __post_init__(self) -> None:
        """Nothing is at work before `begin`."""
        self._at_work: list[Logger] = []
        self._summary: dict[str, float] = {}
        self._before: Mapping[str, Any] = {}

    def begin(self, **changes: Any) -> None:
        """As of `RunWriter`; the loggers start too. Of several processes the main one alone logs."""
        super().begin(**changes)
        if self.writes:
            self._at_work = [
                LOGGERS[logger](self.path, self.group, self.resumed) if isinstance(logger, str) else logger
                for logger in self.loggers
            ]
            config = dict(_dotted(self.record["config"]))
            self._each(lambda logger: logger.start(config, self.path.name))

    def append_log(self, record: Mapping[str, Any]) -> None:
        """As of `RunWriter`; losses, rates and validation metrics go to the loggers."""
        super().append_log(record)
        values = {f"validation/{name}": value for name, value in record.get("validation", {}).items()}
        for key, name in (("train_loss", "train/loss"), ("learning_rate", "train/learning_rate")):
            if key in record:
                values[name] = record[key]
        # Seconds and tokens of a record count from the beginning of the run.
        seconds = record["seconds"] - self._before.get("seconds", math.inf)
        if seconds > 0:
            values["train/tokens_per_second"] = (record["tokens"] - self._before["tokens"]) / seconds
        self._before = record
        finite = _finite(values)
        self._each(lambda logger: logger.log(record["step"], finite))

    def write_metrics(self, metrics: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> None:
        """As of `RunWriter`; the loggers get the values at the end."""
        super().write_metrics(metrics)
        self._summary = _finite(
            {
                f"{split}/{state}/{name}": estimate.value
                for split, states in metrics.items()
                for state, estimates in states.items()
                for name, estimate in estimates.items()
            }
        )

    def close(self) -> None:
        """End the loggers, whatever ended the run."""
        self._each(lambda logger: logger.finish(self._summary))
        self._at_work = []

    def _each(self, call: Callable[[Logger], None]) -> None:
        """Call every logger that is at work; one that raises anything is left out from here on."""
        for logger in list(self._at_work):
            try:
                call(logger)
            except Exception as error:
                self._at_work.remove(logger)
                reason = " ".join(str(error).split()) or type(error).__name__
                note = f"{type(logger).__name__} does not follow this run any further: {reason}"
                self.say(f"· {note}")
                self.write_note(note)


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values that a curve can show: an undefined metric is None or nan."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
