"""Typed rows: soft labels as lists, mappings and counts, and what the choices of a row are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rango.errors import InputError
from rango.options import SPLITS
from rango.tasks import Instance, Task, load_task, show

KEYS = {"prompt": "{state}\nHow angry?", "choices": ["calm", "cross", "angry"], "label": "votes", "group": "state"}


def load(folder: Path, labels: list[Any], keys: dict[str, Any], **columns: list[Any]) -> Task:
    rows = [
        {"state": f"ticket {number}", "votes": label, **{name: values[number] for name, values in columns.items()}}
        for number, label in enumerate(labels)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(json.dumps(keys))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task(str(folder))


def instances(task: Task) -> list[Instance]:
    return sorted((i for split in SPLITS for i in task.split(split)), key=lambda instance: int(instance.id))


def test_a_label_may_be_a_list_a_mapping_or_a_choice(tmp_path: Path) -> None:
    labels = [[0.5, 0.25, 0.25], {"angry": 0.75, "calm": 0.25}, "cross", "[0.2, 0.8, 0]", '{"1": 1}']
    targets = [instance.target for instance in instances(load(tmp_path / "t", labels, KEYS))]
    assert targets == [(0.5, 0.25, 0.25), (0.25, 0.0, 0.75), None, (0.2, 0.8, 0.0), (0.0, 1.0, 0.0)]
    third = instances(load(tmp_path / "t", labels, KEYS))[2]
    assert third.answer == 1


def test_counts_of_annotators_are_divided_only_where_task_yaml_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape("rows.jsonl:1: label [3, 1, 0] sums to 4; expected shares")):
        load(tmp_path / "t", [[3, 1, 0]] * 5, KEYS)
    task = load(tmp_path / "t", [[3, 1, 0], {"cross": 2, "angry": 2}, [4, 0, 0]], {**KEYS, "label_is": "counts"})
    assert [instance.target for instance in instances(task)] == [(0.75, 0.25, 0.0), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0)]
    assert task.table is not None
    assert task.table["label_is"] == "counts"


@pytest.mark.parametrize(
    ("label", "keys", "message"),
    [
        ([0.5, 0.5], {}, "label has 2 numbers; expected 3, one for each choice"),
        ([1.5, -0.5, 0], {}, "label [1.5, -0.5, 0] holds -0.5; expected numbers from 0 on"),
        ({"furious": 1}, {}, "the label names 'furious'; expected the text of one choice [calm, cross, angry]"),
        ([0.5, 0.2, 0.2], {}, "label [0.5, 0.2, 0.2] sums to 0.9; expected shares that sum to 1"),
        ([0, 0, 0], {"label_is": "counts"}, "label [0, 0, 0] counts nobody"),
        ("cross", {"label_is": "shares"}, "label is 'cross'; expected shares of the choices as a list or a mapping"),
        ([True, 0, 0], {}, "holds True; expected numbers"),
        ("cross", {"type": "yes_no"}, "3 choices; expected 2, as its type is yes_no"),
    ],
)
def test_bad_soft_labels_are_refused_with_their_row(
    tmp_path: Path, label: Any, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load(tmp_path / "t", [label] * 5, {**KEYS, **keys})
    assert "rows.jsonl:1" in str(caught.value)


def test_rows_of_one_state_have_types_and_choices_of_their_own(tmp_path: Path) -> None:
    keys = {"prompt": "{state} {question}", "choices": "options", "label": "votes", "group": "topic", "type": "kind"}
    options = [["no", "yes"], ["low", "middle", "high"], ["billing", "bugs", "other"]]
    columns = {"options": options * 4, "question": ["?"] * 12, "topic": [topic for topic in "abcd" for _ in range(3)]}
    task = load(tmp_path / "t", [1, [0, 0.5, 0.5], 2] * 4, keys, kind=["yes_no", "score", "choice"] * 4, **columns)
    assert [instance.type for instance in instances(task)] == ["yes_no", "score", "choice"] * 4
    with pytest.raises(InputError, match="unknown type 'levels'"):
        load(tmp_path / "u", [1, 1, 2] * 4, keys, kind=["yes_no", "levels", "choice"] * 4, **columns)


def test_type_and_target_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    plain = load(tmp_path / "a", ["calm", "cross", "angry"], KEYS)
    typed = load(tmp_path / "b", ["calm", "cross", "angry"], {**KEYS, "type": "score"})
    soft = [load(tmp_path / name, [[a, 1 - a, 0]] * 3, KEYS) for name, a in (("c", 0.5), ("d", 0.4))]
    assert len({task.fingerprint for task in (plain, typed, *soft)}) == 4


def test_soft_labels_are_shown_and_refuse_what_needs_one_answer(tmp_path: Path) -> None:
    task = load(tmp_path / "t", [[0.5, 0.25, 0.25]] * 5, KEYS)
    assert "0.25 ' cross'" in show(task, 1)
    with pytest.raises(InputError, match="has soft labels, where one right choice is needed"):
        _ = instances(task)[0].answer
