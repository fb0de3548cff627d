"""`rango pretrain` writes a folder that `rango finetune` takes as MODEL."""

from __future__ import annotations

from pathlib import Path

from helpers.command import SIZES

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
