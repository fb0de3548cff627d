"""What a row of a table says about its choices, and which of them its label means.

The choices of a row are a list of texts, ARC's `{"text": [...], "label": [...]}`, or a list of `{"text": ..., "label":
...}`. The last two give each choice a name of its own, which the label column then uses.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any, Literal, NamedTuple

from rango.errors import InputError
from rango.files import parse_json
from rango.showing import count
from rango.tasks.task import LETTERS

Reading = Literal["name", "text", "index", "number", "letter"]
"""How a label is read: the choice's own name, its text, its index from 0, its number from 1, or its letter."""
SoftReading = Literal["shares", "counts"]
"""How a label for several choices is read: shares that sum to one, or counts of annotators."""

# In this order where several fit. Numbers from 1 are read only where the table says so: 1 and 2 are indices too.
READINGS: tuple[Reading, ...] = ("name", "text", "index", "letter")

# A column of whole numbers with a blank cell is a column of floats to many programs, which then write 1 as 1.0.
_WHOLE = re.compile(r"(\d+)\.0+")


_LARGEST = 1e15
"""Numbers of annotators stay below it, so that each is exact and no sum overflows."""


class Choices(NamedTuple):
    """The choices of a row in the order of the table; a text may stand twice."""

    texts: tuple[str, ...]
    names: tuple[str, ...] | None = None
    """What the table calls them: ARC's own labels, or the columns that they are from."""

    def distinct(self) -> tuple[str, ...]:
        """Each text once. The same text is the same answer: two of it would share its probability."""
        return tuple(dict.fromkeys(self.texts))


def shown(value: Any) -> str:
    """A value in a message: short, however long it is."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def choices_of(value: Any, where: str, column: str) -> Choices:
    """The choices in the cell of a list column.

    Raises:
        InputError: no list, fewer than two choices, a choice that is no text, names that do not tell the choices apart.
    """
    content = _from_text(value, where) if isinstance(value, str) else value
    names: Any = None
    if isinstance(content, dict) and isinstance(content.get("text"), list):
        content, names = content["text"], content.get("label")
    elif isinstance(content, list) and all(isinstance(entry, dict) and "text" in entry for entry in content):
        names = [entry.get("label") for entry in content] if any("label" in entry for entry in content) else None
        content = [entry["text"] for entry in content]
    if not isinstance(content, list):
        # A cell such as `saw|cup` is a list to its author; the message shows how to write it.
        parts = [part.strip() for part in re.split(r"[|;\t]", value)] if isinstance(value, str) else []
        example = f", such as {json.dumps(parts, ensure_ascii=False)}" if len(parts) > 1 else ""
        raise InputError(
            f"{where}: {column} is no list; expected the row's choices (in CSV as a JSON list{example[:80]})"
        )
    if len(content) < 2:
        raise InputError(f"{where}: {column} has {count(len(content), 'choice')}; expected at least 2")
    for number, choice in enumerate(content):
        if not isinstance(choice, str):
            quoted = f', write "{choice}"' if isinstance(choice, int | float) and choice == choice else ""
            raise InputError(f"{where}: choice {number} of {column} is {shown(choice)}; expected text{quoted}")
    texts = tuple(choice.strip() for choice in content)
    return Choices(texts, None if names is None else _names(names, len(texts), where, column))


def _from_text(text: str, where: str) -> Any:
    """The list that a cell holds as text: as JSON, or as Python prints it."""
    try:
        return parse_json(text, where, keys_once=True)
    except InputError:
        pass
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    # NumPy prints a list without commas, which Python would read as one long text: what is read must print the same.
    return value if repr(value) == text.strip() else None


def _names(names: Any, count: int, where: str, column: str) -> tuple[str, ...]:
    plain = isinstance(names, list) and all(isinstance(name, str | int) for name in names)
    texts = tuple(str(name).strip() for name in names) if plain else ()
    if len(set(texts)) != count or "" in texts:
        raise InputError(
            f"{where}: the labels of {column} are {shown(names)}; expected {count} different names, one for each choice"
        )
    return texts


def readings_of(value: Any, choices: Choices) -> dict[Reading, int]:
    """The place in `choices.texts` that a label means, by each reading that it fits."""
    text, texts = str(value).strip(), choices.texts
    whole = _WHOLE.fullmatch(text)
    forms = (text, whole[1]) if whole else (text,)
    fits: dict[Reading, int] = {}
    for form in reversed(forms):  # as it is written, if both fit
        if choices.names and form in choices.names:
            fits["name"] = choices.names.index(form)
        if form in texts:
            fits["text"] = texts.index(form)
        # Python refuses to read whole numbers of thousands of digits; an index has few.
        if form.isdecimal() and len(form) < 10:
            if int(form) < len(texts):
                fits["index"] = int(form)
            if 1 <= int(form) <= len(texts):
                fits["number"] = int(form) - 1
    if len(text) == 1 and text in LETTERS[: len(texts)]:
        fits["letter"] = LETTERS.index(text)
    if fits.keys() <= {"number"}:
        # Another case or other spaces are forgiven only where nothing fits as it stands.
        alike = {choice for choice in texts if _folded(choice) == _folded(text)}
        if len(alike) == 1:
            fits["text"] = texts.index(alike.pop())
        if len(text) == 1 and text.upper() in LETTERS[: len(texts)]:
            fits["letter"] = LETTERS.index(text.upper())
    return fits


def soft_label(value: Any, choices: Choices, where: str, *, counts: bool) -> tuple[float, ...] | None:
    """The share of each of the distinct choices; None where the label is neither a list nor a mapping of numbers.

    A list has a number for each choice of the row in its order; a mapping has choices (texts, names, indices or
    letters) and numbers, and what it leaves out is 0. In CSV both are JSON texts.

    Raises:
        InputError: numbers that are negative or do not sum to one (unless they are counts), a list of another length, a
            choice that the row does not have, two keys for one choice.
    """
    content = _from_text(value, where) if isinstance(value, str) and value.strip()[:1] in ("[", "{") else value
    numbers = [0.0] * len(choices.texts)
    if isinstance(content, dict):
        # Parquet gives every mapping of a column the keys of all of them, with null for those that it leaves out.
        named = {key: number for key, number in content.items() if number is not None}
        fits = {key: readings_of(key, choices) for key in named}
        unknown = next((key for key in named if not fits[key].keys() & {*READINGS}), None)
        if unknown is not None:
            expected = expected_labels(READINGS, choices)
            raise InputError(f"{where}: the label names {shown(unknown)}; expected {expected}")
        # All keys are read in one way: index 1 and the text "1" in one mapping may be different choices.
        reading = next((one for one in READINGS if all(one in ways for ways in fits.values())), None)
        places = {} if reading is None else {fits[key][reading]: key for key in named}
        if len(places) < len(named):
            raise InputError(
                f"{where}: label {shown(value)} names a choice twice, or choices in several ways; expected each choice "
                "once, and all by their texts, indices or letters"
            )
        for place, key in places.items():
            numbers[place] = named[key]
    elif isinstance(content, list):
        if len(content) != len(numbers):
            raise InputError(f"{where}: label has {len(content)} numbers; expected {len(numbers)}, one for each choice")
        numbers = content
    else:
        return None
    for number in numbers:
        if type(number) not in (int, float) or not 0 <= number < _LARGEST:
            raise InputError(
                f"{where}: label {shown(value)} holds {shown(number)}; expected numbers from 0 on, below {_LARGEST:g}"
            )
    total = math.fsum(numbers)
    if counts and not total:
        raise InputError(f"{where}: label {shown(value)} counts nobody; leave the cell empty")
    # Two or three digits, as people write them, are rounded.
    if not counts and abs(total - 1) > 0.01 + 1e-9:
        raise InputError(
            f"{where}: label {shown(value)} sums to {total:.6g}; expected shares that sum to 1 (for counts of "
            "annotators write `label_is: counts`)"
        )
    texts = choices.distinct()
    shares = dict.fromkeys(texts, 0.0)
    for text, number in zip(choices.texts, numbers, strict=True):
        shares[text] += number / total
    return tuple(shares.values())


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def expected_labels(readings: tuple[Reading, ...], choices: Choices) -> str:
    """What a label may be by the given readings, for a message."""
    count = len(choices.texts)
    words: dict[Reading, str] = {
        "text": f"the text of one choice [{shown(', '.join(choices.distinct()))[1:-1]}]",
        "index": f"0..{count - 1}",
        "number": f"1..{count}",
        "letter": f"A..{LETTERS[min(count, len(LETTERS)) - 1]}",
    }
    if choices.names:
        words["name"] = shown(", ".join(choices.names))[1:-1]
    return " or ".join(words[reading] for reading in readings if reading in words)
