"""A table of a user's own and a finished run on it, for the tests of the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers.command import SIZES

from rango.cli import main

Checkpoint = Callable[..., Path]


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def run(checkpoint: Checkpoint, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--steps", "6", "--batch", "8", "--lora.rank", "2", "--lora.targets", "q,v", "--learning-rate", "0.01"]
    assert main(["finetune", str(checkpoint("phi")), str(table), "--out", str(out), *SIZES, *flags, "--quiet"]) == 0
    return out
