"""`rango init` writes what `finetune` and `decide` read, and never over what is there."""

from __future__ import annotations

from pathlib import Path

from helpers.command import Capture, fails

from rango.cli import main


def test_init_writes_both_files_once(tmp_path: Path, capsys: Capture) -> None:
    rows = "".join(f"The invoice {n} is wrong,{('billing', 'account')[n % 2]}\n" for n in range(40))
    path = tmp_path / "tickets.csv"
    path.write_text("message,topic\n" + rows)
    assert main(["init", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "classes: account 20, billing 20" in printed
    assert f"then: rango finetune MODEL {path}" in printed
    assert main(["tasks", str(path), "--show", "1"]) == 0
    assert "Message: The invoice" in capsys.readouterr().out
    before = (tmp_path / "task.yaml").read_text()
    (tmp_path / "costs.yaml").unlink()  # as after a command that was killed between the two
    assert main(["init", str(path)]) == 0
    assert (tmp_path / "costs.yaml").is_file()
    capsys.readouterr()
    (tmp_path / "task.yaml").write_text(before + "# mine\n")
    assert "exists already" in fails(capsys, "init", path)
    assert (tmp_path / "task.yaml").read_text().endswith("# mine\n")
    assert main(["init", str(path), "--force"]) == 0
    assert (tmp_path / "task.yaml").read_text() == before


def test_init_leaves_out_rows_without_a_label_and_says_how_many(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "tickets.csv"
    rows = "".join(f"The invoice {n},{('billing', 'account', '')[n % 3]}\n" for n in range(60))
    path.write_text("message,topic\n" + rows)
    assert main(["init", str(path)]) == 0
    assert "20 of the 60 rows have no label and are left out (unlabelled: skip in task.yaml)" in capsys.readouterr().out
    assert main(["tasks", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "note: 20 of 60 rows are left out: they have no label" in printed
    assert "train 24, validation 8, test 8" in printed
