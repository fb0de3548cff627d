from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from rango.errors import InputError
from rango.tasks import Task, load_task, show, task_text


@pytest.fixture
def task() -> Task:
    return load_task("simulated", train=8, validation=3, test=4)


def test_splits_by_name(task: Task) -> None:
    assert (task.split("train"), task.split("validation"), task.split("test")) == (
        task.train,
        task.validation,
        task.test,
    )
    with pytest.raises(InputError, match="unknown split 'tets': did you mean 'test'?"):
        task.split("tets")


def test_the_fingerprint_is_that_of_the_contents(task: Task) -> None:
    again = load_task("simulated", train=8, validation=3, test=4)
    assert again.fingerprint == task.fingerprint
    first, *others = task.train
    for change in ({"label": (first.label + 1) % 3}, {"question": "Who?"}, {"id": "other"}):
        other = dataclasses.replace(task, train=(dataclasses.replace(first, **change), *others))
        assert other.fingerprint != task.fingerprint
    moved = dataclasses.replace(task, train=task.train[:-1], validation=(task.train[-1], *task.validation))
    assert moved.fingerprint != task.fingerprint
    assert dataclasses.replace(task, notes=("said",)).fingerprint == task.fingerprint


def test_show_by_hand(task: Task) -> None:
    text = show(task, 1)
    first = task.train[0]
    mark = ["*" if k == first.label else " " for k in range(3)]
    expected = [
        "simulated: train 8, validation 3, test 4; 3 choices; default form cloze",
        "",
        "--- train train:0, letter form ---",
        first.context,
        f"Question: {first.question}",
        *(f"{letter}. {choice}" for letter, choice in zip("ABC", first.choices, strict=True)),
        "Answer:",
        *(f"  {m} ' {letter}'" for m, letter in zip(mark, "ABC", strict=True)),
        "",
        "--- train train:0, cloze form ---",
        f"{first.context} Question: {first.question} Answer:",
        *(f"  {m} ' {choice}'" for m, choice in zip(mark, first.choices, strict=True)),
    ]
    assert text.split("\n") == expected
    assert show(task, 0).count("\n") == 0
    assert show(task, 99).count("---") == 4 * 8


def test_show_prints_more_choices_than_there_are_letters(task: Task) -> None:
    many = dataclasses.replace(
        task.test[0], choices=tuple(f"town {k}" for k in range(120)), label=100, log_posterior=None
    )
    text = show(dataclasses.replace(task, train=(many,)), 1)
    assert f"--- train {many.id}: 120 choices, too many for letters ---" in text
    assert "  * ' town 100'" in text


def test_show_says_the_notes(task: Task) -> None:
    assert "\nnote: asked for more" in show(dataclasses.replace(task, notes=("asked for more",)), 0)


def test_plain_text_of_a_split(task: Task) -> None:
    first = task.train[0]
    lines = list(task_text(task, "train"))
    assert lines[0] == f"{first.context} Question: {first.question} Answer: {first.choices[first.label]}"
    assert len(lines) == 8
    assert not any("\n" in line for line in lines)
    assert list(task_text(task, "rest")) == []
    assert len(list(task_text(dataclasses.replace(task, rest=task.train[:2]), "rest"))) == 2


def test_reading_the_room_loads_nothing_heavy() -> None:
    """The command line reads it before it knows what is asked."""
    code = "import rango.tasks, sys; print([m for m in ('numpy', 'torch', 'pyarrow', 'datasets') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert found.stdout.strip() == "[]"
