"""A malformed table is refused in one line by `rango finetune` and `rango evaluate`, before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.command import Capture, fails

Checkpoint = Callable[..., Path]


MOODS = ("happy", "sad", "angry")


def write_table(folder: Path, settings: dict[str, Any] | None = None, row: dict[str, Any] | None = None) -> Path:
    """Eight contexts of each of three moods, with other settings, and another second row."""
    rows: list[dict[str, Any]] = [{"text": f"Ann {k}", "mood": MOODS[k % 3]} for k in range(24)]
    rows[1] = rows[1] if row is None else row
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"prompt": "{text}. Mood:", "choices": list(MOODS), "label": "mood", **(settings or {})}
    (folder / "task.yaml").write_text(yaml.safe_dump(keys))
    return folder


@pytest.mark.parametrize("command", ["finetune", "evaluate"])
@pytest.mark.parametrize(
    ("settings", "row", "message"),
    [
        ({"prompt": "{text. Mood:"}, None, "task.yaml: prompt: a lone { at '{text. Mood:'"),
        ({"prompt": "{txt}"}, None, "rows.jsonl:1: unknown column 'txt': did you mean 'text'?"),
        ({"choices": ["happy"]}, None, "task.yaml: choices: 1 choice; expected at least 2"),
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
