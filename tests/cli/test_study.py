"""`rango study` refuses options that do not go together."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from helpers.command import Capture, fails


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "0.5"], "--gpus is for tasks on a Ray cluster; give --ray ADDRESS too"),
        (["--gpus", "-1", "--ray", "local"], "--gpus is -1.0; expected 0 or more, such as 0.5"),
        (["--workers", "999999999"], "--workers is 999999999; expected 1 to 1024"),
        (["--workers", "0"], "--workers is 0; expected 1 to 1024"),
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
