"""`rango init`: a first task.yaml and costs.yaml for a table of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.console import visible
from rango.errors import InputError
from rango.files import check_writable_file, write_text
from rango.tasks.new_table import costs_yaml, guess_table, task_yaml


def init(
    rows: Path,
    *,
    label: str | None = None,
    force: Annotated[bool, Parameter(negative=(), help="Write over files that are there.")] = False,
) -> None:
    """Guess what the columns of a table are, and write task.yaml and costs.yaml beside it, with comments.

    Parameters
    ----------
    rows
        The table: CSV, TSV, JSONL or Parquet, with a column of text and one with the right answers.
    label
        The column with the right answers; guessed when absent.
    """
    guess = guess_table(rows, label=label)
    texts = {"task.yaml": task_yaml(guess)}
    if guess.classes is not None:
        texts["costs.yaml"] = costs_yaml(guess.classes)
    # Both are looked at before the first is written: a table with half of its files would not be understood.
    for name, text in texts.items():
        path = rows.parent / name
        # What a command wrote that was killed before the other file is these very words.
        same = path.is_file() and path.read_bytes() == text.encode()
        if path.exists() and not same and not force:
            raise InputError(f"{path} exists already; correct it by hand, or write over it with --force")
        check_writable_file(path)
    for name, text in texts.items():
        write_text(rows.parent / name, text)
    config = guess.config
    print(visible(f"{guess.rows:,} rows; the right answers are in {config.label}"))
    if guess.classes is not None:
        print(visible("classes: " + ", ".join(f"{name} {guess.counts[name]:,}" for name in guess.classes)))
    print(visible(f"the model is asked: {config.prompt!r}"))
    for warning in guess.warnings():
        print(visible(f"warning: {warning}"))
    print(f"written: {', '.join(str(rows.parent / name) for name in texts)}")
    print(f"next: rango tasks {rows} --show 1")
    print(f"then: rango finetune MODEL {rows} --out runs/{rows.stem}")
