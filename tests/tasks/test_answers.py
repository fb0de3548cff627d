from __future__ import annotations

import re
from typing import Any

import pytest

from rango.errors import InputError
from rango.tasks.answers import Choices, choices_of, readings_of, soft_label


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["saw", " cup "], Choices(("saw", "cup"))),
        ('["saw", "cup"]', Choices(("saw", "cup"))),
        ("['saw', \"the cook's cup\"]", Choices(("saw", "the cook's cup"))),
        ({"text": ["saw", "cup"], "label": ["A", "B"]}, Choices(("saw", "cup"), ("A", "B"))),
        ('{"text": ["saw", "cup"], "label": [1, 2]}', Choices(("saw", "cup"), ("1", "2"))),
        ({"text": ["saw", "cup"]}, Choices(("saw", "cup"))),
        ([{"label": "A", "text": "saw"}, {"label": "B", "text": "cup"}], Choices(("saw", "cup"), ("A", "B"))),
        ([{"text": "saw"}, {"text": "cup"}], Choices(("saw", "cup"))),
        (["cup", "cup", "saw"], Choices(("cup", "cup", "saw"))),
    ],
)
def test_the_shapes_that_choices_come_in(cell: Any, expected: Choices) -> None:
    assert choices_of(cell, "rows.csv:2", "options") == expected


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (["saw", None], "choice 1 of options is None; expected text"),
        (["saw", float("nan")], "choice 1 of options is nan; expected text"),
        ('[NaN, "saw"]', "choice 0 of options is nan; expected text"),
        (["saw", 3], 'choice 1 of options is 3; expected text, write "3"'),
        (["saw", True], "choice 1 of options is True; expected text"),
        (["saw", ["cup"]], "choice 1 of options is ['cup']; expected text"),
        (["saw", {"a": 1}], "choice 1 of options is {'a': 1}; expected text"),
        ([{"name": "saw"}, {"name": "cup"}], "choice 0 of options is {'name': 'saw'}; expected text"),
        ([{"text": None, "label": "A"}, {"text": "x", "label": "B"}], "choice 0 of options is None; expected text"),
        ("saw|cup", 'options is no list; expected the row\'s choices (in CSV as a JSON list, such as ["saw", "cup"])'),
        # As NumPy prints them: Python would read one choice, sawcup.
        ("['saw' 'cup']", "options is no list"),
        ("[['saw' 'cup'], 'x']", "options is no list"),
        ("__import__('os')", "options is no list"),
        (["saw"], "options has 1 choice; expected at least 2"),
        ([], "options has 0 choices; expected at least 2"),
        ({"text": ["a", "b"], "label": ["A", "A"]}, "the labels of options are ['A', 'A']; expected 2 different names"),
        ({"text": ["a", "b"], "label": ["A"]}, "the labels of options are ['A']; expected 2 different names"),
        ([{"text": "a", "label": "A"}, {"text": "b"}], "the labels of options are ['A', None]; expected 2 different"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(cell: Any, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"rows.csv:2: {says}")):
        choices_of(cell, "rows.csv:2", "options")


def test_a_message_is_short_however_long_the_value() -> None:
    with pytest.raises(InputError) as caught:
        choices_of(["saw", {"a": "x" * 100_000}], "rows.csv:2", "options")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("cup", {"text": 2}),
        (" cup ", {"text": 2}),
        ("CUP", {"text": 2}),
        (1.0, {"index": 1, "number": 0}),
        ("2.0", {"index": 2, "number": 1}),
        ("3.00", {"number": 2}),
        ("1.5", {}),
        ("B", {"letter": 1}),
        ("b", {"letter": 1}),
        (True, {}),
        ("9" * 5000, {}),
        ("-1", {}),
    ],
)
def test_what_a_label_fits(label: Any, expected: dict[str, int]) -> None:
    assert readings_of(label, Choices(("saw", "spoon", "cup"))) == expected


def test_a_text_as_it_stands_comes_before_its_other_spellings() -> None:
    assert readings_of("1.0", Choices(("1", "1.0"))) == {"text": 1, "index": 1, "number": 0}
    assert readings_of("Saw", Choices(("saw", "Saw"))) == {"text": 1}
    assert readings_of("SAW", Choices(("saw", "Saw"))) == {}
    # B is a letter as it stands: the choice b is not meant.
    assert readings_of("B", Choices(("b", "a"))) == {"letter": 1}


def test_a_choice_may_have_a_name_of_its_own() -> None:
    assert readings_of("2", Choices(("x", "y", "z"), ("1", "2", "3"))) == {"name": 1, "index": 2, "number": 1}


@pytest.mark.parametrize(
    ("cell", "shares"),
    [
        ({"0": 1, "1": 2, "2": 1}, (0.25, 0.5, 0.25)),  # indices, since not every key is a text
        ({"1": 3, "3": 1}, (0.75, 0.0, 0.25)),  # texts, which come first where both fit
        ({"1": 4, "2": None, "other row's": None}, (1.0, 0.0, 0.0)),  # as Parquet has what a mapping leaves out
    ],
)
def test_the_keys_of_a_mapping_are_read_in_one_way(cell: Any, shares: tuple[float, ...]) -> None:
    assert soft_label(cell, Choices(("1", "2", "3")), "rows.csv:2", counts=True) == shares


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ({"yes": 3, "Yes": 1}, "names a choice twice, or choices in several ways"),
        ({"yes": 3, "0": 1}, "names a choice twice, or choices in several ways"),
        ({"yes": 3, "perhaps": 1}, "the label names 'perhaps'; expected the text of one choice"),
        ({"yes": None}, "counts nobody; leave the cell empty"),
        ([10**300, 1], "expected numbers from 0 on, below 1e+15"),
        ([1e308, 1e308], "holds 1e+308; expected numbers from 0 on, below 1e+15"),
        ([float("nan"), 1], "holds nan; expected numbers from 0 on, below 1e+15"),
    ],
)
def test_votes_that_would_be_lost_or_overflow_are_refused(cell: Any, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        soft_label(cell, Choices(("yes", "no")), "rows.csv:2", counts=True)
