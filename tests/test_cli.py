"""The command line: the main job, exit codes, one-line errors, configuration files; no traceback for bad input."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.command import Capture, fails

from rango import __version__
from rango.cli import main
from rango.decisions import Posteriors, read_posteriors, write_posteriors
from rango.errors import RunError
from rango.training.run_folder import Run
from rango.training.trainer import Trainer

Checkpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table task of a user's own."""
    folder = tmp_path_factory.mktemp("table")
    moods = {"happy": "smiles and sings", "sad": "cries at home", "angry": "shouts at the door"}
    rows = [
        {"text": f"{name} {deed} on day {n}", "mood": mood}
        for n in range(12)
        for name in ("Ann", "Bo")
        for mood, deed in moods.items()
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"prompt": "{text}. Mood:", "choices": list(moods), "label": "mood"}
    (folder / "task.yaml").write_text(yaml.safe_dump(settings))
    return folder


def sizes(train: int = 30, validation: int = 12, test: int = 20) -> list[str]:
    return ["--train", str(train), "--validation", str(validation), "--test", str(test)]


@pytest.fixture(scope="module")
def run(checkpoint: Checkpoint, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--steps", "6", "--batch", "8", "--lora.rank", "2", "--lora.targets", "q,v", "--learning-rate", "0.01"]
    assert main(["finetune", str(checkpoint("phi")), str(table), "--out", str(out), *sizes(), *flags, "--quiet"]) == 0
    return out


def test_finetune_writes_a_run_and_a_page(run: Path) -> None:
    assert Run(run).complete
    assert (run / "report.html").stat().st_size > 10_000
    assert Run(run).config.lora.targets == ("q", "v")
    assert set(json.loads((run / "metrics.json").read_text())["test"]) == {
        "prior", "base", "adapted", "calibrated", "difference",
    }  # fmt: skip


def test_a_yaml_file_has_the_same_keys_and_flags_win(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    settings = {
        "model": str(checkpoint("phi")),
        "task": str(table),
        "train": 30,
        "validation": 12,
        "test": 20,
        "steps": 2,
        "learning-rate": 0.01,
        "lora": {"rank": 3, "targets": ["o"]},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    command = [
        "finetune",
        "--config",
        str(tmp_path / "config.yaml"),
        "--out",
        str(tmp_path / "run"),
        "--lora.rank",
        "2",
    ]
    assert main([*command, "--quiet"]) == 0
    config = Run(tmp_path / "run").config
    assert (config.lora.rank, config.lora.targets, config.learning_rate, config.train) == (2, ("o",), 0.01, 30)
    assert main(command) == 0  # again: nothing to do
    assert "is complete with this configuration: nothing to do" in capsys.readouterr().err
    assert "already holds another run: its lora.rank is 2" in fails(capsys, *command[:-1], 4)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**settings, "lora": {"rnk": 3}}))
    assert "did you mean 'lora.rank'?" in fails(capsys, *command)


def test_evaluate_gives_the_posteriors_of_the_run(
    run: Path, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["evaluate", str(checkpoint("phi")), str(table), *sizes(), "--quiet"]
    assert main([*command, "--adapter", str(run), "--out", str(tmp_path / "adapted")]) == 0
    assert main([*command, "--out", str(tmp_path / "base"), "--split", "validation"]) == 0
    found = read_posteriors(tmp_path / "adapted" / "posteriors" / "test-adapted.parquet")
    np.testing.assert_array_equal(found.log_posteriors, Run(run).posteriors("adapted").log_posteriors)
    base = read_posteriors(tmp_path / "base" / "posteriors" / "validation-base.parquet")
    np.testing.assert_array_equal(base.log_posteriors, Run(run).posteriors("base", "validation").log_posteriors)
    assert "already holds other files" in fails(capsys, *command, "--out", tmp_path / "adapted", "--seed", 3)
    assert "NCE" in capsys.readouterr().out or (tmp_path / "base" / "metrics.json").is_file()


def test_metrics_calibrate_decide_compare(run: Path, tmp_path: Path, capsys: Capture) -> None:
    files = {
        name: run / "posteriors" / f"{name}.parquet" for name in ("test-base", "test-adapted", "validation-adapted")
    }
    assert main(["metrics", str(files["test-adapted"]), "--out", str(tmp_path / "metrics.json")]) == 0
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["nce"]["value"] == pytest.approx(Run(run).metrics["test"]["adapted"]["nce"].value)
    fit = ["--fit", str(files["validation-adapted"]), "--method", "temperature"]
    calibrator = ["--calibrator", str(tmp_path / "calibrator.json")]
    apply = ["--apply", str(files["test-adapted"]), "--out"]
    assert main(["calibrate", *fit, *apply, str(tmp_path / "one.parquet"), *calibrator]) == 0
    assert main(["calibrate", *apply, str(tmp_path / "two.parquet"), *calibrator]) == 0
    one, two = (read_posteriors(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    np.testing.assert_array_equal(one.log_posteriors, two.log_posteriors)
    assert "calibration loss" in capsys.readouterr().out
    classes = ["happy", "sad", "angry"]
    costs = {
        "classes": classes,
        "decisions": [*classes, "ask"],
        "costs": [[0, 1, 1, 0.3], [1, 0, 1, 0.3], [9, 9, 0, 0.3]],
    }
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(costs))
    decide = ["decide", str(run), "--costs", str(tmp_path / "costs.yaml"), "--out", str(tmp_path / "decisions.csv")]
    assert main(decide) == 0
    lines = (tmp_path / "decisions.csv").read_text().splitlines()
    assert lines[0] == "id,decision,expected_cost,runner_up,runner_up_cost"
    assert len(lines) == 21
    assert (
        main(["compare", str(files["test-base"]), str(files["test-adapted"]), "--out", str(tmp_path / "c.json")]) == 0
    )
    assert "exact McNemar" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["sentence"].startswith("On 20 shared instances")


def test_small_commands_take_a_file_too(run: Path, tmp_path: Path, capsys: Capture) -> None:
    file = run / "posteriors" / "test-adapted.parquet"
    settings = {"file": str(file), "priors": [0.2, 0.3, 0.5], "replicates": 100, "out": str(tmp_path / "yaml.json")}
    (tmp_path / "metrics.yaml").write_text(yaml.safe_dump(settings))
    flags = ["--priors", "0.2,0.3,0.5", "--replicates", "100", "--out", str(tmp_path / "flags.json")]
    assert main(["metrics", "--config", str(tmp_path / "metrics.yaml")]) == 0
    assert main(["metrics", str(file), *flags]) == 0
    assert (tmp_path / "yaml.json").read_bytes() == (tmp_path / "flags.json").read_bytes()
    assert (
        main(["metrics", str(file), "--config", str(tmp_path / "metrics.yaml"), "--out", str(tmp_path / "o.json")]) == 0
    )
    assert (tmp_path / "o.json").is_file()
    (tmp_path / "metrics.yaml").write_text(yaml.safe_dump({**settings, "prior": "x"}))
    assert "'prior': did you mean 'priors'?" in fails(capsys, "metrics", "--config", tmp_path / "metrics.yaml")
    assert "--config has no file" in fails(capsys, "demo", "--config")


def test_compare_refuses_other_instances(run: Path, tmp_path: Path, capsys: Capture) -> None:
    one = Run(run).posteriors("base")
    write_posteriors(tmp_path / "b.parquet", Posteriors(one.log_posteriors, one.labels, ids=("x", *one.ids[1:])))
    assert "x" in fails(capsys, "compare", run / "posteriors" / "test-base.parquet", tmp_path / "b.parquet")


def test_version_tasks_and_help(capsys: Capture, table: Path) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main(["tasks"]) == 0
    assert "socialiqa" in capsys.readouterr().out
    assert main(["tasks", str(table), "--show", "1", *sizes()]) == 0
    shown = capsys.readouterr().out
    assert "letter form" in shown
    assert "Mood:" in shown
    for command in ("finetune", "evaluate", "pretrain", "metrics", "calibrate", "decide", "compare", "demo"):
        assert main([command, "--help"]) == 0
    help_text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Rank r of the update" in help_text


def test_report_is_written_again(run: Path, capsys: Capture) -> None:
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_bytes() == before
    assert "run.yaml" in fails(capsys, "report", run / "posteriors")


def test_pretrain_then_finetune(tmp_path: Path, table: Path) -> None:
    (tmp_path / "text.txt").write_text("Ann smiles and sings. Bo cries at home. Mood: happy\n" * 60)
    small = ["--hidden", "16", "--layers", "1", "--heads", "2", "--vocabulary", "280", "--context", "64"]
    base = tmp_path / "base"
    assert (
        main(["pretrain", str(tmp_path / "text.txt"), "--out", str(base), *small, "--tokens", "2000", "--quiet"]) == 0
    )
    out = ["--out", str(tmp_path / "run"), "--steps", "2", "--quiet"]
    assert main(["finetune", str(base), str(table), *sizes(), *out]) == 0


BAD = [
    (["finetune"], "MODEL is missing; give it on the command line or as `model:` in --config"),
    (["finetune", "m", "t"], "--out is missing"),
    (["finetune", "MODEL", "socialqa", "--out", "OUT"], "did you mean 'socialiqa'?"),
    (["finetune", "EMPTY", "simulated", "--out", "OUT"], "has no config.json; expected a Hub id or a folder"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--lora.rank", "0"], "rank"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--lora.rnk", "3"], "Did you mean --lora.rank?"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--lora.targets", "w"], "targets"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--steps", "2", "--epochs", "2"], "give one of them"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--device", "tpux"], "device 'tpux' is not known"),
    (["finetune", "MODEL", "simulated", "--out", "OUT", "--config", "NONE"], "does not exist"),
    (["finetune", "MODEL", "EMPTY", "--out", "OUT"], "EMPTY"),
    (["metrics", "NONE.parquet"], "does not exist"),
    (["fintune"], "finetune"),
    (["tasks", "simulated", "--show", "-1"], "--show is -1"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str], message: str, checkpoint: Checkpoint, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "EMPTY").mkdir()
    places = {"MODEL": str(checkpoint("phi")), "OUT": str(tmp_path / "out")}
    places |= {name: str(tmp_path / name) for name in ("EMPTY", "NONE", "NONE.parquet")}
    assert message in fails(capsys, *(places.get(argument, argument) for argument in arguments))
    assert not (tmp_path / "out").exists()


def test_a_fused_placement_is_refused(checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture) -> None:
    line = fails(capsys, "finetune", checkpoint("gpt2"), table, *sizes(), "--out", tmp_path / "out")
    assert "gpt2 computes q, k, v in one matrix" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_exits_with_its_number(
    number: int,
    code: int,
    checkpoint: Checkpoint,
    table: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Trainer._step

    def interrupted(self: Trainer, active: Any) -> Any:
        records = step(self, active)
        if active[0].progress.step == 2:
            os.kill(os.getpid(), number)
        return records

    monkeypatch.setattr(Trainer, "_step", interrupted)
    command = ["finetune", checkpoint("phi"), table, *sizes(), "--steps", "4", "--out", tmp_path / "run", "--quiet"]
    assert "repeat the command to go on" in fails(capsys, *command, code=code)
    assert not Run(tmp_path / "run").complete
    monkeypatch.setattr(Trainer, "_step", step)
    assert main([str(argument) for argument in command]) == 0
    assert Run(tmp_path / "run").complete


def test_a_fault_while_running_exits_with_one(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_arguments: object, **_options: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr("rango.cli.app", SimpleNamespace(meta=faulty))
    assert "the disk is full" in fails(capsys, "tasks", code=1)


def test_an_adapter_of_another_model_is_refused(
    run: Path, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = checkpoint("phi", seed=1)
    line = fails(capsys, "evaluate", other, table, *sizes(), "--adapter", run, "--out", tmp_path / "out")
    assert "adapts another base model" in line
    assert not (tmp_path / "out").exists()


def test_shots_and_mc_dropout_are_flags(checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture) -> None:
    model = checkpoint("phi", max_position_embeddings=512)
    command = ["evaluate", model, table, *sizes(), "--quiet"]
    assert main([str(part) for part in [*command, "--shots", "3", "--shots-seed", "1", "--out", tmp_path / "out"]]) == 0
    assert yaml.safe_load((tmp_path / "out" / "evaluation.yaml").read_text())["config"]["shots"] == 3
    line = fails(capsys, *command, "--mc-dropout", "4", "--out", tmp_path / "other")
    assert "mc_dropout is 4 but there is no adapter" in line
    line = fails(capsys, *command, "--shots", "31", "--out", tmp_path / "other")
    assert "shots is 31 but the training split has 30 instances" in line
