"""Messages of errors: one line each, however long or broken the value in it is."""

from __future__ import annotations

from rango.errors import InputError


def test_a_mistake_is_one_line() -> None:
    assert str(InputError("column 'a\nb' stands\u2028twice\r\n; name it")) == "column 'a b' stands twice ; name it"
    assert str(InputError("two  spaces stay")) == "two  spaces stay"


def test_a_long_value_is_shortened_and_paths_and_the_remedy_are_not() -> None:
    word = InputError(f"column {'(' * 60_000} is unknown; give each column a name")
    assert str(word) == f"column {'(' * 60} ... {'(' * 20} is unknown; give each column a name"
    words = str(InputError(f"/data/{'deep/' * 30}file.csv has {'a word ' * 500}; expected one"))
    assert words.startswith(f"/data/{'deep/' * 30}file.csv has a word")
    assert words.endswith("a word ; expected one")
    assert len(words) <= 400 + len(f"/data/{'deep/' * 30}file.csv")


def test_shortening_takes_no_time_that_grows_with_the_square() -> None:
    for text in ("x" * 3_000_000, "/" * 3_000_000, "\n" * 3_000_000, "a " * 1_000_000):
        assert len(str(InputError(text))) <= 1000
