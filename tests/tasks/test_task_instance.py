from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rango.errors import InputError
from rango.options import Form
from rango.tasks.task import Instance, Templates, context_group

GOOD: dict[str, Any] = {
    "id": "a",
    "context": "Sam ran home.",
    "question": "Why?",
    "choices": ("late", "tired"),
    "label": 1,
    "group": "g",
}
TEMPLATES = Templates(letter="{context}\n{question}\n{choices}\nAnswer: ", cloze="{context} {question} Answer: ")
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1).filter(str.strip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ("one",), "label": 0}, "instance 'a': 1 choice; expected at least 2"),
        ({"label": 2}, "instance 'a': label is 2 but there are 2 choices (valid: 0..1)"),
        ({"label": -1}, "instance 'a': label is -1 but there are 2 choices (valid: 0..1)"),
        ({"choices": ("one", " ")}, "instance 'a': choice 1 is blank; give it words"),
        ({"context": " ", "question": ""}, "instance 'a': context and question are blank; give at least one"),
        ({"log_posterior": (0.0,)}, "instance 'a': log_posterior has 1 values; expected one for each of the 2 choices"),
    ],
)
def test_a_bad_instance_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Instance(**{**GOOD, **change})


def test_letter_form_by_hand() -> None:
    prompt = TEMPLATES(Instance(**GOOD), "letter")
    assert prompt.trunk == "Sam ran home.\nWhy?\nA. late\nB. tired\nAnswer:"
    assert prompt.branches == (" A", " B")


def test_cloze_form_by_hand() -> None:
    prompt = TEMPLATES(Instance(**GOOD), "cloze")
    assert prompt.trunk == "Sam ran home. Why? Answer:"
    assert prompt.branches == (" late", " tired")


def test_braces_in_the_data_are_left_alone() -> None:
    instance = Instance(**{**GOOD, "context": "Type {question} or {x!r}."})
    assert TEMPLATES(instance, "cloze").trunk == "Type {question} or {x!r}. Why? Answer:"


@given(context=WORDS, choices=st.lists(WORDS, min_size=2, max_size=26), form=st.sampled_from(["letter", "cloze"]))
def test_the_space_belongs_to_the_branch(context: str, choices: list[str], form: Form) -> None:
    prompt = TEMPLATES(Instance(**{**GOOD, "context": context, "choices": tuple(choices)}), form)
    assert prompt.trunk == prompt.trunk.strip()
    assert len(prompt.branches) == len(choices)
    for branch in prompt.branches:
        assert branch[0] == " "
        assert branch[1:] == branch[1:].strip() != ""


def test_letters_end_at_z() -> None:
    many = Instance(**{**GOOD, "choices": tuple(f"c{k}" for k in range(27))})
    with pytest.raises(InputError, match="instance 'a': 27 choices; the letter form has 26, use the cloze form"):
        TEMPLATES(many, "letter")
    assert len(TEMPLATES(many, "cloze").branches) == 27


def test_contexts_that_differ_in_case_and_space_only_share_a_group() -> None:
    assert context_group("Sam ran  home.\n") == context_group("sam ran home.")
    assert context_group("Sam ran home.") != context_group("Sam ran home")


def test_an_instance_with_fields_is_hashable() -> None:
    assert len({Instance(**GOOD, fields={"domain": "x"}), Instance(**GOOD, fields={"domain": "x"})}) == 1
