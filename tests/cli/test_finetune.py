"""`rango finetune`: what it writes, what it refuses, and how a signal ends it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.command import SIZES, Capture, fails

from rango.cli import main
from rango.errors import InputError
from rango.options import FinetuneConfig
from rango.training.run_folder import Run
from rango.training.trainer import Trainer

Checkpoint = Callable[..., Path]


def test_finetune_writes_a_run_and_a_page(run: Path) -> None:
    assert Run(run).complete
    assert (run / "report.html").stat().st_size > 10_000
    assert Run(run).config.lora.targets == ("q", "v")
    assert set(json.loads((run / "metrics.json").read_text())["test"]) == {
        "prior", "base", "adapted", "calibrated", "difference",
    }  # fmt: skip


@pytest.mark.usefixtures("plain_page")
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


def test_a_module_that_is_not_there_is_refused(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    asked = ["finetune", checkpoint("gpt2"), table, *SIZES, "--out", tmp_path / "out", "--lora.targets"]
    assert "unknown placement 'attn.c_atn': did you mean 'attn.c_attn'?" in fails(capsys, *asked, "attn.c_atn")
    assert "unknown placement 'hed': did you mean 'head'? (known: all-linear, head" in fails(capsys, *asked, "q,hed")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("plain_page")
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
    command = ["finetune", checkpoint("phi"), table, *SIZES, "--steps", "4", "--out", tmp_path / "run", "--quiet"]
    assert "repeat the command to go on" in fails(capsys, *command, code=code)
    assert not Run(tmp_path / "run").complete
    monkeypatch.setattr(Trainer, "_step", step)
    assert main([str(argument) for argument in command]) == 0
    assert Run(tmp_path / "run").complete


@pytest.mark.parametrize("part", ["config", "fingerprints"])
def test_a_record_without_its_parts_is_refused(
    part: str, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["finetune", checkpoint("phi"), table, *SIZES, "--steps", 1, "--quiet", "--out", tmp_path]
    config = FinetuneConfig.build(
        {"model": str(command[1]), "task": str(table), "train": 30, "validation": 12, "test": 20, "steps": 1}
    )
    record = {"status": "running", "config": config.model_dump(mode="json"), "fingerprints": {}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({key: value for key, value in record.items() if key != part}))
    assert f"run.yaml has no {part}; expected a file that rango finetune wrote" in fails(capsys, *command)


def test_a_loss_that_is_no_number_is_one_line(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture
) -> None:
    wild = ("--learning-rate", "1e30", "--steps", 6, "--quiet")
    line = fails(capsys, "finetune", checkpoint("phi"), table, *SIZES, *wild, "--out", tmp_path / "out")
    assert "became nan at step" in line
    assert "lower --learning-rate" in line


def test_a_test_split_without_labels_is_answered_and_not_measured(
    checkpoint: Checkpoint, tmp_path: Path, capsys: Capture
) -> None:
    """The posteriors are those of the same run with labels; the page, a decision and a comparison say what they can."""
    model = str(checkpoint("phi"))
    costs = "{classes: [happy, sad], decisions: [happy, sad], costs: [[0, 1], [2, 0]]}"
    (tmp_path / "costs.yaml").write_text(costs)
    runs = {}
    for name, labels in (("with", ["happy", "sad"] * 3), ("without", [""] * 6)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "task.yaml").write_text('{prompt: "{text}. Mood:", choices: [happy, sad], label: mood, splits: part}')
        rows = [f"Bo {k},{('happy', 'sad')[k % 2]},{'train' if k < 9 else 'validation'}" for k in range(13)]
        rows += [f"Ann {k},{label},test" for k, label in enumerate(labels)]
        (folder / "rows.csv").write_text("\n".join(["text,mood,part", *rows, ""]))
        runs[name] = tmp_path / f"{name}-run"
        command = ["finetune", model, str(folder), "--steps", "2", "--out", str(runs[name])]
        assert main(command) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("Nothing is measured on test, whose instances have no labels" in said) == (name == "without")
        assert main([*command, "--quiet"]) == 0  # it is complete
    for state in ("base", "adapted", "calibrated"):
        labelled, bare = (Run(runs[name]).posteriors(state) for name in ("with", "without"))
        np.testing.assert_array_equal(bare.log_posteriors, labelled.log_posteriors)
        assert (bare.has_labels, bare.ids, bare.choices) == (False, labelled.ids, labelled.choices)
    assert Run(runs["without"]).metrics == {"test": {}}
    assert any("without a label" in note for note in Run(runs["without"]).record["notes"])
    assert main(["report", str(runs["without"])]) == 0
    page = " ".join((runs["without"] / "report.html").read_text().split())
    assert "No verdict: there are no test metrics" in page
    assert "posteriors/test-adapted.parquet holds no labels, so that nothing can be measured" in page
    assert "Validation NCE" in page

    capsys.readouterr()
    written = tmp_path / "d.csv"
    assert main(["decide", str(runs["without"]), "--costs", str(tmp_path / "costs.yaml"), "--out", str(written)]) == 0
    assert "6 decisions" in capsys.readouterr().out
    base, adapted = (runs["without"] / "posteriors" / f"test-{state}.parquet" for state in ("base", "adapted"))
    assert main(["compare", str(base), str(adapted), "--out", str(tmp_path / "c.json")]) == 0
    assert "6 instances without labels, so that neither can be called better" in capsys.readouterr().out
    one, other = (np.exp(Run(runs["without"]).posteriors(state).log_posteriors) for state in ("base", "adapted"))
    agreement = json.loads((tmp_path / "c.json").read_text())
    assert agreement["total_variation"] == pytest.approx(np.abs(one - other)[:, 0].mean())
    assert agreement["same_choice"] == (one.argmax(axis=1) == other.argmax(axis=1)).mean()
    labelled_file = runs["with"] / "posteriors" / "test-base.parquet"
    assert "only the first has labels" in fails(capsys, "compare", labelled_file, adapted)

    (tmp_path / "study.yaml").write_text(json.dumps({"base": {"model": model, "task": str(tmp_path / "without")}}))
    line = fails(capsys, "study", tmp_path / "study.yaml", "--out", tmp_path / "study")
    assert "have no labels, by which a study compares" in line


@pytest.mark.usefixtures("plain_page")
def test_a_finished_run_is_shown_without_loading_its_model(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the model was written after the run ended: then its fingerprint decides."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint("phi"), model)
    command = ["finetune", str(model), str(table), "--out", str(tmp_path / "run"), *SIZES, "--steps", "1"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    loaded: list[str] = []

    def load(name: str, **_: object) -> None:
        loaded.append(name)
        raise InputError("the model was loaded")

    monkeypatch.setattr("rango.models.loading.load_model", load)
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out == shown
    assert "nothing to do" in again.err
    assert not loaded
    # The command was stopped when its record was complete: what was still to be written and removed is.
    page, state = tmp_path / "run" / "report.html", tmp_path / "run" / "state"
    written = page.read_text()
    page.unlink()
    state.mkdir()
    (state / "state.safetensors").write_text("half")
    assert main(command) == 0
    assert "its page is written" in capsys.readouterr().err
    assert not state.exists()
    assert page.read_text() == written
    os.utime(model / "config.json")
    assert "the model was loaded" in fails(capsys, *command)
    assert loaded == [str(model)]


def test_a_finished_run_and_metrics_of_a_file_are_shown_without_heavy_libraries(
    run: Path, checkpoint: Checkpoint, table: Path, tmp_path: Path
) -> None:
    flags = ["--steps", "6", "--batch", "8", "--lora.rank", "2", "--lora.targets", "q,v", "--learning-rate", "0.01"]
    finished = ["finetune", str(checkpoint("phi")), str(table), "--out", str(run), *SIZES, *flags]
    (tmp_path / "p.csv").write_text("label,probability_0,probability_1\n" + "0,0.75,0.25\n1,0.5,0.5\n" * 20)
    commands = [finished, ["metrics", str(tmp_path / "p.csv")]]
    program = (
        "import json, sys\nfrom rango.cli import main\n"
        "codes = [main(command) for command in json.load(sys.stdin)]\n"
        "print(json.dumps([codes, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(commands), capture_output=True, text=True, timeout=120
    )
    notes, result = done.stderr.rstrip().rsplit("\n", 1)
    codes, loaded = json.loads(result)
    assert codes == [0, 0]
    assert "nothing to do" in notes
    assert {"torch", "transformers", "scipy", "matplotlib", "pyarrow", "pandas"} & set(loaded) == set()


def test_costs_are_stated_to_a_finished_run_without_its_model(
    run: Path, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics and page are written again, the run is the same one, and `predict` and `report` know the costs."""
    monkeypatch.setattr("rango.models.loading.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before, page = Run(folder).metrics["test"], (folder / "report.html").read_bytes()
    flags = ["--steps", "6", "--batch", "8", "--lora.rank", "2", "--lora.targets", "q,v", "--learning-rate", "0.01"]
    command = ["finetune", str(checkpoint("phi")), str(table), "--out", str(folder), *SIZES, *flags]
    costs = tmp_path / "costs.yaml"
    costs.write_text("{classes: [sad, happy], costs: [[0, 1], [1, 0]]}")
    assert "costs have 2 rows but there are 3 classes" in fails(capsys, *command, "--costs", costs)
    assert main([*command, "--costs", "abstain=0.1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Exp. cost ↓" in shown
    assert "Under these costs acting on the calibrated model" in shown
    after = Run(folder)
    assert after.config == Run(run).config
    assert after.costs.matrix[:, 3].tolist() == [0.1] * 3  # type: ignore[union-attr]
    assert after.metrics["test"]["adapted"]["nce"] == before["adapted"]["nce"]
    assert after.metrics["test"]["prior"]["expected_cost"].value == pytest.approx(0.1)
    assert (folder / "report.html").read_bytes() != page
    # Without the option the costs stay.
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main(["report", str(folder), "--costs", "abstain=0.2"]) == 0
    assert "always deciding 'abstain'" in " ".join(capsys.readouterr().out.split())
    assert Run(folder).stated_costs.abstain == 0.2  # type: ignore[union-attr]
    decided = ["decide", str(folder), "--out", str(tmp_path / "d.csv"), "--replicates", "20"]
    assert main(decided) == 0
    assert "abstaining 0.2, as" in " ".join(capsys.readouterr().out.split())
    assert "--costs is missing" in fails(capsys, "decide", run, "--out", tmp_path / "d.csv")
    line = fails(capsys, "compare", folder, f"{run}:base", "--costs", costs)
    assert "costs have 2 rows but there are 3 classes" in line
