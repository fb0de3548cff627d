from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rango.errors import InputError
from rango.options import SPLITS
from rango.tasks import Task, load_task, show
from rango.tasks.task import named, unlabelled
from rango.training.evaluate import check_not_empty

SENTIMENT = {"prompt": "Review: {text}\nVerdict:", "choices": ["bad", "good"], "label": "verdict"}
QUIZ = {"prompt": "{question}", "choices": "options", "label": "answer"}
SIZES = {"train": 6, "validation": 2, "test": 4}


def review(number: int) -> dict[str, Any]:
    return {"text": f"film {number}", "verdict": "good" if number % 3 else "bad"}


def quiz(number: int) -> dict[str, Any]:
    return {"question": f"What is {number}?", "options": ["x", "y", "z"][: 2 + number % 2], "answer": number % 2}


def table(folder: Path, rows: list[dict[str, Any]], keys: dict[str, Any] = SENTIMENT) -> Path:
    folder.mkdir(exist_ok=True)
    # JSON is YAML.
    (folder / "task.yaml").write_text(json.dumps(keys))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def all_of(task: Task) -> dict[str, Any]:
    return {i.id: i for i in (*task.train, *task.validation, *task.test, *task.rest)}


def test_a_table_by_hand(tmp_path: Path) -> None:
    task = load_task(table(tmp_path, [review(k) for k in range(12)]), **SIZES)
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [6, 2, 4]
    assert task.name == str(tmp_path)
    first = all_of(task)["1"]
    assert (first.context, first.choices, first.label) == ("Review: film 0\nVerdict:", ("bad", "good"), 0)
    assert task.prompt(first, "cloze").trunk == "Review: film 0\nVerdict:"
    assert task.prompt(first, "cloze").branches == (" bad", " good")
    assert task.prompt(first, "letter").trunk == "Review: film 0\nVerdict:\nA. bad\nB. good\nAnswer:"


@pytest.mark.parametrize("name", ["", "rows.jsonl", "task.yaml"])
def test_any_of_its_paths_names_a_table(tmp_path: Path, name: str) -> None:
    folder = table(tmp_path / "t", [review(k) for k in range(12)])
    assert load_task(folder / name, **SIZES).fingerprint == load_task(str(folder), **SIZES).fingerprint


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_file_format_gives_the_same_task(tmp_path: Path, kind: str) -> None:
    rows = [quiz(k) for k in range(12)]
    jsonl = load_task(table(tmp_path / "jsonl", rows, QUIZ), **SIZES)
    other = table(tmp_path / kind, rows, QUIZ)
    (other / "rows.jsonl").unlink()
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), other / "rows.parquet")
    else:
        import csv

        with (other / "rows.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({**row, "options": json.dumps(row["options"])} for row in rows)
    task = load_task(other, **SIZES)
    contents = [sorted((i.context, i.choices, i.label) for i in all_of(t).values()) for t in (jsonl, task)]
    assert contents[0] == contents[1]
    assert {len(i.choices) for i in all_of(task).values()} == {2, 3}
    assert task.n_choices == 3


def test_own_ids_groups_and_splits(tmp_path: Path) -> None:
    names = ["train"] * 6 + ["validation"] * 2 + ["test"] * 3
    rows = [review(k) | {"key": f"r{k}", "part": names[k], "who": f"w{k}"} for k in range(11)]
    rows[8]["who"] = "w0"
    task = load_task(table(tmp_path, rows, SENTIMENT | {"id": "key", "splits": "part", "group": "who"}))
    assert sorted(i.id for i in task.test) == ["r10", "r8", "r9"]
    assert sorted(i.id for i in task.validation) == ["r6", "r7"]
    # The context of r0 occurs in the test split.
    assert sorted(i.id for i in task.train) == ["r1", "r2", "r3", "r4", "r5"]
    assert task.notes[0] == "1 training instance dropped for a context that occurs in the test split"


def test_without_a_test_split_validation_serves(tmp_path: Path) -> None:
    rows = [review(k) | {"part": "train" if k < 8 else "validation"} for k in range(11)]
    task = load_task(table(tmp_path, rows, SENTIMENT | {"splits": "part"}), **SIZES)
    assert sorted(int(i.id) for i in task.test) == [9, 10, 11]
    assert len(task.validation) == 2
    assert task.notes[0].startswith("no row is of the split test: validation serves as test")


def test_rows_of_one_group_stay_together(tmp_path: Path) -> None:
    rows = [review(k) | {"who": f"w{k // 4}"} for k in range(60)]
    task = load_task(table(tmp_path, rows, SENTIMENT | {"group": "who"}), train=30, validation=6, test=12)
    groups = [{i.group for i in part} for part in (task.train, task.validation, task.test)]
    assert sum(map(len, groups)) == len(set().union(*groups))


@pytest.mark.parametrize(
    ("label", "expected"),
    [("good", 1), (" good ", 1), (1, 1), ("1", 1), ("B", 1), ("A", 0)],
)
def test_a_label_is_a_text_an_index_or_a_letter(tmp_path: Path, label: Any, expected: int) -> None:
    rows = [{"text": f"film {k}", "verdict": label} for k in range(12)]
    assert {i.label for i in load_task(table(tmp_path, rows), **SIZES).train} == {expected}


def test_the_label_column_is_read_in_one_way(tmp_path: Path) -> None:
    """Stars 1 to 5: the last label is no index, so that every label is a text."""
    stars = {"prompt": "{text}", "choices": [1, 2, 3, 4, 5], "label": "stars"}
    rows = [{"text": f"film {k}", "stars": 1 + k % 5} for k in range(12)]
    task = load_task(table(tmp_path, rows, stars), **SIZES)
    assert {i.id: i.label for i in task.train} == {i.id: (int(i.id) - 1) % 5 for i in task.train}


def test_a_label_column_that_can_be_read_in_two_ways_is_refused(tmp_path: Path) -> None:
    keys = {"prompt": "{text}", "choices": ["0", "2", "1"], "label": "sum"}
    rows = [{"text": f"sum {k}", "sum": k % 3} for k in range(12)]
    with pytest.raises(
        InputError, match=r"rows\.jsonl:2: the label is choice 1 as index, choice 2 as text; say `label_is`"
    ):
        load_task(table(tmp_path, rows, keys), **SIZES)
    task = load_task(table(tmp_path, rows, keys | {"label_is": "text"}), **SIZES)
    assert {i.id: i.label for i in task.train} == {i.id: [0, 2, 1][(int(i.id) - 1) % 3] for i in task.train}


@given(
    st.lists(st.sampled_from(["0", "1", "2", "A", "B", "C", "x", "y"]), min_size=2, max_size=4, unique=True), st.data()
)
def test_a_label_written_in_a_stated_way_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, choices: list[str], data: st.DataObject
) -> None:
    reading = data.draw(st.sampled_from(["text", "index", "letter"]))
    labels = [data.draw(st.integers(0, len(choices) - 1)) for _ in range(4)]
    written = [{"text": choices[k], "index": k, "letter": "ABCD"[k]}[reading] for k in labels]
    rows = [{"text": f"row {n}", "label": value} for n, value in enumerate(written)]
    keys = {"prompt": "{text}", "choices": choices, "label": "label", "label_is": reading}
    task = load_task(table(tmp_path_factory.mktemp("t"), rows, keys), train=2, validation=1, test=1)
    assert {i.id: i.label for i in all_of(task).values()} == {str(n): k for n, k in enumerate(labels, 1)}


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("Is it good or bad?", "prompt: 'Is it good or bad?' uses no column, so that every row would ask the same"),
        ("Review: {{text}}", "prompt: 'Review: {{text}}' uses no column"),
    ],
)
def test_a_prompt_that_asks_every_row_the_same_is_refused(tmp_path: Path, prompt: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        load_task(table(tmp_path, [review(k) for k in range(12)], SENTIMENT | {"prompt": prompt}), **SIZES)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "text is missing; `prompt` in"),
        (float("inf"), "text is inf; expected text, as `prompt` in"),
        (True, "text is True; expected text"),
        (["a"], "text is ['a']; expected text"),
        ({"a": 1}, "text is {'a': 1}; expected text"),
        ("  ", "text is missing"),
    ],
)
def test_what_is_no_text_is_not_put_into_a_prompt(tmp_path: Path, value: Any, says: str) -> None:
    rows = [review(k) | ({"text": value} if k == 1 else {}) for k in range(12)]
    with pytest.raises(InputError, match=re.escape(f"rows.jsonl:2: {says}")):
        load_task(table(tmp_path, rows), **SIZES)


@pytest.mark.parametrize("column", ["id", "splits"])
def test_what_is_no_text_names_no_row_and_no_split(tmp_path: Path, column: str) -> None:
    rows = [review(k) | {"x": {"a": 1}} for k in range(12)]
    with pytest.raises(InputError, match=re.escape("rows.jsonl:1: x is {'a': 1}; expected text")):
        load_task(table(tmp_path, rows, SENTIMENT | {column: "x"}), **SIZES)


def mmlu(number: int) -> dict[str, Any]:
    tools = ["saw", "spoon", "cup", "hat"]
    return {
        "question": f"Which tool is number {number}?",
        **dict(zip("ABCD", tools, strict=True)),
        "answer": "ABCD"[number % 4],
    }


def test_choices_are_templates_over_the_columns(tmp_path: Path) -> None:
    keys = {
        "prompt": "{question}",
        "choices": ["{B}", "{A}", "a {C}", "{{x}}"],
        "label": "answer",
        "label_is": "letter",
    }
    task = load_task(table(tmp_path, [mmlu(k) for k in range(12)], keys), **SIZES)
    assert {i.choices for i in all_of(task).values()} == {("spoon", "saw", "a cup", "{x}")}


def test_a_label_names_the_column_that_a_choice_is_from(tmp_path: Path) -> None:
    """The second column stands first: as a letter, A would be the text of column B."""
    keys = {"prompt": "{question}", "choices": ["{B}", "{A}", "{C}", "{D}"], "label": "answer"}
    task = load_task(table(tmp_path, [mmlu(k) for k in range(12)], keys), **SIZES)
    right = {i.id: i.choices[i.label] for i in all_of(task).values()}
    assert right == {str(k + 1): ["saw", "spoon", "cup", "hat"][k % 4] for k in range(12)}


def test_blank_columns_at_the_end_are_fewer_choices_and_others_are_holes(tmp_path: Path) -> None:
    keys = {"prompt": "{question}", "choices": ["{A}", "{B}", "{C}", "{D}"], "label": "answer"}
    rows = [mmlu(k) for k in range(12)]
    rows[0] |= {"D": None, "C": ""}
    task = load_task(table(tmp_path, rows, keys), **SIZES)
    assert all_of(task)["1"].choices == ("saw", "spoon")
    rows[0] |= {"D": "hat"}
    with pytest.raises(InputError, match=r"rows\.jsonl:1: C is missing; `choices` in"):
        load_task(table(tmp_path, rows, keys), **SIZES)


@pytest.mark.parametrize("choices", ["ABCD", "abcd"])
def test_names_of_text_columns_as_choices_are_refused_with_the_fix(tmp_path: Path, choices: str) -> None:
    keys = {"prompt": "{question}", "choices": list(choices), "label": "answer"}
    says = 'are names of columns; write choices: ["{A}", "{B}", "{C}", "{D}"] for what the columns hold'
    with pytest.raises(InputError, match=re.escape(says)):
        load_task(table(tmp_path, [mmlu(k) for k in range(12)], keys), **SIZES)


def test_names_of_columns_of_marks_are_choices_with_a_note(tmp_path: Path) -> None:
    rows = [review(k) | {"bad": int(k % 3 == 0), "good": int(k % 3 > 0)} for k in range(12)]
    task = load_task(table(tmp_path, rows), **SIZES)
    assert task.test[0].choices == ("bad", "good")
    assert task.notes[0].startswith("the choices are names of columns, and are asked for as they stand")


ARC = {"prompt": "{question.stem}", "choices": "question.choices", "label": "key"}


def arc(number: int, *, numbers: bool = False) -> dict[str, Any]:
    names = "1234" if numbers else "ABCD"
    options = [{"label": name, "text": text} for name, text in zip(names, ["x", "y", "z", "w"], strict=True)]
    return {"question": {"stem": f"What is {number}?", "choices": options}, "key": names[number % 4]}


def test_arc_as_it_is_published_and_its_rows_whose_labels_are_numbers(tmp_path: Path) -> None:
    """Labels are the choices' own names: the 2 of a row numbered 1 to 4 is its second choice, not its third."""
    rows = [arc(k, numbers=k % 5 == 0) for k in range(20)]
    task = load_task(table(tmp_path / "a", rows, ARC), **SIZES)
    assert {i.id: i.label for i in all_of(task).values()} == {str(k + 1): k % 4 for k in range(20)}
    for row in rows:
        entries = row["question"]["choices"]
        row["question"]["choices"] = {key: [entry[key] for entry in entries] for key in ("text", "label")}
    assert load_task(table(tmp_path / "b", rows, ARC), **SIZES).fingerprint == task.fingerprint


def test_labels_that_may_count_from_one(tmp_path: Path) -> None:
    keys = {"prompt": "{text}", "choices": ["saw", "spoon", "cup"], "label": "n"}
    rows = [{"text": f"film {k}", "n": 1 + k % 2} for k in range(12)]
    task = load_task(table(tmp_path / "a", rows, keys), **SIZES)
    assert task.notes[0].startswith("labels are read as indices from 0, but none in n is 0: where they count from 1")
    said = load_task(table(tmp_path / "b", rows, keys | {"label_is": "index"}), **SIZES).notes
    assert not [note for note in said if note.startswith("labels are read")]
    one_based = load_task(table(tmp_path / "c", rows, keys | {"label_is": "number"}), **SIZES)
    assert {i.id: i.label for i in all_of(one_based).values()} == {str(k + 1): k % 2 for k in range(12)}
    rows[5]["n"] = 3
    with pytest.raises(InputError, match=r":6: label is 3; .* for labels that count from 1 to 3 write `label_is: n"):
        load_task(table(tmp_path / "d", rows, keys), **SIZES)


def test_the_same_text_twice_among_the_choices_is_one_choice(tmp_path: Path) -> None:
    rows = [quiz(k) for k in range(12)]
    rows[0] |= {"options": ["x", "y", "x"], "answer": 2}
    rows[1] |= {"options": ["y", "y", "x"], "answer": 2}
    task = load_task(table(tmp_path / "index", rows, QUIZ), **SIZES)
    one, two = all_of(task)["1"], all_of(task)["2"]
    assert (one.choices, one.label, two.choices, two.label) == (("x", "y"), 0, ("y", "x"), 1)
    assert task.notes[0] == "2 rows with the same text twice among the choices: it is one choice"
    texts = [{"question": f"What is {k}?", "options": ["x", "y", "x"], "answer": "xy"[k % 2]} for k in range(12)]
    task = load_task(table(tmp_path / "text", texts, QUIZ), **SIZES)
    assert {i.id: i.label for i in all_of(task).values()} == {str(k + 1): k % 2 for k in range(12)}


def test_rows_without_a_group_have_nothing_in_common(tmp_path: Path) -> None:
    rows = [review(k) | {"who": None if k % 3 else "w"} for k in range(12)]
    rows[1]["who"], rows[2]["who"] = float("nan"), " "
    instances = all_of(load_task(table(tmp_path, rows, SENTIMENT | {"group": "who"}), **SIZES))
    blank = [i.group for i in instances.values() if int(i.id) % 3 != 1]
    assert len(set(blank)) == len(blank) == 8
    assert {i.group for i in instances.values()} - set(blank) == {"w"}


@pytest.mark.parametrize("splits", [True, False])
def test_the_same_text_in_two_groups_is_one_group(tmp_path: Path, splits: bool) -> None:
    """Each text stands twice, in two groups, spelt with other capitals and spaces."""
    parts = ["train", "train", "validation", "test"]
    rows = [
        {
            "text": f"film  Caf\u00e9 {k // 2}" if k % 2 else f"Film Cafe\u0301 {k // 2}",
            "verdict": "good",
            "who": f"w{k}",
        }
        | ({"part": parts[(k // 2 + k % 2) % 4]} if splits else {})
        for k in range(24)
    ]
    keys = SENTIMENT | {"group": "who"} | ({"splits": "part"} if splits else {})
    task = load_task(table(tmp_path, rows, keys), train=12, validation=4, test=8)
    texts = [{(int(i.id) - 1) // 2 for i in task.split(split)} for split in SPLITS]
    assert sum(map(len, texts)) == len(set().union(*texts))
    assert any("of the column who with a prompt of another group" in note for note in task.notes)


def test_braces_in_template_and_data(tmp_path: Path) -> None:
    rows = [{"text": f"{{verdict}} {k}", "verdict": "good"} for k in range(12)]
    task = load_task(table(tmp_path, rows, SENTIMENT | {"prompt": "{{{text}}} is {{x}}:"}), **SIZES)
    assert all_of(task)["1"].context == "{{verdict} 0} is {x}:"


@pytest.mark.parametrize(
    ("keys", "change", "message"),
    [
        ({}, {"verdict": 7}, "rows.jsonl:2: label is 7; expected the text of one choice [bad, good] (label_is: text)"),
        ({"label_is": "index"}, {"verdict": 2}, "label is 'bad'; expected 0..1 (label_is: index)"),
        ({}, {"verdict": None}, "rows.jsonl:2: verdict is missing; `label` in"),
        ({}, {"verdict": ""}, "rows.jsonl:2: verdict is missing; `label` in"),
        ({}, {"text": None}, "rows.jsonl:2: text is missing; `prompt` in"),
        (
            {"prompt": "{txt}"},
            {},
            "rows.jsonl:1: unknown column 'txt': did you mean 'text'? (known: text, verdict); `prompt`",
        ),
        ({"label": "verdct"}, {}, "rows.jsonl:1: unknown column 'verdct': did you mean 'verdict'?"),
        ({"id": "text"}, {"text": "film 0"}, "rows.jsonl:2: id 'film 0' is already that of"),
        ({"splits": "verdict"}, {}, "rows.jsonl:1: unknown split 'bad'"),
        ({"choices": "text"}, {}, "rows.jsonl:1: text is no list; expected the row's choices"),
        ({"choices": ["good"]}, {}, "task.yaml: choices: 1 choice; expected at least 2"),
        (
            {"choices": [True, False]},
            {},
            "task.yaml: choices: choice 0 is True; expected text, put it in quotation marks",
        ),
        ({"lable": "verdict"}, {}, "unknown key in"),
        ({"prompt": ""}, {}, "prompt is ''"),
        ({"prompt": "{text. Mood:"}, {}, "task.yaml: prompt: a lone { at '{text. Mood:'; write {column} for a column"),
        ({"prompt": "{{text}: {text}"}, {}, "task.yaml: prompt: a lone } at '}: {text}'; write {column} for a column"),
        ({"prompt": "{text}} is"}, {}, "a lone } at '} is'; write {column} for a column, }} for a brace"),
        ({"label": "mood"}, {}, "rows.jsonl:1: unknown column 'mood' (known: text, verdict); `label` in"),
        ({"choices": ["bad", "good", " bad"]}, {}, "task.yaml: choices: choice 2 is 'bad' like choice 0; name each"),
        ({"choices": ["1", 1]}, {}, "task.yaml: choices: choice 1 is '1' like choice 0; name each once"),
        ({"choices": ["bad", " "]}, {}, "task.yaml: choices: choice 1 is blank; give it words"),
    ],
)
def test_a_bad_table(tmp_path: Path, keys: dict[str, Any], change: dict[str, Any], message: str) -> None:
    rows = [review(k) | (change if k == 1 else {}) for k in range(12)]
    with pytest.raises(InputError, match=re.escape(message)):
        load_task(table(tmp_path, rows, SENTIMENT | keys), **SIZES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ["x"]}, "rows.jsonl:2: options has 1 choice; expected at least 2"),
        ({"answer": 3}, "rows.jsonl:2: label is 3; expected 0..2 (label_is: index)"),
        ({"options": ["x", " ", "z"]}, "rows.jsonl:2: instance '2': choice 1 is blank; give it words"),
        ({"options": ["x", "x"], "answer": "x"}, "rows.jsonl:2: label is 'x'; expected 0..1 (label_is: index)"),
    ],
)
def test_a_bad_row_of_a_table_with_its_own_choices(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [quiz(k) | (change if k == 1 else {}) for k in range(12)]
    with pytest.raises(InputError, match=re.escape(message)):
        load_task(table(tmp_path, rows, QUIZ), **SIZES)


@pytest.mark.parametrize("column", ["text", "verdict"])
def test_a_column_that_one_row_lacks_is_missing_and_not_unknown(tmp_path: Path, column: str) -> None:
    rows = [review(k) for k in range(12)]
    del rows[4][column]
    key = {"text": "prompt", "verdict": "label"}[column]
    with pytest.raises(InputError, match=rf"rows\.jsonl:5: {column} is missing; `{key}` in .*task\.yaml needs it"):
        load_task(table(tmp_path, rows), **SIZES)


def test_an_instance_knows_its_line(tmp_path: Path) -> None:
    task = load_task(table(tmp_path, [review(k) for k in range(12)]), **SIZES)
    for instance in all_of(task).values():
        assert instance.where == f"{tmp_path}/rows.jsonl:{instance.id}"
        assert named(instance) == f"{tmp_path}/rows.jsonl:{instance.id}: instance {instance.id!r}"


def test_a_missing_key(tmp_path: Path) -> None:
    keys = {key: value for key, value in SENTIMENT.items() if key != "label"}
    with pytest.raises(InputError, match=r"task\.yaml: label is missing; give it a value"):
        load_task(table(tmp_path, [review(0)], keys))


def test_missing_files(tmp_path: Path) -> None:
    folder = table(tmp_path / "t", [review(0)])
    (folder / "rows.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds no rows file; expected one of rows\.jsonl, "):
        load_task(folder)
    (folder / "task.yaml").unlink()
    with pytest.raises(InputError, match=r"holds no task\.yaml; expected one with the keys prompt, choices and label"):
        load_task(folder)


def test_a_folder_may_hold_rows_with_tabs(tmp_path: Path) -> None:
    folder = table(tmp_path, [review(k) for k in range(12)])
    task = load_task(folder, **SIZES)
    (folder / "rows.jsonl").unlink()
    lines = [f"film {k}\t{review(k)['verdict']}" for k in range(12)]
    (folder / "rows.tsv").write_text("\n".join(["text\tverdict", *lines, ""]))
    assert sorted(i.context for i in load_task(folder, **SIZES).test) == sorted(i.context for i in task.test)


def test_two_rows_files(tmp_path: Path) -> None:
    folder = table(tmp_path, [review(k) for k in range(12)])
    (folder / "rows.csv").write_text("text,verdict\na,good\n")
    with pytest.raises(InputError, match=r"holds rows\.jsonl and rows\.csv; expected one of"):
        load_task(folder)
    assert len(load_task(folder / "rows.jsonl", **SIZES).train) == 6


@pytest.mark.parametrize("part", ["test", "validation", "dev"])
def test_a_table_may_hold_instances_to_evaluate_on_alone(tmp_path: Path, part: str) -> None:
    rows = [review(k) | {"part": part} for k in range(3)]
    task = load_task(table(tmp_path, rows, SENTIMENT | {"splits": "part"}))
    assert (task.train, task.validation, sorted(i.id for i in task.test)) == ((), (), ["1", "2", "3"])
    assert "--- test " in show(task, 1)


def test_no_row_to_train_on(tmp_path: Path) -> None:
    task = load_task(table(tmp_path, [review(k) | {"part": "test"} for k in range(3)], SENTIMENT | {"splits": "part"}))
    with pytest.raises(InputError, match="the split holds no instances; give a table that has rows of it"):
        check_not_empty(task.train, shots=0)


@pytest.mark.parametrize("missing", ["", None, float("nan"), -1, "-1"])
def test_a_test_split_may_be_without_labels(tmp_path: Path, missing: Any) -> None:
    rows = [review(k) | {"part": "train" if k < 6 else "validation" if k < 8 else "test"} for k in range(11)]
    for row in rows[8:]:
        row["verdict"] = missing
    keys = SENTIMENT | {"splits": "part"}
    task = load_task(table(tmp_path / "a", rows, keys), **SIZES)
    assert {i.label for i in task.test} == {None}
    assert None not in {i.label for i in (*task.train, *task.validation)}
    assert unlabelled(task.test)
    assert not unlabelled(task.train)
    assert task.notes[0] == "3 test instances without a label: to be decided on, not measured"
    with pytest.raises(InputError, match=r"rows\.jsonl:\d+: instance '\d+' has no label; give the right choice"):
        _ = task.test[0].answer
    rows[9]["verdict"] = "bad"
    with pytest.raises(
        InputError, match=r"rows\.jsonl:9: verdict is missing; .*\(the split test may be without labels"
    ):
        load_task(table(tmp_path / "b", rows, keys), **SIZES)


def test_a_table_without_any_label_is_there_to_evaluate_on(tmp_path: Path) -> None:
    task = load_task(table(tmp_path, [review(k) | {"verdict": ""} for k in range(5)]))
    assert (task.train, len(task.test), unlabelled(task.test)) == ((), 5, True)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_only_the_split_test_may_be_without_labels(tmp_path: Path, part: str) -> None:
    rows = [review(k) | {"part": ["train", "validation", "test"][k % 3]} for k in range(12)]
    rows[{"train": 3, "validation": 4}[part]]["verdict"] = ""
    with pytest.raises(InputError, match=r"rows\.jsonl:[45]: verdict is missing; `label` in"):
        load_task(table(tmp_path, rows, SENTIMENT | {"splits": "part"}))


@pytest.mark.parametrize("name", ["dev", "Valid", "val"])
def test_the_names_that_people_give_to_splits(tmp_path: Path, name: str) -> None:
    rows = [review(k) | {"part": "Training" if k < 8 else name if k < 10 else "TEST"} for k in range(12)]
    task = load_task(table(tmp_path, rows, SENTIMENT | {"splits": "part"}))
    assert [len(task.split(split)) for split in SPLITS] == [8, 2, 2]


def test_a_parquet_column_whose_name_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = table(tmp_path, [review(0)])
    (folder / "rows.jsonl").unlink()
    columns = {"text": ["a", "b"], "verdict": ["good", "bad"], "xyzzy": ["1", "2"]}
    pq.write_table(pa.table(columns), folder / "rows.parquet", compression="none")
    damaged = (folder / "rows.parquet").read_bytes().replace(b"xyzzy", b"xy\xff\xfey")
    (folder / "rows.parquet").write_bytes(damaged)
    with pytest.raises(InputError, match=r"rows\.parquet: .*; write the Parquet file again"):
        load_task(folder)


def test_an_empty_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows\.jsonl is empty; expected at least one line"):
        load_task(table(tmp_path, []))


def test_data_beside_a_table_is_refused(tmp_path: Path) -> None:
    folder = table(tmp_path, [review(0)])
    with pytest.raises(InputError, match="data is 'x' but the task is the table .*; leave the option out"):
        load_task(folder, data="x")


def test_fifty_thousand_rows_are_read_in_linear_time(tmp_path: Path) -> None:
    folder = table(tmp_path, [review(k) for k in range(50_000)])
    start = time.process_time()
    assert len(load_task(folder).train) == 5000
    # About 0.6 s on one core; anything quadratic takes minutes.
    assert time.process_time() - start < 20


def test_a_small_table_is_cut_60_20_20_in_the_proportions_of_its_classes(tmp_path: Path) -> None:
    """Of 300 rows, a tenth of which are of the rare class, 6 of 60 validation rows are."""
    rows = [{"text": f"film {k}", "mood": "bad" if k % 10 == 0 else "good"} for k in range(300)]
    keys = {"prompt": "{text}", "choices": ["bad", "good"], "label": "mood"}
    task = load_task(table(tmp_path, rows, keys))
    assert [len(split) for split in (task.train, task.validation, task.test)] == [180, 60, 60]
    rare = [sum(i.label == 0 for i in split) for split in (task.train, task.validation, task.test)]
    assert (sum(rare), rare[1], rare[2]) == (30, 6, 6)
    assert task.notes[-1] == "fewer than 10 validation instances of 1 class(es): bad"
    assert not any("by chance" in note for note in task.notes)
    task = load_task(table(tmp_path / "few", rows[:100], keys))
    assert "20 validation instances: fewer than 50 choose the checkpoint and fit the calibrator mostly by chance" in (
        task.notes
    )


def test_a_class_that_validation_lacks_is_named_among_the_few(tmp_path: Path) -> None:
    """The two rows of the class *odd* have one group, so that one split holds both; here it is not validation."""
    rows = [{"text": f"film {k}", "mood": ("good", "bad")[k % 2], "by": f"u{k}"} for k in range(298)]
    rows += [{"text": f"odd film {k}", "mood": "odd", "by": "v"} for k in range(2)]
    keys = {"prompt": "{text}", "choices": ["bad", "good", "odd"], "label": "mood", "group": "by"}
    task = load_task(table(tmp_path, rows, keys))
    assert not any(instance.label == 2 for instance in task.validation)
    assert task.notes[-1] == "fewer than 10 validation instances of 1 class(es): odd"


def test_rows_of_groups_that_a_size_cuts_are_counted(tmp_path: Path) -> None:
    """300 rows in three groups of 100. Where 60 are asked for, the other 80 rows of two groups serve nothing."""
    rows = [{"text": f"film {k}", "mood": ("good", "bad")[k % 2], "by": f"u{k % 3}"} for k in range(300)]
    keys = {"prompt": "{text}", "choices": ["bad", "good"], "label": "mood", "group": "by"}
    path = table(tmp_path, rows, keys)
    task = load_task(path)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [100, 100, 100]
    assert not any("in no split" in note for note in task.notes)
    task = load_task(path, validation=60, test=60)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [100, 60, 60]
    assert any(note.startswith("80 of 300 instances are in no split: their groups were cut") for note in task.notes)


def test_rows_without_a_label_are_left_out_where_the_task_says_so(tmp_path: Path) -> None:
    rows = [review(k) | {"verdict": "" if k in (1, 7) else review(k)["verdict"]} for k in range(20)]
    task = load_task(table(tmp_path / "a", rows, SENTIMENT | {"unlabelled": "skip"}))
    assert not {"2", "8"} & all_of(task).keys()
    assert len(all_of(task)) == 18
    assert task.notes[0] == "2 of 20 rows are left out: they have no label"
    with pytest.raises(InputError, match=r"Of 20 rows 2 lack it: .*`unlabelled: skip`"):
        load_task(table(tmp_path / "b", rows))
    # A test split that has no labels at all is there to be decided on.
    parted = [row | {"part": "test" if k > 15 else "train"} for k, row in enumerate(rows)]
    for row in parted[16:]:
        row["verdict"] = ""
    task = load_task(table(tmp_path / "c", parted, SENTIMENT | {"unlabelled": "skip", "splits": "part"}))
    assert (len(task.test), unlabelled(task.test)) == (4, True)


def test_rows_that_repeat_another_are_counted(tmp_path: Path) -> None:
    rows = [review(k // 2) for k in range(24)]
    assert "12 rows equal to another row and its answer" in "\n".join(load_task(table(tmp_path, rows)).notes)
