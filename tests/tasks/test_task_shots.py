from __future__ import annotations

import re
from collections import Counter

import pytest
from helpers.toy import toy_task, write_prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.errors import InputError
from rango.tasks import Instance, few_shot
from rango.tasks.task import draw_shots

TASK = toy_task()


def some(labels: list[int]) -> list[Instance]:
    choices = ("a", "b", "c")
    return [Instance(str(n), "Sam ran.", "Why?", choices, label, str(n)) for n, label in enumerate(labels)]


def test_shots_by_hand() -> None:
    # Two of label 0, one of each other: the first round holds one of each, the second has only a 0 left.
    train = some([0, 2, 0, 1])
    assert sorted(shot.label for shot in draw_shots(train, shots=3, seed=0)) == [0, 1, 2]
    assert [shot.label for shot in draw_shots(train, shots=4, seed=0)][3] == 0
    assert draw_shots(train[::-1], shots=4, seed=0) == draw_shots(train, shots=4, seed=0)
    # The order of `printf '7\0shots\0instance\0%s' ID | sha256sum`.
    assert [shot.id for shot in draw_shots(some([0] * 9), shots=4, seed=7)] == ["8", "2", "3", "5"]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(0, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_shots_are_balanced_nested_and_distinct(labels: list[int], seed: int, data: st.DataObject) -> None:
    train = some(labels)
    shots = data.draw(st.integers(0, len(labels)))
    drawn = draw_shots(train, shots=shots, seed=seed)
    assert len({shot.id for shot in drawn}) == shots
    assert draw_shots(train, shots=len(labels), seed=seed)[:shots] == drawn
    there, counts = Counter(labels), Counter(shot.label for shot in drawn)
    most = max(counts.values(), default=0)
    for label in there:  # as often as any other label, but for the last round, or all there are
        assert counts[label] >= min(most - 1, there[label])


def test_the_prompt_begins_with_answered_shots() -> None:
    task = few_shot(TASK, shots=2, seed=3)
    first, second = task.shots
    for form in ("cloze", "letter"):
        words = [write_prompt(instance, form) for instance in (first, second, TASK.test[0])]
        expected = (
            f"{words[0].trunk}{words[0].branches[first.label]}\n\n"
            f"{words[1].trunk}{words[1].branches[second.label]}\n\n{words[2].trunk}"
        )
        assert task.prompt(TASK.test[0], form).trunk == expected
        assert task.prompt(TASK.test[0], form).branches == words[2].branches


def test_shots_leave_the_training_split_and_say_so() -> None:
    task = few_shot(TASK, shots=8, seed=0)
    assert set(task.shots) | set(task.train) == set(TASK.train)
    assert len(task.train) == len(TASK.train) - 8
    assert (task.validation, task.test) == (TASK.validation, TASK.test)
    assert "8 training instances answered in every prompt, and no longer in the training split" in task.notes[-1]
    assert "(label: how many; 0: 2, 1: 2, 2: 2, 3: 2)" in task.notes[-1]
    assert few_shot(TASK, shots=2, seed=0).notes[-1].endswith("; fewer shots than labels")
    assert few_shot(TASK, shots=0, seed=0) is TASK
    assert few_shot(TASK, shots=8, seed=1).shots != task.shots


def test_bad_shots_are_refused() -> None:
    with pytest.raises(InputError, match="shots is 49 but the training split has 48 instances; ask for fewer shots"):
        few_shot(TASK, shots=49, seed=0)
    task = few_shot(TASK, shots=3, seed=0)
    message = f"instance {task.shots[1].id!r} stands answered in the prompt as a shot; leave it out"
    with pytest.raises(InputError, match=re.escape(message)):
        task.prompt(task.shots[1], "cloze")
