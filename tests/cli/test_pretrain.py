"""`rango pretrain` writes a folder that `rango finetune` takes as MODEL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers.command import SIZES, Capture

from rango.cli import main


def test_pretrain_then_finetune(tmp_path: Path, table: Path) -> None:
    (tmp_path / "text.txt").write_text("Ann smiles and sings. Bo cries at home. Mood: happy\n" * 60)
    small = ["--hidden", "16", "--layers", "1", "--heads", "2", "--vocabulary", "280", "--context", "64"]
    base = tmp_path / "base"
    assert (
        main(["pretrain", str(tmp_path / "text.txt"), "--out", str(base), *small, "--tokens", "2000", "--quiet"]) == 0
    )
    out = ["--out", str(tmp_path / "run"), "--steps", "2", "--quiet"]
    assert main(["finetune", str(base), str(table), *SIZES, *out]) == 0


@pytest.mark.usefixtures("plain_page")
def test_later_commands_say_which_test_contexts_the_model_has_read(tmp_path: Path, capsys: Capture) -> None:
    rows = [
        {"text": f"On day {k} Ann walks to the {place} and meets her friend", "answer": place}
        for k in range(20)
        for place in ("market", "river")
    ]
    table = tmp_path / "table"
    table.mkdir()
    (table / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"prompt": "{text} at the", "choices": ["market", "river"], "label": "answer"}
    (table / "task.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "text.txt").write_text("\n".join(row["text"] for row in rows) * 3)
    small = ["--hidden", "16", "--layers", "1", "--heads", "2", "--vocabulary", "280", "--context", "64"]
    base, out = str(tmp_path / "base"), str(tmp_path / "run")
    assert main(["pretrain", str(tmp_path / "text.txt"), "--out", base, *small, "--tokens", "1000", "--quiet"]) == 0
    sizes = ["--train", "12", "--validation", "6", "--test", "6"]
    assert main(["finetune", base, str(table), *sizes, "--out", out, "--steps", "1", "--select", "cross_entropy"]) == 0
    said = f"6 of 6 test contexts stand in the text that {base} was pre-trained on (such as that of '"
    assert said in " ".join(capsys.readouterr().err.split())
    assert any(said in note for note in yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["notes"])
    assert main(["evaluate", base, str(table), *sizes, "--split", "validation", "--out", str(tmp_path / "e")]) == 0
    said = "6 of 6 validation contexts stand in the text that"
    assert said in " ".join(capsys.readouterr().err.split())
