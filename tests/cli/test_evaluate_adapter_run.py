"""`rango evaluate --adapter RUN` does as RUN did, and refuses instances that RUN has seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.command import without_loading

from rango.cli import main
from rango.decisions import read_posteriors
from rango.files import read_yaml
from rango.options import Split
from rango.tasks import load_task
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
SIZES = {"train": 30, "validation": 12, "test": 20}


def write_table(folder: Path, *, days: int = 12) -> Path:
    moods = {"happy": "smiles and sings", "sad": "cries at home", "angry": "shouts at the door"}
    rows = [
        {"text": f"{name} {deed} on day {day}", "mood": mood}
        for day in range(days)
        for name in ("Ann", "Bo")
        for mood, deed in moods.items()
    ]
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(yaml.safe_dump({"prompt": "{text}. Mood:", "choices": [*moods], "label": "mood"}))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("tables") / "table")


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Path:
    return checkpoint("phi", max_position_embeddings=512)


@pytest.fixture(scope="module")
def run(model: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that differs from the defaults of an evaluation in every way that it can."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--form", "letter", "--normalise", "tokens", "--shots", "2", "--shots-seed", "1", "--data-seed", "3"]
    sizes = [part for name, size in SIZES.items() for part in (f"--{name}", str(size))]
    command = ["finetune", str(model), str(table), "--out", str(out), *flags, *sizes, "--steps", "3", "--quiet"]
    assert main([*command, "--learning-rate", "0.01", "--dtype", "float32"]) == 0
    return out


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def same_posteriors(out: Path, run: Path) -> None:
    found = read_posteriors(out / "posteriors" / "test-adapted.parquet")
    expected = Run(run).posteriors("adapted")
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.log_posteriors, expected.log_posteriors)


def test_what_is_not_given_is_taken_from_the_run_and_told(
    model: Path, table: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert evaluate(model, table, "--adapter", run, "--out", tmp_path / "out") == 0
    told = capsys.readouterr().err
    for words in (
        "as in",
        "run.yaml: form letter",
        "normalise tokens",
        "shots 2",
        "train 30",
        "data_seed 3",
        "float32",
    ):
        assert words in told
    same_posteriors(tmp_path / "out", run)
    config = read_yaml(tmp_path / "out" / "evaluation.yaml")["config"]
    assert {name: config[name] for name in SIZES} == SIZES
    # The checkpoints of a run belong to it too.
    assert evaluate(model, table, "--adapter", run / "adapter" / "best", "--out", tmp_path / "best", "--quiet") == 0
    same_posteriors(tmp_path / "best", run)


@pytest.mark.usefixtures("plain_page")
def test_what_is_given_wins(model: Path, table: Path, run: Path, tmp_path: Path) -> None:
    given = ["--form", "cloze", "--shots", "0", "--test", "5", "--quiet"]
    assert evaluate(model, table, "--adapter", run, "--out", tmp_path / "out", *given) == 0
    config = read_yaml(tmp_path / "out" / "evaluation.yaml")["config"]
    assert (config["form"], config["shots"], config["test"]) == ("cloze", 0, 5)
    assert (config["normalise"], config["validation"], config["data_seed"]) == ("tokens", 12, 3)
    assert len(read_posteriors(tmp_path / "out" / "posteriors" / "test-adapted.parquet")) == 5


@pytest.mark.usefixtures("plain_page")
def test_a_table_may_be_written_in_another_way(
    model: Path, table: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    assert evaluate(model, "table/rows.jsonl", "--adapter", run, "--out", tmp_path / "out", "--quiet") == 0
    same_posteriors(tmp_path / "out", run)
    copy = shutil.copytree(table, tmp_path / "copy")
    assert evaluate(model, copy, "--adapter", run, "--out", tmp_path / "copied", "--quiet") == 0
    same_posteriors(tmp_path / "copied", run)


def refused(capsys: Capture, out: Path, *arguments: object) -> str:
    capsys.readouterr()
    assert evaluate(*arguments, "--out", out) == 2
    assert not out.exists()
    (line,) = without_loading(capsys.readouterr().err).splitlines()
    return line


@pytest.mark.usefixtures("plain_page")
def test_a_cut_that_holds_what_the_run_has_seen_is_refused_unless_asked(
    model: Path, table: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = [model, table, "--adapter", run, "--data-seed", "4"]
    line = refused(capsys, tmp_path / "out", *command)
    assert "of the 20 test instances have contexts that" in line
    assert "was trained or validated on (data_seed is 4, there 3); leave that out" in line
    seen = {*groups(table, "train", 3), *groups(table, "validation", 3)}
    assert f" {sum(name in seen for name in groups(table, 'test', 4))} of the 20 test" in line
    assert evaluate(*command, "--other-data", "--out", tmp_path / "out") == 0
    assert "instances that it was trained on may be among these" in capsys.readouterr().err


def groups(table: Path, split: Split, seed: int) -> list[str]:
    return [instance.group for instance in load_task(str(table), data_seed=seed, **SIZES).split(split)]


@pytest.mark.usefixtures("plain_page")
def test_a_table_that_has_changed_is_refused_unless_asked(
    model: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    table = write_table(tmp_path / "table")
    own = shutil.copytree(run, tmp_path / "run")
    record = read_yaml(own / "run.yaml")
    record["config"]["task"] = str(table)
    (own / "run.yaml").write_text(yaml.safe_dump(record))
    assert evaluate(model, table, "--adapter", own, "--out", tmp_path / "same", "--quiet") == 0
    rows = (table / "rows.jsonl").read_text()
    (table / "rows.jsonl").write_text(rows.replace("Bo", "Jo"))
    command = [model, table, "--adapter", own]
    assert "it has changed since, and training instances may be" in refused(capsys, tmp_path / "out", *command)
    assert evaluate(*command, "--other-data", "--out", tmp_path / "out", "--quiet") == 0


@pytest.mark.usefixtures("plain_page")
def test_another_task_is_read_in_the_runs_form_with_sizes_of_its_own(
    model: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = write_table(tmp_path / "other", days=9)
    (other / "rows.jsonl").write_text((other / "rows.jsonl").read_text().replace("day", "night"))
    assert evaluate(model, other, "--adapter", run, "--out", tmp_path / "out") == 0
    assert "was trained on another task" in capsys.readouterr().err
    config = read_yaml(tmp_path / "out" / "evaluation.yaml")["config"]
    assert (config["form"], config["normalise"], config["test"], config["data_seed"]) == ("letter", "tokens", 2000, 0)


def test_a_run_without_a_configuration_is_refused(
    model: Path, table: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    broken = shutil.copytree(run, tmp_path / "run")
    (broken / "run.yaml").write_text("status: complete\n")
    line = refused(capsys, tmp_path / "out", model, table, "--adapter", broken)
    assert "run.yaml has no config; expected a file that rango finetune wrote" in line
