"""Two finished runs on one base, and an engine that serves them, for all tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from rango.serving.engine import Engine

Checkpoint = Callable[..., Path]
MOODS = {"happy": "smiles and sings", "sad": "cries at home", "angry": "shouts at the door"}


@pytest.fixture(scope="session")
def runs(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """moods: three classes, cloze, with a calibrator and costs. yes: a yes-or-no table, letters, not calibrated."""
    from rango import load_model, load_task
    from rango.decisions import StatedCosts
    from rango.training.finetune import finetune

    folder = tmp_path_factory.mktemp("served")
    model = load_model(checkpoint("phi"))
    settings = {
        "moods": {"prompt": "{text}. Mood:", "choices": list(MOODS), "label": "mood"},
        "yes": {"prompt": "{text} {again}\nAnn?", "choices": ["no", "yes"], "label": "ann"},
    }
    for name, table in settings.items():
        (folder / f"{name}-table").mkdir()
        (folder / f"{name}-table" / "task.yaml").write_text(yaml.safe_dump(table))
        rows = [
            {
                "text": f"{who} {deed} on day {n}",
                "again": f"No {n}",
                "mood": mood,
                "ann": "yes" if who == "Ann" else "no",
            }
            for n in range(12)
            for who in ("Ann", "Bo")
            for mood, deed in MOODS.items()
        ]
        path = folder / f"{name}-table" / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = load_task(folder / f"{name}-table", train=30, validation=12, test=20)
        finetune(
            model, task, out=folder / name, steps=4, batch=8, learning_rate=0.01,
            form="letter" if name == "yes" else "cloze",
            costs=StatedCosts(abstain=0.4) if name == "moods" else None,
        )  # fmt: skip
    return {name: folder / name for name in settings}


@pytest.fixture(scope="session")
def engine(runs: dict[str, Path], checkpoint: Checkpoint) -> Engine:
    from rango import load_model
    from rango.serving.engine import Engine
    from rango.serving.served_run import read_served

    sources = [str(runs["moods"]), f"plain={runs['moods']}:base", f"yes={runs['yes']}:adapted"]
    return Engine(load_model(checkpoint("phi")), read_served(sources))
