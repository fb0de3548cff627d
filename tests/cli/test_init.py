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
    (tmp_path / "task.yaml").write_text(before + "# mine\n")
    assert "exists already" in fails(capsys, "init", path)
    assert (tmp_path / "task.yaml").read_text().endswith("# mine\n")
    assert main(["init", str(path), "--force"]) == 0
    assert (tmp_path / "task.yaml").read_text() == before


def test_init_says_what_to_do_first_where_rows_lack_a_label(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "tickets.csv"
    rows = "".join(f"The invoice {n},{('billing', 'account', '')[n % 3]}\n" for n in range(60))
    path.write_text("message,topic\n" + rows)
    assert main(["init", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "next: give every row a label, or move the rows without one to another file; then:" in printed
