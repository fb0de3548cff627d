r"""The keys of a task.yaml: how a table's rows are asked, and what its columns mean.

prompt: "Review: {text}\nIs it good or bad?"   # a template over the columns; {a.b} is b in a column of objects
choices: ["bad", "good"]                        # a list of templates ("{A}" is the text of column A), or the name of a
                                                # list column (as many as each row has; ARC's shapes too)
label: stars                                    # a column: the choice's text, its index from 0, its letter or its name
                                                # a list of shares, or a mapping of choices to shares, is a soft label
label_is: text                                  # optional: name, text, index, number (from 1), letter, shares or counts
type: score                                     # optional: choice, yes_no, score (ordered levels), or a column of them
id: key                                         # optional column; otherwise the row's number
group: author                                   # optional column: rows that must stay in one split
splits: part                                    # optional column: train, validation, test; else 60, 20 and 20 %
unlabelled: skip                                # optional: leave out the rows without a label, which are refused else
private: true                                   # optional: no run keeps the texts of these rows
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from rango.config import Config
from rango.showing import count
from rango.tasks.answers import Reading, SoftReading, shown

PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


class TableConfig(Config):
    """The keys of a task.yaml."""

    prompt: str = Field(min_length=1)
    """Template of the prompt over the columns: {column}; {{ and }} stand for braces. It should end so that each
    choice, after a space, continues it."""
    choices: tuple[str, ...] | str
    """The choices of every row, as templates over the columns, or the name of the list column that holds each row's
    own."""
    label: str
    """The column with the right choice; blank where it is not known, which only the split test may hold."""
    label_is: Reading | SoftReading | None = None
    """How the label column is read; found out from all rows when absent. `counts` of annotators are divided by their
    sum, which `shares` have to be 1."""
    type: str = "choice"
    """What the choices of all rows are: choice, yes_no, or score (levels from the lowest to the highest); or the column
    that says so for each row."""
    id: str | None = None
    """The column with a row's name."""
    group: str | None = None
    """The column that rows of one context share; the prompt itself when absent, and in rows where it is blank."""
    splits: str | None = None
    """The column that says train, validation or test; a random cut when absent, of small tables 60, 20 and 20 %."""
    unlabelled: Literal["refuse", "skip"] = "refuse"
    """Whether rows without a label are refused, or left out and counted; a split test without any keeps its rows."""
    private: bool = False
    """Whether runs leave out the texts of rows; otherwise they keep those of the test split, for their page."""

    @field_validator("prompt")
    @classmethod
    def _over_columns(cls, value: str) -> str:
        check_closed(value)
        if not columns_of(value):
            raise ValueError(
                f"{shown(value)} uses no column, so that every row would ask the same; write {{column}} where the text "
                "of a column stands ({{ and }} are braces, no columns)"
            )
        return value

    @field_validator("choices", mode="before")
    @classmethod
    def _quoted(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        for number, choice in enumerate(value):
            # YAML reads a bare yes or no as true or false.
            if not isinstance(choice, str | int) or isinstance(choice, bool):
                raise ValueError(f"choice {number} is {choice!r}; expected text, put it in quotation marks")
        choices = tuple(str(choice).strip() for choice in value)
        if len(choices) < 2:
            raise ValueError(f"{count(len(choices), 'choice')}; expected at least 2")
        for number, choice in enumerate(choices):
            if not choice:
                raise ValueError(f"choice {number} is blank; give it words")
            if choices.index(choice) != number:
                raise ValueError(f"choice {number} is {choice!r} like choice {choices.index(choice)}; name each once")
            check_closed(choice)
        return choices


def check_closed(template: str) -> None:
    """Raise ValueError for a brace without its other half."""
    # Spaces keep every place in the text, so that the message quotes from the lone brace on.
    rest = PLACE.sub(lambda match: " " * len(match[0]), template)
    lone = re.search("[{}]", rest)
    if lone is not None:
        raise ValueError(
            f"a lone {lone[0]} at {template[lone.start() :][:20]!r}; write {{column}} for a column, {lone[0] * 2} for "
            "a brace"
        )


def columns_of(template: str) -> list[str]:
    """The columns that a template uses, in its order."""
    return [match[1] for match in PLACE.finditer(template) if match[1] is not None]
