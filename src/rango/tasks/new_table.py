"""A first task.yaml and costs.yaml for a table of one's own, guessed from its columns, to be read and corrected.

columns ── guess_table ──> TableGuess ── task_yaml, costs_yaml ──> texts with comments

Nothing is decided for good here: what cannot be guessed is refused with the columns seen, and each guess stands in the
file with the sentence that says how to change it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rango.errors import InputError, unknown_name
from rango.options import SPLITS
from rango.showing import count
from rango.tasks.answers import Choices, choices_of, readings_of
from rango.tasks.sources import Row, file_rows
from rango.tasks.splits import link
from rango.tasks.table import FEW_OF_A_CLASS, FEW_VALIDATION, SPLIT_NAMES, further_instances
from rango.tasks.table_config import TableConfig

# How people call the column with the right answer, the surest name first.
_LABELS = (
    *("label", "labels", "target", "class", "category", "gold", "answer", "correct", "correct_answer", "answerkey"),
    *("intent", "topic", "sentiment", "stars", "rating", "department", "team", "queue", "y"),
)
_SPLITS = ("split", "splits", "fold", "part", "partition", "set", "subset")
_GROUPS = ("group", "user", "author", "customer", "client", "thread", "conversation", "document", "session", "patient")
_IDS = ("id", "key", "uid", "uuid", "guid", "number", "ticket")
# What programs and people write into a cell that has no value.
_BLANKS = {"n/a", "na", "nan", "none", "null", "nil", "-", "--", "?", "unknown", "missing", "#n/a", "tbd"}
_NUMBERED = re.compile(r"(?P<stem>.*?)[ _.-]?(?P<place>[0-9]{1,3}|[A-Za-z])")

MOST_CLASSES = 50
"""Distinct values of a label column above which it is not taken for one of classes."""

FEW_GROUPS = 10
"""Groups below which a split holds so few of them that the test says little about new ones."""


@dataclass(frozen=True)
class TableGuess:
    """What the columns of a table seem to be."""

    config: TableConfig
    classes: tuple[str, ...] | None
    """The choices where they are the same in every row; None where each row has its own."""
    rows: int
    counts: Counter[str]
    """How often each class is the right one; empty where each row has its own choices."""
    unused: tuple[str, ...]
    """Columns that the prompt leaves out."""
    unlabelled: int
    """How many rows have no right answer."""
    label_by_values: bool = False
    """Whether no column has the name of a label, and one with few values was taken for it."""
    contradictory: int = 0
    """How many rows have the text of another row and another right answer."""
    repeated: int = 0
    """How many rows have the text and the right answer of a row above them."""
    groups: int | None = None
    """How many groups of rows stay together, by a column of groups or by equal texts; None where there is no column."""
    ungrouped: str | None = None
    """A column that looks like one of groups and is not used, because its groups cannot be cut into three splits."""

    def warnings(self) -> tuple[str, ...]:
        """What stands in the way of training: a label by guess, rows without one, doubtful classes, too few rows."""
        warnings = []
        if self.label_by_values:
            warnings.append(
                f"no column has a name such as label; {self.config.label} is taken for it, the last one with few "
                "values that come back: if it is another, name that with --label COLUMN"
            )
        if self.config.unlabelled == "skip":
            warnings.append(
                f"{self.unlabelled:,} of the {self.rows:,} rows have no label and are left out (unlabelled: skip in "
                "task.yaml); rango predict answers them later"
            )
        blanks = [name for name in self.counts if name.casefold() in _BLANKS]
        if blanks:
            warnings.append(
                f"{', '.join(blanks)} is taken for a class like the others: where it means that the answer is not "
                "known, keep these rows in another file"
            )
        spellings: dict[str, list[str]] = {}
        for name in sorted(self.counts):
            spellings.setdefault(" ".join(re.split(r"[\W_]+", name.casefold())).strip(), []).append(name)
        twins = [" and ".join(names) for key, names in spellings.items() if key and len(names) > 1]
        if twins:
            warnings.append(
                f"classes that differ only in how they are written: {', '.join(twins[:5])}"
                f"{', …' if len(twins) > 5 else ''}; if they are one, write it in one way"
            )
        if self.counts and all(name.isdigit() for name in self.counts):
            warnings.append(
                "the classes are numbers, which say nothing to a model: write words under choices in task.yaml, in the "
                "same order, and label_is: number if the labels count from 1, or index if from 0"
            )
        if self.contradictory:
            warnings.append(
                f"{self.contradictory:,} rows have the same text as another row and another answer: no model can be "
                "right about all of them"
            )
        if self.repeated:
            warnings.append(
                f"{count(self.repeated, 'row')} with the text and the answer of a row above: each counts once more in "
                "training and metrics; delete them where they are one case"
            )
        if self.ungrouped is not None:
            warnings.append(
                f"{self.ungrouped} looks like a column of groups, but its values and equal texts link the rows into "
                f"{count(self.groups or 0, 'group')}, which cannot be cut into three splits: task.yaml leaves it out, "
                f"so that rows of one {self.ungrouped} may stand in training and in test"
            )
        elif self.groups is not None and self.groups < FEW_GROUPS:
            warnings.append(
                f"the rows form only {self.groups} groups by {self.config.group}: each split holds a few of them, so "
                "that results say little about others"
            )
        labelled = self.rows - self.unlabelled
        validation = labelled // 5
        if validation < FEW_VALIDATION:
            warnings.append(
                f"about {validation:,} of the {labelled:,} rows will be for validation: fewer than {FEW_VALIDATION} "
                "choose the checkpoint and fit the calibrator mostly by chance"
            )
        few = [name for name, count in self.counts.items() if count // 5 < FEW_OF_A_CLASS]
        if few:
            names = ", ".join(few[:5]) + (", …" if len(few) > 5 else "")
            warnings.append(
                f"{len(few)} class(es) will have fewer than {FEW_OF_A_CLASS} rows for validation ({names}): join some, "
                "or label more rows of them"
            )
        return tuple(warnings)


def guess_table(path: Path, *, label: str | None = None) -> TableGuess:
    """What each column of a rows file is: label, choices, text, id, group, split.

    Args:
        path: JSONL, CSV, TSV or Parquet.
        label: the column with the right answers; guessed by its name and values when absent.

    Raises:
        InputError: as `read_rows`; no rows, no column that can be the label or the text, a label that fits no choice.
    """
    rows = list(file_rows(path))
    if not rows:
        raise InputError(f"{path} holds no rows; give a table with a first line of column names and rows below")
    names = list(dict.fromkeys(str(name) for row in rows for name in row.values))
    columns = {name: [_text(row.values.get(name)) for row in rows] for name in names}
    if label is not None and label not in columns:
        raise unknown_name("column", label, columns)
    by_name = label or _named(columns, _LABELS, bool)
    label = by_name or _label_by_values(path, columns)
    splits = _named(columns, _SPLITS, lambda values: {value.casefold() for value in values} <= SPLIT_NAMES.keys())
    options = _options(rows, columns, label)
    taken = {label, *([splits] if splits else ()), *(options if isinstance(options, tuple) else (options or (),))}
    # Each column gets one part: what is the label, a choice or the split is neither id nor group, and no text.
    free = {name: values for name, values in columns.items() if name not in taken}
    identity = _named(free, _IDS, lambda values: len(set(values)) == len(rows) == len(values))
    group = _named(free, _GROUPS, lambda values: 1 < len(set(values)) < len(values))
    free = {name: values for name, values in free.items() if name not in (identity, group)}
    texts = _text_columns(free)
    if not texts:
        raise InputError(
            f"{path} has no column of text beside {label} (columns: {', '.join(names)}); a column of text has no blank "
            "cell, and no brace or dot in its name, and the first line of the file names the columns"
        )
    counts = Counter(value for value in columns[label] if value)
    choices: tuple[str, ...] | str
    if options is None:
        if not 2 <= len(counts) <= MOST_CLASSES:
            raise InputError(
                f"{path}: {label} has {len(counts):,} different values; expected 2 to {MOST_CLASSES} classes (choose "
                f"another with --label; columns: {', '.join(names)})"
            )
        # Braces in a class would be a place for a column.
        choices = tuple(name.replace("{", "{{").replace("}", "}}") for name in sorted(counts))
    elif isinstance(options, tuple):
        choices = tuple(f"{{{name}}}" for name in options)
    else:
        choices = options
    config = TableConfig.build(
        {
            "prompt": _prompt(texts, label, bare=options is not None),
            "choices": list(choices) if isinstance(choices, tuple) else choices,
            "label": label,
            **({"label_is": "text"} if options is None else {}),
            **{key: name for key, name in (("id", identity), ("group", group), ("splits", splits)) if name},
            # A table whose splits are named may have a test without labels: there it is for a person to say.
            **({"unlabelled": "skip"} if splits is None and "" in columns[label] else {}),
        },
        where=str(path),
    )
    config = _checked(config, rows, path)
    groups = ungrouped = None
    if group and splits is None:
        # Equal texts link groups, as they do where the table is read; rows without a label are in no split.
        instances = further_instances(config, rows, source=path)
        labelled = [row for row, one in enumerate(instances) if one.label is not None]
        keys = [(f"text {instances[row].group}", f"value {columns[group][row] or f'none {row}'}") for row in labelled]
        groups = len({one.group for one in link([instances[row] for row in labelled], keys)})
        if groups < len(SPLITS):
            config, ungrouped = config.model_copy(update={"group": None}), group
    # What a run would refuse should not be written as its task.
    answers: dict[tuple[str, ...], list[str]] = {}
    for row in range(len(rows)):
        answers.setdefault(tuple(columns[name][row] for name in texts), []).append(columns[label][row])
    if splits is None and len(answers) < len(SPLITS):
        raise InputError(
            f"{path} holds {count(len(rows), 'row')} with {count(len(answers), 'different text')}, which cannot be "
            "cut into train, validation and test; give more rows"
        )
    used = {*texts, label, identity, group, splits}
    unused = tuple(name for name in free if name not in used)
    classes = None if options is not None else tuple(sorted(counts))
    unlabelled = columns[label].count("")
    counted = counts if options is None else Counter[str]()
    # Where each row has choices of its own, the same question with other choices has another answer by right.
    contradictory = sum(len(given) for given in answers.values() if len({*given} - {""}) > 1) if counted else 0
    repeated = sum(len(given) - given.count("") - len({*given} - {""}) for given in answers.values()) if counted else 0
    return TableGuess(
        config,
        classes,
        len(rows),
        counted,
        unused,
        unlabelled,
        label_by_values=by_name is None,
        contradictory=contradictory,
        repeated=repeated,
        groups=groups,
        ungrouped=ungrouped,
    )


def _text(value: Any) -> str:
    """A cell as text, stripped; "" where it is blank. Whole numbers are written without a fraction."""
    # A blank number of a Parquet file is NaN, the only value that is not equal to itself.
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).strip()


def _label_by_values(path: Path, columns: dict[str, list[str]]) -> str:
    """The column with the right answers where no name says so: the last one with few values that come back often."""
    # People write the answer behind what it answers: the search goes from the last column to the first.
    for name, values in reversed(columns.items()):
        given = [value for value in values if value]
        kinds = set(given)
        if 2 <= len(kinds) <= min(20, len(given) // 3) and max(len(value.split()) for value in kinds) <= 4:
            return name
    raise InputError(
        f"{path}: no column looks like the right answers (columns: {', '.join(columns)}); name it with --label COLUMN"
    )


def _named(columns: dict[str, list[str]], names: Sequence[str], fits: Callable[[list[str]], bool]) -> str | None:
    """The first column called by one of `names`, alone or as `NAME_id`, whose values that are not blank fit."""
    for wanted in names:
        for column, values in columns.items():
            plain = column.strip().casefold().replace(" ", "_")
            given = [value for value in values if value]
            if plain in (wanted, f"{wanted}_id", f"{wanted}id") and given and fits(given):
                return column
    return None


def _options(rows: Sequence[Row], columns: dict[str, list[str]], label: str) -> tuple[str, ...] | str | None:
    """Where each row has choices of its own: the columns that hold them, or the one list column; None elsewhere."""
    for name in columns:
        if name == label:
            continue
        try:
            lists = [choices_of(row.values.get(name), row.where, name) for row in rows]
        except InputError:
            continue
        if all(_fits(value, choices) for value, choices in zip(columns[label], lists, strict=True)):
            return name
    # Columns such as A, B, C or answer1, answer2: one stem, and places without a gap.
    stems: dict[str, dict[str, str]] = {}
    for name in columns:
        if name != label and (match := _NUMBERED.fullmatch(name)):
            stems.setdefault(match["stem"].casefold(), {})[match["place"].casefold()] = name
    for places in stems.values():
        order = sorted(places)
        steps = [int(place) if place.isdigit() else ord(place) - ord("a") for place in order]
        whole = len(order) > 1 and steps in (list(range(len(order))), list(range(1, len(order) + 1)))
        chosen = tuple(places[place] for place in order)
        if whole and all(
            _fits(columns[label][row], Choices(tuple(columns[name][row] for name in chosen), chosen))
            for row in range(len(rows))
        ):
            return chosen
    return None


def _fits(value: str, choices: Choices) -> bool:
    """Whether a label means one of the choices; a blank one says nothing against it."""
    return not value or bool(readings_of(value, choices))


def _text_columns(columns: dict[str, list[str]]) -> list[str]:
    """The columns that a person would read to answer: those of three words on average, or else the longest one."""
    lengths = {}
    for name, values in columns.items():
        if "{" in name or "}" in name or "." in name or all(re.fullmatch(r"[-+.,:/ 0-9]*", value) for value in values):
            continue  # dates and numbers, and names that a template cannot hold
        lengths[name] = sum(len(value.split()) for value in values) / len(values)
    texts = [name for name, words in lengths.items() if words >= 3 and all(columns[name])]
    whole = [name for name in lengths if all(columns[name])]
    return texts or ([max(whole, key=lambda name: lengths[name])] if whole else [])


def _prompt(texts: Sequence[str], label: str, *, bare: bool) -> str:
    """A line for each text, and a last one that the choice continues."""
    if bare and len(texts) == 1:
        return f"{{{texts[0]}}}"
    lines = [f"{_title(name)}: {{{name}}}" for name in texts]
    return "\n".join([*lines, f"{'Answer' if bare else _title(label)}:"])


def _title(name: str) -> str:
    words = re.sub(r"[_\s-]+", " ", name).strip()
    return (words[:1].upper() + words[1:]).replace("{", "{{").replace("}", "}}")


def _checked(config: TableConfig, rows: Sequence[Row], path: Path) -> TableConfig:
    """The configuration, with labels read from 1 where that alone fits; InputError as a table's own loader."""
    if isinstance(config.choices, tuple) and config.label_is == "text":
        further_instances(config, rows, source=path)
        return config
    # Labels from 1 are read only where it is said; a row that names the last choice so shows it.
    try:
        further_instances(config, rows, source=path)
    except InputError:
        numbered = config.model_copy(update={"label_is": "number"})
        further_instances(numbered, rows, source=path)
        return numbered
    return config


def task_yaml(guess: TableGuess) -> str:
    """The text of a task.yaml with a comment for each key."""
    config = guess.config
    lines = [
        "# How a row becomes a question. Correct what was guessed wrongly: rango tasks FILE --show 2 shows the result.",
        "# The prompt is a template over the columns; each choice, after a space, continues it.",
        f"prompt: {_quoted(config.prompt)}",
    ]
    if isinstance(config.choices, tuple) and guess.classes is not None:
        lines.append("# The classes. The model reads these words: numbers and codes are better spelt out.")
    else:
        lines.append("# The choices of each row: templates over its columns, or the name of a list column.")
    if isinstance(config.choices, tuple):
        lines += ["choices:", *(f"  - {_quoted(choice)}" for choice in config.choices)]
    else:
        lines.append(f"choices: {_quoted(config.choices)}")
    lines += ["# The column with the right choice; blank where it is not known.", f"label: {_quoted(config.label)}"]
    if config.label_is is not None:
        lines += [
            "# How it is read: text (a choice's text), name, index (from 0), number (from 1) or letter.",
            f"label_is: {config.label_is}",
        ]
    for key, meaning in (
        ("id", "The column with a row's name; the row's number when absent."),
        ("group", "Rows that share this column stay in one split, such as those of one customer."),
        ("splits", "The column that says train, validation or test; about 60, 20 and 20 % when absent."),
    ):
        column = getattr(config, key)
        lines += [f"# {meaning}", f"{key}: {_quoted(column)}" if column else f"# {key}: COLUMN"]
        if key == "group" and guess.ungrouped is not None:
            lines.append(
                f"# Not {' '.join(guess.ungrouped.split())}: with equal texts it links the rows into "
                f"{count(guess.groups or 0, 'group')}, too few for three splits."
            )
    if config.unlabelled == "skip":
        lines += ["# Rows without a label: left out and counted, or refused.", "unlabelled: skip"]
    else:
        lines += ["# Rows without a label are refused; skip leaves them out.", "# unlabelled: skip"]
    if guess.unused:
        lines.append(f"# Columns that nothing uses: {', '.join(guess.unused)}")
    return "\n".join(lines) + "\n"


def costs_yaml(classes: Sequence[str], *, passing_on: float = 0.3) -> str:
    """The text of a costs.yaml: every mistake costs 1, and passing a case on costs `passing_on`."""
    lines = [
        "# What each decision costs when a class is true: a row for each class, a column for each decision.",
        "# Right is 0 here, every mistake 1, and passing the case on to a person 0.3. Write your own numbers.",
        "classes:",
        *(f"  - {_quoted(name)}" for name in classes),
        "decisions:",
        *(f"  - {_quoted(name)}" for name in (*classes, "pass on")),
        "costs:",
    ]
    # The row of each true class is named beside it, since a matrix that is read the other way round looks right too.
    for row, name in enumerate(classes):
        cells = ["0" if column == row else "1" for column in range(len(classes))]
        lines.append(f"  - [{', '.join([*cells, f'{passing_on:g}'])}]  # true: {' '.join(name.split())}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A YAML text in double quotation marks, which read as in JSON."""
    return json.dumps(text, ensure_ascii=False)
