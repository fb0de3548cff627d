"""What `rango init` guesses: each kind of table that people bring, and what it refuses to guess."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rango.decisions import Costs
from rango.errors import InputError
from rango.options import TaskOptions
from rango.tasks.new_table import TableGuess, costs_yaml, guess_table, task_yaml
from rango.tasks.table import load_table

TOPICS = ("billing", "account", "it's {odd}: yes")


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def tickets(path: Path, count: int = 60) -> Path:
    rows = [
        [f"T-{n}", f"c{n % 20}", "2026-01-02", f"The invoice number {n} is wrong", TOPICS[n % 3]] for n in range(count)
    ]
    return write_csv(path, ["ticket_id", "customer", "date", "message", "topic"], rows)


def test_a_table_of_classes_is_understood_and_loads(tmp_path: Path) -> None:
    path = tickets(tmp_path / "tickets.csv")
    guess = guess_table(path)
    config = guess.config
    assert (config.label, config.id, config.group, config.splits) == ("topic", "ticket_id", "customer", None)
    assert config.prompt == "Message: {message}\nTopic:"
    assert guess.classes == tuple(sorted(TOPICS))
    assert guess.unused == ("date",)
    (tmp_path / "task.yaml").write_text(task_yaml(guess))
    (tmp_path / "costs.yaml").write_text(costs_yaml(guess.classes))
    task = load_table(path, TaskOptions())
    assert {instance.choices for instance in task.train} == {guess.classes}
    right = {instance.choices[instance.answer] for split in (task.train, task.test) for instance in split}
    assert right <= set(TOPICS)
    # The costs are of the same classes, and passing on costs the same whatever is true.
    costs = Costs.from_yaml(tmp_path / "costs.yaml").for_choices(guess.classes)
    assert costs.matrix.tolist() == [[0, 1, 1, 0.3], [1, 0, 1, 0.3], [1, 1, 0, 0.3]]
    # Every key that is not used stands as a comment.
    assert "# splits: COLUMN" in task_yaml(guess)
    assert yaml.safe_load(task_yaml(guess)).keys() == {"prompt", "choices", "label", "label_is", "id", "group"}


def test_few_rows_for_validation_are_warned_of(tmp_path: Path) -> None:
    """60 rows leave 12 for validation, and 20 of each class leave 4."""
    few, classes = guess_table(tickets(tmp_path / "few.csv")).warnings()
    assert few.startswith("about 12 of the 60 rows will be for validation")
    assert classes.startswith("3 class(es) will have fewer than 10 rows")
    assert guess_table(tickets(tmp_path / "many.csv", 300)).warnings() == ()


def test_groups_that_cannot_be_cut_are_left_out_and_said(tmp_path: Path) -> None:
    """Three customers would do; a text that two of them sent makes their rows one group, and two are too few."""

    def grouped(name: str, customers: int, *, shared: bool) -> TableGuess:
        rows = [[f"c{n % customers}", f"words of {n}", "ab"[n // 2 % 2]] for n in range(300)]
        rows += [["c0", "one text of two", "a"], ["c1", "one text of two", "a"]] * shared
        return guess_table(write_csv(tmp_path / f"{name}.csv", ["customer", "text", "label"], rows))

    three = grouped("three", 3, shared=False)
    assert (three.config.group, three.groups, three.ungrouped) == ("customer", 3, None)
    assert three.warnings()[0].startswith("the rows form only 3 groups by customer")
    (tmp_path / "task.yaml").write_text(task_yaml(three))
    assert len(load_table(tmp_path / "three.csv", TaskOptions()).test) == 100
    linked = grouped("linked", 3, shared=True)
    assert (linked.config.group, linked.groups, linked.ungrouped) == (None, 2, "customer")
    says = "customer looks like a column of groups, but its values and equal texts link the rows into 2 groups"
    assert any(line.startswith(says) for line in linked.warnings())
    text = task_yaml(linked)
    assert "# group: COLUMN\n# Not customer: with equal texts it links the rows into 2 groups" in text
    (tmp_path / "task.yaml").write_text(text)
    assert load_table(tmp_path / "linked.csv", TaskOptions()).train


def test_rows_without_a_label_are_warned_of(tmp_path: Path) -> None:
    rows = [
        [f"words of {n}", "" if n % 100 == 7 else "ab"[n % 2], "test" if n % 100 == 7 else "train"] for n in range(300)
    ]
    blank = guess_table(write_csv(tmp_path / "a.csv", ["text", "label"], [row[:2] for row in rows])).warnings()
    assert [line for line in blank if line.startswith("3 of the 300 rows have no label and are left out")]
    whole = guess_table(write_csv(tmp_path / "b.csv", ["text", "label", "split"], rows)).warnings()
    assert not [line for line in whole if "no label" in line], "a test split without labels is read"


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["good", "bad", "N/A"], "N/A is taken for a class like the others"),
        (
            ["good", "bad", "Good", "very_bad", "very bad"],
            "how they are written: Good and good, very bad and very_",
        ),
        (["1", "2", "3"], "the classes are numbers, which say nothing to a model: write words under choices"),
    ],
)
def test_doubtful_classes_are_warned_of(tmp_path: Path, labels: list[str], says: str) -> None:
    rows = [[f"words of {n}", labels[n % len(labels)]] for n in range(300)]
    warnings = guess_table(write_csv(tmp_path / "a.csv", ["text", "label"], rows)).warnings()
    assert len(warnings) == 1
    assert says in warnings[0]


def test_one_text_with_two_answers_is_warned_of(tmp_path: Path) -> None:
    """Rows that repeat both the text and the answer say nothing against each other, and a blank answer does not."""
    rows = [[f"words of {n}", "ab"[n % 2]] for n in range(300)]
    rows += [["words of 7", "a"], ["words of 7", "b"], ["words of 8", "a"], ["words of 9", ""]]
    path = write_csv(tmp_path / "a.csv", ["text", "label"], rows)
    assert [line for line in guess_table(path).warnings() if line.startswith("3 rows have the same text as another")]


@pytest.mark.parametrize("label", ["B", "2", "a fine day", "option2"])
def test_columns_of_choices_are_templates(tmp_path: Path, label: str) -> None:
    """Letters, numbers from 1, texts and names all mean the same column."""
    header = ["question", "option1", "option2", "option3", "answer"]
    rows = [[f"What is it, number {n}?", "rain", "a fine day", "snow", label] for n in range(5)]
    if label == "2":  # a number that no index is: the third choice
        rows.append(["What is it at last?", "rain", "wind", "snow", "3"])
    guess = guess_table(write_csv(tmp_path / "quiz.csv", header, rows))
    assert guess.config.choices == ("{option1}", "{option2}", "{option3}")
    assert guess.config.prompt == "{question}"
    assert guess.classes is None
    (tmp_path / "task.yaml").write_text(task_yaml(guess))
    (tmp_path / "more.csv").write_text((tmp_path / "quiz.csv").read_text())
    from rango.tasks.sources import file_rows
    from rango.tasks.table import TableConfig, further_instances

    config = TableConfig.from_yaml(tmp_path / "task.yaml")
    first = further_instances(config, file_rows(tmp_path / "quiz.csv"), source=tmp_path)[0]
    assert first.choices[first.answer] == "a fine day"


def test_a_list_column_holds_the_choices(tmp_path: Path) -> None:
    rows = [{"stem": f"Water is {n} times", "choices": ["wet", "dry"], "answerKey": "A"} for n in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    guess = guess_table(path)
    assert (guess.config.choices, guess.config.label) == ("choices", "answerKey")


def test_a_split_column_and_a_label_without_a_known_name(tmp_path: Path) -> None:
    rows = [[f"Some words on row {n}", ("train", "dev", "test")[n % 3], ("yes", "no")[n % 2]] for n in range(12)]
    guess = guess_table(write_csv(tmp_path / "a.csv", ["text", "split", "urgent"], rows))
    assert (guess.config.label, guess.config.splits, guess.classes) == ("urgent", "split", ("no", "yes"))
    assert "no column has a name such as label; urgent is taken for it" in guess.warnings()[0]
    named = guess_table(tmp_path / "a.csv", label="urgent")
    assert not any("is taken for it" in warning for warning in named.warnings())


@pytest.mark.parametrize("texts", [["one", "two"], ["one", "two", "two", "one"]])
def test_a_table_that_cannot_be_cut_is_refused_before_its_task_is_written(tmp_path: Path, texts: list[str]) -> None:
    rows = [[f"some words {text}", "ab"[n % 2]] for n, text in enumerate(texts)]
    with pytest.raises(InputError, match=r"with 2 different texts, which cannot be cut into train, validation and"):
        guess_table(write_csv(tmp_path / "a.csv", ["text", "label"], rows))


def test_what_cannot_be_guessed_is_refused_with_the_columns_seen(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ["text", "more"], [[f"words {n}", f"others {n}"] for n in range(9)])
    with pytest.raises(InputError, match=r"no column looks like the right answers \(columns: text, more\)"):
        guess_table(path)
    with pytest.raises(InputError, match="did you mean 'text'"):
        guess_table(path, label="texts")
    path = write_csv(tmp_path / "b.csv", ["n", "label"], [[n, "ab"[n % 2]] for n in range(9)])
    with pytest.raises(InputError, match="no column of text beside label"):
        guess_table(path)
    path = write_csv(tmp_path / "braces.csv", ["{text}", "label"], [[f"words of {n}", "ab"[n % 2]] for n in range(9)])
    with pytest.raises(InputError, match=r"columns: \{text\}, label\); a column of text has .* no brace or dot in its"):
        guess_table(path)
    path = write_csv(tmp_path / "c.csv", ["text", "label"], [[f"words of {n}", f"kind {n}"] for n in range(60)])
    with pytest.raises(InputError, match="60 different values; expected 2 to 50"):
        guess_table(path)
    (tmp_path / "d.csv").write_text("text,label\n")
    with pytest.raises(InputError, match="d.csv holds no rows"):
        guess_table(tmp_path / "d.csv")
