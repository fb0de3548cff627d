"""Input of the wrong kind, places that cannot be written to, the spellings of an option: one line, exit code 2."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from helpers.command import Capture, fails

from rango.cli import main
from rango.config import underscored
from rango.console import Screen
from rango.errors import InputError
from rango.files import check_writable, write_text
from rango.models.adapter import add_adapter
from rango.models.loading import load_model
from rango.options import FinetuneConfig, LoRA

Checkpoint = Callable[..., Path]
SIZES = ("--train", 8, "--validation", 4, "--test", 6)


MOODS = ("happy", "sad", "angry")


def write_table(folder: Path, settings: dict[str, Any] | None = None, row: dict[str, Any] | None = None) -> Path:
    """Eight contexts of each of three moods, with other settings, and another second row."""
    rows: list[dict[str, Any]] = [{"text": f"Ann {k}", "mood": MOODS[k % 3]} for k in range(24)]
    rows[1] = rows[1] if row is None else row
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"prompt": "{text}. Mood:", "choices": list(MOODS), "label": "mood", **(settings or {})}
    (folder / "task.yaml").write_text(yaml.safe_dump(keys))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table as it should be."""
    return write_table(tmp_path_factory.mktemp("table"))


@pytest.mark.parametrize(
    ("command", "settings", "message"),
    [
        ("finetune", {"model": "m", "task": "t", "out": 3}, "out is 3: expected a path, as text"),
        ("evaluate", {"model": "m", "task": "t", "out": ["a"]}, "out is ['a']: expected a path, as text"),
        ("evaluate", {"model": 3, "task": "t", "out": "a"}, "model is 3"),
        ("pretrain", {"texts": 3, "out": "a"}, "texts.0 is 3: expected a path, as text"),
        ("pretrain", {"texts": ["a.txt", 3], "out": "a"}, "texts.1 is 3: expected a path, as text"),
        ("pretrain", {"texts": "none.txt", "out": "OUT"}, "none.txt does not exist"),
        ("finetune", {"learning-rate": 0.1, "learning_rate": 0.2}, "learning_rate stands twice, spelt with - and with"),
        ("finetune", {"lora": {"a-b": 1, "a_b": 2}}, "a_b stands twice, spelt with - and with _; keep one of them"),
        ("tasks", {"data-seed": 1, "data_seed": 2}, "data_seed stands twice, spelt with - and with _"),
        ("study", {"file": "STUDY"}, "learning_rate stands twice, spelt with - and with _"),
    ],
)
def test_a_file_with_values_of_the_wrong_kind(
    command: str, settings: dict[str, Any], message: str, tmp_path: Path, capsys: Capture
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("base: {}\nruns:\n- {learning-rate: 0.1, learning_rate: 0.2}\n")
    places = {"STUDY": str(study), "OUT": str(tmp_path / "out")}
    settings = {key: places.get(value, value) if isinstance(value, str) else value for key, value in settings.items()}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(settings))
    assert message in fails(capsys, command, "--config", tmp_path / "x.yaml")
    assert not (tmp_path / "out").exists()


def test_one_text_or_a_list_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[Path], dict[str, Any]]] = []
    monkeypatch.setattr("rango.language.pretrain.pretrain", lambda texts, **named: calls.append((texts, named)))
    text, out = tmp_path / "a.txt", tmp_path / "model"
    text.write_text("Ann sings.\n")
    for texts in (str(text), [str(text)]):
        (tmp_path / "x.yaml").write_text(
            yaml.safe_dump({"texts": texts, "out": str(out), "model": "lstm", "lstm": {"dropout": 0.5}})
        )
        assert main(["pretrain", "--config", str(tmp_path / "x.yaml"), "--hidden", "16"]) == 0
        files, named = calls.pop()
        assert (files, named["out"]) == ([text], out)
        assert (named["config"].lstm.dropout, named["config"].hidden) == (0.5, 16)


def test_a_config_file_in_either_form_and_flags_that_win(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("task: simulated\nshow: 1\ntrain: 9\n")
    for form in (["--config", str(file)], [f"--config={file}"]):
        assert main(["tasks", *form, "--train=8", "--validation", "4", "--test", "6"]) == 0
        shown = capsys.readouterr().out
        assert "train 8, validation 4, test 6" in shown
        assert shown.count("letter form") == 1
    calls: list[tuple[Path, int, bool]] = []

    def run_demo(out: Path, *, seed: int, screen: Screen) -> SimpleNamespace:
        calls.append((out, seed, screen.quiet))
        return SimpleNamespace(path=out)

    monkeypatch.setattr("rango.demo.run_demo", run_demo)
    monkeypatch.setattr("rango.reports.run.terminal.print_result", lambda *_, **__: None)
    file.write_text(f"seed: 4\nquiet: true\nout: {tmp_path / 'demo'}\n")
    assert main(["demo", "--seed=3", f"--config={file}"]) == 0
    assert main(["demo", "--config", str(file)]) == 0
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0  # a file is not remembered
    assert calls == [(tmp_path / "demo", 3, True), (tmp_path / "demo", 4, True), (tmp_path / "demo", 0, False)]
    for empty in (["--config"], ["--config="]):
        assert "--config has no file; give the path of a YAML file" in fails(capsys, "demo", *empty)


def test_all_mistakes_of_a_file_at_once(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("{model: 3, lora: {rnk: 2, rank: 0}, steps: x, outt: a, other-data: true}\n")
    line = fails(capsys, "finetune", "--config", file)
    for mistake in (
        "model is 3: expected a text",
        "unknown key 'lora.rnk': did you mean 'lora.rank'?",
        "lora.rank is 0: input should be greater than or equal to 1",
        "steps is 'x': expected a whole number",
        "unknown key 'outt': did you mean 'out'?",
        "unknown key 'other_data'",
    ):
        assert mistake in line


def test_all_that_is_missing_at_once(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("task: simulated\n")
    for arguments, names in (((), ("MODEL", "TASK", "--out")), (("--config", file), ("MODEL", "--out"))):
        line = fails(capsys, "finetune", *arguments)
        assert [part.split()[0] for part in line.removeprefix("rango: ").split("; ") if "missing" in part] == [*names]
    assert "--seed has no value; give one behind it" in fails(capsys, "finetune", "m", "t", "--seed")


def test_two_spellings_are_refused_at_any_depth() -> None:
    assert underscored({"a-b": {"c-d": 1}, "e": [1]}, where="x") == {"a_b": {"c_d": 1}, "e": [1]}
    with pytest.raises(InputError, match="x: c_d stands twice, spelt with - and with _; keep one of them"):
        underscored({"a": {"c_d": 1, "c-d": 1}}, where="x")


@pytest.mark.parametrize("place", ["afile/run", "/proc/nowhere/run"])
@pytest.mark.parametrize("command", ["finetune", "evaluate", "pretrain", "study", "demo"])
def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(
    command: str, place: str, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "afile").write_text("Ann sings.\n")
    out = tmp_path / place  # an absolute one stays as it is
    model = str(checkpoint("phi"))
    base = {"model": model, "task": str(table), "steps": 1, "train": 8, "validation": 4, "test": 6}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"base": base}))
    arguments = {
        "finetune": [model, table, *SIZES],
        "evaluate": [model, table, *SIZES],
        "pretrain": [tmp_path / "afile"],
        "study": [tmp_path / "study.yaml"],
        "demo": [],
    }[command]
    line = fails(capsys, command, *arguments, "--out", out)
    reasons = ("it is a file", "Not a directory", "No such file or directory", "Permission denied")
    assert any(f"cannot be written to ({reason})" in line for reason in reasons), line
    assert line.endswith("; give another place\n")


def test_a_result_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    rows = [{"label": k % 2, "posteriors": [0.6, 0.4]} for k in range(6)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = ["metrics", tmp_path / "p.jsonl", "--replicates", 100, "--out"]
    assert "cannot be written to (it is a file); give another" in fails(capsys, *few, tmp_path / "p.jsonl" / "m.json")
    assert "is a folder; give the path of a file" in fails(capsys, *few, tmp_path)


def test_looking_at_a_place_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    check_writable(tmp_path / "c")
    assert (tmp_path / "c").is_dir()


def test_a_full_disk_is_a_fault_while_running(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")

    monkeypatch.setattr("rango.files.tempfile.mkstemp", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a", "x")
    monkeypatch.setattr("rango.cli.app", SimpleNamespace(meta=full))
    assert fails(capsys, "tasks", code=1) == "rango: there: No space left on device\n"


@pytest.mark.parametrize("part", ["config", "fingerprints"])
def test_a_record_without_its_parts_is_refused(
    part: str, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["finetune", checkpoint("phi"), table, *SIZES, "--steps", 1, "--quiet", "--out", tmp_path]
    config = FinetuneConfig.build(
        {"model": str(command[1]), "task": str(table), "train": 8, "validation": 4, "test": 6, "steps": 1}
    )
    record = {"status": "running", "config": config.model_dump(mode="json"), "fingerprints": {}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({key: value for key, value in record.items() if key != part}))
    assert f"run.yaml has no {part}; expected a file that rango finetune wrote" in fails(capsys, *command)


def test_an_evaluation_without_its_configuration_is_other_files(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "evaluation.yaml").write_text("form: cloze\n")
    line = fails(capsys, "evaluate", checkpoint("phi"), table, *SIZES, "--out", tmp_path)
    assert "already holds other files" in line


@pytest.mark.parametrize("command", ["finetune", "evaluate"])
@pytest.mark.parametrize(
    ("settings", "row", "message"),
    [
        ({"prompt": "{text. Mood:"}, None, "task.yaml: prompt: a lone { at '{text. Mood:'"),
        ({"prompt": "{txt}"}, None, "rows.jsonl:1: unknown column 'txt': did you mean 'text'?"),
        ({"choices": ["happy"]}, None, "task.yaml: choices: 1 choice(s); expected at least 2"),
        ({"choices": ["happy", "sad", "happy"]}, None, "choice 2 is 'happy' like choice 0; name each once"),
        ({"choices": "options"}, {"text": "Bo", "mood": 0, "options": ["happy"]}, "unknown column 'options'"),
        ({"lable": "mood"}, None, "did you mean 'label'?"),
        ({}, {"text": "Bo"}, "rows.jsonl:2: mood is missing; `label` in"),
        ({}, {"text": "Bo", "mood": "glad"}, "rows.jsonl:2: label is 'glad'; expected the text of one choice"),
        ({}, {"text": "x " * 200, "mood": "sad"}, "rows.jsonl:2: instance '2' is "),
        ({}, {"text": "\ud800", "mood": "sad"}, "rows.jsonl:2: '\\ud800' is half a surrogate pair; save the text as"),
    ],
)
def test_a_bad_table_is_one_line_before_any_work(
    command: str,
    settings: dict[str, Any],
    row: dict[str, Any] | None,
    message: str,
    checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    (tmp_path / "table").mkdir()
    folder = write_table(tmp_path / "table", settings, row)
    sizes = ("--train", 16, "--validation", 4, "--test", 4)
    out = tmp_path / "out"
    # Evaluating reads one split only: the one that holds most rows.
    split = ("--split", "train") if command == "evaluate" else ()
    assert message in fails(capsys, command, checkpoint("phi"), folder, *sizes, *split, "--out", out)
    assert not out.exists()


def test_one_choice_has_no_metrics(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "p.jsonl").write_text('{"label": 0, "posteriors": [1.0]}\n' * 4)
    assert "has 1 column; expected at least two choices" in fails(capsys, "metrics", tmp_path / "p.jsonl")


def test_a_loss_that_is_no_number_is_one_line(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    wild = ("--learning-rate", "1e30", "--steps", 6, "--quiet")
    line = fails(capsys, "finetune", checkpoint("phi"), table, *SIZES, *wild, "--out", tmp_path / "out")
    assert "became nan at step" in line
    assert "lower --learning-rate" in line


def test_an_adapter_without_dropout_is_refused_before_scoring(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    model = load_model(checkpoint("phi"))
    add_adapter(model, LoRA(), seed=0).save(tmp_path / "adapter")
    masks = ("--adapter", tmp_path / "adapter", "--mc-dropout", 4, "--out", tmp_path / "out")
    line = fails(capsys, "evaluate", checkpoint("phi"), table, *SIZES, *masks)
    assert "the adapter has dropout 0" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "0.5"], "--gpus is for tasks on a Ray cluster; give --ray ADDRESS too"),
        (["--gpus", "-1", "--ray", "local"], "--gpus is -1.0; expected 0 or more, such as 0.5"),
        (["--workers", "0"], "--workers is 0; expected 1 or more"),
        (
            ["--workers", "2", "--dry-run"],
            "a search runs its trials one after the other; leave --workers and --ray out",
        ),
        (
            ["--ray", "local", "--dry-run"],
            "a search runs its trials one after the other; leave --workers and --ray out",
        ),
        (["more.yaml"], "unexpected argument 'more.yaml'"),
    ],
)
def test_options_that_a_study_cannot_have(words: list[str], message: str, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "s.yaml"
    base = {"model": "some/model", "task": "simulated", "train": 8, "validation": 4, "test": 6}
    file.write_text(yaml.safe_dump({"base": base, "search": {"trials": 2, "space": {"lora.rank": [1, 2]}}}))
    assert message in fails(capsys, "study", file, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()
