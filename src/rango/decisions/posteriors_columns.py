"""What the columns of a posteriors file mean, in files of other programs too.

    find_scores      which columns hold the scores, by their names: prob_0, P1, logit, happy and sad, …
    score_matrix     their numbers as (N, K); a hole is refused, since numbers after it would change their class
    choice_lists     the words of each instance's choices
    label_array      the labels as indices: numbers as they are, texts by the names of the choices; or soft ones (N, K)
    texts_of         ids and groups

What can be understood in one way only is read, and where the names are not the documented ones, a note says how.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np

from rango.decisions.arrays import ROUNDED_TOLERANCE, Array, is_missing
from rango.decisions.instances import TYPES
from rango.errors import InputError
from rango.files import parse_json
from rango.rows import from_csv_cell

Column: TypeAlias = Sequence[Any] | np.ndarray[Any, Any]

KINDS = ("posteriors", "log_posteriors", "logits")
# A score column as people write it: a stem, then the number of the choice or the name of the class. ASCII digits only:
# int() takes superscripts and the digits of other scripts too.
_PROBABILITY = "posteriors?|prob(?:a?s?|ability|abilities)|p"
_SCORE_COLUMN = re.compile(
    rf"\s*(?:(?P<log_posteriors>log[ _-]?(?:{_PROBABILITY}))|(?P<logits>logits?)|(?P<posteriors>{_PROBABILITY}))"
    r"(?:[ _.-]?[\[(]?(?P<number>[0-9]{1,6})[\])]?|[ _.-]+(?P<name>\S.*?))?\s*",
    re.IGNORECASE | re.ASCII,
)
_CHOICE_COLUMN = re.compile(r"\s*choices?[ _.-]?([0-9]{1,6})\s*", re.IGNORECASE | re.ASCII)
LABEL_NAMES = ("labels", "y", "y_true", "true_label", "target", "gold")


@dataclass(frozen=True)
class Table:
    """The columns of a file, and for each row the line (or the number of the row, from 1) that messages name."""

    path: Path
    columns: Mapping[str, Column]
    lines: Sequence[int]

    def refuse(self, row: int, problem: str) -> NoReturn:
        """Raise InputError with the file and the line of a row."""
        raise InputError(f"{self.path}:{self.lines[row]}: {problem}")

    def name_of(self, key: str, others: Sequence[str] = ()) -> str | None:
        """The name of the column `key` in this file: as it is, in other capitals, or one of `others`."""
        if key in self.columns:
            return key
        names = [name for name in self.columns if name.strip().casefold() in (key, *others)]
        if len(names) > 1:
            raise InputError(f"{self.path} has {' and '.join(names)}; call one of them {key}")
        return names[0] if names else None


@dataclass(frozen=True)
class Scores:
    """The columns with the scores: one of lists or of single numbers, or one for each choice."""

    kind: str
    columns: Sequence[str]
    first: int = 0
    """The number of the first column: 1 where columns, and so labels, count from 1."""
    names: tuple[str, ...] = ()
    """The classes that the columns are named after."""


def find_scores(table: Table, label_name: str | None, notes: list[str]) -> Scores:
    """The score columns: those with the documented names, else what other names can mean in one way only."""
    matches = {name: match for name in table.columns if (match := _SCORE_COLUMN.fullmatch(name))}
    own: dict[str, list[str]] = {}
    numbered: dict[str, list[str]] = {}
    plain_named: dict[str, list[str]] = {}
    by_class: dict[str, list[str]] = {}
    for name, match in matches.items():
        kind = next(kind for kind in KINDS if match[kind])
        if name == kind or (match["number"] and name == f"{kind.removesuffix('s')}_{match['number']}"):
            own.setdefault(kind, []).append(name)
        place = numbered if match["number"] else by_class if match["name"] else plain_named
        place.setdefault(kind, []).append(name)
    # A class is known by its name only where there is a second one.
    by_class = {kind: names for kind, names in by_class.items() if len(names) > 1}
    kinds = [kind for kind in KINDS if kind in (own or numbered or plain_named or by_class)]
    if len(kinds) > 1:
        raise InputError(f"{table.path} has {' and '.join(kinds)}; expected one of {', '.join(KINDS)}")
    if not kinds:
        return _class_columns(table, label_name, notes)
    kind = kinds[0]
    if kind in own.get(kind, ()) and not (numbered.get(kind) and len(own[kind]) > 1):
        return Scores(kind, [kind])
    if kind in numbered:
        number_of = {name: int(matches[name]["number"]) for name in numbered[kind]}
        # Beside posterior_0, what is called prob_0 is something else.
        taken = {number_of[name]: name for name in own.get(kind, ()) if name in number_of}
        number_of = {name: number for name, number in number_of.items() if taken.get(number, name) == name}
        return _numbered_scores(table, kind, number_of, notes)
    names = plain_named.get(kind) or by_class[kind]
    if kind in plain_named and len(names) > 1:
        raise InputError(f"{table.path} has {' and '.join(names)}; expected one of {', '.join(KINDS)}")
    notes.append(f"{', '.join(names)}: read as {kind}" + ("" if kind in plain_named else ", named after the classes"))
    if kind in plain_named:
        return Scores(kind, names)
    return Scores(kind, names, names=tuple(matches[name]["name"] for name in names))


def score_columns(names: Sequence[str] | None, n_choices: int, *, logarithms: bool = False) -> tuple[str, ...]:
    """Names for columns of posteriors which are read back as what they are: by class, or else by number.

    >>> score_columns(["no", "yes"], 2), score_columns(["1", "2"], 2)
    (('probability_no', 'probability_yes'), ('posterior_0', 'posterior_1'))
    """
    log = "log_" if logarithms else ""
    by_class = tuple(f"{log}probability_{name}" for name in names or ())
    # A class that is called as a number, or begins with a space, would be read as another one.
    read = [match["name"] if (match := _SCORE_COLUMN.fullmatch(column)) else None for column in by_class]
    if names is not None and read == list(names):
        return by_class
    return tuple(f"{log}posterior_{k}" for k in range(n_choices))


def _numbered_scores(table: Table, kind: str, number_of: Mapping[str, int], notes: list[str]) -> Scores:
    """Columns with the number of their choice, in its order, from 0 or from 1."""
    stem = kind.removesuffix("s") + "_"
    names = sorted(number_of, key=lambda name: (number_of[name], name))
    numbers = [number_of[name] for name in names]
    first = 1 if numbers[0] == 1 else 0
    if numbers == [1] and kind != "logits":
        return Scores(kind, names)  # the one number of the second of two classes
    if numbers != list(range(first, first + len(numbers))) or kind in table.columns:
        beside = [kind] if kind in table.columns else []
        raise InputError(
            f"{table.path} has columns {', '.join([*beside, *names])}; expected {stem}0 to {stem}{len(numbers) - 1}"
        )
    if len(numbers) == 1:
        raise InputError(
            f"{table.path} has the one column {names[0]}; expected {stem}0, {stem}1, …, or one column posterior with "
            "the posterior of class 1"
        )
    if any(name != f"{stem}{number}" for name, number in number_of.items()):
        notes.append(f"{', '.join(names)}: read as {kind}")
    if first:
        notes.append(f"the columns count from 1 ({names[0]}), so the labels are read as counting from 1 too")
    return Scores(kind, names, first)


def _class_columns(table: Table, label_name: str | None, notes: list[str]) -> Scores:
    """Columns called as the classes that the labels name, where their numbers are posteriors: they sum to one."""
    texts = set() if label_name is None else {str(value).strip() for value in table.columns[label_name]}
    taken = {name for name in (label_name, table.name_of("id"), table.name_of("group")) if name is not None}
    names, numbers = [], []
    for name, column in table.columns.items():
        if name in taken or not name.strip() or name.lower().startswith("unnamed"):
            continue
        try:
            values = np.array([_number(value) for value in column], dtype=np.float64)
        except (TypeError, ValueError):
            continue
        if values.ndim == 1 and (values >= 0).all() and (values <= 1).all():
            names.append(name)
            numbers.append(values)
    hint = ""
    if len(names) > 1 and texts and all(_place(text, names) is not None for text in texts):
        if (np.abs(sum(numbers) - 1.0) <= ROUNDED_TOLERANCE).all():
            notes.append(f"{', '.join(names)}: read as posteriors, named after the classes")
            return Scores("posteriors", names, names=tuple(name.strip() for name in names))
        hint = f"; {', '.join(names)} do not sum to one: call those of the classes posterior_NAME, or logit_NAME"
    for name in table.columns:
        # No longer name is near one of these, and the time that the pattern takes grows with the square of its length.
        word = re.sub(r"[\W_0-9]+$", "", name[:60]).lower()
        near = difflib.get_close_matches(word, ("posterior", "logit", "probability"))
        if near and not hint:
            hint = f"; is {name} meant as {near[0]}_0?"
    seen = ", ".join(sorted(table.columns))
    raise InputError(f"{table.path} has {seen}; expected one of {', '.join(KINDS)}{hint}")


def _place(text: str, names: Sequence[str]) -> int | None:
    """Which of the names a text is, by its capitals where others differ in nothing else; None where not one alone."""
    for fold in (str.strip, lambda word: word.strip().casefold()):
        places = [place for place, name in enumerate(names) if fold(name) == fold(text)]
        if len(places) == 1:
            return places[0]
    return None


def score_matrix(table: Table, scores: Scores, notes: list[str]) -> tuple[Array, np.ndarray[Any, Any]]:
    """The numbers as (N, K), and how many each row has; short rows are filled with what an impossible choice has.

    A cell is empty at the end of a row only: the name of a column says which class its numbers belong to.
    """
    columns = [table.columns[name] for name in scores.columns]
    if len(columns) == 1:
        column = columns[0]
        if isinstance(column, np.ndarray) and column.ndim > 1:
            matrix = column
            lengths = np.full(len(column), column.shape[1])
        elif isinstance(column[0], (list, np.ndarray)) or (isinstance(column[0], str) and column[0].strip()[:1] == "["):
            rows = [_list_of_numbers(table, scores.kind, row, value) for row, value in enumerate(column)]
            lengths = np.array([len(numbers) for numbers in rows])
            matrix = np.full((len(rows), lengths.max()), 0.0 if scores.kind == "posteriors" else -np.inf)
            for row, numbers in enumerate(rows):
                matrix[row, : len(numbers)] = numbers
        else:
            return _second_of_two(table, scores, notes), np.full(len(column), 2)
    else:
        matrix, lengths = _joined(table, scores, notes)
    if matrix.dtype.kind in "fiub" and matrix.ndim == 2:
        bad = np.isnan(matrix)
        if bad.any():
            row, k = (int(place[0]) for place in np.nonzero(bad))
            cell = scores.columns[k] if len(columns) > 1 else f"{scores.columns[0]}[{k}]"
            table.refuse(row, f"{cell} is NaN or null; {_HOLE}")
    return matrix, lengths


_HOLE = "fill every cell (only at the end of a row an empty cell means fewer choices)"


def _list_of_numbers(table: Table, kind: str, row: int, value: Any) -> Array:
    if isinstance(value, str):
        value = parse_json(value, str(table.path), line=table.lines[row])
    try:
        # NumPy makes NaN of None and 1 of true.
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.zeros(())
    if numbers.ndim != 1:
        table.refuse(row, f"{kind} holds something other than lists of numbers ({shown(value)})")
    return numbers


def _joined(table: Table, scores: Scores, notes: list[str]) -> tuple[Array, np.ndarray[Any, Any]]:
    """A column for each choice as one matrix, and how many numbers each row has before its empty cells."""
    n, k = len(table.lines), len(scores.columns)
    filled = np.empty((n, k), dtype=bool)
    matrix = np.full((n, k), 0.0 if scores.kind == "posteriors" else -np.inf)
    with_comma, with_point = None, False
    for number, name in enumerate(scores.columns):
        for row, cell in enumerate(table.columns[name]):
            filled[row, number] = not _is_blank(cell)
            if not filled[row, number]:
                continue
            try:
                matrix[row, number] = _number(cell)
            except (TypeError, ValueError, OverflowError):
                table.refuse(row, f"{name} is {shown(cell)}; expected a number")
            if isinstance(cell, str):
                with_comma = with_comma or ((row, name) if "," in cell else None)
                with_point = with_point or "." in cell
    _check_decimal_commas(table, with_comma, with_point, notes)
    lengths = filled.sum(axis=1)
    holes = ~filled & (np.arange(k) < lengths[:, None])
    if holes.any():
        row, number = (int(place[0]) for place in np.nonzero(holes))
        table.refuse(row, f"{scores.columns[number]} is empty; {_HOLE}")
    if not lengths.all():
        table.refuse(int(lengths.argmin()), f"{scores.columns[0]} is empty, and so are the others; {_HOLE}")
    return matrix, lengths


def _check_decimal_commas(table: Table, comma: tuple[int, str] | None, point: bool, notes: list[str]) -> None:
    if comma is not None:
        row, name = comma
        if point:
            table.refuse(row, f"{name} has a comma where other numbers have a point; write all of them with points")
        notes.append("the commas inside numbers are read as decimal commas")


def _second_of_two(table: Table, scores: Scores, notes: list[str]) -> Array:
    """(N, 2) from a single number an instance, that of class 1: its posterior, or the logarithm of its odds."""
    name = scores.columns[0]
    if name == "logits":
        table.refuse(0, f"logits holds something other than lists of numbers ({shown(table.columns[name][0])})")
    single, _ = _joined(table, scores, notes)  # (N, 1)
    values = single[:, 0]
    meaning = {"posteriors": "posterior", "log_posteriors": "log-posterior", "logits": "log-odds"}[scores.kind]
    notes.append(f"{name} is read as the {meaning} of class 1, of the classes 0 and 1")
    if scores.kind == "logits":
        return np.stack([np.zeros_like(values), values], axis=1)
    outside = ~((values >= 0) & (values <= 1) if scores.kind == "posteriors" else values <= 0)
    if outside.any():
        row = int(outside.argmax())
        limits = "from 0 to 1" if scores.kind == "posteriors" else "of at most 0"
        table.refuse(row, f"{name} is {values[row]:g}; expected a number {limits}")
    with np.errstate(divide="ignore"):
        rest = 1.0 - values if scores.kind == "posteriors" else np.log(-np.expm1(values))
    return np.stack([rest, values], axis=1)


def _number(cell: Any) -> float:
    """The number in a cell; a text may have a decimal comma, but no underscores, which float() takes."""
    if isinstance(cell, str):
        if "_" in cell:
            raise ValueError(cell)
        if "," in cell and re.fullmatch(r"\s*[+-]?[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?\s*", cell):
            return float(cell.replace(",", "."))
    elif isinstance(cell, (bool, np.bool_)) or not isinstance(cell, (int, float, np.number)):
        raise TypeError(cell)
    return float(cell)


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def choice_lists(table: Table, scores: Scores, lengths: np.ndarray[Any, Any]) -> list[list[str]] | None:
    """The words of each instance's choices: a list column, a column for each, or the classes' names."""
    numbered = {name: int(match[1]) for name in table.columns if (match := _CHOICE_COLUMN.fullmatch(name))}
    list_name = table.name_of("choices")
    if list_name is None and not numbered:
        return [list(scores.names[:length]) for length in lengths.tolist()] if scores.names else None
    choices: list[list[str]] = []
    if list_name is not None:
        for row, cell in enumerate(table.columns[list_name]):
            words = cell
            if isinstance(cell, str):
                # NPZ and CSV hold no lists, so there a row of choices is its JSON text.
                try:
                    words = parse_json(cell, str(table.path), line=table.lines[row])
                except InputError:
                    words = None
            if not isinstance(words, (list, np.ndarray)):
                table.refuse(row, f"choices[{row}] is {shown(cell)}; expected a list of texts")
            choices.append(list(words))
    else:
        names = sorted(numbered, key=lambda name: numbered[name])
        if [numbered[name] for name in names] != list(range(scores.first, scores.first + len(names))):
            last = scores.first + len(names) - 1
            raise InputError(
                f"{table.path} has columns {', '.join(names)}; expected choice_{scores.first} to choice_{last}"
            )
        for row, cells in enumerate(zip(*(table.columns[name] for name in names), strict=True)):
            # A cell that holds nothing is a choice that the instance does not have.
            count = sum(not _is_blank(cell) for cell in cells)
            for name, cell in zip(names[:count], cells, strict=False):
                if _is_blank(cell):
                    table.refuse(row, f"{name} is empty; {_HOLE}")
            choices.append([from_csv_cell(cell) if isinstance(cell, str) else cell for cell in cells[:count]])
    for row, words in enumerate(choices):
        for k, word in enumerate(words):
            if not isinstance(word, str):
                table.refuse(row, f"choices[{row}] holds {shown(word)} at place {k}; expected a text")
        if len(words) > lengths[row]:
            table.refuse(row, f"choices[{row}] has {len(words)} entries but there are {lengths[row]} numbers")
    return choices


def label_column(table: Table, need_labels: bool) -> str | None:
    """The name of the column of labels; None where there is none, or none is needed and no row has a label."""
    name = table.name_of("label", LABEL_NAMES)
    return None if name is None or (not need_labels and is_unlabelled(table.columns[name])) else name


def is_unlabelled(column: Column) -> bool:
    """Whether no row has a label: every cell is empty, null, NaN, or -1, which public test splits have there."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiu":
        return bool((np.isnan(column) | (column == -1)).all())
    return all(is_missing(value) or str(value).strip().lower() in ("", "nan", "-1", "-1.0") for value in column)


def label_array(
    table: Table,
    name: str,
    scores: Scores,
    choices: list[list[str]] | None,
    lengths: np.ndarray[Any, Any],
    notes: list[str],
) -> np.ndarray[Any, Any]:
    """The index of each right choice: a number counts from the first column's, a text is that of one choice.

    A list is a distribution over the choices of its row; one such row makes the labels (N, K), all of them soft.
    """
    column = table.columns[name]
    if not scores.names and set(map(type, column)) == {int} and max(map(abs, column)) < 2**53:
        column = np.array(column)  # whole numbers alone, as in most files, need no look at each
    if not (isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "fiub"):
        is_soft = [_is_list(value) for value in column]
        if any(is_soft):
            widths = lengths if choices is None else np.array([len(words) for words in choices])
            return _soft_labels(table, name, is_soft, widths, int(lengths.max()))
    if isinstance(column, np.ndarray) and (column.ndim != 1 or column.dtype.kind in "fiub") and not scores.first:
        labels = column
    else:
        labels = np.empty(len(column), dtype=np.int64)
        by_text = 0
        for row, value in enumerate(column):
            words = scores.names or (choices[row] if choices else ())
            try:
                number = math.nan if scores.names else _number(value)
            except (TypeError, ValueError, OverflowError):
                number = math.nan
            # From 2^53 on a float no longer holds every whole number.
            if number.is_integer() and abs(number) < 2**53:
                labels[row] = int(number) - scores.first
                if scores.first and number < 1:
                    table.refuse(
                        row, f"{name} is {int(number)} but the columns count from {scores.columns[0]}; count both alike"
                    )
                continue
            place = _place(str(value), words) if isinstance(value, (str, int)) else None
            if place is None:
                one_of = f", or one of {', '.join(words)}" if words else " (for texts, add choice_0, choice_1, …)"
                table.refuse(
                    row, f"labels[{row}] is {shown(value)}; expected the 0-based index of the right choice{one_of}"
                )
            labels[row] = place
            by_text += 1
        if by_text and not scores.names:
            notes.append(f"{by_text:,} of {len(labels):,} labels are read as the text of a choice")
        if by_text:
            return labels
    if labels.ndim == 1 and labels.dtype.kind in "fiu":
        beyond = (labels >= lengths) & (labels < lengths.max())
        if beyond.any():
            row = int(beyond.argmax())
            table.refuse(row, f"labels[{row}] is {labels[row]} but that instance has {lengths[row]} choices")
        if not scores.first and labels.min() >= 1:
            notes.append("no label is 0: labels count from 0; where yours count from 1, subtract 1 from each")
    return labels


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, np.ndarray)) or (isinstance(value, str) and value.strip()[:1] == "[")


def _soft_labels(table: Table, name: str, is_soft: list[bool], lengths: np.ndarray[Any, Any], n_choices: int) -> Array:
    """Targets (N, K), 0 where an instance has fewer choices."""
    if not all(is_soft):
        row = is_soft.index(False)
        table.refuse(
            row,
            f"{name} is {shown(table.columns[name][row])}, but others are lists; give each row a list of shares",
        )
    targets = np.zeros((len(lengths), n_choices))
    for row, value in enumerate(table.columns[name]):
        shares = _list_of_numbers(table, name, row, value)
        if len(shares) > lengths[row] and np.any(shares[lengths[row] :] != 0):
            table.refuse(row, f"{name} has {len(shares)} shares but that instance has {lengths[row]} choices")
        shares = shares[: lengths[row]]
        if np.isnan(shares).any() or len(shares) < lengths[row]:
            table.refuse(row, f"{name} is {shown(value)}; expected a share for each of the {lengths[row]} choices")
        targets[row, : len(shares)] = shares
    return targets


def types_of(table: Table) -> list[str] | None:
    """The column `type` where every cell says choice, yes_no or score; another program's column of that name is not."""
    if "type" not in table.columns:
        return None
    types = [str(value) for value in table.columns["type"]]
    return types if set(types) <= set(TYPES) else None


def texts_of(table: Table, key: str) -> list[str | None] | None:
    """The ids or groups as texts. A group may be missing, an id may not: two missing ids would be one instance."""
    name = table.name_of(key, (key + "s",))
    if name is None:
        return None
    is_csv = ".csv" in table.path.name.lower() or ".tsv" in table.path.name.lower()
    texts: list[str | None] = []
    if not is_csv and set(map(type, table.columns[name])) == {str}:
        return list(table.columns[name])
    for row, value in enumerate(table.columns[name]):
        if isinstance(value, str):
            texts.append(from_csv_cell(value) if is_csv else value)
        elif is_missing(value) and key == "group":
            texts.append(None)
        elif isinstance(value, (int, float, np.number)) and not is_missing(value):
            texts.append(str(value))
        else:
            table.refuse(row, f"{name} is {shown(value)}; expected a text or a number")
    return texts


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
