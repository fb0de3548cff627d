"""The texts of instances that a run keeps, so that its page can show what was asked without the task's data.

    RUN/instances/SPLIT.jsonl.gz      {"id": …, "context": …, "question": …}, one line an instance

The choices stand in the posteriors already. A table says `private: true` in its task.yaml to keep its texts out.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rango.errors import InputError
from rango.files import atomic_path
from rango.rows import read_rows
from rango.tasks.task import Instance, Task

MOST_INSTANCES, MOST_CHARACTERS = 20_000, 2_000
"""What a run keeps at most: so many instances of a split, and so much of each text. A page shows less of either."""


@dataclass(frozen=True, slots=True)
class KeptText:
    """What was asked of one instance, in words."""

    context: str
    question: str

    @property
    def text(self) -> str:
        """Context and question as one text, with single spaces."""
        return " ".join(f"{self.context} {self.question}".split())


def kept_texts_file(run: Path, split: str) -> Path:
    """Where a run directory keeps the texts of a split."""
    return run / "instances" / f"{split}.jsonl.gz"


def write_kept_texts(run: Path, task: Task, split: str) -> None:
    """Keep the texts of a split; those of a table that is private are not written."""
    if task.table is not None and task.table.get("private"):
        return
    lines = (json.dumps(_row(instance), ensure_ascii=False) + "\n" for instance in task.split(split)[:MOST_INSTANCES])
    # No time in the header, so that the same instances give the same bytes.
    packed = gzip.compress("".join(lines).encode(), mtime=0)
    with atomic_path(kept_texts_file(run, split)) as temporary:
        temporary.write_bytes(packed)


def _row(instance: Instance) -> dict[str, str]:
    return {
        "id": instance.id,
        "context": shortened(instance.context, MOST_CHARACTERS),
        "question": shortened(instance.question, MOST_CHARACTERS),
    }


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: beginning and end of a longer one, as the question often stands last.

    >>> shortened("a long story that ends so", 15)
    'a long … nds so'
    """
    if len(text) <= most:
        return text
    kept = most - 3
    return f"{text[: kept - kept // 2]} … {text[len(text) - kept // 2 :]}"


def read_kept_texts(path: Path) -> dict[str, KeptText]:
    """The kept texts of a split by id.

    Raises:
        InputError: the file cannot be read, or a line lacks a text.
    """
    texts = {}
    for line, row in read_rows(path):
        values: Sequence[object] = [row.get(key) for key in ("id", "context", "question")]
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"{path}:{line}: id, context and question are not all texts; expected a file of a run")
        identity, context, question = map(str, values)
        texts[identity] = KeptText(context, question)
    return texts
