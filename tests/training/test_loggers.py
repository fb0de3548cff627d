"""Loggers: what they are handed and in which order, resumed and failing ones, and the real files of three programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.toy import toy_task

from rango.decisions import Estimate
from rango.errors import DivergenceError, InputError
from rango.models.loading import Model, load_model
from rango.training.finetune import finetune
from rango.training.loggers import IDS, LoggedWriter, _kept_ids, parse_loggers
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]
QUICK: dict[str, Any] = {"steps": 4, "batch": 8, "validate_every": 2, "lora": {"rank": 2}}


class Recorder:
    """Keeps its calls, and raises where it is told to."""

    def __init__(self, fails_in: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails_in = fails_in

    def start(self, config: Mapping[str, Any], name: str) -> None:
        self._keep("start", dict(config), name)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._keep("log", step, dict(values))

    def finish(self, summary: Mapping[str, float]) -> None:
        self._keep("finish", dict(summary))

    def _keep(self, *call: Any) -> None:
        self.calls.append(call)
        if call[0] == self.fails_in:
            raise OSError("no network")


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Model:
    return load_model(checkpoint("phi"))


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for what is written beside runs, and no settings of the machine's user."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    # What a logger sets by default ends with the test.
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true" if "ALLOW" in name else "1")


def a_run(folder: Path, *loggers: Any, resumed: bool = False, steps: tuple[int, ...] = (0, 1, 2)) -> LoggedWriter:
    """A run of two steps without any model: five tokens in half a second each."""
    config = {"model": "m", "lora": {"rank": 2}}
    writer = LoggedWriter(folder, {"config": config}, loggers=loggers, group="placement", resumed=resumed)
    writer.begin()
    for step in steps:
        record: dict[str, Any] = {"step": step, "seconds": step / 2, "tokens": 5 * step}
        if step:
            record |= {"train_loss": 1 / step, "learning_rate": 0.1}
        writer.append_log({**record, "validation": {"nce": 1.0 - step / 10}} if step != 1 else record)
    return writer


def end(writer: LoggedWriter) -> None:
    """The end of a complete run."""
    estimate = Estimate(value=0.5, low=0.4, high=0.6, n=10, direction="lower")
    writer.write_metrics({"test": {"adapted": {"nce": estimate}}})
    writer.finish()
    writer.close()


def test_a_logger_is_handed_the_run_in_order(model: Model, tmp_path: Path) -> None:
    recorder = Recorder()
    run = finetune(model, toy_task(), out=tmp_path / "fox", loggers=[recorder], **QUICK)
    kinds = [call[0] for call in recorder.calls]
    assert kinds == ["start", *["log"] * 5, "finish"]
    _, config, name = recorder.calls[0]
    assert (name, config["lora.rank"], config["steps"]) == ("fox", 2, 4)
    steps = {call[1]: call[2] for call in recorder.calls if call[0] == "log"}
    assert list(steps) == [0, 1, 2, 3, 4]
    for record in run.log:
        values = steps[record["step"]]
        assert values.get("train/loss") == record.get("train_loss")
        assert values.get("train/learning_rate") == record.get("learning_rate")
        assert values.get("validation/nce") == record.get("validation", {}).get("nce")
        assert ("train/tokens_per_second" in values) == (record["step"] > 0)
    summary = recorder.calls[-1][1]
    assert summary["test/adapted/nce"] == run.metrics["test"]["adapted"]["nce"].value
    assert "test/base/accuracy" in summary


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_logger_that_fails_costs_one_note_and_no_run(method: str, tmp_path: Path) -> None:
    notes: list[str] = []
    failing, sound = Recorder(fails_in=method), Recorder()
    writer = LoggedWriter(tmp_path / "run", {"config": {}}, loggers=[failing, sound], say=notes.append)
    writer.begin()
    for step in range(3):
        writer.append_log({"step": step, "seconds": 0.0, "tokens": 0})
    end(writer)
    assert [call[0] for call in sound.calls] == ["start", *["log"] * 3, "finish"]
    assert [call[0] for call in failing.calls].count(method) == 1
    assert notes == ["· Recorder does not follow this run any further: no network"]
    assert Run(tmp_path / "run").record["notes"] == [notes[0].removeprefix("· ")]


def test_tokens_per_second_are_those_of_the_step(tmp_path: Path) -> None:
    recorder = Recorder()
    end(a_run(tmp_path / "run", recorder))
    assert [call[2].get("train/tokens_per_second") for call in recorder.calls if call[0] == "log"] == [None, 10, 10]


def test_a_value_that_no_curve_can_show_is_left_out(tmp_path: Path) -> None:
    recorder = Recorder()
    writer = LoggedWriter(tmp_path / "run", {"config": {}}, loggers=[recorder])
    writer.begin()
    writer.append_log({"step": 0, "seconds": 0, "tokens": 0, "validation": {"nce": float("nan"), "brier": 0.5}})
    assert recorder.calls[-1] == ("log", 0, {"validation/brier": 0.5})


def test_only_the_main_process_logs(tmp_path: Path) -> None:
    recorder = Recorder()
    writer = LoggedWriter(tmp_path / "run", {"config": {}}, writes=False, loggers=[recorder])
    writer.begin()
    writer.append_log({"step": 0, "seconds": 0, "tokens": 0})
    writer.close()
    assert recorder.calls == []


def test_a_run_that_diverges_closes_its_loggers(model: Model, tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(DivergenceError):
        finetune(model, toy_task(), out=tmp_path / "run", loggers=[recorder], **{**QUICK, "learning_rate": 1e30})
    assert recorder.calls[-1] == ("finish", {})


def test_names_are_checked_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown logger 'tensorbord': did you mean 'tensorboard'"):
        parse_loggers("tensorbord")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"log_to wandb needs the package wandb: pip install 'rango-lm\[wandb\]'"):
        parse_loggers("wandb")
    assert parse_loggers(None) == ()


def test_tensorboard_shows_a_resumed_run_as_one_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    a_run(tmp_path / "run", "tensorboard").close()
    end(a_run(tmp_path / "run", "tensorboard", resumed=True, steps=(2, 3)))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5), (3, 0.333)]
    assert [(e.step, e.value) for e in events.Scalars("test/adapted/nce")] == [(3, 0.5)]
    (text,) = events.Tensors("config/text_summary")[:1]
    assert b"| lora.rank | 2 |" in text.tensor_proto.string_val[0]


def test_mlflow_keeps_one_run_in_the_experiment_of_the_study(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    a_run(tmp_path / "run", "mlflow").close()
    end(a_run(tmp_path / "run", "mlflow", resumed=True, steps=(3,)))
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("placement")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["lora.rank"]) == ("run", "FINISHED", "2")
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [
        *((1, 1.0), (2, 0.5), (3, 1 / 3)),
    ]
    assert run.data.metrics["test/adapted/nce"] == 0.5
    assert IDS in {file.name for file in (tmp_path / "run").iterdir()}


def test_wandb_without_a_key_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(api=SimpleNamespace(api_key=None)))  # type: ignore[arg-type]
    writer = a_run(tmp_path / "run", "wandb")
    assert writer.record["notes"] == [
        "WandB does not follow this run any further: there is no key; run `wandb login`, or set WANDB_MODE=offline"
    ]


class FakeRuns(SimpleNamespace):
    """What wandb and trackio have in common: `init` with the settings of a run, which logs and finishes."""

    def __init__(self) -> None:
        super().__init__(api=SimpleNamespace(api_key="k"), Settings=dict, settings=[], logged=[])

    def init(self, **settings: Any) -> FakeRuns:
        self.settings.append(settings)
        self.summary: dict[str, float] = {}
        return self

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.logged.append(step if values else None)

    def finish(self) -> None:
        self.logged.append("finished")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_goes_on_where_it_was(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRuns()
    monkeypatch.setitem(sys.modules, name, fake)  # type: ignore[arg-type]
    a_run(tmp_path / "run", name).close()
    end(a_run(tmp_path / "run", name, resumed=True, steps=(3,)))
    first, second = fake.settings
    assert first["name"] == second["name"] == "run"
    assert second["resume"] == "allow"
    assert first["group" if name == "wandb" else "project"] == "placement"
    assert first.get("id") == second.get("id")
    assert [entry for entry in fake.logged if entry is not None] == [0, 1, 2, "finished", 3, "finished"]


@pytest.mark.slow  # starts a process of W&B
def test_wandb_offline_writes_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    writer = a_run(tmp_path / "run", "wandb")
    end(writer)
    assert "notes" not in writer.record
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1


@pytest.mark.parametrize("content", ["[]", '{"wandb": 3}', '"x"'])
def test_ids_that_are_none_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / IDS).write_text(content)
    with pytest.raises(InputError, match=r"loggers\.json holds no ids by logger; delete it"):
        _kept_ids(tmp_path)
