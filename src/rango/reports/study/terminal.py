"""The table of a study for the terminal: configurations with their marks, as many metrics as fit.

       adaptation  targets  seeds  NCE ↓           Accuracy ↑
    ≈  lora        q            3  0.755 ±0.009    0.613 ±0.028
                                   0.683 to 0.824  0.558 to 0.662

A wide terminal has the interval beside its value, and more metrics; a narrow one has one name for each row instead of
a column for each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rango.decisions import Metric
from rango.reports.study.findings import verdict_sentences
from rango.reports.study.sections import (
    FACTS,
    Line,
    Section,
    caption_parts,
    mark_words,
    same_seeds,
    sections,
    shown_axes,
    shown_columns,
    sources,
    span_text,
    value_text,
)
from rango.reports.tables import heading
from rango.results.table import StudyTable
from rango.studies.axes import axis_text, short_name

_MARK = 3  # columns of the terminal for ★ or ≈, with the space after it
_SEEDS = 7  # for the number of seeds
_LABELS = 12  # for the labels, at least
_SPACE = 2  # before every column of values
_GAP = "  "  # between the axes inside the labels
_SIGNS = {"best": "★", "tied": "≈"}


def study_result_table(table: StudyTable, *, width: int = 80) -> Group:
    """The result of a study for the terminal, with what its numbers are and what follows from them.

    Args:
        table: from `study_table`.
        width: columns of the terminal; wider ones get more metrics, narrow ones the interval under the value. What
            does not fit is left out from the right; the first two metrics never are.

    Returns:
        Something to `rich.print`.
    """
    parts, columns = sections(table), shown_columns(table)
    room = width - _MARK - _SEEDS * (same_seeds(table) is None)
    stacked, in_line = (_value_widths(parts, columns, in_line=way) for way in (False, True))
    # The metrics that the study names are more important than labels in columns of their own.
    wanted = _fitting(stacked[: max(2, len(table.first))], room - _LABELS)
    labels = _Labels.fitted(table, parts, available=room - sum(stacked[:wanted]))
    room -= labels.width
    facts = sum(column in FACTS for column in columns)
    # Beside its value an interval is easier to read, but no named metric is left out for that.
    beside = sum(in_line[: wanted + facts]) <= room
    columns = columns[: _fitting(in_line if beside else stacked, room)]

    captions = " · ".join(part for part in (*caption_parts(table, columns), mark_words(table)) if part)
    below: list[RenderableType] = [Text(captions, style="dim")]
    below += [Text(f"[{number}] {source}", style="dim") for source, number in sources(parts).items()]
    if table.fixed:
        fixed = " · ".join(f"{key} {axis_text(value)}" for key, value in table.fixed.items())
        below.append(Text(fixed, style="dim"))
    sentences = [Text(sentence) for sentence in verdict_sentences(table)]
    return Group(_render(table, parts, columns, labels, in_line=beside), *below, Text(), *sentences)


@dataclass(frozen=True)
class _Labels:
    """The column of labels: axes under each other where they fit in all rows, else a name for each row."""

    headings: Sequence[str]
    """The axes as short names."""
    widths: Sequence[int]
    """The width of each axis, so that values stand under each other."""
    width: int

    @classmethod
    def fitted(cls, table: StudyTable, parts: Sequence[Section], *, available: int) -> _Labels:
        """As wide as they need to be, if so much is available."""
        axes = shown_axes(table)
        headings = [short_name(name, axes) for name in axes]
        lines = [line for part in parts for line in part.lines]
        labels = [line.labels for line in lines if line.kind == "configuration"]
        widths = [max(map(len, values)) for values in zip(headings, *labels, strict=True)] if axes else []
        names = [len(_other_label(line, 0)) for line in lines if line.kind != "configuration"]
        if not axes:
            names += [len(line.title) for line in lines]
        titles = [len(part.title + _count(part)) for part in parts]
        in_columns = sum(widths) + len(_GAP) * (len(widths) - 1)
        # A long name of a reference is folded: it does not make the column wider than 24.
        wanted = max(in_columns, min(24, max(names, default=0)), *titles)
        return cls(headings, widths, max(_LABELS, min(wanted, available)))

    @property
    def heading(self) -> str:
        return self._row(self.headings, otherwise="configuration" if self.headings else "")

    def of(self, line: Line) -> str:
        return self._row(line.labels, otherwise=line.title)

    def _row(self, texts: Sequence[str], *, otherwise: str) -> str:
        if not self.widths or sum(self.widths) + len(_GAP) * (len(self.widths) - 1) > self.width:
            return otherwise
        return _GAP.join(text.ljust(width) for text, width in zip(texts, self.widths, strict=True)).rstrip()


def _other_label(line: Line, number: int) -> str:
    """The label of the true posterior or of a reference, with the number of its source."""
    return f"{line.labels[0]} [{number}]" if line.source else line.labels[0]


def _count(part: Section) -> str:
    return "" if part.n is None else f"  {part.n:,} instances"


def _value_widths(parts: Sequence[Section], columns: Sequence[Metric], *, in_line: bool) -> list[int]:
    """The width of each column with the space before it; `in_line`: the interval beside the value, not under it."""
    widths = []
    for column in columns:
        cells = [cell for part in parts for line in part.lines if (cell := line.cells.get(column.name)) is not None]
        pairs = [(len(value_text(cell)), len(span_text(cell))) for cell in cells]
        joined = [value + span + len(_GAP) * bool(span) if in_line else max(value, span) for value, span in pairs]
        widths.append(max([len(heading(column)), *joined]) + _SPACE)
    return widths


def _fitting(widths: Sequence[int], room: int) -> int:
    """How many columns from the left fit into `room`, at least two."""
    kept = 0
    for width in widths:
        room -= width
        if room < 0 and kept >= 2:
            break
        kept += 1
    return kept


def _render(
    table: StudyTable, parts: Sequence[Section], columns: Sequence[Metric], labels: _Labels, *, in_line: bool
) -> RichTable:
    numbers = sources(parts)
    with_seeds = same_seeds(table) is None
    rendered = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    rendered.add_column("", width=1)
    rendered.add_column(Text(labels.heading), width=labels.width, overflow="fold")
    if with_seeds:
        rendered.add_column("seeds", justify="right", no_wrap=True)
    for column in columns:
        rendered.add_column(heading(column), justify="left", no_wrap=True)
    for part in parts:
        if part.title:
            rendered.add_row("", Text(part.title, style="bold").append(_count(part), style="dim"))
        for line in part.lines:
            configuration = line.kind == "configuration"
            style = "bold" if line.mark == "best" else "" if configuration else "dim"
            # Rich reads brackets in plain strings as markup: names come from the user, so they are a Text.
            label = Text(labels.of(line) if configuration else _other_label(line, numbers.get(line.source, 0)), style)
            if line.failed:
                # The reason stands below the table, where a long one has the whole width.
                seeds = ", ".join(map(str, line.failed))
                label.append(f"\nno seed{'s' * (len(line.failed) > 1)} {seeds}", style="not bold red")
            counts = [Text(str(line.seeds) if configuration else "")] if with_seeds else []
            cells = [_cell(line, column.name, style, in_line=in_line) for column in columns]
            rendered.add_row(_SIGNS.get(line.mark, ""), label, *counts, *cells)
        if part is not parts[-1]:
            rendered.add_section()
    return rendered


def _cell(line: Line, metric: str, style: str, *, in_line: bool) -> Text:
    cell = line.cells.get(metric)
    if cell is None:
        return Text("–" if line.kind == "configuration" else "", style)
    text = Text(value_text(cell), style)
    if span := span_text(cell):
        text.append(_GAP if in_line else "\n")
        text.append(span, style="not bold dim")
    return text
