"""`load_task` of a data frame: the task that a file of the same rows gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rango.errors import InputError
from rango.frames import new_frame
from rango.tasks import load_task

TABLE = {"prompt": "Ticket: {text}\nAbout:", "choices": ["bill", "login"], "label": "about"}
ROWS = {
    "text": [f"ticket number {n} {'money' if n % 2 else 'password'}" for n in range(60)],
    "about": [("login", "bill")[n % 2] for n in range(60)],
}


@pytest.mark.parametrize("backend", ["pandas", "polars", "pyarrow"])
def test_a_frame_gives_the_task_of_its_file(backend: Any, tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "task.yaml").write_text(
        'prompt: "Ticket: {text}\\nAbout:"\nchoices: [bill, login]\nlabel: about\n', encoding="utf-8"
    )
    from_file, frame = load_task(tmp_path), new_frame(ROWS, backend)
    for table in (TABLE, tmp_path / "task.yaml"):
        task = load_task(frame, table=table)
        assert [i.label for i in task.test] == [i.label for i in from_file.test]
        assert [i.context for i in task.train] == [i.context for i in from_file.train]
        assert task.table == from_file.table
    assert len(load_task(frame, table=TABLE, train=10, validation=5, test=5).train) == 10


def test_a_frame_needs_its_table_and_a_path_none() -> None:
    frame = pd.DataFrame(ROWS)
    with pytest.raises(InputError, match="table is missing; give the keys of a task.yaml"):
        load_task(frame)
    with pytest.raises(InputError, match="a path has its own task.yaml"):
        load_task("simulated", table=TABLE)
    with pytest.raises(InputError, match="unknown key in table 'label_iz'|label_iz"):
        load_task(frame, table={**TABLE, "label_iz": "text"})
    with pytest.raises(InputError, match="the task is a data frame; leave the option out"):
        load_task(frame, table=TABLE, data=".")


def test_a_row_of_a_frame_is_refused_by_its_number() -> None:
    frame = pd.DataFrame(ROWS)
    frame.loc[2, "about"] = "weather"
    with pytest.raises(InputError, match=r"row 3: label is 'weather'"):
        load_task(frame, table=TABLE)
    with pytest.raises(InputError, match="row 1: .*column 'text'"):
        load_task(frame.drop(columns="text"), table=TABLE)
