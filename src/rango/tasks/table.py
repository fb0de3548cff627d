"""A table of the user's own: rows.jsonl (or CSV, Parquet; .gz) beside a task.yaml that says how to ask.

`table_config` has the keys of task.yaml. Each row becomes a draft, and when all rows are read, which settles how labels
are to be read, an instance.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rango.errors import InputError, unknown_name
from rango.options import SPLITS, Split, TaskOptions
from rango.showing import count
from rango.tasks.answers import READINGS, Choices, Reading, choices_of, expected_labels, readings_of, shown, soft_label
from rango.tasks.sources import Row, file_rows, located
from rango.tasks.splits import cut, link, near_duplicate_notes
from rango.tasks.table_config import PLACE, TableConfig, columns_of
from rango.tasks.task import Instance, Task, Templates, context_group

if TYPE_CHECKING:
    from rango.decisions.instances import QuestionType

TEMPLATES = Templates(letter="{context}\n{choices}\nAnswer:", cloze="{context}")

ROWS = ("rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.csv.gz", "rows.tsv", "rows.tsv.gz", "rows.parquet")
FEW_VALIDATION, FEW_OF_A_CLASS = 50, 10
"""Validation instances, and instances of a class among them, below which what they choose is mostly chance."""
# What a column of marks holds, such as one for each class: no text that could be a choice.
_MARK = re.compile(r"[+-]?\d+(\.\d+)?|true|false|yes|no|", re.IGNORECASE)
SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def load_table(path: Path, options: TaskOptions) -> Task:
    """A task from a table; `path` is the rows file, the task.yaml, or the folder that holds both.

    A table may hold the split test alone, to evaluate on.

    Raises:
        InputError: a missing file, an unknown key or column, a value that is no text, a label that is missing or fits
            no choice, a label column that can be read in two ways, a row with fewer than two choices, an id that occurs
            twice: with file and line.
    """
    if options.data is not None:
        raise InputError(f"data is {str(options.data)!r} but the task is the table {path}; leave the option out")
    yaml_path, rows_path = _find(path)
    config = TableConfig.from_yaml(yaml_path)
    return table_task(config, file_rows(rows_path), source=yaml_path, name=str(path), options=options)


def table_task(config: TableConfig, rows: Iterator[Row], *, source: Path, name: str, options: TaskOptions) -> Task:
    """A task from rows, wherever they are from.

    Args:
        config: how to ask.
        rows: of the table.
        source: what `config` is from, for messages.
        name: of the task.
        options: sizes and seed of the cut.

    Raises:
        InputError: as `load_table`, for what a row holds.
    """
    reader = _Reader(config, source)
    pools = reader.pools(rows)
    # Instances that chose the checkpoint cannot measure it: where a table has two splits, the second is the test.
    train, validation, test = (pools[split] for split in SPLITS)
    notes = reader.notes
    if validation and not test:
        validation, test = [], validation
        notes.append("no row is of the split test: validation serves as test, and validation is carved from train")
    # Classes are cut in their proportions; places of a right answer among choices of its own mean nothing.
    classes = len({instance.choices for pool in (train, validation, test) for instance in pool}) == 1
    stratum = (lambda instance: str(instance.label)) if classes else None
    parts = cut(train, options, validation=validation, test=test, stratum=stratum, whole=True)
    near = near_duplicate_notes({"test": parts.test, "validation": parts.validation, "training": parts.train})
    return Task(
        name=name,
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        write_prompt=TEMPLATES,
        notes=(*notes, *parts.notes, *near, *few_notes(parts.validation, classes=classes)),
        options=options,
        rest=parts.rest,
        table=reader.settled(),
    )


def few_notes(validation: Sequence[Instance], *, classes: bool) -> tuple[str, ...]:
    """What is chosen by chance because validation is small: below 50 instances, or 10 of a class."""
    notes = []
    if 0 < len(validation) < FEW_VALIDATION:
        notes.append(
            f"{count(len(validation), 'validation instance')}: fewer than {FEW_VALIDATION} choose the checkpoint and "
            "fit the calibrator mostly by chance"
        )
    counts: Counter[str] = Counter()
    if classes and validation:
        # A class that never occurs in validation is the one that is learnt about least: it counts with 0.
        counts.update(dict.fromkeys(validation[0].choices, 0))
        counts.update(instance.choices[instance.answer] for instance in validation if instance.target is None)
        for instance in validation:
            shares = zip(instance.choices, instance.target or (), strict=False)
            counts.update(name for name, share in shares if share)
    few = sorted(name for name, count in counts.items() if count < FEW_OF_A_CLASS)
    if few:
        names = ", ".join(few[:5]) + (", …" if len(few) > 5 else "")
        notes.append(f"fewer than {FEW_OF_A_CLASS} validation instances of {len(few)} class(es): {names}")
    return tuple(notes)


def further_instances(
    config: TableConfig, rows: Iterable[Row], *, source: Path, columns: set[str] | None = None
) -> tuple[Instance, ...]:
    """Instances of rows that came later, one for each row and in their order; a row may have a label or none.

    Ids are `new:` and the numbers of the rows, and rows with equal prompts share a group. The columns of ids, groups
    and splits are not needed: they tell rows of one table apart, and these rows are in no split.

    Args:
        config: as the table that a model was trained on was read, `label_is` included.
        rows: with the columns of prompt and choices.
        source: the file that `config` is from, for messages.
        columns: those of the rows before these, where a table is read in parts; those of these rows are added.

    Raises:
        InputError: as `load_table`, for the columns that are needed, and for a label that fits no choice.
    """
    plain = config.model_copy(update={"id": None, "group": None, "splits": None})
    reader = _Reader(plain, source, further=True, columns=set() if columns is None else columns)
    return tuple(map(reader.instance, [reader.draft(row) for row in rows]))


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
    """A row before it is known how its label is read."""

    where: str
    identity: str
    prompt: str
    text: str
    """What the columns put into the prompt, without the template."""
    choices: Choices
    labels: dict[Reading, int]
    """The right choice by each reading that fits; empty where the row has no label, or a soft one."""
    target: tuple[float, ...] | None
    """A soft label: the share of each distinct choice."""
    type: QuestionType
    group: str
    split: Split

    @property
    def is_labelled(self) -> bool:
        return bool(self.labels) or self.target is not None


@dataclass(slots=True)
class _Reader:
    """Turns rows into instances, in one pass over the rows and one over the drafts."""

    config: TableConfig
    yaml_path: Path
    further: bool = False
    """Whether the rows came after the table was trained on: the label may be missing, column and all."""
    readings: tuple[Reading, ...] = READINGS
    seen: dict[str, str] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    """Of the rows so far: a row may lack one."""
    notes: list[str] = field(default_factory=list)
    plain: bool = False
    """Whether a row so far has a label that is one choice."""
    prompt_columns: tuple[str, ...] = field(init=False)
    fixed: Choices | None = field(init=False, default=None)
    """The choices of every row, where none of their templates names a column."""

    def __post_init__(self) -> None:
        # What is the same for all rows is taken from the templates once.
        self.prompt_columns = tuple(dict.fromkeys(columns_of(self.config.prompt)))
        templates = self.config.choices
        if not isinstance(templates, str) and not any(map(columns_of, templates)):
            self.fixed = Choices(tuple(_filled(template, {}).strip() for template in templates), None)
        if self.config.label_is in ("shares", "counts"):
            self.readings = ()
        elif self.config.label_is is not None:
            self.readings = (cast("Reading", self.config.label_is),)

    def pools(self, rows: Iterator[Row]) -> dict[Split, list[Instance]]:
        """The instances of each split; all in train where the table has no splits."""
        # How the labels are to be read is known after the last row only: a column of 0 and 1 may hold a "2" below.
        drafts: list[_Draft] = []
        for row in rows:
            if not drafts:
                self._check_choices_are_no_columns(row)
            drafts.append(self.draft(row))
        drafts = self._with_test_unlabelled(drafts)
        self._check_one_reading([draft for draft in drafts if draft.labels])
        instances = self._linked([self.instance(draft) for draft in drafts], drafts)
        pools: dict[Split, list[Instance]] = {split: [] for split in SPLITS}
        for draft, instance in zip(drafts, instances, strict=True):
            pools[draft.split].append(instance)
        seen = Counter(
            (draft.prompt, draft.choices.texts, instance.label, instance.target)
            for draft, instance in zip(drafts, instances, strict=True)
        )
        if repeated := sum(count - 1 for count in seen.values()):
            self.notes.append(
                f"{count(repeated, 'row')} equal to another row and its answer: each counts once more in training and "
                "metrics"
            )
        twins = sum(len(draft.choices.texts) != len(draft.choices.distinct()) for draft in drafts)
        if twins:
            self.notes.append(f"{count(twins, 'row')} with the same text twice among the choices: it is one choice")
        return pools

    def settled(self) -> dict[str, Any]:
        """The keys of task.yaml with the one reading of the label that fits all rows: what further rows need."""
        keys = self.config.model_dump(mode="json", exclude_defaults=True)
        # A table of soft labels alone settles nothing about plain ones.
        return {**keys, "label_is": self.readings[0]} if self.plain else keys

    def instance(self, draft: _Draft) -> Instance:
        """The instance of a draft; its label by the first reading that fits all rows."""
        choices = draft.choices.distinct()
        label = choices.index(draft.choices.texts[draft.labels[self.readings[0]]]) if draft.labels else None
        with located(draft.where):
            return Instance(
                id=draft.identity,
                context=draft.prompt,
                question="",
                choices=choices,
                label=label,
                target=draft.target,
                type=draft.type,
                group=draft.group,
                fields={"text": draft.text},
                where=draft.where,
            )

    def _with_test_unlabelled(self, drafts: list[_Draft]) -> list[_Draft]:
        """The drafts, of which only those of the split test may lack labels, and then all of it lacks them.

        Other rows without a label are refused, or left out where task.yaml says so.
        """
        unlabelled = [draft for draft in drafts if not draft.is_labelled]
        if not unlabelled:
            return drafts
        # A table without splits and labels is there to be evaluated on.
        if self.config.splits is None and len(unlabelled) == len(drafts):
            drafts = unlabelled = [replace(draft, split="test") for draft in drafts]
        labelled_test = [draft for draft in drafts if draft.split == "test" and draft.is_labelled]
        stray = [draft for draft in unlabelled if draft.split != "test" or labelled_test]
        if stray and self.config.unlabelled == "refuse":
            raise InputError(
                f"{stray[0].where}: {self.config.label} is missing; `label` in {self.yaml_path} needs it. Of "
                f"{len(drafts):,} rows {len(stray):,} lack it: label them, or leave them out with `unlabelled: skip` "
                "in that file (the split test may be without labels, if all of its rows are)"
            )
        if stray:
            self.notes.append(f"{len(stray):,} of {len(drafts):,} rows are left out: they have no label")
            left_out = {draft.identity for draft in stray}
            drafts = [draft for draft in drafts if draft.identity not in left_out]
            unlabelled = [draft for draft in unlabelled if draft.identity not in left_out]
        if not unlabelled:
            return drafts
        self.notes.append(f"{count(len(unlabelled), 'test instance')} without a label: to be decided on, not measured")
        return drafts

    def _linked(self, instances: list[Instance], drafts: list[_Draft]) -> list[Instance]:
        """The instances with one group for equal prompts, whatever the group column says."""
        # A letter and its accent may be written as one character or as two.
        texts = (context_group(unicodedata.normalize("NFKC", draft.prompt)) for draft in drafts)
        linked = link(instances, [(draft.group, f"text {text}") for draft, text in zip(drafts, texts, strict=True)])
        moved = {before.group for before, now in zip(instances, linked, strict=True) if before.group != now.group}
        if moved and self.config.group is not None:
            self.notes.append(
                f"{count(len(moved), 'group')} of the column {self.config.group} with a prompt of another group, "
                "counted as one with it: the same text never stands on two sides of a cut"
            )
        return linked

    def draft(self, row: Row) -> _Draft:
        """A row with each of its label's readings that fits this row and all before it."""
        config = self.config
        texts = {column: self._text(row, column, "prompt") for column in self.prompt_columns}
        prompt, text = _filled(config.prompt, texts).strip(), " ".join(texts.values())
        choices = self.fixed or self._choices(row)
        identity = self._text(row, config.id, "id") if config.id else str(row.number)
        if self.further:
            identity = f"new:{row.number}"  # no row of the table itself, which may stand in the prompt as a shot
        first = self.seen.setdefault(identity, row.where)  # posteriors are matched by id
        if first != row.where:
            raise InputError(f"{row.where}: id {identity!r} is already that of {first}; give each row its own")
        # Rows without a group have nothing in common but that.
        blank = config.group is None or _is_blank(self._cell(row, config.group, "group"))
        group = context_group(prompt) if config.group is None or blank else self._text(row, config.group, "group")
        split = self._split(row)
        label = self._cell(row, config.label, "label")
        # Published test splits whose labels are hidden hold -1.
        hidden = split == "test" and str(label).strip() in ("-1", "-1.0") and not readings_of(label, choices)
        target = None if hidden or _is_blank(label) else self._target(row, label, choices)
        labels = {} if hidden or target is not None or _is_blank(label) else self._labels(row, label, choices)
        self.columns |= row.values.keys()
        return _Draft(row.where, identity, prompt, text, choices, labels, target, self._type(row), group, split)

    def _type(self, row: Row) -> QuestionType:
        # Whoever only names a task does not wait for NumPy, which this file loads.
        from rango.decisions.instances import TYPES

        name = self.config.type if self.config.type in TYPES else self._text(row, self.config.type, "type").strip()
        if name not in TYPES:
            raise InputError(f"{row.where}: {unknown_name('type', name, TYPES)}")
        return name

    def _target(self, row: Row, value: Any, choices: Choices) -> tuple[float, ...] | None:
        """A soft label; None where the label is one choice, which a table of counts or shares does not hold."""
        if isinstance(value, str) and readings_of(value, choices):
            target = None
        else:
            target = soft_label(value, choices, row.where, counts=self.config.label_is == "counts")
        if target is None and self.config.label_is in ("shares", "counts"):
            raise InputError(
                f"{row.where}: label is {shown(value)}; expected {self.config.label_is} of the choices as a list or a "
                "mapping (in CSV as JSON)"
            )
        self.plain |= target is None
        return target

    def _split(self, row: Row) -> Split:
        if self.config.splits is None:
            return "train"
        name = self._text(row, self.config.splits, "splits").strip()
        split = SPLIT_NAMES.get(name.casefold())
        if split is None:
            raise InputError(f"{row.where}: {unknown_name('split', name, SPLITS)}")
        return split

    def _cell(self, row: Row, column: str, key: str) -> Any:
        """The value of a column, None where the row lacks it; `a.b` is b in the object of column a."""
        if column in row.values or column in self.columns:
            return row.values.get(column)
        if self.further and key == "label":
            return None
        outer, _, inner = column.partition(".")
        if inner and isinstance(row.values.get(outer), dict):
            value: Any = row.values[outer]
            for name in inner.split("."):
                value = value.get(name) if isinstance(value, dict) else None
            return value
        error = unknown_name("column", column, map(str, row.values))
        raise InputError(f"{row.where}: {error}; `{key}` in {self.yaml_path} names it")

    def _value(self, row: Row, column: str, key: str) -> Any:
        """A value that must be there."""
        value = self._cell(row, column, key)
        if _is_blank(value):
            raise InputError(f"{row.where}: {column} is missing; `{key}` in {self.yaml_path} needs it")
        return value

    def _text(self, row: Row, column: str, key: str) -> str:
        """A value that must be text, or a number as it is written."""
        value = self._value(row, column, key)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value in (math.inf, -math.inf):
            raise InputError(
                f"{row.where}: {column} is {shown(value)}; expected text, as `{key}` in {self.yaml_path} needs it"
            )
        return str(value)

    def _choices(self, row: Row) -> Choices:
        if isinstance(self.config.choices, str):
            column = self.config.choices
            return choices_of(self._value(row, column, "choices"), row.where, column)
        templates = self.config.choices
        columns = [match[1] for match in map(PLACE.fullmatch, templates) if match is not None]
        names = tuple(columns) if len(columns) == len(templates) and None not in columns else None
        # Where each choice is a column, blank cells at the end mean fewer choices; one before a choice is a hole.
        count = len(templates)
        while names and count > 2 and _is_blank(self._cell(row, names[count - 1], "choices")):
            count -= 1
        texts = []
        for template in templates[:count]:
            values = {column: self._text(row, column, "choices") for column in columns_of(template)}
            texts.append(_filled(template, values).strip())
        return Choices(tuple(texts), names and names[:count])

    def _check_choices_are_no_columns(self, row: Row) -> None:
        """Refuse choices that are the names of columns which hold texts: `[A, B]` where `["{A}", "{B}"]` is meant."""
        if isinstance(self.config.choices, str):
            return
        columns = {str(name).strip().casefold(): name for name in row.values}
        meant = [columns.get(choice.casefold()) for choice in self.config.choices]
        if None in meant:
            return
        written = "[" + ", ".join(f'"{{{column}}}"' for column in meant) + "]"
        # Columns of marks, one for each class, are no texts to choose from: there the names are the choices.
        if all(_MARK.fullmatch(str(row.values[column] or "").strip()) for column in meant if column is not None):
            self.notes.append(f"the choices are names of columns, and are asked for as they stand; not so? {written}")
            return
        raise InputError(
            f"{self.yaml_path}: choices: {', '.join(self.config.choices)} are names of columns; write "
            f"choices: {written} for what the columns hold"
        )

    def _labels(self, row: Row, value: Any, choices: Choices) -> dict[Reading, int]:
        """What the label says by each reading that fits this row and all before it."""
        fits = {reading: label for reading, label in readings_of(value, choices).items() if reading in self.readings}
        if not fits:
            last = len(choices.texts)
            from_one = "index" in self.readings and str(value).strip() == str(last)
            raise InputError(
                f"{row.where}: label is {shown(value)}; expected {expected_labels(self.readings, choices)}"
                + ("" if self.readings == READINGS else f" (label_is: {' or '.join(self.readings)})")
                + (f"; for labels that count from 1 to {last} write `label_is: number`" if from_one else "")
            )
        self.readings = tuple(reading for reading in self.readings if reading in fits)
        return fits

    def _check_one_reading(self, drafts: list[_Draft]) -> None:
        """Raise InputError where two readings give different labels: a silent guess would be wrong for one of them."""
        # Soft labels, and names that the table itself gives to choices, leave nothing to guess.
        if not self.plain or self.readings[0] == "name":
            return
        for draft in drafts:
            texts = draft.choices.texts
            by_text = {texts[draft.labels[reading]]: reading for reading in reversed(self.readings)}
            if len(by_text) > 1:
                says = ", ".join(f"choice {draft.labels[reading]} as {reading}" for reading in by_text.values())
                raise InputError(f"{draft.where}: the label is {says}; say `label_is` in {self.yaml_path}")
        # Labels from 1 fit as indices as long as no row holds the last choice.
        from_zero = not drafts or any(draft.labels[self.readings[0]] == 0 for draft in drafts)
        if self.readings[0] == "index" and self.config.label_is is None and not from_zero:
            self.notes.append(
                f"labels are read as indices from 0, but none in {self.config.label} is 0: where they count from 1, "
                f"write `label_is: number` in {self.yaml_path}, else `label_is: index`"
            )


def _filled(template: str, texts: Mapping[str, str]) -> str:
    """A template with the texts of its columns; {{ and }} stand for braces, as in Python's templates."""
    return PLACE.sub(lambda match: match[0][0] if match[1] is None else texts[match[1]], template)


def _is_blank(value: Any) -> bool:
    """Whether a cell is empty: nothing, no characters but spaces, or NaN, which is how tables of numbers say so."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())
