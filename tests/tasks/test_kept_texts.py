from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rango.errors import InputError
from rango.files import write_json_lines
from rango.options import TaskOptions
from rango.tasks import Instance, Task, load_task
from rango.tasks.kept_texts import (
    MOST_CHARACTERS,
    KeptText,
    kept_texts_file,
    read_kept_texts,
    shortened,
    write_kept_texts,
)


@pytest.fixture
def task() -> Task:
    texts = {"a": "Sam ran home.\nIt rained.", "b": "x" * (MOST_CHARACTERS + 1) + "?", "ñ": "<script>alert(1)</script>"}
    test = tuple(Instance(key, text, "Why?", ("y", "n"), 0, key) for key, text in texts.items())
    return Task("made", (), (), test, write_prompt=lambda *_: pytest.fail("no prompt is needed"))


def test_texts_come_back_as_they_went_and_long_ones_shortened(task: Task, tmp_path: Path) -> None:
    write_kept_texts(tmp_path, task, "test")
    texts = read_kept_texts(kept_texts_file(tmp_path, "test"))
    assert list(texts) == ["a", "b", "ñ"]
    assert texts["a"] == KeptText("Sam ran home.\nIt rained.", "Why?")
    assert texts["a"].text == "Sam ran home. It rained. Why?"
    assert texts["ñ"].context == "<script>alert(1)</script>"
    assert len(texts["b"].context) == MOST_CHARACTERS
    assert texts["b"].context.endswith("x?")


def test_the_same_instances_give_the_same_bytes(task: Task, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_kept_texts(tmp_path / folder, task, "test")
    one, two = (kept_texts_file(tmp_path / folder, "test").read_bytes() for folder in ("one", "two"))
    assert one == two


def test_a_short_text_is_whole_and_a_long_one_has_its_end() -> None:
    assert shortened("whole", 5) == "whole"
    assert [len(shortened("a" * 50, most)) for most in (10, 11)] == [10, 11]


def test_a_private_table_keeps_no_texts(task: Task, tmp_path: Path) -> None:
    write_kept_texts(tmp_path, replace(task, table={"private": True}), "test")
    assert list(tmp_path.iterdir()) == []


def test_a_task_yaml_says_that_its_table_is_private(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "rows.jsonl", [{"text": f"row {n}", "mood": "yn"[n % 2]} for n in range(40)])
    keys = 'prompt: "{text}"\nchoices: [y, n]\nlabel: mood\n'
    (tmp_path / "task.yaml").write_text(keys)
    assert (load_task(str(tmp_path), TaskOptions()).table or {}).get("private") is None
    (tmp_path / "task.yaml").write_text(f"{keys}private: true\n")
    assert (load_task(str(tmp_path), TaskOptions()).table or {})["private"] is True


def test_a_line_without_its_texts_is_named(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "test.jsonl", [{"id": "a", "context": "c", "question": ""}, {"id": "b", "context": 1}])
    with pytest.raises(InputError, match=r"test\.jsonl:2: id, context and question are not all texts"):
        read_kept_texts(tmp_path / "test.jsonl")
