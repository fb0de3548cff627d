r"""A table of the user's own: rows.jsonl (or CSV, Parquet; .gz) beside a task.yaml that says how to ask.

prompt: "Review: {text}\nIs it good or bad?"   # a template over the columns
choices: ["bad", "good"]                        # a list, or the name of a list column (as many as each row has)
label: stars                                    # a column: the choice's text, its index from 0, or its letter
label_is: text                                  # optional: text, index or letter, where more than one reading fits
id: key                                         # optional column; otherwise the row's number
group: author                                   # optional column: rows that must stay in one split
splits: part                                    # optional column: train, validation, test
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from rango.config import Config
from rango.errors import InputError, unknown_name
from rango.files import parse_json
from rango.options import SPLITS, TaskOptions
from rango.tasks.sources import Row, file_rows, located
from rango.tasks.splits import cut
from rango.tasks.task import LETTERS, Instance, Task, Templates, context_group

TEMPLATES = Templates(letter="{context}\n{choices}\nAnswer:", cloze="{context}")

Reading = Literal["text", "index", "letter"]
READINGS: tuple[Reading, ...] = ("text", "index", "letter")
ROWS = ("rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.csv.gz", "rows.parquet")
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


class TableConfig(Config):
    """The keys of a task.yaml."""

    prompt: str = Field(min_length=1)
    """Template of the prompt over the columns: {column}; {{ and }} stand for braces. It should end so that each
    choice, after a space, continues it."""
    choices: tuple[str, ...] | str
    """The choices of every row, or the name of the list column that holds each row's own."""
    label: str
    """The column with the right choice."""
    label_is: Reading | None = None
    """How the label column is read; found out from all rows when absent."""
    id: str | None = None
    """The column with a row's name."""
    group: str | None = None
    """The column that rows of one context share; the prompt itself when absent."""
    splits: str | None = None
    """The column that says train, validation or test; a random cut when absent."""

    @field_validator("prompt")
    @classmethod
    def _closed(cls, value: str) -> str:
        # Spaces keep every place in the text, so that the message quotes from the lone brace on.
        rest = _PLACE.sub(lambda match: " " * len(match[0]), value)
        lone = re.search("[{}]", rest)
        if lone is not None:
            raise ValueError(
                f"a lone {lone[0]} at {value[lone.start() :][:20]!r}; write {{column}} for a column, {lone[0] * 2} for "
                "a brace"
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
            raise ValueError(f"{len(choices)} choice(s); expected at least 2")
        for number, choice in enumerate(choices):
            if not choice:
                raise ValueError(f"choice {number} is blank; give it words")
            if choices.index(choice) != number:
                raise ValueError(f"choice {number} is {choice!r} like choice {choices.index(choice)}; name each once")
        return choices


def load_table(path: Path, options: TaskOptions) -> Task:
    """A task from a table; `path` is the rows file, the task.yaml, or the folder that holds both.

    Raises:
        InputError: a missing file, an unknown key or column, a label that is missing or fits no choice, a label column
            that can be read in two ways, a row with fewer than two choices, an id that occurs twice: with file and
            line.
    """
    if options.data is not None:
        raise InputError(f"data is {str(options.data)!r} but the task is the table {path}; leave the option out")
    yaml_path, rows_path = _find(path)
    config = TableConfig.from_yaml(yaml_path)
    pools = _Reader(config, yaml_path).pools(file_rows(rows_path))
    if not pools["train"]:
        raise InputError(f"{rows_path}: no row is of the split train; expected some")
    # Instances that chose the checkpoint cannot measure it: where a table has two splits, the second is the test.
    validation, test = pools["validation"], pools["test"]
    notes: tuple[str, ...] = ()
    if validation and not test:
        validation, test = [], validation
        notes = ("no row is of the split test: validation serves as test, and validation is carved from train",)
    parts = cut(pools["train"], options, validation=validation, test=test)
    return Task(
        name=str(path),
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        write_prompt=TEMPLATES,
        notes=notes + parts.notes,
        options=options,
        rest=parts.rest,
    )


def _find(path: Path) -> tuple[Path, Path]:
    """The task.yaml and the rows file."""
    folder = path if path.is_dir() else path.parent
    yaml_path = path if path.suffix in (".yaml", ".yml") else folder / "task.yaml"
    if not yaml_path.exists():
        raise InputError(f"{folder} holds no task.yaml; expected one with the keys prompt, choices and label")
    if path.is_file() and path != yaml_path:
        return yaml_path, path
    rows_paths = [folder / name for name in ROWS if (folder / name).exists()]
    if len(rows_paths) != 1:
        seen = " and ".join(p.name for p in rows_paths) if rows_paths else "no rows file"
        raise InputError(f"{folder} holds {seen}; expected one of {', '.join(ROWS)}, or give the path of the rows file")
    return yaml_path, rows_paths[0]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row before its label is known to be a text, an index or a letter."""

    where: str
    identity: str
    prompt: str
    choices: tuple[str, ...]
    labels: dict[Reading, int]
    group: str
    split: str


@dataclass(slots=True)
class _Reader:
    """Turns rows into instances, in one pass over the rows and one over the drafts."""

    config: TableConfig
    yaml_path: Path
    readings: tuple[Reading, ...] = READINGS
    seen: dict[str, str] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    """Of the rows so far: a row may lack one."""

    def __post_init__(self) -> None:
        if self.config.label_is is not None:
            self.readings = (self.config.label_is,)

    def pools(self, rows: Iterator[Row]) -> dict[str, list[Instance]]:
        """The instances of each split; all in train where the table has no splits."""
        # How the labels are to be read is known after the last row only: a column of 0 and 1 may hold a "2" below.
        drafts = []
        for row in rows:
            drafts.append(self._draft(row))
            self.columns |= row.values.keys()
        self._check_one_reading(drafts)
        pools: dict[str, list[Instance]] = {split: [] for split in SPLITS}
        for draft in drafts:
            with located(draft.where):
                instance = Instance(
                    id=draft.identity,
                    context=draft.prompt,
                    question="",
                    choices=draft.choices,
                    label=draft.labels[self.readings[0]],
                    group=draft.group,
                    where=draft.where,
                )
            pools[draft.split].append(instance)
        return pools

    def _draft(self, row: Row) -> _Draft:
        config = self.config
        prompt = self._prompt(row)
        choices = self._choices(row)
        identity = str(self._value(row, config.id, "id")) if config.id else str(row.number)
        first = self.seen.setdefault(identity, row.where)  # posteriors are matched by id
        if first != row.where:
            raise InputError(f"{row.where}: id {identity!r} is already that of {first}; give each row its own")
        group = str(self._value(row, config.group, "group")) if config.group else context_group(prompt)
        split = str(self._value(row, config.splits, "splits")) if config.splits else "train"
        if split not in SPLITS:
            raise InputError(f"{row.where}: {unknown_name('split', split, SPLITS)}")
        return _Draft(row.where, identity, prompt, choices, self._labels(row, choices), group, split)

    def _value(self, row: Row, column: str, key: str) -> Any:
        if column not in row.values and column not in self.columns:
            error = unknown_name("column", column, map(str, row.values))
            raise InputError(f"{row.where}: {error}; `{key}` in {self.yaml_path} names it")
        value = row.values.get(column)
        if value is None or value == "":
            raise InputError(f"{row.where}: {column} is missing; `{key}` in {self.yaml_path} needs it")
        return value

    def _prompt(self, row: Row) -> str:
        def fill(match: re.Match[str]) -> str:
            # {{ and }} stand for braces, as in Python's templates.
            return match[0][0] if match[1] is None else str(self._value(row, match[1], "prompt"))

        return _PLACE.sub(fill, self.config.prompt).strip()

    def _choices(self, row: Row) -> tuple[str, ...]:
        if not isinstance(self.config.choices, str):
            return self.config.choices
        column = self.config.choices
        value = self._value(row, column, "choices")
        if isinstance(value, str):
            # A CSV cell holds a list as JSON.
            try:
                value = parse_json(value, row.where)
            except InputError:
                value = None
        if not isinstance(value, list):
            raise InputError(f"{row.where}: {column} is no list; expected the row's choices (in CSV as a JSON list)")
        if len(value) < 2:
            raise InputError(f"{row.where}: {column} has {len(value)} choice(s); expected at least 2")
        return tuple(str(choice).strip() for choice in value)

    def _labels(self, row: Row, choices: tuple[str, ...]) -> dict[Reading, int]:
        """What the label says by each reading that fits this row and all before it."""
        value = self._value(row, self.config.label, "label")
        fits = {reading: label for reading, label in _fits(value, choices).items() if reading in self.readings}
        if not fits:
            last = len(choices) - 1
            letters = f"A..{LETTERS[min(last, 25)]}"
            expected = {"text": "the text of one choice", "index": f"0..{last}", "letter": letters}
            raise InputError(
                f"{row.where}: label is {value!r}; expected {' or '.join(expected[r] for r in self.readings)}"
                + ("" if self.readings == READINGS else f" (label_is: {' or '.join(self.readings)})")
            )
        self.readings = tuple(reading for reading in self.readings if reading in fits)
        return fits

    def _check_one_reading(self, drafts: list[_Draft]) -> None:
        """Raise InputError where two readings give different labels: a silent guess would be wrong for one of them."""
        for draft in drafts:
            by_label = {draft.labels[reading]: reading for reading in reversed(self.readings)}
            if len(by_label) > 1:
                says = ", ".join(f"choice {label} as {reading}" for label, reading in by_label.items())
                raise InputError(f"{draft.where}: the label is {says}; say `label_is` in {self.yaml_path}")


def _fits(value: Any, choices: tuple[str, ...]) -> dict[Reading, int]:
    """What a label says by each reading that it fits."""
    text = str(value).strip()
    fits: dict[Reading, int] = {}
    # A choice that occurs twice is not named by its text.
    if choices.count(text) == 1:
        fits["text"] = choices.index(text)
    # Python refuses to read whole numbers of thousands of digits; an index has few.
    if text.isdecimal() and len(text) < 10 and int(text) < len(choices):
        fits["index"] = int(text)
    if len(text) == 1 and text in LETTERS[: len(choices)]:
        fits["letter"] = LETTERS.index(text)
    return fits
